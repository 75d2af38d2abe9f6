"""A child process that tells what it does, one JSON line at a time."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ENDED = "ended"
ROOT = Path(__file__).resolve().parents[2]


class Telling:
    """``python -m module orders`` as a child; its standard output is ``[event, fields]`` lines."""

    def __init__(self, module: str, orders: object, *, environment: dict[str, str] | None = None) -> None:
        self._lines: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(orders)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._thread.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event, fields = json.loads(line)
            self._lines.put((event, fields))
        self._lines.put((ENDED, {}))

    def wait_for(self, event: str, *, seconds: float = 20.0, **wanted: str) -> dict[str, Any]:
        """Return the fields of the next such event; others before it are forgotten."""
        deadline = time.monotonic() + seconds
        while True:
            name, fields = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            assert name != ENDED, f"the process ended before it told {event} {wanted or ''}"
            if name == event and all(fields.get(key) == value for key, value in wanted.items()):
                return fields

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ends(self, *, seconds: float = 20.0) -> int:
        """Return the exit status; fails when the process goes on."""
        return self.process.wait(seconds)
