"""Download actions, asked for in batches just ahead of need, so that they do not expire unused."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from mirror_sync.actions.course import Course
from mirror_sync.domain.names import RefName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import MirrorSyncError, UpstreamInvalid, UpstreamUnavailable
from mirror_sync.ports import LfsAnswer, Upstream

EXPIRY_MARGIN = 60.0
SETTLED = frozenset({"MS-L501", "MS-L509"})
"""No LFS here, budget used up: trying again within the minute changes nothing."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A batch answer and when it was asked for."""

    answer: LfsAnswer
    asked_at: float

    def stale(self, now: float) -> bool:
        """Tell whether the action expires within a minute, or within half of its life where that is shorter."""
        expires_at = self.answer.action.expires_at if self.answer.action else None
        if expires_at is None:
            return False
        return now >= expires_at - min(EXPIRY_MARGIN, max(0.0, expires_at - self.asked_at) / 2)


class Batches:
    """Answers for the objects of ``order``, each asked for once and again when it went stale.

    Used by many threads: one asks, the others that need the same batch wait for it.
    Whoever takes an object when half a batch is left asks for the next one first,
    while the others go on.
    """

    def __init__(
        self,
        order: Sequence[Pointer],
        *,
        upstream: Upstream,
        course: Course,
        size: int,
        attempts: int,
        ref: RefName | None,
    ) -> None:
        self._order = order
        self._places = {pointer: place for place, pointer in enumerate(order)}
        self._upstream = upstream
        self._course = course
        self._size = size
        self._attempts = attempts
        self._ref = ref
        self._granted: dict[Pointer, Granted] = {}
        self._asking: set[Pointer] = set()
        self._taken: set[Pointer] = set()
        self._ahead = 0
        self._changed = threading.Condition()

    def take(self, pointer: Pointer) -> Granted:
        """Return the answer for one object of the order, asking for it and those after it when there is none."""
        asked = False
        while True:
            with self._changed:
                while pointer in self._asking:
                    self._changed.wait()
                granted = self._granted.pop(pointer, None)
                if granted is not None and (asked or not granted.stale(self._course.clock.now())):
                    self._taken.add(pointer)
                    break
                group = self._claim(self._places[pointer])
            self._fetch(group)
            asked = True
        self._look_ahead(self._places[pointer])
        return granted

    def renew(self, pointer: Pointer) -> Granted:
        """Ask for a fresh answer for one object alone."""
        asked_at = self._course.clock.now()
        return Granted(self._ask([pointer])[0], asked_at)

    def _claim(self, place: int) -> list[Pointer]:
        """Choose what the next batch asks for, from ``place`` on, and let nobody else ask for it."""
        now = self._course.clock.now()
        group: list[Pointer] = []
        while place < len(self._order) and len(group) < self._size:
            pointer = self._order[place]
            known = self._granted.get(pointer)
            if pointer not in self._asking | self._taken and (known is None or known.stale(now)):
                group.append(pointer)
            place += 1
        self._ahead = max(self._ahead, place)
        self._asking.update(group)
        return group

    def _look_ahead(self, place: int) -> None:
        with self._changed:
            if self._ahead >= len(self._order) or self._ahead - place > self._size // 2:
                return
            group = self._claim(self._ahead)
        try:
            self._fetch(group)
        except MirrorSyncError:
            # The course holds the reason and nothing new begins; the object in hand has its answer.
            return

    def _fetch(self, group: Sequence[Pointer]) -> None:
        asked_at = self._course.clock.now()
        try:
            answers = self._ask(group) if group else []
            with self._changed:
                self._granted.update({answer.pointer: Granted(answer, asked_at) for answer in answers})
        finally:
            with self._changed:
                self._asking.difference_update(group)
                self._changed.notify_all()

    def _ask(self, group: Sequence[Pointer]) -> list[LfsAnswer]:
        """Ask upstream, again when it fails; what cannot be helped halts the course and is raised."""
        failures = 0
        while True:
            self._course.go_on()
            try:
                return self._upstream.batch(group, ref=self._ref)
            except (UpstreamUnavailable, UpstreamInvalid) as error:
                failures += 1
                if failures >= self._attempts or error.code in SETTLED:
                    self._course.halt(error)
                else:
                    self._course.wait(failures)
            except MirrorSyncError as error:
                self._course.halt(error)
