"""What a person at the terminal sees while mirrors are being filled."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from mirror_sync.cli import choosing
from mirror_sync.cli.output import Output
from mirror_sync.cli.progress import Board
from mirror_sync.domain.runs import Activity, Outcome
from mirror_sync.errors import MirrorSyncError
from mirror_sync.ports import MirrorFilter

if TYPE_CHECKING:
    from mirror_sync.actions.status import Document
    from mirror_sync.bootstrap import App

LOOK_EVERY_SECONDS = 0.5
STOPPING = "stopping; what is unfinished goes on at the next start"
TOLD = {Outcome.FAILED: "red", Outcome.HELD: "yellow"}
"""Ends of a run that a person is told of, and their colours."""


class Watcher:
    """Reads the state beside the daemon; prints a clone line when a mirror is first published, and progress until all of it is here.

    ``open_app`` makes an App for the watching thread alone; ``command`` is what a person
    types for ``mirror-sync`` here.
    """

    def __init__(self, open_app: Callable[[], App], out: Output, *, command: str) -> None:
        self._open_app = open_app
        self._out = out
        self._command = command
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._announced: set[str] = set()
        self._failures: dict[str, str] = {}
        self._board = Board(out, at_once=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end(self) -> None:
        """Watch no more and tell that the end begins."""
        self._stop.set()
        if not self._thread.is_alive():
            self._out.note(STOPPING)

    def stop(self) -> None:
        """Watch no more; returns when the thread has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with self._open_app() as app:
            while True:
                try:
                    self.look(app)
                except MirrorSyncError as error:
                    # The daemon says what is wrong; here it only means that nothing can be shown now.
                    self._out.note(f"progress is not known: {error.message}")
                if app.clock.sleep(LOOK_EVERY_SECONDS, stop=self._stop):
                    break
        self._board.clear()
        self._out.note(STOPPING)

    def look(self, app: App) -> None:
        """Look once and tell what is new."""
        items = list(choosing.matching(app, MirrorFilter()))
        for item in items:
            self._announce(app, item)
        waiting = [item for item in items if item["confirmed_at"] is None and item["paused"] is None]
        if sys.stderr.isatty():
            shown = [item for item in items if item in waiting or item["progress"] is not None]
        else:  # a log gets no lines of everyday updates, and why a mirror waits is told already
            shown = [item for item in waiting if item["activity"] != Activity.BACKING_OFF]
        self._board.show(shown, now=app.clock.monotonic())

    def _announce(self, app: App, item: Document) -> None:
        name = item["name"]
        if item["published_at"] is not None and name not in self._announced:
            self._announced.add(name)
            self._print(f"git clone {app.settings.server.local_url}/{name}")
        last = item["last_run"]
        told = f"{last['code']} {last['message']}" if last and last["outcome"] in TOLD else ""
        if told and self._failures.get(name) != told:
            remedies = (self._typed(remedy) for remedy in app.why(choosing.name(name)).remedies)
            kind = "error" if last["outcome"] == Outcome.FAILED else "held"
            head = click.style(f"{kind}[{last['code']}]", fg=TOLD[Outcome(last["outcome"])], bold=True)
            lines = [f"{head}: {name}: {last['message']}", *(f"  do:  {remedy}" for remedy in remedies)]
            self._board.clear()
            self._out.note("\n".join(lines))
        self._failures[name] = told

    def _typed(self, remedy: str) -> str:
        """Return a remedy as it can be typed here."""
        rest = remedy.removeprefix("mirror-sync ")
        return remedy if rest == remedy else f"{self._command} {rest}"

    def _print(self, line: str) -> None:
        self._board.clear()
        self._out.line(line)
        sys.stdout.flush()
