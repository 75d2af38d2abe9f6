"""The promises between rooms.

Adapters implement these; actions hold nothing else.  A docstring here is a contract,
and ``tests/contract`` holds the suite that every implementation passes.  All methods
may be called from any thread unless they say otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, TypeVar

from mirror_sync.domain.names import GitOid, LfsOid, MirrorName, RefName
from mirror_sync.domain.pointers import Pointer, PointerBlob, TipNeed
from mirror_sync.domain.refs import NO_HEAD, Change, ObjectFormat, Observation, RefSnapshot, RefUpdate
from mirror_sync.domain.runs import (
    Delivery,
    KeptTip,
    Lease,
    LfsCounts,
    LfsJob,
    Mirror,
    MirrorId,
    NewMirror,
    Outcome,
    PublishIntent,
    RefJournalEntry,
    RunId,
    RunRecord,
    RunReport,
    Step,
    Trigger,
)

T = TypeVar("T")
R = TypeVar("R")


# ---------------------------------------------------------------- time and threads


class Clock(Protocol):
    """Wall time, monotonic time, sleep and chance."""

    def now(self) -> float:
        """Return Unix seconds."""

    def monotonic(self) -> float:
        """Return seconds that only grow."""

    def sleep(self, seconds: float, *, stop: threading.Event | None = None) -> bool:
        """Wait; return ``True`` when ``stop`` was set meanwhile."""

    def chance(self) -> float:
        """Return a uniform number in [0, 1)."""


class Parallel(Protocol):
    """Runs one function over many items at once."""

    def each(self, function: Callable[[T], R], items: Iterable[T], *, limit: int) -> Iterator[tuple[T, R | Exception]]:
        """Yield ``(item, result or MirrorSyncError)`` as each finishes, at most ``limit`` at once, in any order.

        Any other exception is raised after the running ones have ended.
        """


class Waker(Protocol):
    """Rouses the worker at once when something became due."""

    def poke(self) -> None:
        """Wake whoever waits; never blocks and never fails loudly: the worker looks every second anyway."""

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds``; return ``True`` when poked."""

    def close(self) -> None:
        """Release the socket or connection."""


# ---------------------------------------------------------------- upstream


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Git objects to ask for: ``wants`` by id, not what is reachable from ``haves``."""

    object_format: ObjectFormat
    wants: Sequence[GitOid]
    haves: Sequence[GitOid]
    protocol: int = 2


@dataclass(frozen=True, slots=True)
class GitAccess:
    """What stock git needs to reach one upstream that speaks nothing newer than protocol v0.

    ``environment`` carries settings as ``GIT_CONFIG_COUNT/KEY_n/VALUE_n`` (pinned address,
    proxy, CA file, authorisation), never the command line.
    """

    url: str
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LfsAction:
    """One download action of a batch answer."""

    href: str
    header: Mapping[str, str] = field(repr=False)
    expires_at: float | None = None
    """Unix seconds on our clock, or ``None`` when the server named none."""


@dataclass(frozen=True, slots=True)
class LfsAnswer:
    """What a batch answer says of one object: an action, or an error code with its text.

    Neither means the server left the object out or wants nothing done; it counts as an
    error 404 when ``error_code`` is 404.
    """

    pointer: Pointer
    action: LfsAction | None = None
    error_code: int = 0
    error_message: str = ""


class LfsBody(Protocol):
    """Bytes of one LFS object as they arrive."""

    start: int
    """Offset of the first byte; 0 when the server ignored the range asked for."""

    def chunks(self) -> Iterator[bytes]:
        """Yield pieces of up to 1 MiB; raise :class:`UpstreamUnavailable` when the stream breaks or stalls.

        Never yields past the object's size as the pointer states it: more raises :class:`UpstreamInvalid`.
        """

    def close(self) -> None:
        """Drop the connection."""


class Upstream(Protocol):
    """One mirror's upstream repository and its LFS server.

    Every method checks and pins addresses, sends credentials to the upstream's own
    host only, and translates what goes wrong into ``errors``.  Redirects are never
    followed except where a method says so.
    """

    def observe(self, patterns: Sequence[str], *, known_digest: str = "") -> Observation | None:
        """Take a ref snapshot of the refs that match ``patterns`` (exact or prefix ending in ``*``).

        Returns ``None`` when the answer is byte for byte the one named by
        ``known_digest``.  Follows one permanent https redirect on the same host and
        says so in ``moved_to``.  An answer that is not a whole, valid ref list raises
        :class:`UpstreamInvalid` and is never an empty list.
        """

    def fetch(self, request: FetchRequest) -> Iterator[bytes]:
        """Yield the bytes of one pack (thin, ofs-delta); protocol v2.

        Raises when the stream ends early or the server reports an error; bytes yielded
        before that are a true prefix of a pack.
        """

    def git_access(self) -> GitAccess:
        """Return what stock git needs to fetch from a v0 upstream."""

    def batch(self, pointers: Sequence[Pointer], *, ref: RefName | None = None) -> list[LfsAnswer]:
        """Ask the LFS server for download actions; one answer per pointer, in the same order.

        Splits into batches of at most 100 (less where the host asked for less).  A 404
        for the whole batch request is an answer of 404 for every object.
        """

    def open_object(self, pointer: Pointer, action: LfsAction, *, start: int, end: int) -> LfsBody:
        """Ask for bytes ``start`` (included) to ``end`` (excluded) of one object.

        Asks for the whole object without a Range header when ``start`` is 0 and ``end`` its size.
        """

    def close(self) -> None:
        """Drop kept-alive connections."""


# ---------------------------------------------------------------- git repository


@dataclass(frozen=True, slots=True)
class View:
    """The published view: its number (0: never published), its refs, the run and lease that made it."""

    number: int
    snapshot: RefSnapshot


@dataclass(frozen=True, slots=True)
class Inspection:
    """What checking staged objects found.

    ``bad`` maps each tip that may not be published to the reason; ``notes`` are benign
    faults that were let pass (such as ``badTimezone: 3 objects``).
    """

    bad: Mapping[GitOid, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """One publish: the new snapshot, what it replaces, and what it must keep.

    ``expected_view`` is the number of the view the run started from; another current
    view raises :class:`PublishConflict`.  ``view`` is the number the new one gets.
    ``kept`` is everything that stays protected besides the new tips.
    """

    view: int
    expected_view: int
    snapshot: RefSnapshot
    kept: Sequence[KeptTip]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What recovery removed or found, for the log."""

    removed: tuple[str, ...] = ()


