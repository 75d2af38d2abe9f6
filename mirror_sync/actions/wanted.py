"""One wanted LFS object on its way, and the requests that bring it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum

from mirror_sync.actions.batches import Granted, Source
from mirror_sync.actions.budget import Place
from mirror_sync.domain.parts import Part, add, count
from mirror_sync.domain.pointers import Pointer
from mirror_sync.ports import Incomplete, LfsBody

SILENT_GAPS = 8
"""A connection that brings something every so often is silent only after so many such times."""


class End(StrEnum):
    """What became of one object."""

    ARRIVED = "arrived"
    MISSING = "missing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Brought:
    """How bringing one object ended, with a code and a sentence unless it arrived."""

    end: End
    code: str = ""
    message: str = ""


class State(StrEnum):
    """Where one object stands."""

    WAITING = "waiting"
    """Not begun, or to be begun again later."""
    OPENING = "opening"
    OPEN = "open"
    """Its incomplete is ours; parts may be fetched."""
    CHECKING = "checking"
    """All bytes are here and are being hashed."""
    READY = "ready"
    """Verified; waits to be promoted with others."""
    ENDED = "ended"


@dataclass(slots=True)
class Doubt:
    """A whole object whose bytes are wrong, while it is found out which and whose they are.

    What is here is asked for once more and compared.  Bytes that came twice the same are
    agreed on and not asked for again; those that came differently are disputed, until two
    answers in a row agree.  What came from elsewhere is asked of the upstream first, whose
    word holds against theirs.
    """

    rest: list[Part] = field(default_factory=list)
    """What is left of this look while what is disputed is looked at and the object verified in between."""
    disputed: list[Part] = field(default_factory=list)
    """What came differently the last time."""
    before: dict[Part, bytes] = field(default_factory=dict)
    """The digest of what stood there until then: of three answers two may agree."""
    differing: int = 0
    """Answers that were not the same."""
    check_at: int = 1
    """At so many of them the object is verified in between."""
    agreed: int = 0
    """Bytes of this look that were the same."""
    differed: int = 0
    """Bytes of this look that were disputed."""
    vain: int = 0
    """Looks in a row that settled next to nothing."""
    vain_bytes: int = 0
    """Bytes of those looks."""

    def tried(self) -> None:
        """Take note that a look is over."""
        looked = self.agreed + self.differed
        if not looked:
            return
        if self.agreed * 16 >= looked:
            self.vain = self.vain_bytes = 0
        else:
            self.vain += 1
            self.vain_bytes += looked
        self.agreed = self.differed = 0


@dataclass(frozen=True, slots=True)
class Replaced:
    """Bytes that another's answer took the place of: their digest, and who had sent them."""

    start: int
    end: int
    digest: bytes
    host: str


@dataclass(eq=False, slots=True)
class Leg:
    """One request for a range of one object; ``end`` may move towards ``at`` while it runs."""

    wanted: Wanted
    source: Source
    granted: Granted
    place: Place
    start: int
    end: int
    began_at: float
    """Monotonic seconds."""
    asked_end: int = 0
    at: int = 0
    """How far bytes were taken; what lies before is written or being written."""
    last_at: float = 0.0
    """When bytes came last."""
    chunks: int = 0
    """How many times bytes came."""
    writing: bool = False
    body: LfsBody | None = None
    """What is being read, once its head is here."""
    compares: bool = False
    """Whether what comes is compared with what is here."""

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.end - self.at)

    def silent(self, now: float, least: float) -> bool:
        """Tell whether nothing has come for ``least`` seconds, and for much longer than it takes otherwise."""
        gap = (self.last_at - self.began_at) / max(1, self.chunks)
        return now - self.last_at >= max(least, SILENT_GAPS * gap)

    def rate(self, now: float) -> float | None:
        """Return bytes per second since the beginning; ``None`` when it is too early to tell."""
        took = now - self.began_at
        return (self.at - self.start) / took if took >= 0.2 else None


@dataclass(eq=False, slots=True)
class Wanted:
    """One object, guarded by the board's lock."""

    pointer: Pointer
    place: int
    state: State = State.WAITING
    incomplete: Incomplete | None = None
    holder: AbstractContextManager[Incomplete] | None = None
    gaps: list[Part] = field(default_factory=list)
    """Bytes that are missing and that no leg is fetching."""
    legs: list[Leg] = field(default_factory=list)
    granted: dict[int, Granted] = field(default_factory=dict)
    """Answers by source, as long as they are good."""
    lacking: dict[int, Brought] = field(default_factory=dict)
    """Sources that cannot give it, and why."""
    failures: dict[int, int] = field(default_factory=dict)
    """Tries in a row without progress, by source."""
    gone: dict[int, int] = field(default_factory=dict)
    strange: dict[int, int] = field(default_factory=dict)
    """Answers to a range that were not that range, by source."""
    failed_at: float = float("-inf")
    retry_at: dict[int, float] = field(default_factory=dict)
    """When sources that failed may be tried again, in monotonic seconds."""
    busy_until: float = 0.0
    """When it is looked again whether another run still fetches it."""
    queued: bool = False
    busy_since: float | None = None
    doubt: Doubt | None = None
    wrong_times: int = 0
    replaced: list[Replaced] = field(default_factory=list)
    """What nearer places had sent and the upstream had otherwise."""
    blamed: set[str] = field(default_factory=set)
    """Hosts that sent wrong bytes, should the object turn out right."""

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.pointer.size

    @property
    def unassigned(self) -> int:
        """Bytes that are missing and that nobody fetches."""
        return count(self.gaps)

    def begins_at(self) -> float:
        """Return when one of the sources that have it may be tried, in monotonic seconds."""
        return max(self.busy_until, min((self.retry_at.get(number, 0.0) for number in self.granted), default=0.0))

    def give_back(self, leg: Leg) -> None:
        """Let others fetch what a leg did not."""
        if leg in self.legs:
            self.legs.remove(leg)
            if leg.left:
                self.gaps = add(self.gaps, (leg.at, leg.end))

    @property
    def complete(self) -> bool:
        """Whether every byte is written."""
        return self.state is State.OPEN and not self.gaps and not any(leg.left or leg.writing for leg in self.legs)
