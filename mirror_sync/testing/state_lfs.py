"""Pointers and wanted LFS objects of the state store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import Pointer, PointerBlob
from mirror_sync.domain.runs import Lease, LfsJob, MirrorId
from mirror_sync.testing.state_rows import MirrorRow, WantedRow
from mirror_sync.testing.state_runs import MemoryRows


class MemoryLfs(MemoryRows):
    """The known-pointer index and the queue of wanted LFS objects."""

    def known_pointers(self, mirror_id: MirrorId) -> dict[GitOid, Pointer]:
        with self._lock:
            return dict(self._row(mirror_id).pointers)

    def scanned_tips(self, mirror_id: MirrorId) -> frozenset[GitOid]:
        with self._lock:
            return self._row(mirror_id).scanned

    def add_scan(self, lease: Lease, found: Sequence[PointerBlob], *, scanned: frozenset[GitOid] | None) -> None:
        with self._lock:
            row = self._fenced(lease)
            now = self._clock.now()
            for item in found:
                row.pointers[item.blob] = item.pointer
                oid = item.pointer.oid
                if oid not in row.wanted:
                    row.wanted[oid] = WantedRow(item.pointer.size, present=self._is_present(oid), retry_at=now)
            if scanned is not None:
                row.scanned = scanned

    def _is_present(self, oid: LfsOid) -> bool:
        return any(oid in row.wanted and row.wanted[oid].present for row in self._rows.values())

    def _referring(self, oids: Sequence[LfsOid]) -> list[WantedRow]:
        return [row.wanted[oid] for row in self._rows.values() for oid in oids if oid in row.wanted]

    def lfs_arrived(self, oids: Sequence[LfsOid]) -> None:
        with self._lock:
            for wanted in self._referring(oids):
                wanted.present, wanted.known_missing = True, False
                wanted.code = wanted.message = ""
                wanted.attempts, wanted.leased_until = 0, 0.0

    def lfs_lost(self, oids: Sequence[LfsOid]) -> None:
        with self._lock:
            for wanted in self._referring(oids):
                if wanted.present:
                    wanted.present, wanted.retry_at = False, self._clock.now()

    def lfs_failed(
        self, mirror_id: MirrorId, oid: LfsOid, *, code: str, message: str, known_missing: bool, retry_at: float
    ) -> None:
        with self._lock:
            wanted = self._row(mirror_id).wanted.get(oid)
            if wanted is None or wanted.present:
                return
            wanted.attempts += 1
            wanted.retry_at, wanted.leased_until = retry_at, 0.0
            if known_missing or not wanted.known_missing:
                wanted.code, wanted.message, wanted.known_missing = code, message, known_missing

    def claim_lfs(self, worker: str, *, limit: int, lease_seconds: float) -> list[LfsJob]:
        with self._lock:
            now = self._clock.now()
            for row in sorted(self._rows.values(), key=lambda row: row.lfs_turn):
                ready = self._ready(row, now)[:limit] if row.in_service() else []
                if not ready:
                    continue
                self._turns += 1
                row.lfs_turn = self._turns
                for _, wanted in ready:
                    wanted.leased_until, wanted.leased_by = now + lease_seconds, worker
                return [LfsJob(row.mirror.id, oid, wanted.size, wanted.attempts) for oid, wanted in ready]
            return []

    def _ready(self, row: MirrorRow, now: float) -> list[tuple[LfsOid, WantedRow]]:
        ready = [
            (oid, wanted)
            for oid, wanted in row.wanted.items()
            if not wanted.present and max(wanted.retry_at, wanted.leased_until) <= now
        ]
        return sorted(
            ready,
            key=lambda item: (item[1].known_missing, max(item[1].retry_at, item[1].leased_until), item[0]),
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
                if not wanted.present and oid > after
            ][:limit]

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