class GitRepository(Protocol):
    """One mirror's repository on disk: store, views, stage, lock (``docs/architecture.md``).

    Every method that changes anything is called with :meth:`lock` held.
    """

    def lock(self) -> AbstractContextManager[None]:
        """Hold the mirror's exclusive lock; raises :class:`LeaseLost` when another process has it.

        Every git child inherits the descriptor, so a free lock proves that none lives.
        """

    def exists(self) -> bool:
        """Tell whether the store is there."""

    def create(self, object_format: ObjectFormat) -> None:
        """Make an empty store of this object format; does nothing when it is there already."""

    def recover(self) -> Recovery:
        """Put right whatever a crash left: temporary files, lock files, unfinished views, stray refs.

        Idempotent.  What clients see is not changed.
        """

    def current_view(self) -> int:
        """Return the number of the published view without reading its refs; 0 when there is none."""

    def published(self) -> View:
        """Return the published view, read from the disk."""

    def missing(self, oids: Iterable[GitOid]) -> set[GitOid]:
        """Return those of ``oids`` that are neither in the store nor in the stage."""

    def stage_pack(self, chunks: Iterable[bytes], *, max_bytes: int) -> int:
        """Index the pack in ``chunks`` into the stage and return its bytes; durable when this returns.

        Raises :class:`GitFailed` when it is no whole pack, :class:`StorageFull` beyond
        ``max_bytes`` or when free space reaches the reserve while bytes arrive; then
        the stage holds nothing of it.
        """

    def stage_from_git(self, access: GitAccess, oids: Sequence[GitOid], *, max_bytes: int) -> int:
        """Fetch ``oids`` with stock git into the stage (v0 upstreams) and return the bytes that came."""

    def inspect(self, tips: Sequence[GitOid], *, relaxed: Sequence[str] = ()) -> Inspection:
        """Check every staged object strictly and every tip for closure; change nothing that is served.

        ``relaxed`` names further fsck message ids the operator lets pass for this mirror.
        """

    def promote(self, tips: Sequence[GitOid]) -> int:
        """Bring what ``tips`` reach from the stage into the store, strictly checked, and return the pack bytes.

        Durable when this returns; protected by keep files until :meth:`publish` or :meth:`recover`.
        """

    def peel(self, tips: Iterable[GitOid]) -> dict[GitOid, GitOid]:
        """Return the peeled object of each annotated tag among ``tips``, from our own objects."""

    def classify(self, updates: Sequence[RefUpdate]) -> dict[RefName, Change]:
        """Return the kind of each update by ancestry of the objects that are here (stage included)."""

    def scan_pointers(self, tips: Sequence[GitOid], *, scanned: Sequence[GitOid]) -> Iterator[PointerBlob]:
        """Yield every pointer blob reachable from ``tips`` and not from ``scanned`` (stage included)."""

    def tip_needs(self, tips: Sequence[GitOid], known: Mapping[GitOid, Pointer]) -> dict[GitOid, list[TipNeed]]:
        """Return the LFS objects that a checkout of each tip needs: paths whose attributes say ``filter=lfs``.

        ``known`` is the mirror's known-pointer index by blob id.  One path stands for
        each object; a tip that needs none may be left out.
        """

    def next_view(self) -> int:
        """Return a number larger than that of any view on disk."""

    def publish(self, request: PublishRequest, *, confirm: Callable[[], None]) -> View:
        """Move clients to ``request.snapshot`` by one rename, and return the new view.

        Roots are widened before and narrowed after.  ``confirm`` is called just before
        the flip and raises to forbid it.  A crash at any instant leaves the old view
        or the new one.
        """

    def protect(self, kept: Sequence[KeptTip]) -> None:
        """Make ``kept`` the kept tips among the roots, beside the published ones."""

    def discard_stage(self) -> None:
        """Empty the stage."""

    def stage_is_empty(self) -> bool:
        """Tell whether the stage holds nothing."""

    def maintain(self, *, full: bool, stop: threading.Event | None = None) -> int:
        """Repack, write bitmap and commit-graph, and return the store's bytes; never disturbs clones."""

    def size_bytes(self) -> int:
        """Return the bytes of the store's packs."""

    def remove(self) -> None:
        """Delete the mirror's repository from disk, the lock file last."""


