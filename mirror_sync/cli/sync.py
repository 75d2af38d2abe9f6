"""sync: make mirrors due, and wait until what was asked for is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mirror_sync.cli import choosing, codes
from mirror_sync.cli.codes import NoWorker, WaitedTooLong
from mirror_sync.cli.keep import DURATION
from mirror_sync.cli.look import workers_alive
from mirror_sync.cli.opening import opened, told
from mirror_sync.cli.options import Command
from mirror_sync.cli.output import Output
from mirror_sync.cli.progress import Board
from mirror_sync.domain.names import MirrorName, printable
from mirror_sync.domain.runs import LastRun, Mirror, Outcome
from mirror_sync.errors import Preempted

if TYPE_CHECKING:
    from mirror_sync.bootstrap import App

LOOK_EVERY_SECONDS = 0.1
SHOW_EVERY_SECONDS = 0.5
WORKER_GRACE_SECONDS = 5.0
"""How long a daemon that was started a moment ago may take until its worker shows itself."""


@click.command(cls=Command, examples=("mirror-sync sync github.com/acme/model --wait",))
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=choosing.complete_names)
@click.option("--wait", is_flag=True, help="Wait until a run that began after this has ended.")
@click.option("--timeout", type=DURATION, help="Wait no longer than this, such as 10m; exit status 9.")
@click.pass_context
def sync(context: click.Context, names: tuple[str, ...], wait: bool, timeout: float | None) -> int:
    """Sync now, or as soon as a worker is free.

    With --wait the exit status is 0 when everything observed is published, 3 when
    something is held, 1 when it failed, 9 when the time is over, 7 when no worker runs.
    A run that makes way for others and goes on behind is not the end: the wait goes on.
    """
    out = Output(told(context))
    with opened(context) as app:
        wanted = [choosing.known(app, name) for name in choosing.names(names)]
        asked_at = app.clock.now()
        for name in wanted:
            app.request_sync(name)
        if not wait:
            documents = [app.mirror_status(name) for name in wanted]
            if out.json:
                out.document({"items": documents})
            else:
                for name in wanted:
                    out.line(f"due{chr(9) if out.plain else ' now: '}{name}")
            _hint_without_worker(app, out)
            return codes.DONE
        finished = _wait(app, out, wanted, asked_at=asked_at, timeout=timeout)
        documents = [app.mirror_status(name) for name in wanted]
    if out.json:
        out.document({"items": documents})
    else:
        for mirror in finished:
            last = mirror.last_run
            assert last is not None
            text = " ".join(part for part in (last.outcome.value, last.code, last.message) if part)
            out.line(f"{mirror.name}{chr(9) if out.plain else ': '}{text}")
    return worst(finished)


def worst(mirrors: list[Mirror]) -> int:
    """Return the exit status that finished runs deserve together."""
    statuses = [_status(mirror) for mirror in mirrors]
    return codes.FAILED if codes.FAILED in statuses else max(statuses, default=codes.DONE)


def _status(mirror: Mirror) -> int:
    assert mirror.last_run is not None
    if mirror.last_run.outcome in (Outcome.FAILED, Outcome.ABANDONED):
        return codes.FAILED
    if mirror.last_run.outcome is Outcome.HELD or mirror.held_refs:
        return codes.PARTLY
    return codes.DONE


def ended_run(mirror: Mirror, asked_at: float) -> LastRun | None:
    """Return the latest run if it began after ``asked_at``, ``None`` before any such has ended."""
    last = mirror.last_run
    return last if last is not None and last.started_at >= asked_at else None


def still_coming(mirror: Mirror) -> str:
    """Return what goes on by itself after the mirror's latest run, empty when nothing does.

    A run that was abandoned is tried again.  One that held refs because their LFS objects
    are fetched behind it is followed by another as soon as they are here.
    """
    last = mirror.last_run
    if last is not None and last.outcome is Outcome.ABANDONED:
        return f"its run is tried again: {last.message}" if last.message else "its run is tried again"
    behind = [hold for hold in mirror.holds if hold.code == Preempted.code]
    stopped = mirror.paused_at is not None or mirror.removing_at is not None
    if last is None or last.outcome is not Outcome.HELD or not behind or stopped:
        return ""
    more = f" and {len(behind) - 1} more" if len(behind) > 1 else ""
    return f"its run made way for others; {printable(behind[0].name)}{more}: {behind[0].reason}"


def _wait(app: App, out: Output, names: list[MirrorName], *, asked_at: float, timeout: float | None) -> list[Mirror]:
    """Return the mirrors once each has been synced; raises :class:`NoWorker` and :class:`WaitedTooLong`."""
    began = app.clock.monotonic()
    done: dict[MirrorName, Mirror] = {}
    said: dict[MirrorName, str] = {}
    shown_at = float("-inf")
    board = Board(out, at_once=False)
    try:
        while True:
            for name in names:
                if name in done:
                    continue
                mirror = app.state.mirror(name)
                if ended_run(mirror, asked_at) is None:
                    continue
                coming = still_coming(mirror)
                if not coming:
                    done[name] = mirror
                elif said.get(name) != coming:
                    said[name] = coming
                    board.clear()
                    out.note(f"{name}: {coming}; waiting for it")
            if len(done) == len(names):
                return [done[name] for name in names]
            now = app.clock.monotonic()
            if now - began >= WORKER_GRACE_SECONDS:
                _need_worker(app)
            if timeout is not None and now - began >= timeout:
                left = [name for name in names if name not in done]
                raise WaitedTooLong(
                    f"not done in time: {', '.join(left)}",
                    why="; ".join(
                        [
                            f"{len(done)} of {len(names)} mirrors were synced",
                            *(f"{name}: {said[name]}" for name in left if name in said),
                        ]
                    ),
                    remedy=f"the daemon carries on; mirror-sync show {left[0]} tells how far it is",
                )
            if now - shown_at >= SHOW_EVERY_SECONDS:
                shown_at = now
                board.show([app.mirror_status(name) for name in names if name not in done], now=now)
            app.clock.sleep(LOOK_EVERY_SECONDS)
    finally:
        board.clear()


def _need_worker(app: App) -> None:
    if not workers_alive(app.state.workers(), app.clock.now()):
        raise NoWorker(
            "no worker is running",
            why="none gave a sign of life in the last 30 seconds; the request is kept",
            remedy="start the daemon: mirror-sync serve, or systemctl start mirror-sync",
        )


def _hint_without_worker(app: App, out: Output) -> None:
    if not workers_alive(app.state.workers(), app.clock.now()):
        out.note("no worker is running; the request is kept until one does: mirror-sync serve")
