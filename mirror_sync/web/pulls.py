"""LFS objects that are not here yet: fetched by the worker because somebody asks, passed on while they arrive.

A client gets bytes as they become durable, before anybody knows that they are right.  So
the end of the object is held back until it is verified and what was sent is compared with
it: a transfer that began with wrong bytes breaks off, and never reaches its stated length.
A range that ends before the object does is passed on as it is here; it carries no
validator, so that no cache keeps it and no client joins it with another.
"""

from __future__ import annotations

import errno
import hashlib
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, cast

from flask import current_app

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.parts import Part, count, reach
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import Mirror, MirrorId
from mirror_sync.errors import KNOWN_MISSING_CODES, MirrorSyncError, ObjectCorrupt, StateUnavailable
from mirror_sync.ports import Arrival
from mirror_sync.web.backend import App
from mirror_sync.web.limits import Slot, Slots
from mirror_sync.web.streams import BLOCK_BYTES

PULLS = "mirror_sync_pulls"

HELD_BACK_BYTES = 64 * 1024
"""So much of an object's end is not sent before the object is verified."""

FIRST_SECONDS = 20.0
"""How long a client waits for its first byte before it is asked to come again; git-lfs gives up after 30."""

STALL_SECONDS = 60.0
"""So long nothing more of the object may arrive before the answer is broken off."""

VERIFY_SECONDS = 300.0
"""The same once every byte is here and is being verified and kept."""

ASK_EVERY_SECONDS = 5.0
ASK_SECONDS = 20.0
"""How long the worker believes that somebody waits, unless told again."""

LOOK_SECONDS = 0.2
FAILURE_SECONDS = 1.0
KEPT_FREE = 8
"""One in so many streams is never taken by clients that wait; and of those that may, one in so many by one object."""


class CannotBeHad(Exception):
    """The object cannot be had just now: the code and the reason."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code}: {reason}")

    @property
    def upstream_lacks_it(self) -> bool:
        """Whether upstream itself has said that it lacks the object."""
        return self.code in KNOWN_MISSING_CODES


class NotYet(Exception):
    """Nothing that can be sent arrived in time."""


class Pull:
    """One object of one mirror, on its way for every client of this process that waits for it.

    Nobody has a thread for this: whoever waits looks when the last look is old.
    """

    def __init__(self, app: App, mirror: Mirror, pointer: Pointer) -> None:
        self.mirror = mirror
        self.pointer = pointer
        self.users = 0
        self._app = app
        self._clock = app.clock
        self._arrival: Arrival = app.arrivals.watch(pointer)
        self._looking = threading.Lock()
        self._looked_at = self._asked_at = self._failure_at = float("-inf")
        self._parts: list[Part] = []
        self._failure: CannotBeHad | None = None
        self.moved_at = app.clock.monotonic()
        """When more of it was found last."""

    @property
    def verified(self) -> bool:
        """Whether the object is here, verified."""
        return self._arrival.verified

    def look(self) -> list[Part]:
        """Return what is here of the object, as of a moment ago; raises :class:`CannotBeHad`."""
        if self._looking.acquire(blocking=self._looked_at == float("-inf")):
            try:
                now = self._clock.monotonic()
                if now - self._looked_at >= LOOK_SECONDS:
                    self._look(now)
                    self._looked_at = now
            finally:
                self._looking.release()
        if self._failure is not None:
            raise self._failure
        return self._parts

    def _look(self, now: float) -> None:
        if self._arrival.verified:
            return
        parts = self._arrival.look()
        if parts != self._parts:
            self._parts, self.moved_at = parts, now
        if self.verified:
            return
        # A database that does not answer for a moment ends nothing: what is on its way arrives.
        with suppress(StateUnavailable):
            oid = self.pointer.oid
            if now - self._asked_at >= ASK_EVERY_SECONDS:
                failure = self._app.ask_lfs(self.mirror, oid, seconds=ASK_SECONDS)
                self._asked_at = self._failure_at = now
            elif now - self._failure_at >= FAILURE_SECONDS:
                failure = self._app.state.lfs_ask_failures(self.mirror.id, [oid]).get(oid)
                self._failure_at = now
            else:
                return
            self._failure = failure and CannotBeHad(*failure)

    def sendable(self, start: int, end: int) -> int:
        """Return how far bytes may be sent from ``start`` on, up to ``end``."""
        here = min(end, reach(self.look(), start))
        if self.verified or end < self.pointer.size:
            return here
        return max(start, min(here, self.pointer.size - HELD_BACK_BYTES))

    def wait(self, start: int, end: int, *, seconds: float, environ: Mapping[str, Any]) -> None:
        """Return when a byte from ``start`` on may be sent; raises :class:`NotYet` and :class:`CannotBeHad`."""
        until = self._clock.monotonic() + seconds
        while self.sendable(start, end) <= start < end or not (start < end or self.verified):
            if self._clock.monotonic() >= until or _went_away(environ):
                raise NotYet
            self._clock.sleep(LOOK_SECONDS)

    def pieces(self, start: int, end: int, environ: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to ``end`` as they arrive; breaks the connection off when they do not."""
        try:
            yield from self._pieces(start, end, environ)
        except (CannotBeHad, NotYet, MirrorSyncError) as error:
            self._app.telemetry.event(
                "pull_broken_off", level="warning", mirror=self.mirror.name, oid=self.pointer.oid,
                why=str(error) or "nothing more arrived in time",
            )  # fmt: skip
            # The server takes this for a client that went away, and closes the connection
            # before the stated length is reached: every client sees that its answer is not whole.
            raise ConnectionResetError(errno.ECONNRESET, "the answer is broken off") from error

    def _pieces(self, start: int, end: int, environ: Mapping[str, Any]) -> Iterator[bytes]:
        sent = hashlib.sha256()
        at, began = start, self._clock.monotonic()
        compares = end == self.pointer.size
        while at < end:
            limit = self.sendable(at, end)
            if compares and self.verified:
                self._compare(sent, start, at)
                compares = False
            data = self._arrival.read(at, min(limit, at + BLOCK_BYTES)) if at < limit else b""
            if not data:  # not here yet, or gone again: then it is fetched anew
                self._stay(began, environ)
                continue
            if compares:
                sent.update(data)
            at += len(data)
            yield data

    def _stay(self, began: float, environ: Mapping[str, Any]) -> None:
        whole = count(self._parts) >= self.pointer.size
        patience = VERIFY_SECONDS if whole else STALL_SECONDS
        if self._clock.monotonic() - max(began, self.moved_at) >= patience or _went_away(environ):
            raise NotYet
        self._clock.sleep(LOOK_SECONDS)

    def _compare(self, sent: hashlib._Hash, start: int, at: int) -> None:
        """Raise :class:`CannotBeHad` unless the verified object has the bytes from ``start`` to ``at`` that were sent."""
        size = self.pointer.size
        if start == 0 and size - at <= HELD_BACK_BYTES:
            whole = sent.copy()
            whole.update(self._read(at, size))
            same = whole.hexdigest() == self.pointer.oid
        else:
            true = hashlib.sha256()
            for step in range(start, at, BLOCK_BYTES):
                true.update(self._read(step, min(step + BLOCK_BYTES, at)))
            same = true.digest() == sent.digest()
        if not same:
            raise CannotBeHad(ObjectCorrupt.code, "bytes that were passed on turned out wrong")

    def _read(self, start: int, end: int) -> bytes:
        data = b""
        while start + len(data) < end and (more := self._arrival.read(start + len(data), end)):
            data += more
        return data

    def close(self) -> None:
        """Let go of the file."""
        self._arrival.close()