class GitRepositories(Protocol):
    """All mirrors' repositories under one storage directory."""

    def open(self, name: MirrorName) -> GitRepository:
        """Return the repository of this mirror, whether or not it exists yet."""


class Serving(Protocol):
    """The read side of the repositories, for clients."""

    def advertise(self, name: MirrorName, *, protocol: str) -> bytes | None:
        """Return the body of ``info/refs?service=git-upload-pack``; ``None`` when the mirror was never published."""

    def upload_pack(self, name: MirrorName, request: BinaryIO, *, protocol: str) -> Iterator[bytes] | None:
        """Yield the answer to one ``git-upload-pack`` POST; closing the iterator kills the child group."""

    def refs(
        self, name: MirrorName, *, after: str = "", limit: int = 100, prefix: str = ""
    ) -> tuple[RefName, list[tuple[RefName, GitOid]]]:
        """Return HEAD's target and one page of published refs sorted by name, after the name ``after``."""


# ---------------------------------------------------------------- LFS objects


class Incomplete(Protocol):
    """One LFS object with some parts on disk, held exclusively by this process and thread."""

    pointer: Pointer

    def missing(self) -> list[tuple[int, int]]:
        """Make what was written durable; return the half-open ranges that are not here, ascending.

        Empty when the verified object is here already.
        """

    def reserve(self) -> None:
        """Set disk space aside for what is missing; raises :class:`StorageFull` when it does not fit above the reserve."""

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``; never past the object's size.  Durable from time to time and at close."""

    def restart(self) -> None:
        """Forget every part."""

    def promote(self) -> None:
        """Verify size and SHA-256, make the object durable under its final path, read-only.

        Raises :class:`ObjectCorrupt` and forgets every part when the bytes are wrong;
        :class:`UsageError`, keeping them, while any is missing.
        """


