"""Kill -9 just before the k-th durable step, and a record of the steps.

A durable step is a call that changes what a power cut or a crash would leave: sync,
rename, link, delete, make, truncate, change mode.  The function runs in a fork of the
test process, so a whole crash test costs milliseconds a point.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("fsync", "fdatasync", "replace", "rename", "link", "unlink", "rmdir", "mkdir", "ftruncate", "fchmod", "chmod")


class Died(AssertionError):
    """The function raised something in the child."""


def killed_at(point: int, function: Callable[[], None]) -> bool:
    """Run ``function`` in a child that is killed before step ``point`` (1 is the first); tell whether it came to that."""
    status = _in_child(lambda: _shim(kill_before=point, note=None), function)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if os.waitstatus_to_exitcode(status) != 0:
        raise Died(f"the child failed by itself with status {os.waitstatus_to_exitcode(status)}")
    return False


def steps_of(function: Callable[[], None], log: Path) -> list[tuple[str, str, str]]:
    """Run ``function`` in a child and return its writes and durable steps: name, path, second path."""
    with log.open("w") as file:

        def note(*entry: str) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()

        status = _in_child(lambda: _shim(kill_before=None, note=note), function)
    if os.waitstatus_to_exitcode(status) != 0:
        raise Died("the child failed by itself")
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()]


def _in_child(prepare: Callable[[], None], function: Callable[[], None]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    code = 1
    try:
        prepare()
        function()
        code = 0
    except BaseException:  # noqa: BLE001 - the child tells its parent by its exit status
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _shim(*, kill_before: int | None, note: Callable[..., None] | None) -> None:
    guard = threading.RLock()
    count = 0

    def wrap(name: str, original: Callable[..., Any], *, step: bool) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            nonlocal count
            with guard:
                if step:
                    count += 1
                    if count == kill_before:
                        os.kill(os.getpid(), signal.SIGKILL)
                if note is None:
                    return original(*args, **more)
                first, second = _path(args[0]), _path(args[1]) if name in {"replace", "rename", "link"} else ""
                result = original(*args, **more)
                note(name, first, second)
                return result

        return call

    for name in STEPS:
        setattr(os, name, wrap(name, getattr(os, name), step=True))
    if note is not None:
        os.pwrite = wrap("pwrite", os.pwrite, step=False)


def _path(value: Any) -> str:
    if isinstance(value, int):
        return os.readlink(f"/proc/self/fd/{value}")
    return os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
