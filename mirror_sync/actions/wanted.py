"""One wanted LFS object on its way, and the requests that bring it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum

from mirror_sync.actions.batches import Granted, Source
from mirror_sync.actions.budget import Place
from mirror_sync.domain.parts import Part, add, count
from mirror_sync.domain.pointers import Pointer
from mirror_sync.ports import Incomplete


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
    writing: bool = False

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return max(0, self.end - self.at)

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
    retry_at: float = 0.0
    queued: bool = False
    busy_since: float | None = None
    wrong: dict[str, set[str]] = field(default_factory=dict)
    """Whole wrong objects: the digests by source."""
    wrong_times: int = 0

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.pointer.size

    @property
    def unassigned(self) -> int:
        """Bytes that are missing and that nobody fetches."""
        return count(self.gaps)

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
