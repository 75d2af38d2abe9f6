"""Intent and history in the database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from mirror_sync.domain.names import GitOid, LfsOid, MirrorName, RefName
from mirror_sync.domain.pointers import Pointer, PointerBlob
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.readers import Audience, CloneToken, TokenId, Visibilities
from mirror_sync.domain.runs import (
    Delivery,
    KeptTip,
    Lease,
    LfsCounts,
    LfsJob,
    Mirror,
    MirrorId,
    NewMirror,
    PublishIntent,
    RefJournalEntry,
    RunId,
    RunRecord,
    RunReport,
    Step,
    Trigger,
    Visibility,
)


@dataclass(frozen=True, slots=True)
class MirrorFilter:
    """Which mirrors to list.  ``glob`` matches names (``*`` crosses slashes)."""

    glob: str = ""
    health: str = ""
    activity: str = ""
    query: str = ""
    held: bool = False
    """Only mirrors with refs that wait, and not just for what is being fetched behind."""
    moving: bool = False
    """Only mirrors of which progress was told last, inside a run or behind; its time says whether it still moves."""
    class_name: str = ""
    """Only mirrors of this class."""
    closed_by: Visibilities | None = None
    """Only public mirrors, as these rules and their own words have it, that upstream does not show to everybody."""
    audience: Audience | None = None
    """Only mirrors that may be named to this audience.

    What :attr:`Visibilities.declared` says is left to whoever shows them: rows do not have it.
    """


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

    def classes(self) -> Mapping[str, int]:
        """Return how many mirrors are of each class that any is of; those of none are not counted."""

    def set_paused(self, mirror_id: MirrorId, *, reason: str | None) -> None:
        """Pause with a reason, or resume with ``None`` (which also makes it due)."""

    def set_removing(self, mirror_id: MirrorId, *, at: float | None) -> None:
        """Mark for removal at a time, or take back with ``None``."""

    def set_schedule(self, mirror_id: MirrorId, *, interval_seconds: float, objective_seconds: float) -> None:
        """Change how often the mirror is polled and what lag it promises."""

    def set_class(self, mirror_id: MirrorId, class_name: str) -> None:
        """Put the mirror into a class, or into none with the empty name; a change makes it due."""

    def set_visibility(self, mirror_id: MirrorId, visibility: Visibility | None) -> None:
        """Give the mirror its own word on who may read it, or none with ``None``."""

    def note_shown(self, lease: Lease, *, shown: bool) -> None:
        """Record whether upstream shows the mirror to everybody; durable when it returns.  Raises :class:`LeaseLost`."""

    # -- clone tokens
    def add_token(self, digest: str, *, globs: Sequence[str], expires_at: float | None, note: str) -> CloneToken:
        """Keep a new clone token by its digest (:func:`mirror_sync.domain.readers.token_digest`)."""

    def token(self, digest: str) -> CloneToken | None:
        """Return the clone token of this digest, good or not; ``None`` when there is none."""

    def tokens(self) -> list[CloneToken]:
        """Return every clone token that was ever made, oldest first."""

    def revoke_token(self, token: TokenId) -> CloneToken:
        """Let a token open nothing from now on, and return it; the first time stands.  Raises :class:`NotFound`."""

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

    def anything_due(self) -> bool:
        """Tell whether there is a mirror for :meth:`claim` to take."""

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

    def note_progress(self, mirror_id: MirrorId, progress: Progress | None) -> None:
        """Show how far a fetch or transfer of this mirror is; ``None`` when it ended.  Informational, unfenced.

        Called about once a second at most; a database that does not answer is no reason to fail.
        """

    def awaited(self, lease: Lease) -> bool:
        """Tell whether this mirror was made due again, by whatever trigger, since the lease was claimed.

        What is due only later does not count yet; neither does anything once the lease is another's.
        """

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

    def add_scan(
        self,
        lease: Lease,
        found: Sequence[PointerBlob],
        *,
        scanned: frozenset[GitOid] | None,
        left_out: str = "",
    ) -> None:
        """Store pointers found; the scanned tips too when given (only after every pointer is stored).

        Objects new to the mirror are wanted; with a reason in ``left_out`` they are left
        out, until :meth:`judge_lfs` says otherwise.  Where objects are queued and counted
        none has more than :data:`mirror_sync.domain.pointers.MOST_COUNTED_BYTES`, whatever
        its pointer says.
        """

    def judge_lfs(self, lease: Lease, verdicts: Mapping[LfsOid, str], *, selection: str | None = None) -> None:
        """Say of some of a mirror's objects that it wants them (the empty text), or why it leaves them out.

        What is here stays here.  ``selection`` names what all of the mirror's objects
        were judged by, stored once every verdict is.
        """

    def lfs_left_out(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, str]:
        """Return, of ``oids``, those that are not here because the mirror leaves them out, with the reason."""

    def rank_lfs(self, lease: Lease, ranks: Mapping[LfsOid, int]) -> None:
        """Say which objects refs lack, the smallest rank first.

        Each waiting ref has a rank of its own, below ``TIP_RANK``; an object that several
        lack has the smallest of theirs.  What was waited for and is not named counts as
        history from now on.
        """

    def lfs_arrived(
        self, oids: Sequence[LfsOid], *, sizes: Mapping[LfsOid, int] | None = None, told_by: MirrorId | None = None
    ) -> None:
        """Mark objects as verified and here, for every mirror that refers to them.

        ``sizes`` are those they have, for whoever was told another one by a pointer.  A
        mirror becomes due when all objects of one of its waiting refs, by rank, are here,
        except ``told_by``, whose own run tells and looks by itself.
        """

    def lfs_lost(self, oids: Sequence[LfsOid]) -> None:
        """Mark objects as no longer here; they are wanted again."""

    def lfs_failed(
        self,
        mirror_id: MirrorId,
        oid: LfsOid,
        *,
        code: str,
        message: str,
        known_missing: bool,
        retry_at: float,
        size: int | None = None,
        then: int | None = None,
    ) -> None:
        """Record that fetching one object for a mirror failed, and when to try again.

        An object that upstream said it lacks stays known missing, with that reason, through
        failures of another kind; it ends when the object arrives.  One that is here already
        is left alone.  ``size`` is what was tried: nothing is recorded of an object that is
        queued with another.  ``then`` is the size to try next.
        """

    def lfs_sizes(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, list[int]]:
        """Return, of ``oids``, those for which a mirror's pointers claim several sizes: these, ascending, as queued.

        Reads all of the mirror's index, so it is asked only of what could not be had.
        """

    def claim_lfs(
        self,
        worker: str,
        *,
        limit: int,
        lease_seconds: float,
        largest: int | None = None,
        most_bytes: int | None = None,
    ) -> list[LfsJob]:
        """Take up to ``limit`` wanted objects of one mirror whose time has come, known-missing ones last.

        By rank, and small before large inside it; those of one waiting ref are taken
        alone.  What a run that holds the mirror's lease may be fetching itself is left to
        it.  ``largest`` passes over objects of more bytes and known-missing ones;
        ``most_bytes`` bounds the sum, but for the first.  Mirrors take turns.
        """

    def renew_lfs(self, worker: str, jobs: Sequence[LfsJob], *, lease_seconds: float) -> None:
        """Keep claimed objects for longer, those that are still this worker's."""

    def release_lfs(self, worker: str, jobs: Sequence[LfsJob]) -> None:
        """Give claimed objects back that were not tried to the end; they may be taken at once."""

    def lfs_claimed(self, mirror_id: MirrorId) -> frozenset[LfsOid]:
        """Return which of the mirror's objects somebody has claimed now."""

    def lfs_queued(self, *, beside: MirrorId) -> bool:
        """Tell whether objects of another mirror than ``beside`` wait to be claimed."""

    def lfs_refers(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, int]:
        """Return, of ``oids``, those that the mirror refers to, with their size."""

    def lfs_missing(self, mirror_id: MirrorId, *, after: str = "", limit: int = 100) -> list[tuple[Pointer, str, str]]:
        """Return objects not here in oid order: pointer, code, message."""

    def lfs_absent(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, tuple[str, str]]:
        """Return, of ``oids``, those that the mirror wants and that are not here, with code and message of why."""

    def ask_lfs(self, mirror_id: MirrorId, oid: LfsOid, *, seconds: float) -> tuple[str, str] | None:
        """Note that a client waits for an object for so many seconds more.

        Notes nothing, and returns code and message, while it is known that the object
        cannot be had just now.
        """

    def lfs_asked(self) -> list[LfsJob]:
        """Return the wanted objects that clients wait for now, those waited for longest first.

        Nothing of mirrors that are paused or being removed, nothing that upstream itself
        lacks, and nothing that just could not be had.
        """

    def lfs_ask_failed(self, mirror_id: MirrorId, oid: LfsOid, *, code: str, message: str, until: float) -> None:
        """Note that an object could not be had for those who wait, and until when nobody need ask again."""

    def lfs_ask_failures(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, tuple[str, str]]:
        """Return, of ``oids``, those that cannot be had just now, with code and message."""

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
