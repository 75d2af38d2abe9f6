"""What :class:`mirror_sync.testing.state.MemoryState` keeps of one mirror."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mirror_sync.domain.names import GitOid, LfsOid, RefName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import HISTORY_RANK, KeptTip, LfsCounts, Mirror, PublishIntent, RefJournalEntry, RunId
from mirror_sync.domain.standing import Due, Evidence
from mirror_sync.errors import LeaseLost


@dataclass(slots=True)
class WantedRow:
    """One LFS object that a mirror's history refers to."""

    size: int
    present: bool = False
    known_missing: bool = False
    left_out: bool = False
    rank: int = HISTORY_RANK
    attempts: int = 0
    retry_at: float = 0.0
    leased_until: float = 0.0
    leased_by: str = ""
    code: str = ""
    message: str = ""


@dataclass(slots=True)
class AskedRow:
    """One LFS object that clients wait for."""

    asked_at: float = 0.0
    asked_until: float = 0.0
    failed_until: float = 0.0
    code: str = ""
    message: str = ""


@dataclass(slots=True)
class KeptRow:
    """A kept tip, with the view whose publish is not recorded yet."""

    tip: KeptTip
    view: int | None


@dataclass(slots=True)
class MirrorRow:
    """One mirror with what no reader of :class:`Mirror` needs."""

    mirror: Mirror
    token: int = 0
    purpose: str = ""
    pending: Due | None = None
    evidence: Evidence | None = None
    run_started_at: float | None = None
    run_id: RunId | None = None
    intent: tuple[RunId, PublishIntent] | None = None
    journal: list[tuple[int, float, RunId, RefJournalEntry]] = field(default_factory=list)
    journaled: int = 0
    kept: list[KeptRow] = field(default_factory=list)
    pointers: dict[GitOid, Pointer] = field(default_factory=dict)
    scanned: frozenset[GitOid] = frozenset()
    wanted: dict[LfsOid, WantedRow] = field(default_factory=dict)
    deletions: dict[RefName, float] = field(default_factory=dict)
    chore_after: float = 0.0
    lfs_turn: int = 0

    def seen(self) -> Mirror:
        """Return the mirror with its LFS counts."""
        apart = [row for row in self.wanted.values() if row.left_out]
        rows = [row for row in self.wanted.values() if not row.left_out]
        present = [row for row in rows if row.present]
        counts = LfsCounts(
            wanted=len(rows),
            present=len(present),
            missing=len(rows) - len(present),
            known_missing=sum(row.known_missing for row in rows),
            wanted_bytes=sum(row.size for row in rows),
            present_bytes=sum(row.size for row in present),
            left_out=len(apart),
            left_out_bytes=sum(row.size for row in apart),
        )
        return replace(self.mirror, lfs=counts)

    def held(self, now: float) -> bool:
        """Tell whether somebody holds the lease."""
        return bool(self.mirror.leased_by) and self.mirror.lease_until > now

    def in_service(self) -> bool:
        """Tell whether the mirror is neither paused nor being removed."""
        return self.mirror.paused_at is None and self.mirror.removing_at is None

    def fence(self, token: int, now: float) -> None:
        """Raise :class:`LeaseLost` unless ``token`` is the latest and its lease has not expired."""
        if self.token != token or not self.held(now):
            raise LeaseLost

    def due(self) -> Due:
        """Return when and why the mirror is due."""
        return Due(self.mirror.due_at, self.mirror.trigger)
