"""What clients get: ``git upload-pack`` over the published view."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import re
import select
import shutil
import signal
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, Self

from mirror_sync.domain.names import GitOid, MirrorName, RefName, ref_bytes, ref_from_bytes
from mirror_sync.domain.refs import NO_HEAD
from mirror_sync.errors import Overloaded, RepositoryDamaged
from mirror_sync.repos.conversation import Asked, Opening, fatal_packet, what_is_asked
from mirror_sync.repos.git import Child, Git, git_version
from mirror_sync.repos.layout import layout_of
from mirror_sync.repos.memory import child_memory_bytes
from mirror_sync.repos.ref_pages import ref_page
from mirror_sync.repos.turns import Turn, Turns, never
from mirror_sync.repos.views import held_view

PIECE_BYTES: Final = 256 * 1024
SMALL_PIECE_BYTES: Final = 64 * 1024
"""The piece for a client that has not taken much yet or is slow: hundreds of those stand still with one each."""
TAKEN_BYTES: Final = 1 << 20
"""Who has taken so much, and not slowly, gets large pieces."""

WAIT_SECONDS: Final = 600.0
"""How long a fetch waits for its turn: git never asks again, so waiting is kinder than refusing."""

LIFETIME_SECONDS: Final = 14 * 24 * 3600.0
"""A clone over a poor link may take days; the web ends a stream whose client takes nothing."""

SLOW_SECONDS: Final = 5.0
"""A child that has waited so long for its client, and most of its time, gives its turn away."""

LOOK_EVERY_SECONDS: Final = 1.0
"""How often it is looked whether the client is still there while git has nothing to say."""

_SERVICE: Final = b"001e# service=git-upload-pack\n0000"
_PROTOCOL: Final = re.compile(r"version=[0-2]")
_REMEMBERED: Final = 16
_ATTEMPTS: Final = 5


class GitServing:
    """The published views of all mirrors below ``git_dir``; implements :class:`mirror_sync.ports.Serving`.

    Every request resolves the mirror's current view once and keeps to it, so it sees
    one snapshot.  ``max_packs`` children compute packs at once, ``per_mirror`` of them for
    one mirror and ``per_client`` for one client; a few times as many are sent.  Further ones wait in line up to
    ``wait_seconds``.  What needs no pack waits for nobody.  ``child_memory`` bounds, in
    bytes, what each child may allocate; ``None`` means half of the machine's memory, 0 no
    bound.
    """

    def __init__(
        self,
        git_dir: Path,
        *,
        max_packs: int,
        per_mirror: int | None = None,
        per_client: int | None = None,
        wait_seconds: float = WAIT_SECONDS,
        child_memory: int | None = None,
    ) -> None:
        git_version()  # what starts git is loaded now, not while the first client waits
        self._git_dir = git_dir
        self._memory_bytes = child_memory_bytes(child_memory)
        self._turns = Turns(max_packs, wait_seconds=wait_seconds, per_mirror=per_mirror, per_client=per_client)
        self._capabilities: OrderedDict[bytes, bytes] = OrderedDict()

    def advertise(self, name: MirrorName, *, protocol: str) -> bytes | None:
        """Return the body of ``info/refs?service=git-upload-pack``; ``None`` when the mirror was never published.

        Under protocol v2 that names capabilities only, which depend on nothing but the
        view's configuration; it is computed once for each.
        """
        protocol = _sound_protocol(protocol)
        with _held(self._git_dir, name, memory_bytes=self._memory_bytes) as view:
            if view is None:
                return None
            if protocol != "version=2":
                return _SERVICE + _advertisement(view, protocol)
            config = view.config()
            known = self._capabilities.get(config)
            if known is None:
                known = self._capabilities[config] = _advertisement(view, protocol)
                while len(self._capabilities) > _REMEMBERED:
                    self._capabilities.popitem(last=False)
            return known

    def upload_pack(
        self,
        name: MirrorName,
        request: BinaryIO,
        *,
        protocol: str,
        client: str = "",
        notice: str = "",
        gone: Callable[[], bool] = never,
    ) -> PackStream | None:
        """Return the answer to one ``git-upload-pack`` POST in pieces; closing it kills the child group.

        ``request`` is the whole body, not compressed.  ``client`` is whose share of the
        turns this takes from.  ``notice`` is shown to the client where a pack begins, and
        nowhere else.  ``None`` when the mirror was never published.  Raises
        :class:`Overloaded` when no turn came free in time, :class:`GitFailed` when git has
        no answer at all, and :class:`ConnectionResetError` soon after ``gone`` says yes.
        """
        with contextlib.ExitStack() as stack:
            view = stack.enter_context(_held(self._git_dir, name, memory_bytes=self._memory_bytes))
            if view is None:
                return None
            source = stack.enter_context(_as_file(request))
            asked = what_is_asked(source.fileno())

            def admit() -> Turn:
                return self._turns.take(mirror=name, client=client, gone=gone)

            turn = None
            if asked is Asked.PACK:
                turn = admit()
                stack.callback(turn.end)
            git = view.git(_sound_protocol(protocol))
            child = git.stream(
                ["upload-pack", "--strict", "--stateless-rpc", str(view.directory)],
                stdin=source,
                timeout=LIFETIME_SECONDS,
            )
            stream = PackStream(
                child,
                turn=turn,
                admit=admit if asked is Asked.PERHAPS else None,
                opening=None if asked is Asked.NO_PACK else Opening(notice),
                gone=gone,
                view=stack.pop_all(),
            )
        try:
            stream.begin()
        except BaseException:
            stream.close()
            raise
        return stream

    def load(self) -> tuple[int, int]:
        """Return how many packs are being computed and how many requests wait for that."""
        return self._turns.running(), self._turns.waiting()

    def refs(
        self, name: MirrorName, *, after: str = "", limit: int = 100, prefix: str = ""
    ) -> tuple[RefName, list[tuple[RefName, GitOid]]]:
        """Return HEAD's target and one page of published refs sorted by name, after the name ``after``.

        Only names that begin with ``prefix``.  Costs the same whatever the number of refs.
        Nothing is published: no name, no refs.
        """
        with _held(self._git_dir, name, memory_bytes=self._memory_bytes) as view:
            if view is None:
                return NO_HEAD, []
            return view.head(), view.page(ref_bytes(after), limit, prefix=ref_bytes(prefix))


class PackStream(Iterator[bytes]):
    """The bytes of one answer; belongs to one thread at a time.

    Ends when git ends or when it is closed.  A child killed from outside raises
    :class:`GitFailed`, so that what the client got so far does not look whole.

    ``admit`` waits for a turn.  A child that was started without one, because it was not
    known whether a pack would follow, is held back where its pack begins until it has one.
    """

    def __init__(
        self,
        child: Child,
        *,
        turn: Turn | None,
        admit: Callable[[], Turn] | None,
        opening: Opening | None,
        gone: Callable[[], bool],
        view: contextlib.ExitStack,
    ) -> None:
        self._child: Child | None = child
        self._turn = turn
        self._admit = admit
        self._opening = opening
        self._gone = gone
        self._view = view
        self._first = b""
        self._git_seconds = 0.0
        self._client_seconds = 0.0
        self._handed_at = 0.0
        self._taken_bytes = 0
        self._poll = select.poll()
        self._poll.register(child.stdout.fileno(), select.POLLIN)
        # a larger pipe lets git work on while the client reads; a full quota of pipes only means smaller steps
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, PIECE_BYTES)

    def begin(self) -> None:
        """Wait for the first piece, so that a child that has nothing to say fails before the answer begins."""
        self._first = self._read()
        if not self._first:
            self._finish(answered=False)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._first:
            piece, self._first = self._first, b""
        else:
            try:
                piece = self._read()
            except BaseException:
                self.close()
                raise
        if not piece:
            self._finish(answered=True)
            raise StopIteration
        self._handed_at = time.monotonic()
        if self._turn is not None:
            self._turn.handed_at = self._handed_at
        return piece

    def close(self) -> None:
        """Kill the child's group if it still runs, and give everything back."""
        child, self._child = self._child, None
        try:
            if child is not None:
                child.kill()
                child.wait()
        finally:
            self._view.close()

    def __del__(self) -> None:
        if getattr(self, "_view", None) is not None:
            self.close()

    def _read(self) -> bytes:
        """Return what git writes next, nothing at its end."""
        if self._child is None:
            return b""
        if self._handed_at:
            self._client_seconds += time.monotonic() - self._handed_at
            self._yield_turn()
        if self._turn is not None:
            self._turn.handed_at = 0.0
        while True:
            piece = self._output()
            opening = self._opening
            if opening is None:
                return piece
            if not piece:
                return opening.end()
            begun = opening.began
            piece = opening.feed(piece)
            if opening.began and not begun:
                piece = self._enter_pack(piece)
            if opening.flows:
                self._opening = None
                if self._turn is not None:
                    self._turn.sent_from_now()
            if piece:
                return piece

    def _output(self) -> bytes:
        assert self._child is not None
        began = time.monotonic()
        while not self._poll.poll(LOOK_EVERY_SECONDS * 1000):
            if self._gone():
                raise ConnectionResetError(errno.ECONNRESET, "the client went away")
        quick = self._taken_bytes > TAKEN_BYTES and self._client_seconds <= 2 * self._git_seconds + SLOW_SECONDS
        piece = os.read(self._child.stdout.fileno(), PIECE_BYTES if quick else SMALL_PIECE_BYTES)
        self._taken_bytes += len(piece)
        self._git_seconds += time.monotonic() - began
        return piece

    def _enter_pack(self, piece: bytes) -> bytes:
        """Return what may be sent of the piece in which the pack begins: all of it, once there is a turn."""
        opening, admit = self._opening, self._admit
        assert opening is not None
        assert self._child is not None
        self._admit = None
        if admit is None:
            return piece
        _signal(self._child, signal.SIGSTOP)
        try:
            self._turn = admit()
        except Overloaded as error:
            if not opening.banded:
                raise
            # the client may have the beginning of the answer: it can only say in its own band that it ends badly
            self._opening = None
            self.close()
            return piece[: opening.pack_at] + fatal_packet(f"{error.code}: {error.message}")
        self._view.callback(self._turn.end)
        _signal(self._child, signal.SIGCONT)
        return piece

    def _yield_turn(self) -> None:
        """Let another begin while this child does little but wait for a slow link."""
        slow = self._client_seconds > SLOW_SECONDS and self._client_seconds > 2 * self._git_seconds
        if slow and self._turn is not None:
            self._turn.end()

    def _finish(self, *, answered: bool) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        try:
            status = child.wait()
            # git tells the client why it refuses and then exits with 128: that is an answer
            if status < 0 or (status != 0 and not answered):
                raise child.failure(status)
        finally:
            self._view.close()