class ObjectStore(Protocol):
    """LFS objects by oid, shared by all mirrors."""

    def has(self, pointer: Pointer) -> bool:
        """Tell whether the verified object is here."""

    def open(self, oid: LfsOid) -> BinaryIO:
        """Open a verified object for reading as a real file; raises :class:`NotFound`."""

    def size(self, oid: LfsOid) -> int | None:
        """Return the bytes of a verified object, ``None`` when it is not here."""

    def incomplete(self, pointer: Pointer) -> AbstractContextManager[Incomplete]:
        """Hold this object's incomplete, made when absent; raises :class:`ObjectBusy` while another holds it."""

    def reserve(self, size: int) -> None:
        """Raise :class:`StorageFull` unless ``size`` more bytes fit above the reserve."""

    def iterate(self) -> Iterator[tuple[Pointer, float]]:
        """Yield every verified object with the time it was last promoted or touched."""

    def verify(self, oid: LfsOid, *, stop: threading.Event | None = None) -> bool:
        """Read a whole object at rest and tell whether it still is what its oid says; raises :class:`NotFound`.

        Nothing is said against an object whose reading ``stop`` ended early.
        """

    def evict(self, oid: LfsOid, *, quarantine: bool) -> None:
        """Take an object out of the store; keep it aside for inspection when ``quarantine``."""

    def evict_stale(self, oid: LfsOid, *, older_than: float) -> bool:
        """Delete an object whose grace began before the Unix time ``older_than``; ``False`` when it was touched since.

        Safe against a :meth:`touch` at the same instant: either the object stays, or
        whoever touched it sees that it is not here.
        """

    def touch(self, oid: LfsOid) -> None:
        """Restart the object's grace period; does nothing when it is not here."""

    def sweep_incompletes(self, *, older_than: float) -> int:
        """Delete incompletes not written since the Unix time ``older_than``, except those in use; return how many."""

    def free_bytes(self) -> int:
        """Return the free bytes of the store's file system."""


# ---------------------------------------------------------------- state


@dataclass(frozen=True, slots=True)
class MirrorFilter:
    """Which mirrors to list.  ``glob`` matches names (``*`` crosses slashes)."""

    glob: str = ""
    health: str = ""
    activity: str = ""
    query: str = ""
    held: bool = False
    """Only mirrors with refs that wait."""


