"""One mirror brought across a link by the worker's own code, in a process that may be killed at any instant.

As a program it makes the mirror due, syncs it, and again, until everything is published::

    python -m tests.support.mirroring DIR URL [--later SECONDS] [--runs N] [--no-lfs]

It writes one JSON line per run.  ``--later`` moves its clock on, past the lease of one that
was killed.  :func:`carried` runs such a program, or any other, until it ends well, and
kills it now and then on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirror_sync.domain.names import parse_upstream_url

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600.0
LOOK_SECONDS = 0.05
MEGABYTE = 1e6
TRY_AGAIN = 75
"""What a killed one left running still holds what this one needs."""


@dataclass(frozen=True, slots=True)
class Carried:
    """How a program got there."""

    seconds: float
    kills: int
    peak_megabytes: float
    """The most memory that the process itself ever held, its children left out."""
    output: str


class NotCarried(AssertionError):
    """The program ended badly or not in time."""


def carried(
    command: Callable[[int], Sequence[str]],
    *,
    log: Path,
    seconds: float,
    kill_every: tuple[float, float] | None = None,
    kills: int | None = None,
    seed: int = 0,
    after_kill: Callable[[], None] = lambda: None,
) -> Carried:
    """Run ``command(attempt)`` until it exits with 0, killed with SIGKILL every so many seconds.

    It is run again when it exits with :data:`TRY_AGAIN`.  At most ``kills`` times; half of the kills, drawn by ``seed``, take its children along.
    Raises :class:`NotCarried` when it exits otherwise or is not done after ``seconds``.
    """
    chance = random.Random(seed)
    began, attempt, killed, peak = time.monotonic(), 0, 0, 0.0
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    while True:
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command(attempt)), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        may_kill = kill_every is not None and (kills is None or killed < kills)
        until = time.monotonic() + chance.uniform(*kill_every) if kill_every and may_kill else None
        try:
            while process.poll() is None:
                now = time.monotonic()
                peak = max(peak, _peak(process.pid))
                if now - began > seconds:
                    raise NotCarried(f"not done in {seconds} s, seed {seed}, {killed} kills: {_tail(log)}")
                if until is not None and now >= until:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_SECONDS)
        finally:
            alone = process.returncode is None and until is not None and chance.random() < 0.5
            with contextlib.suppress(ProcessLookupError):
                (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
            status = process.wait()
        if status == 0:
            return Carried(time.monotonic() - began, killed, peak, log.read_text(errors="replace"))
        attempt += 1
        if status == TRY_AGAIN:
            time.sleep(LOOK_SECONDS)
            continue
        if status != -signal.SIGKILL:
            raise NotCarried(f"exit status {status}, seed {seed}, {killed} kills: {_tail(log)}")
        killed += 1
        after_kill()


def _peak(pid: int) -> float:
    """Return the most megabytes that a process held so far, 0 when it is gone."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 / MEGABYTE if found else 0.0
    return 0.0


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-6000:]


def mirror_command(directory: Path, url: str, *more: str) -> Callable[[int], Sequence[str]]:
    """Return the command that brings one mirror, for :func:`carried`."""
    return lambda attempt: [
        sys.executable, "-m", "tests.support.mirroring", str(directory), url, "--later", str(attempt * HOUR), *more,
    ]  # fmt: skip


def view_of(directory: Path, url: str) -> Path:
    """Return the published view of the mirror as a repository that git reads."""
    return directory / "git" / f"{parse_upstream_url(url).name}.git" / "current"


def fsck(repository: Path) -> list[str]:
    """Return what ``git fsck --full`` says of a repository, ids left out, each message counted."""
    done = subprocess.run(
        ["git", "--git-dir", str(repository), "fsck", "--full", "--no-dangling"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [re.sub(r"\b[0-9a-f]{40,64}\b", "ID", line) for line in (done.stdout + done.stderr).splitlines()]
    kept = [line for line in said if line.startswith(("error", "warning", "missing", "broken", "fatal"))]
    return sorted(f"{line} x{kept.count(line)}" for line in set(kept))


# ---------------------------------------------------------------- the program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("url")
    parser.add_argument("--later", type=float, default=0.0)
    parser.add_argument("--runs", type=int, default=50, help="give up after so many")
    parser.add_argument("--stall", default="", help="git.stall_timeout")
    parser.add_argument("--no-lfs", action="store_true")
    told = parser.parse_args()

    from mirror_sync import bootstrap
    from mirror_sync.clock import SystemClock
    from mirror_sync.config import load
    from mirror_sync.domain.runs import Outcome
    from mirror_sync.errors import LeaseLost, RateLimited

    now = SystemClock.now
    SystemClock.now = lambda self: now(self) + told.later  # type: ignore[method-assign]
    settings = load(configuration(told.directory, told.url, stall=told.stall, lfs=not told.no_lfs), environ={})
    bootstrap.configure_logs(settings, level="warning")
    bootstrap.upgrade_database(settings)
    with bootstrap.build(settings, role="worker") as app:
        app.recover_all()
        mirror, _ = app.enrol(told.url)
        for _ in range(told.runs):
            app.request_sync(mirror.name)
            while (lease := app.claim(f"carrier:{os.getpid()}")) is None:
                app.clock.sleep(0.1)  # the host asked for some rest
            try:
                report = app.sync(lease, stop=threading.Event())
            except LeaseLost:
                return TRY_AGAIN
            done = report.outcome in (Outcome.PUBLISHED, Outcome.UNCHANGED)
            print(json.dumps([report.outcome.value, report.code, report.message, _figures()]), flush=True)
            if done:
                return 0
            if report.code == RateLimited.code:
                app.clock.sleep(max(0.0, min(report.next_due_at - app.clock.now(), 5.0)))
    return 1


def _figures() -> dict[str, float]:
    kinds = {"own_megabytes": resource.RUSAGE_SELF, "child_megabytes": resource.RUSAGE_CHILDREN}
    return {name: round(resource.getrusage(who).ru_maxrss * 1024 / MEGABYTE, 1) for name, who in kinds.items()}


def configuration(directory: Path, url: str, *, stall: str = "", lfs: bool = True) -> Path:
    """Write the configuration of one mirror, once, and return its path."""
    from mirror_sync.config import TrustedHost, default_config_text, write_secret

    path = directory / "config.toml"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        host = TrustedHost(parse_upstream_url(url).netloc, allow_http=True, allow_private=True)
        text = default_config_text(listen="127.0.0.1:1", hosts=[host], lfs=lfs)
        text = text.replace('lease = "20s"', 'lease = "50m"')  # nobody renews it here, and --later goes past it
        if stall:
            text += f'\n[git]\nstall_timeout = "{stall}"\n'
        write_secret(directory / "webhook-secret", "0" * 64)
        draft = path.with_suffix(".draft")
        draft.write_text(text)
        draft.rename(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
