"""What a sync needs of the world: ports, policy, and the notes one run keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mirror_sync.actions.budget import Budget
from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.refs import Hold, RefSnapshot
from mirror_sync.domain.runs import Availability, Lease, Mirror, RunId, Step
from mirror_sync.domain.selection import Selection
from mirror_sync.errors import Interrupted
from mirror_sync.ports import Clock, GitRepository, ObjectStore, Parallel, StateStore, Telemetry, Upstream

MAX_NOTES = 50


def never() -> bool:
    """Nobody waits."""
    return False


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided for one mirror.  Times in seconds, sizes in bytes."""

    patterns: tuple[str, ...] = ("refs/heads/*", "refs/tags/*", "refs/notes/*")
    hold_forced: bool = False
    keep_forced: float = 90 * 86400.0
    relaxed: tuple[str, ...] = ()
    max_pack_bytes: int = 1 << 50
    lfs: bool = True
    publish_known_missing: bool = False
    selection: Selection = Selection()  # noqa: RUF009 - frozen
    """Which LFS objects are kept."""
    lfs_connections: int = 8
    public: bool = True
    """Whether everybody may read the mirror as long as upstream shows it to everybody."""
    jitter: float = 0.1
    backoff_max: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class World:
    """Every port that one mirror's sync uses."""

    state: StateStore
    repository: GitRepository
    upstream: Upstream
    objects: ObjectStore
    clock: Clock
    parallel: Parallel
    telemetry: Telemetry
    outside: Upstream | None = None
    """The upstream as somebody without credentials sees it; ``None`` where our own way has none either."""
    accelerators: Sequence[Upstream] = ()
    """Nearer places of the same repository: for bytes that prove themselves, never for refs."""
    crowded: Callable[[], bool] = never
    """Tells whether other mirrors are due and wait for a place of ours."""
    budget: Budget | None = None
    """The LFS connections that everything in this process shares."""


@dataclass(slots=True)
class Run:
    """One sync run as it goes on: what it holds and what it has noted so far."""

    lease: Lease
    world: World
    policy: Policy
    stop: threading.Event
    started_at: float
    observed_at: float | None = None
    digest: str = ""
    moved_to: str = ""
    availability: Availability = Availability.PRESENT
    holds: dict[RefName, Hold] = field(default_factory=dict)
    notes: list[str] | None = None
    published: RefSnapshot = field(default_factory=lambda: RefSnapshot({}))
    view: int = 0
    run_id: RunId | None = None
    ref_updates: int = 0
    fetched_bytes: int = 0
    lfs_bytes: int = 0
    complete: bool = False
    lfs_failure: Exception | None = None
    closed: bool = False
    """Whether this run's observation closed the mirror to clients."""
    reported: bool = False
    """Whether people were told how far a fetch or transfer is that has not ended."""
    given_up: Mapping[GitOid, str] = field(default_factory=dict)
    """Git objects that fit through no connection, with the reasons."""

    @property
    def mirror(self) -> Mirror:
        """The mirror as it was when the lease was taken."""
        return self.lease.mirror

    def enter(self, step: Step, detail: str = "") -> None:
        """Show the step to people and stop here when the process is stopping."""
        if self.stop.is_set():
            raise Interrupted
        self.world.state.note_step(self.lease, step, detail)

    def hold(self, name: RefName, code: str, reason: str) -> None:
        """Note that ``name`` may not move in this run."""
        self.holds[name] = Hold(name, code, reason)

    def note(self, text: str) -> None:
        """Note an oddity worth showing to people."""
        self.notes = list(dict.fromkeys([*(self.notes or []), text]))[-MAX_NOTES:]

    def report(self, progress: Progress | None) -> None:
        """Show people how far the fetch or transfer of this run is."""
        if progress is not None:
            self.world.telemetry.progress(self.mirror.name, progress)
        elif not self.reported:
            return
        self.reported = progress is not None
        self.world.state.note_progress(self.mirror.id, progress)

    def tips(self) -> frozenset[GitOid]:
        """Return the tips that are published now."""
        return frozenset(self.published.tips.values())