@dataclass(frozen=True, slots=True)
class MirrorPage:
    """One page of mirrors in name order; ``next_cursor`` is empty on the last."""

    items: tuple[Mirror, ...]
    next_cursor: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over all mirrors, for the overview and the metrics."""

    by_health: Mapping[str, int]
    by_activity: Mapping[str, int]
    lag_within: Mapping[str, int]
    """Cumulative: how many mirrors have at most this lag (keys such as ``60``, ``+Inf``)."""
    oldest_confirmed_at: float | None
    due: int
    lfs: LfsCounts
    mirrors: int


class StateStore(Protocol):
    """Intent and history.  Git is the truth about refs, the LFS store about bytes.

    Raises :class:`StateUnavailable` when the database does not answer.
    """

    # -- mirrors
    def enrol(self, new: NewMirror) -> tuple[Mirror, bool]:
        """Return the mirror and whether it was made now; one that is being removed is taken back."""

    def mirror(self, name: MirrorName) -> Mirror:
        """Return one mirror; raises :class:`NotFound`.  Mirrors being removed are found too."""

    def mirror_by_id(self, mirror_id: MirrorId) -> Mirror:
        """Return one mirror by id; raises :class:`NotFound`."""

    def mirrors(self, which: MirrorFilter, *, cursor: str = "", limit: int = 100) -> MirrorPage:
        """Return one page of mirrors in name order."""

    def totals(self) -> Totals:
        """Return counts over all mirrors."""

    def set_paused(self, mirror_id: MirrorId, *, reason: str | None) -> None:
        """Pause with a reason, or resume with ``None`` (which also makes it due)."""

    def set_removing(self, mirror_id: MirrorId, *, at: float | None) -> None:
        """Mark for removal at a time, or take back with ``None``."""

    def set_schedule(self, mirror_id: MirrorId, *, interval_seconds: float, objective_seconds: float) -> None:
        """Change how often the mirror is polled and what lag it promises."""

    def release_guard(self, mirror_id: MirrorId) -> bool:
        """Let the held deletions through at the next sync; ``False`` when nothing is held."""

    def forget(self, mirror_id: MirrorId) -> None:
        """Delete every row of a mirror whose data is gone."""

    # -- due, leases, runs
    def mark_due(
        self, mirror_id: MirrorId, trigger: Trigger, *, at: float | None = None, evidence_at: float | None = None
    ) -> None:
        """Make a mirror due at ``at`` (default: now) unless it is due earlier already.

        ``evidence_at`` is when a webhook told of a change: it starts *known behind since*
        unless that began earlier.  While the mirror is being synced, another run follows.
        """

    def claim(self, worker: str, *, lease_seconds: float) -> Lease | None:
        """Take the most urgent due mirror that nobody holds; operator before webhook before poll.

        Opens a run; what a dead worker left open is recorded as abandoned.
        """

    def claim_mirror(self, mirror_id: MirrorId, worker: str, *, lease_seconds: float, purpose: str) -> Lease | None:
        """Take one mirror for another purpose than a sync (maintenance, sweep); ``None`` while it is held."""

    def claim_maintenance(self, worker: str, *, lease_seconds: float, publishes: int, before: float) -> Lease | None:
        """Take one published mirror with at least ``publishes`` publishes since its maintenance, or any since ``before``."""

    def claim_removal(self, worker: str, *, lease_seconds: float) -> Lease | None:
        """Take one mirror whose time of removal has come."""

    def renew(self, lease: Lease, *, lease_seconds: float) -> None:
        """Extend a lease; raises :class:`LeaseLost`."""

    def confirm(self, lease: Lease) -> None:
        """Raise :class:`LeaseLost` unless the lease is still the mirror's latest and has not expired."""

    def note_step(self, lease: Lease, step: Step, detail: str = "") -> None:
        """Show which step the run is in; raises :class:`LeaseLost`."""

    def note_behind(self, lease: Lease, *, observed_at: float) -> None:
        """Start *known behind since* at ``observed_at`` unless it began earlier."""

    def intend(self, lease: Lease, intent: PublishIntent, *, kept: Sequence[KeptTip]) -> RunId:
        """Store what is about to be published, under the lease's fence, and return the run's id; raises :class:`LeaseLost`.

        The run has one stored record however often this is called; kept tips named with
        run 0 get this run's id.
        """

    def open_intent(self, mirror_id: MirrorId) -> tuple[RunId, PublishIntent] | None:
        """Return the intent whose publish was not recorded yet, if any."""

    def settle_intent(self, lease: Lease, run: RunId, *, published: bool) -> None:
        """Record an intent as published (moving view, tips, head, confirmed time) or drop it."""

    def finish(self, lease: Lease, report: RunReport) -> None:
        """Record the run's outcome and end the lease; raises :class:`LeaseLost` when it was another's already.

        An unchanged outcome makes no run record of its own.
        """

    def release(self, lease: Lease, *, maintained: bool = False, git_bytes: int | None = None) -> None:
        """End a lease that was no sync run; does nothing when it is another's already."""

    def runs(self, mirror_id: MirrorId, *, before: int | None = None, limit: int = 50) -> list[RunRecord]:
        """Return stored runs, newest first."""

    def ref_journal(
        self, mirror_id: MirrorId, *, before: int | None = None, limit: int = 100
    ) -> list[tuple[int, float, RunId, RefJournalEntry]]:
        """Return published ref updates, newest first: row id, time, run, entry."""

    def kept_tips(self, mirror_id: MirrorId) -> list[KeptTip]:
        """Return every kept tip that has not been dropped."""

    def drop_kept(self, lease: Lease, *, expired_before: float) -> list[KeptTip]:
        """Forget kept tips that expired and return those that remain."""

    # -- LFS
    def known_pointers(self, mirror_id: MirrorId) -> dict[GitOid, Pointer]:
        """Return the mirror's known-pointer index by blob id."""

    def scanned_tips(self, mirror_id: MirrorId) -> frozenset[GitOid]:
        """Return the tips whose whole history has been scanned."""

    def add_scan(self, lease: Lease, found: Sequence[PointerBlob], *, scanned: frozenset[GitOid] | None) -> None:
        """Store pointers found; the scanned tips too when given (only after every pointer is stored)."""

    def lfs_arrived(self, oids: Sequence[LfsOid]) -> None:
        """Mark objects as verified and here, for every mirror that refers to them."""

    def lfs_lost(self, oids: Sequence[LfsOid]) -> None:
        """Mark objects as no longer here; they are wanted again."""

    def lfs_failed(
        self, mirror_id: MirrorId, oid: LfsOid, *, code: str, message: str, known_missing: bool, retry_at: float
    ) -> None:
        """Record that fetching one object for a mirror failed, and when to try again.

        An object that upstream said it lacks stays known missing, with that reason, through
        failures of another kind; it ends when the object arrives.  One that is here already
        is left alone.
        """

    def claim_lfs(self, worker: str, *, limit: int, lease_seconds: float) -> list[LfsJob]:
        """Take up to ``limit`` wanted objects of one mirror whose time has come, known-missing ones last."""

    def lfs_refers(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, int]:
        """Return, of ``oids``, those that the mirror refers to, with their size."""

    def lfs_missing(self, mirror_id: MirrorId, *, after: str = "", limit: int = 100) -> list[tuple[Pointer, str, str]]:
        """Return objects not here in oid order: pointer, code, message."""

    def expired_kept(self, *, now: float, limit: int = 100) -> list[MirrorId]:
        """Return mirrors that have a kept tip whose time is over."""

    def lfs_unreferenced(self, oids: Sequence[LfsOid]) -> set[LfsOid]:
        """Return those of ``oids`` that no mirror refers to."""

    def replace_references(self, lease: Lease, blobs: frozenset[GitOid]) -> None:
        """Keep only these pointer blobs in a mirror's index, after expired history is gone.

        The scanned tips are forgotten, since that history may come back; :meth:`add_scan`
        stores those that were scanned for this.
        """

    # -- webhooks
    def accept_delivery(self, delivery: Delivery) -> bool:
        """Store a delivery durably and mark the mirrors it concerns due; ``False`` when it was stored before.

        Mirrors are found by repository id, else by clone URL (and then learn the id).
        Signed deletions are remembered for the deletion guard.
        """

    def confirmed_deletions(self, mirror_id: MirrorId) -> frozenset[RefName]:
        """Return refs that signed delete events named since the last publish."""

    def deliveries(self, *, limit: int = 50) -> list[Delivery]:
        """Return the latest deliveries, newest first."""

    # -- hosts, housekeeping, health
    def host_blocked_until(self, host: str) -> float:
        """Return until when a host asked us to wait; 0 when it did not."""

    def block_host(self, host: str, *, until: float) -> None:
        """Remember that a host asked us to wait; never shortens."""

    def prune(self, *, deliveries_before: float, runs_before: float) -> None:
        """Forget old deliveries and runs."""

    def beat(self, worker: str) -> None:
        """Record that a worker is alive."""

    def workers(self) -> Mapping[str, float]:
        """Return each worker with its last beat."""

    def counters(self) -> Mapping[tuple[str, str], int]:
        """Return counts kept in the database: ``(metric, label)`` such as ``("runs", "published")``."""

    def identity(self) -> str:
        """Return this database's own random identity."""

    def check(self) -> None:
        """Raise unless the database answers and its schema is the one needed."""

    def close(self) -> None:
        """Close every connection."""


