"""Pointers and wanted LFS objects of the state store in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import MOST_COUNTED_BYTES, Pointer, PointerBlob
from mirror_sync.domain.runs import HISTORY_RANK, LEFT_OUT_RANK, TIP_RANK, Lease, LfsJob, MirrorId, Trigger
from mirror_sync.domain.standing import Due
from mirror_sync.testing.state_rows import AskedRow, MirrorRow, WantedRow
from mirror_sync.testing.state_runs import MemoryRows


class MemoryLfs(MemoryRows):
    """The known-pointer index and the queue of wanted LFS objects."""

    def known_pointers(self, mirror_id: MirrorId) -> dict[GitOid, Pointer]:
        with self._lock:
            return dict(self._row(mirror_id).pointers)

    def scanned_tips(self, mirror_id: MirrorId) -> frozenset[GitOid]:
        with self._lock:
            return self._row(mirror_id).scanned

    def add_scan(
        self,
        lease: Lease,
        found: Sequence[PointerBlob],
        *,
        scanned: frozenset[GitOid] | None,
        left_out: str = "",
    ) -> None:
        with self._lock:
            row = self._fenced(lease)
            now = self._clock.now()
            for item in found:
                row.pointers[item.blob] = item.pointer
                oid = item.pointer.oid
                if oid not in row.wanted:
                    here = self._is_present(oid)
                    wanted = WantedRow(min(item.pointer.size, MOST_COUNTED_BYTES), present=here, retry_at=now)
                    if left_out:
                        wanted.rank, wanted.left_out = LEFT_OUT_RANK, not here
                        wanted.message = "" if here else left_out
                    row.wanted[oid] = wanted
            if scanned is not None:
                row.scanned = scanned

    def _is_present(self, oid: LfsOid) -> bool:
        return any(oid in row.wanted and row.wanted[oid].present for row in self._rows.values())

    def judge_lfs(self, lease: Lease, verdicts: Mapping[LfsOid, str], *, selection: str | None = None) -> None:
        with self._lock:
            row = self._fenced(lease)
            for oid, reason in verdicts.items():
                wanted = row.wanted.get(oid)
                if wanted is None:
                    continue
                if reason:
                    wanted.rank = LEFT_OUT_RANK
                    if not wanted.present:
                        wanted.left_out, wanted.known_missing = True, False
                        wanted.code, wanted.message, wanted.leased_until = "", reason, 0.0
                    continue
                if wanted.left_out:
                    wanted.left_out, wanted.message = False, ""
                    wanted.attempts, wanted.retry_at = 0, self._clock.now()
                if wanted.rank == LEFT_OUT_RANK:
                    wanted.rank = HISTORY_RANK
            if selection is not None:
                row.mirror = replace(row.mirror, lfs_selection=selection)

    def lfs_left_out(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, str]:
        with self._lock:
            wanted = self._row(mirror_id).wanted
            return {oid: wanted[oid].message for oid in oids if oid in wanted and wanted[oid].left_out}

    def rank_lfs(self, lease: Lease, ranks: Mapping[LfsOid, int]) -> None:
        with self._lock:
            for oid, wanted in self._fenced(lease).wanted.items():
                if not wanted.present and not wanted.left_out:
                    kept = wanted.rank if wanted.rank >= TIP_RANK else HISTORY_RANK
                    wanted.rank = ranks.get(oid, kept)

    def _referring(self, oids: Sequence[LfsOid]) -> list[tuple[MirrorRow, WantedRow]]:
        return [(row, row.wanted[oid]) for row in self._rows.values() for oid in oids if oid in row.wanted]

    def lfs_arrived(
        self, oids: Sequence[LfsOid], *, sizes: Mapping[LfsOid, int] | None = None, told_by: MirrorId | None = None
    ) -> None:
        with self._lock:
            served: list[tuple[MirrorRow, int]] = []
            for row, wanted in self._referring(oids):
                if not wanted.present and wanted.rank < TIP_RANK and row.mirror.id != told_by:
                    served.append((row, wanted.rank))
                wanted.present, wanted.known_missing, wanted.left_out = True, False, False
                wanted.code = wanted.message = ""
                wanted.attempts, wanted.leased_until = 0, 0.0
            for oid, size in (sizes or {}).items():
                for _, wanted in self._referring([oid]):
                    wanted.size = size
            for row, rank in served:
                if not any(one.rank == rank and _is_wanted(one) for one in row.wanted.values()):
                    self._call(row, Due(self._clock.now(), Trigger.POLL), None)

    def lfs_lost(self, oids: Sequence[LfsOid]) -> None:
        with self._lock:
            for _, wanted in self._referring(oids):
                if wanted.present:
                    wanted.present, wanted.retry_at = False, self._clock.now()
                    wanted.left_out = wanted.rank == LEFT_OUT_RANK

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
        with self._lock:
            wanted = self._row(mirror_id).wanted.get(oid)
            if wanted is None or wanted.present or wanted.left_out:
                return
            if size is not None and wanted.size != min(size, MOST_COUNTED_BYTES):
                return
            wanted.attempts += 1
            if then is not None:
                wanted.size = min(then, MOST_COUNTED_BYTES)
            wanted.retry_at, wanted.leased_until = retry_at, 0.0
            if known_missing or not wanted.known_missing:
                wanted.code, wanted.message, wanted.known_missing = code, message, known_missing

    def lfs_sizes(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, list[int]]:
        with self._lock:
            found: dict[LfsOid, set[int]] = {oid: set() for oid in oids}
            for pointer in self._row(mirror_id).pointers.values():
                if pointer.oid in found:
                    found[pointer.oid].add(min(pointer.size, MOST_COUNTED_BYTES))
            return {oid: sorted(sizes) for oid, sizes in found.items() if len(sizes) > 1}

    def claim_lfs(
        self,
        worker: str,
        *,
        limit: int,
        lease_seconds: float,
        largest: int | None = None,
        most_bytes: int | None = None,
    ) -> list[LfsJob]:
        with self._lock:
            now = self._clock.now()
            for row in sorted(self._rows.values(), key=lambda row: row.lfs_turn):
                ready = self._ready(row, now, largest)[:limit] if row.in_service() else []
                ready = _together(ready, most_bytes)
                if not ready:
                    continue
                self._turns += 1
                row.lfs_turn = self._turns
                for _, wanted in ready:
                    wanted.leased_until, wanted.leased_by = now + lease_seconds, worker
                return [LfsJob(row.mirror.id, oid, wanted.size, wanted.attempts, wanted.rank) for oid, wanted in ready]
            return []

    def _ready(self, row: MirrorRow, now: float, largest: int | None) -> list[tuple[LfsOid, WantedRow]]:
        syncing = row.held(now) and row.purpose == "sync"
        ready = [
            (oid, wanted)
            for oid, wanted in row.wanted.items()
            if not wanted.present
            and not wanted.left_out
            and max(wanted.retry_at, wanted.leased_until) <= now
            and (largest is None or (wanted.size <= largest and not wanted.known_missing))
            and (wanted.rank >= TIP_RANK or not syncing)
        ]
        return sorted(ready, key=lambda item: (item[1].known_missing, item[1].rank, item[1].size, item[0]))

    def renew_lfs(self, worker: str, jobs: Sequence[LfsJob], *, lease_seconds: float) -> None:
        with self._lock:
            for wanted in self._claimed_by(worker, jobs):
                wanted.leased_until = self._clock.now() + lease_seconds

    def release_lfs(self, worker: str, jobs: Sequence[LfsJob]) -> None:
        with self._lock:
            for wanted in self._claimed_by(worker, jobs):
                wanted.leased_until, wanted.leased_by = 0.0, ""

    def _claimed_by(self, worker: str, jobs: Sequence[LfsJob]) -> list[WantedRow]:
        rows = [self._rows[job.mirror].wanted.get(job.oid) for job in jobs if job.mirror in self._rows]
        return [wanted for wanted in rows if wanted is not None and not wanted.present and wanted.leased_by == worker]

    def lfs_claimed(self, mirror_id: MirrorId) -> frozenset[LfsOid]:
        with self._lock:
            now = self._clock.now()
            rows = self._row(mirror_id).wanted.items()
            return frozenset(oid for oid, wanted in rows if not wanted.present and wanted.leased_until > now)

    def lfs_queued(self, *, beside: MirrorId) -> bool:
        with self._lock:
            now = self._clock.now()
            return any(
                row.in_service() and mirror_id != beside and self._ready(row, now, None)
                for mirror_id, row in self._rows.items()
            )

    def lfs_refers(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, int]:
        with self._lock:
            wanted = self._row(mirror_id).wanted
            return {oid: wanted[oid].size for oid in oids if oid in wanted}

    def lfs_missing(self, mirror_id: MirrorId, *, after: str = "", limit: int = 100) -> list[tuple[Pointer, str, str]]:
        with self._lock:
            return [
                (Pointer(oid, wanted.size), wanted.code, wanted.message)
                for oid, wanted in sorted(self._row(mirror_id).wanted.items())
                if not wanted.present and not wanted.left_out and oid > after
            ][:limit]

    def lfs_absent(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, tuple[str, str]]:
        with self._lock:
            wanted = self._row(mirror_id).wanted
            return {
                oid: (wanted[oid].code, wanted[oid].message)
                for oid in oids
                if oid in wanted and not wanted[oid].present and not wanted[oid].left_out
            }

    def ask_lfs(self, mirror_id: MirrorId, oid: LfsOid, *, seconds: float) -> tuple[str, str] | None:
        with self._lock:
            now = self._clock.now()
            row = self._asked.setdefault((mirror_id, oid), AskedRow())
            if row.failed_until > now:
                return row.code, row.message
            row.asked_at = now if row.asked_until <= now else row.asked_at
            row.asked_until, row.failed_until, row.code, row.message = now + seconds, 0.0, "", ""
            return None

    def lfs_asked(self) -> list[LfsJob]:
        with self._lock:
            now = self._clock.now()
            found: list[LfsJob] = []
            for (mirror_id, oid), row in sorted(self._asked.items(), key=lambda item: (item[1].asked_at, item[0])):
                mirror = self._rows.get(mirror_id)
                wanted = mirror.wanted.get(oid) if mirror is not None and mirror.in_service() else None
                if wanted is not None and _is_wanted(wanted) and row.failed_until <= now < row.asked_until:
                    found.append(LfsJob(mirror_id, oid, wanted.size, wanted.attempts, wanted.rank))
            return found

    def lfs_ask_failed(self, mirror_id: MirrorId, oid: LfsOid, *, code: str, message: str, until: float) -> None:
        with self._lock:
            row = self._asked.setdefault((mirror_id, oid), AskedRow())
            row.failed_until, row.code, row.message = until, code, message

    def lfs_ask_failures(self, mirror_id: MirrorId, oids: Sequence[LfsOid]) -> dict[LfsOid, tuple[str, str]]:
        with self._lock:
            now = self._clock.now()
            rows = {oid: self._asked.get((mirror_id, oid)) for oid in oids}
            return {
                oid: (row.code, row.message) for oid, row in rows.items() if row is not None and row.failed_until > now
            }

    def lfs_unreferenced(self, oids: Sequence[LfsOid]) -> set[LfsOid]:
        with self._lock:
            return {oid for oid in oids if not any(oid in row.wanted for row in self._rows.values())}

    def replace_references(self, lease: Lease, blobs: frozenset[GitOid]) -> None:
        with self._lock:
            row = self._fenced(lease)
            row.pointers = {blob: pointer for blob, pointer in row.pointers.items() if blob in blobs}
            left = {pointer.oid for pointer in row.pointers.values()}
            row.wanted = {oid: wanted for oid, wanted in row.wanted.items() if oid in left}
            row.scanned = frozenset()


def _is_wanted(wanted: WantedRow) -> bool:
    return not (wanted.present or wanted.known_missing or wanted.left_out)


def _together(ready: Sequence[tuple[LfsOid, WantedRow]], most_bytes: int | None) -> list[tuple[LfsOid, WantedRow]]:
    taken: list[tuple[LfsOid, WantedRow]] = []
    size = 0
    for oid, wanted in ready:
        size += wanted.size
        if taken and (wanted.rank != taken[0][1].rank or (most_bytes is not None and size > most_bytes)):
            break
        taken.append((oid, wanted))
    return taken