class Pulls:
    """Every object that clients of this process wait for, and how many of them there may be."""

    def __init__(self, app: App) -> None:
        self._app = app
        streams = app.settings.serve.max_streams
        places = max(1, streams - max(1, streams // KEPT_FREE))
        self._places = Slots(places)
        self._most_of_one = max(1, places - places // (2 * KEPT_FREE))
        self._pulls: dict[tuple[MirrorId, LfsOid], Pull] = {}
        self._guard = threading.Lock()

    def join(self, mirror: Mirror, pointer: Pointer) -> Joined | None:
        """Wait for an object with all others that do; ``None`` when too many wait.  Whoever joins leaves."""
        place = self._places.take()
        if place is None:
            return None
        with self._guard:
            key = (mirror.id, pointer.oid)
            pull = self._pulls.get(key)
            if pull is None:
                pull = self._pulls[key] = Pull(self._app, mirror, pointer)
            if pull.users >= self._most_of_one:
                place.release()
                return None
            pull.users += 1
        return Joined(self, pull, place)

    def leave(self, pull: Pull) -> None:
        """One client fewer waits."""
        with self._guard:
            pull.users -= 1
            if pull.users == 0:
                del self._pulls[pull.mirror.id, pull.pointer.oid]
                pull.close()


class Joined:
    """One client's place among those who wait for an object."""

    def __init__(self, pulls: Pulls, pull: Pull, place: Slot) -> None:
        self.pull = pull
        self._pulls = pulls
        self._place = place
        self._left = False

    def leave(self) -> None:
        """Give the place back; once, however often that is asked."""
        if self._left:
            return
        self._left = True
        self._place.release()
        self._pulls.leave(self.pull)


def pulls() -> Pulls:
    """Return what clients of this process wait for."""
    return cast("Pulls", current_app.extensions[PULLS])


def _went_away(environ: Mapping[str, Any]) -> bool:
    """Tell whether the client has closed its end."""
    client = environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):
        return False
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))
