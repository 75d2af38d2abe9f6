"""clone: a working clone with its LFS files, over any link; run again, it goes on where it stopped."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import click

from mirror_sync.cli import codes
from mirror_sync.cli.opening import told
from mirror_sync.cli.options import PATH, TEXT, Command
from mirror_sync.cli.output import Output, span
from mirror_sync.cli.progress import SAY_EVERY_SECONDS, Board
from mirror_sync.domain.names import MirrorName, parse_repository_url, printable, refname_fault
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.runs import Lease, RunReport, Step
from mirror_sync.errors import AddressRefused, Interrupted, UsageError

if TYPE_CHECKING:
    from mirror_sync.actions.clone import Waiting
    from mirror_sync.actions.status import Document
    from mirror_sync.ports import Clock, CloneOrder, CloneReport, Credential

LOOK_EVERY_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 5.0
"""After so long without a byte a person is told who is waited for."""

_PROXY: Final = re.compile(r"(?:https?|socks5h?)://[^\s/@]+/?\Z")


@click.command(
    cls=Command,
    examples=(
        "mirror-sync clone https://github.com/acme/model",
        "mirror-sync clone https://mirror.example.edu/github.com/acme/model work --branch v2",
    ),
)
@click.argument("url", type=TEXT)
@click.argument("directory", required=False, metavar="[DIR]", type=PATH)
@click.option(
    "-b", "--branch", type=TEXT, metavar="NAME", help="Check out this branch or tag; default: upstream's HEAD."
)
@click.option("-o", "--origin", type=TEXT, metavar="NAME", help="Name of the remote; default: what git is set up for.")
@click.option("--bare", is_flag=True, help="Make a bare repository, without files and LFS objects.")
@click.option("-n", "--no-checkout", is_flag=True, help="Check nothing out and bring no LFS objects.")
@click.option("--no-lfs", is_flag=True, help="Leave LFS files as pointers.")
@click.option("--token-file", metavar="FILE", type=PATH, help="File with a token for the host; default: ask git.")
@click.option(
    "--proxy", type=TEXT, metavar="URL", help='Way out; "none": none.  Default: git\'s http.proxy, HTTPS_PROXY.'
)
@click.pass_context
def clone(
    context: click.Context,
    url: str,
    directory: Path | None,
    branch: str | None,
    origin: str | None,
    bare: bool,
    no_checkout: bool,
    no_lfs: bool,
    token_file: Path | None,
    proxy: str | None,
) -> int:
    """Clone a repository with its LFS files over any link.

    What arrived is kept: run the same command again after a cut, a kill or a reboot, and
    it goes on where it stopped.  The result is what git clone and git-lfs make.  Needs no
    daemon and no configuration; the host named here is trusted as typed.
    """
    from mirror_sync.bootstrap import clone_world
    from mirror_sync.config import process_environment
    from mirror_sync.ports import CloneOrder

    flags = told(context)
    if flags.config or flags.directory:
        raise UsageError("clone takes no configuration", remedy="name the directory behind the URL: clone URL DIR")
    out = Output(flags)
    name = _checked(url)
    if origin and refname_fault(f"refs/remotes/{origin}/HEAD") is not None:
        raise UsageError(f"{printable(origin)!r} cannot be the name of a remote")
    if proxy and proxy != "none" and not _PROXY.match(proxy):
        raise UsageError(
            "--proxy takes http://HOST:PORT or socks5h://HOST:PORT, or none",
            remedy="a user name and password for it go into HTTPS_PROXY or git's http.proxy",
        )
    order = CloneOrder(url, branch or "", origin or "", bare=bare, checkout=not no_checkout, lfs=not no_lfs)
    target = directory if directory is not None else Path(humanish(url, bare=bare))
    screen, stop = _Screen(out, name), threading.Event()
    world, close = clone_world(
        order,
        target,
        environment=dict(process_environment()),
        telemetry=screen,
        proxy=proxy or "",
        token_file=token_file,
        ask=screen.ask,
        stop=stop,
    )
    try:
        return _run(out, screen, order, target, name=name, world=world, stop=stop)
    finally:
        close()


def _run(
    out: Output,
    screen: _Screen,
    order: CloneOrder,
    target: Path,
    *,
    name: MirrorName,
    world: Any,
    stop: threading.Event,
) -> int:
    from mirror_sync.actions.clone import clone as make

    try:
        with _stoppable(stop), screen:
            report = make(
                order, name=name, world=world, stop=stop, report=screen.show, say=screen.say, waits=screen.waits
            )
    except (KeyboardInterrupt, Interrupted):
        out.note("interrupted; run the same command again and it goes on where it stopped")
        return codes.INTERRUPTED
    _tell(out, order, target, report)
    return codes.PARTLY if report.missing else codes.DONE


def _tell(out: Output, order: CloneOrder, target: Path, report: CloneReport) -> None:
    if out.json:
        out.document(
            {
                "url": order.url,
                "directory": str(target),
                "missing": list(report.missing),
                "notes": list(report.notes),
            }
        )
        return
    for text in report.notes:
        out.note(f"note: {text}")
    for text in report.missing:
        out.note(click.style("missing: ", fg="yellow") + text)
    out.line(str(target) if out.plain else f"cloned into {target}")


def _checked(url: str) -> MirrorName:
    """Return the name of what ``url`` leads to; raises what :func:`parse_repository_url` does, with remedies for here."""
    if "@" in urlsplit(url).netloc and "://" in url and urlsplit(url).scheme in ("http", "https"):
        raise AddressRefused(
            "a URL with a user name or password is not taken",
            why="it would stand in the list of processes and in the clone's configuration",
            remedy="leave it out; give --token-file FILE, or let git's credential helper know it",
        )
    return parse_repository_url(url).name


def humanish(url: str, *, bare: bool) -> str:
    """Return the directory that git would choose for ``url``."""
    last = urlsplit(url).path.rstrip("/").removesuffix(".git").rpartition("/")[2]
    return f"{last}.git" if bare else last


def silence_text(waiting: Waiting, quiet: float) -> str:
    """Return what a person is told of a host from which nothing was heard for ``quiet`` seconds."""
    tries = f"try {waiting.attempt} of {waiting.attempts}"
    return f"waiting for {waiting.host}: silent for {span(quiet)}, given up after {span(waiting.silence)}, {tries}"


@contextmanager
def _stoppable(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM end what runs in other threads, too."""

    def end(*_: object) -> None:
        stop.set()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Screen:
    """Keeps the person at the terminal informed; implements :class:`mirror_sync.ports.Telemetry`."""

    def __init__(self, out: Output, name: MirrorName, *, clock: Clock | None = None) -> None:
        from mirror_sync.clock import SystemClock

        self._out = out
        self._name = name
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._board = Board(out, at_once=False)
        self._one_at_a_time = threading.RLock()
        self._waiting: Waiting | None = None
        self._heard_at = self._told_at = float("-inf")
        self._received = -1
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look_again, name="waiting", daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        self._board.clear()

    def show(self, progress: Progress) -> None:
        """Show how far it is."""
        from mirror_sync.actions.status import progress_document

        with self._one_at_a_time:
            if progress.received != self._received:
                self._received = progress.received
                self._heard_at = self._clock.monotonic()
            self._renew(self._name, "cloning", progress_document(progress, self._clock.now()))

    def _renew(self, name: str, activity: str, progress: Document | None) -> None:
        item = {
            "name": name,
            "activity": activity,
            "run": None,
            "removing_at": None,
            "refs": {"count": None},
            "lfs": {"wanted": None, "present": None, "wanted_bytes": None, "present_bytes": None},
            "progress": progress,
        }
        self._board.show([item], now=self._clock.monotonic())

    def say(self, text: str) -> None:
        """Tell of a step."""
        with self._one_at_a_time:
            self._board.clear()
            self._out.note(text)

    def waits(self, waiting: Waiting | None) -> None:
        """Take note of who is asked for something, or that nobody is any more."""
        with self._one_at_a_time:
            self._waiting = waiting
            self._heard_at = self._clock.monotonic()
            self._told_at = float("-inf")

    def _look_again(self) -> None:
        while not self._clock.sleep(LOOK_EVERY_SECONDS, stop=self._over):
            self.tell_of_silence()

    def tell_of_silence(self) -> None:
        """Tell for whom the command waits, since when, and when it gives up, once nothing was heard for a while."""
        with self._one_at_a_time:
            now = self._clock.monotonic()
            quiet = now - self._heard_at
            if self._waiting is None or quiet < QUIET_SECONDS:
                return
            text = silence_text(self._waiting, quiet)
            if sys.stderr.isatty():
                self._renew(text, "", None)
            elif now - self._told_at >= SAY_EVERY_SECONDS:
                self._told_at = now
                self._out.note(text)

    def ask(self, host: str) -> Credential | None:
        """Ask the person at the terminal for a user name and a password."""
        from mirror_sync.ports import Credential

        if not sys.stdin.isatty() or self._out.told.quiet:
            return None
        with self._one_at_a_time:
            self._board.clear()
        username = click.prompt(f"User name for {host}", err=True)
        return Credential(
            username, click.prompt(f"Password or token for {username} at {host}", hide_input=True, err=True)
        )

    # -- telemetry: with -v a line each

    def event(self, name: str, **fields: object) -> None:
        """Something worth a line happened."""
        if self._out.told.verbose:
            fields.pop("level", None)
            self.say(" ".join([name, *(f"{key}={printable(str(value))}" for key, value in fields.items())]))

    def progress(self, mirror: MirrorName, progress: Progress) -> None:  # noqa: ARG002 - there is but one
        """How far it is."""
        self.show(progress)

    def upstream_request(self, *, host: str, operation: str, status: int, seconds: float) -> None:
        """One request to an upstream host ended."""
        self.event("upstream_request", host=host, operation=operation, status=status, seconds=round(seconds, 3))

    def run_started(self, lease: Lease) -> None:
        """There are no runs here."""

    def step_finished(self, lease: Lease, step: Step, seconds: float) -> None:
        """There are no runs here."""

    def run_finished(self, lease: Lease, report: RunReport) -> None:
        """There are no runs here."""

    def propagated(self, *, evidence: str, seconds: float) -> None:
        """There are no clients here."""