class _ServedView:
    """One view, held for one request."""

    def __init__(self, directory: Path, descriptor: int, *, memory_bytes: int) -> None:
        self.directory = directory
        self._descriptor = descriptor
        self._memory_bytes = memory_bytes

    def git(self, protocol: str) -> Git:
        """Return git in this view; its children hold the view as long as they live."""
        environment = {"GIT_PROTOCOL": protocol} if protocol else {}
        return Git(
            self.directory,
            descriptors=lambda: (self._descriptor,),
            environment=environment,
            memory_bytes=self._memory_bytes,
        )

    def config(self) -> bytes:
        return os.pread(self._descriptor, 64 * 1024, 0)

    def head(self) -> RefName:
        raw = (self.directory / "HEAD").read_bytes()
        if not raw.startswith(b"ref: "):
            raise RepositoryDamaged("the view's HEAD is damaged")
        return ref_from_bytes(raw[len(b"ref: ") :].rstrip(b"\n"))

    def page(self, after: bytes, limit: int, *, prefix: bytes) -> list[tuple[RefName, GitOid]]:
        return ref_page(self.directory / "packed-refs", after, limit, prefix=prefix)


@contextlib.contextmanager
def _held(git_dir: Path, name: MirrorName, *, memory_bytes: int) -> Iterator[_ServedView | None]:
    """Resolve the mirror's current view once and hold it; yields ``None`` when there is none."""
    layout = layout_of(git_dir, name)
    with contextlib.ExitStack() as stack:
        found: _ServedView | None = None
        for attempt in range(1, _ATTEMPTS + 1):
            directory = layout.current_view()
            if directory is None:
                break
            try:
                found = _ServedView(directory, stack.enter_context(held_view(directory)), memory_bytes=memory_bytes)
                break
            except FileNotFoundError as error:
                # superseded and dropped between the two looks, or the mirror was just removed
                if attempt == _ATTEMPTS:
                    raise RepositoryDamaged("the published view is not there", why=directory.name) from error
        yield found


def _sound_protocol(protocol: str) -> str:
    return protocol if _PROTOCOL.fullmatch(protocol) else ""


def _advertisement(view: _ServedView, protocol: str) -> bytes:
    return view.git(protocol).run(
        ["upload-pack", "--strict", "--stateless-rpc", "--http-backend-info-refs", str(view.directory)]
    )


@contextlib.contextmanager
def _as_file(request: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the rest of ``request`` as a file that a child can read."""
    try:
        request.flush()
        position = request.tell()
        os.lseek(request.fileno(), position, os.SEEK_SET)
    except (OSError, io.UnsupportedOperation):
        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(request, spool)
            spool.flush()
            os.lseek(spool.fileno(), 0, os.SEEK_SET)
            yield spool
    else:
        yield request


def _signal(child: Child, number: signal.Signals) -> None:
    """Stop or continue a child's whole group, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