Keep = Callable[[Lease], AbstractContextManager[threading.Event]]
"""Renews a lease while its context lasts; the event is set when the lease is lost or the process stops."""


# ---------------------------------------------------------------- telemetry


class Telemetry(Protocol):
    """Hears what happens."""

    def run_started(self, lease: Lease) -> None:
        """A sync run began."""

    def step_finished(self, lease: Lease, step: Step, seconds: float) -> None:
        """One of the nine steps ended well."""

    def run_finished(self, lease: Lease, report: RunReport) -> None:
        """A sync run ended and was recorded."""

    def event(self, name: str, **fields: object) -> None:
        """Something worth a log line happened: past-tense name, fields without secrets."""

    def progress(self, mirror: MirrorName, *, kind: str, done: int, total: int | None) -> None:
        """Bytes arrived: ``kind`` is ``git`` or ``lfs``."""

    def propagated(self, *, evidence: str, seconds: float) -> None:
        """A change was served ``seconds`` after its first evidence (``webhook`` or ``poll``)."""

    def upstream_request(self, *, host: str, operation: str, status: int, seconds: float) -> None:
        """One request to an upstream host ended; status 0 means no answer."""


__all__ = [
    "NO_HEAD", "Clock", "Delivery", "FetchRequest", "GitAccess", "GitRepositories", "GitRepository", "Incomplete",
    "Inspection", "LfsAction", "LfsAnswer", "LfsBody", "MirrorFilter", "MirrorPage", "ObjectStore", "Outcome",
    "Parallel", "PublishRequest", "Recovery", "Serving", "StateStore", "Telemetry", "Totals", "Upstream", "View",
    "Waker",
]  # fmt: skip
