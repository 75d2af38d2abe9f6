"""The gate: which refs may move now, in rounds, as their LFS objects arrive.

A ref moves when every LFS object that a checkout of its new tip needs is here and
verified, but for those that the mirror leaves out.  One ref waiting for a 50 GB object
never holds the others, nor the next push to the same mirror, nor another mirror: a run
that transfers makes way, and the rest is fetched behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mirror_sync.actions.history import next_size
from mirror_sync.actions.publish import publish
from mirror_sync.actions.room import Room
from mirror_sync.actions.transfer import TransferLimits, TransferReport, transfer
from mirror_sync.actions.world import Run
from mirror_sync.domain.figures import objects_text, size_text
from mirror_sync.domain.names import GitOid, LfsOid, RefName, printable
from mirror_sync.domain.pointers import Pointer, TipNeed
from mirror_sync.domain.refs import ClassifiedUpdate, Observation, choose_head, settle
from mirror_sync.domain.runs import TIP_RANK, Step
from mirror_sync.errors import (
    KNOWN_MISSING_CODES,
    WRONG_SIZE,
    Interrupted,
    MirrorSyncError,
    NotFound,
    ObjectCorrupt,
    Preempted,
    StateUnavailable,
    StorageFull,
    UpstreamInvalid,
)

RETRY_KNOWN_MISSING_SECONDS = 3600.0
RETRY_FAILED_SECONDS = 300.0
UNHAD = frozenset({"MS-L400", "MS-L416", ObjectCorrupt.code, UpstreamInvalid.code})
"""How an object fails that upstream has not got in the size asked for."""

WAITED_FOR_BYTES = 64 << 20
"""An object up to this size that a lane behind has in hand is waited for."""

PATIENCE_SECONDS = 10.0
"""A run that has been transferring for longer makes way for other mirrors that wait for its place."""


def publish_in_rounds(run: Run, observation: Observation, updates: Sequence[ClassifiedUpdate]) -> None:
    """Transfer what the tips need and publish every ref as soon as it may move."""
    gate = Gate(run, observation, updates)
    gate.publish_ready(first=True)
    groups = gate.groups()
    gate.tell_order(groups)
    for group in groups:
        gate.transfer(group)
        gate.publish_ready()
    gate.hold_the_rest()


class Gate:
    """What each waiting ref still needs, and what became of it."""

    def __init__(self, run: Run, observation: Observation, updates: Sequence[ClassifiedUpdate]) -> None:
        self.run = run
        self.observation = observation
        self.waiting: dict[RefName, ClassifiedUpdate] = {item.update.name: item for item in updates}
        self.needs: dict[GitOid, list[TipNeed]] = {}
        # By pointer, not by oid: two may claim different sizes for one object, and a client is refused the wrong one.
        self.absent: dict[Pointer, tuple[str, str]] = {}
        self.pointers: set[Pointer] = set()
        self.here: set[Pointer] = set()
        self.behind: set[Pointer] = set()
        """What is being fetched outside this run; it calls us when it is here."""
        self.no_room: dict[RefName, str] = {}
        """Refs whose LFS objects do not fit on the disk, with the figures."""
        self.made_way = False
        self._lacking: dict[GitOid, list[Pointer]] = {}
        self._over = False
        self._began: float | None = None
        self._find_needs()

    def _find_needs(self) -> None:
        run = self.run
        if not run.policy.lfs:
            return
        known = run.world.state.known_pointers(run.mirror.id) if self.waiting else {}
        if not known:
            return
        tips = sorted({item.update.new for item in self.waiting.values() if item.update.new is not None})
        selection = run.policy.selection
        found = run.world.repository.tip_needs(tips, known, selects=selection.takes_path)
        for tip, needs in found.items():
            wanted = [need for need in needs if selection.takes_size(need.pointer.size)]
            if wanted:
                self.needs[tip] = wanted
        pointers = self.pointers = {need.pointer for needs in self.needs.values() for need in needs}
        for oid in {pointer.oid for pointer in pointers}:
            run.world.objects.touch(oid)  # restarts the grace of what this run is about to rely on
        self._arrived(pointers)
        self._find_wrong_sizes()
        if len(self.here) < len(pointers):
            claimed = run.world.state.lfs_claimed(run.mirror.id)
            # What a lane has in hand and is small is here in a moment, and worth waiting for.
            self.behind = {
                pointer for pointer in pointers if pointer.oid in claimed and pointer.size > WAITED_FOR_BYTES
            }

    def _arrived(self, pointers: Iterable[Pointer]) -> None:
        """Look which of ``pointers`` are here, and say so."""
        fresh = {pointer for pointer in pointers if pointer not in self.here and self.run.world.objects.has(pointer)}
        if fresh:
            sizes = {pointer.oid: pointer.size for pointer in fresh}
            self.run.world.state.lfs_arrived(sorted(sizes), sizes=sizes, told_by=self.run.mirror.id)
            self.here |= fresh
            for pointer in self.pointers - self.here:
                if pointer.oid in sizes:
                    self._is_wrong(pointer, sizes[pointer.oid])

    def _find_wrong_sizes(self) -> None:
        """Leave alone what is here in a size that another pointer of the mirror claims: that one is the true one."""
        objects, here = self.run.world.objects, {}
        for pointer in self.pointers - self.here - self.absent.keys():
            size = objects.size(pointer.oid)
            if size is not None:
                here[pointer] = size
        claimed = self.run.world.state.lfs_sizes(self.run.mirror.id, [pointer.oid for pointer in here]) if here else {}
        for pointer, size in here.items():
            if size in claimed.get(pointer.oid, ()):
                self._is_wrong(pointer, size)

    def _is_wrong(self, pointer: Pointer, size: int) -> None:
        text = f"the pointer is wrong: this object has {size} bytes, not {pointer.size}, and no other can have its name"
        self.absent[pointer] = (WRONG_SIZE, text)
        self._lacking.clear()

    def lacking(self, name: RefName) -> list[Pointer]:
        """Return the LFS objects that forbid this ref to move."""
        tip = self.waiting[name].update.new
        if tip is None or tip not in self.needs:
            return []
        if tip not in self._lacking:
            self._lacking[tip] = [need.pointer for need in self.needs[tip] if not self._may_lack(need.pointer)]
        return self._lacking[tip]

    def _may_lack(self, pointer: Pointer) -> bool:
        if pointer in self.here:
            return True
        return self.run.policy.publish_known_missing and self.absent.get(pointer, ("",))[0] in KNOWN_MISSING_CODES

    def _tip_needs(self, name: RefName) -> list[TipNeed]:
        tip = self.waiting[name].update.new
        return self.needs.get(tip, []) if tip is not None else []

    def groups(self) -> list[list[RefName]]:
        """Return waiting refs in the order worth waiting for.

        The default branch first on a first fill; then refs in order of magnitude of what
        they lack, so that a small update never stands behind a large one.
        """
        names = [name for name in self.waiting if self.lacking(name)]
        groups: list[list[RefName]] = []
        head = self.observation.snapshot.head
        if self.run.view == 0 and head in names:
            groups.append([head])
            names.remove(head)
        by_magnitude: dict[int, list[RefName]] = {}
        for name in names:
            size = sum(pointer.size for pointer in self.lacking(name))
            by_magnitude.setdefault(int(math.log10(max(size, 1_000_000))), []).append(name)
        for magnitude in sorted(by_magnitude):
            group = by_magnitude[magnitude]
            if head in group:  # clones take it
                group.remove(head)
                group.insert(0, head)
            groups.append(group)
        return groups

    def tell_order(self, groups: Sequence[Sequence[RefName]]) -> None:
        """Have what this run may leave be fetched in the same order."""
        if not self.run.policy.lfs or (not self.run.mirror.lfs.wanted and not self.needs):
            return
        ranks: dict[LfsOid, int] = {}
        names = [name for group in groups for name in group]
        for rank, name in enumerate(names):
            for pointer in self.lacking(name):
                ranks.setdefault(pointer.oid, min(rank, TIP_RANK - 1))
        self.run.world.state.rank_lfs(self.run.lease, ranks)

    def transfer(self, names: Sequence[RefName]) -> None:
        """Bring what ``names`` lack, as far as it fits; note what cannot be had."""
        run = self.run
        if self._over:
            return
        still = [name for name in names if name in self.waiting]  # an earlier group's objects may have freed some
        wanted = self._that_fit(still)
        if not wanted:
            return
        run.enter(Step.TRANSFER, f"{objects_text(len(wanted))}, {size_text(sum(pointer.size for pointer in wanted))}")
        began = run.world.clock.monotonic()
        if self._began is None:
            self._began = began
        try:
            report = transfer(
                wanted,
                mirror=run.mirror.name,
                sources=[run.world.upstream, *run.world.accelerators],
                objects=run.world.objects,
                parallel=run.world.parallel,
                clock=run.world.clock,
                telemetry=run.world.telemetry,
                limits=TransferLimits(connections=run.policy.lfs_connections, budget=run.world.budget),
                stop=run.stop,
                report=run.report,
                yielding=self._makes_way,
            )
        finally:
            run.report(None)
        self._take_note(wanted, report)
        run.world.telemetry.step_finished(run.lease, Step.TRANSFER, run.world.clock.monotonic() - began)

    def _that_fit(self, names: Sequence[RefName]) -> list[Pointer]:
        """Return what refs lack, ref by ref, as long as it fits on the disk; note those for which it does not."""
        room = Room(self.run.world.objects)
        fit: dict[Pointer, None] = {}
        for name in names:
            asked = [
                pointer for pointer in self.lacking(name) if pointer not in self.absent and pointer not in self.behind
            ]
            refused = room.take([pointer for pointer in asked if pointer not in fit])
            if refused:
                self.no_room[name] = refused
            else:
                fit.update(dict.fromkeys(asked))
        if self.no_room:
            self.run.world.telemetry.event(
                "lfs_space_short",
                mirror=self.run.mirror.name,
                refs=len(self.no_room),
                why=next(iter(self.no_room.values())),
            )
        return list(fit)

    def _makes_way(self) -> bool:
        """Tell whether another run waits: of this mirror, or of another one that has no place."""
        run = self.run
        try:
            if run.world.state.awaited(run.lease):
                return True
        except StateUnavailable:
            return False  # nobody who waits could begin either
        patient = self._began is None or run.world.clock.monotonic() - self._began < PATIENCE_SECONDS
        return not patient and run.world.crowded()

    def _take_note(self, wanted: Sequence[Pointer], report: TransferReport) -> None:
        """Note what arrived, what did not, and whether anything more is worth trying in this run."""
        run = self.run
        run.lfs_bytes += report.bytes_fetched
        self._arrived(pointer for pointer in wanted if pointer.oid in report.arrived)
        failed = {**report.known_missing, **report.failed}
        claimed = run.world.state.lfs_sizes(run.mirror.id, sorted(failed)) if failed else {}
        now = run.world.clock.now()
        for pointer in wanted:
            if pointer in self.here:
                continue
            code, message = failed.get(pointer.oid, ("", ""))
            if code in KNOWN_MISSING_CODES | UNHAD:
                self._look_at_size(pointer)
            if not code:
                continue
            self.absent.setdefault(pointer, (code, message))
            sizes = claimed.get(pointer.oid, ())
            untried = set(sizes) - {other.size for other in wanted if other.oid == pointer.oid} if sizes else ()
            missing = pointer.oid in report.known_missing and not untried
            run.world.state.lfs_failed(
                run.mirror.id,
                pointer.oid,
                code=code,
                message=message,
                known_missing=missing,
                retry_at=now + (RETRY_KNOWN_MISSING_SECONDS if missing else RETRY_FAILED_SECONDS),
                size=pointer.size,
                then=next_size(pointer.size, sizes)[0],
            )
        self._lacking.clear()
        if isinstance(report.error, Interrupted):
            raise report.error
        if isinstance(report.error, Preempted):
            self._over = self.made_way = True
            return
        if report.error is not None:
            self._over = True
            run.lfs_failure = report.error
            return
        again = {pointer.oid for pointer in wanted if self.absent.get(pointer, (WRONG_SIZE,))[0] != WRONG_SIZE}
        tried_again = {oid: said for oid, said in report.failed.items() if oid in again}
        if tried_again and run.lfs_failure is None:
            oid, (code, message) = next(iter(tried_again.items()))
            run.lfs_failure = MirrorSyncError(
                f"{len(tried_again)} LFS objects could not be fetched",
                why=f"{oid[:12]}: {message}",
                remedy="nothing: they are tried again; clients keep the refs published before",
                code=code,
            )

    def _look_at_size(self, pointer: Pointer) -> None:
        """Say of an object that could not be had what forbids it for ever: that it is here, in another size.

        No other pointer has that size, so it is read before a ref moves because of it.
        """
        run, size = self.run, self.run.world.objects.size(pointer.oid)
        if size is None or size == pointer.size:
            return
        if run.policy.publish_known_missing:
            try:
                if not run.world.objects.verify(pointer.oid, stop=run.stop) or run.stop.is_set():
                    return
            except NotFound:  # evicted since
                return
        self._is_wrong(pointer, size)

    def publish_ready(self, *, first: bool = False) -> None:
        """Publish every waiting ref that may move now; on a first fill the default branch is in the first publish."""
        run = self.run
        head = self.observation.snapshot.head
        if first and run.view == 0 and head in self.waiting and self.lacking(head):
            return
        ready = [item for name, item in self.waiting.items() if not self.lacking(name)]
        keep: frozenset[RefName] = frozenset()
        if head in self.observation.snapshot.tips and head not in run.published.tips:
            arriving = any(item.update.name == head for item in ready)
            keep = frozenset() if arriving else frozenset({run.published.head})
        settlement = settle(run.published.tips, [item.update for item in ready], keep=keep)
        target = choose_head(self.observation.snapshot, run.published.head, settlement.tips)
        if not settlement.moved and target == run.published.head and run.view:
            return
        if not settlement.moved and not settlement.tips and self.observation.snapshot.tips:
            return
        by_name = {item.update.name: item for item in ready}
        moved = [by_name[update.name] for update in settlement.moved]
        gone = {update.name for update in settlement.moved}
        waiting = {name: item for name, item in self.waiting.items() if name not in gone}
        complete = not waiting and not run.holds
        publish(run, tips=settlement.tips, head=target, moved=moved, complete=complete)
        self.waiting = waiting
        run.complete = complete

    def hold_the_rest(self) -> None:
        """Say of every ref that still waits why it does."""
        run = self.run
        for name in self.waiting:
            lacking = self.lacking(name)
            if not lacking:
                run.hold(name, "MS-H006", "waits for a ref that cannot exist beside it, or for the new default branch")
                continue
            if name in self.no_room:
                run.hold(name, StorageFull.code, self.no_room[name])
                continue
            known = [pointer for pointer in lacking if self.absent.get(pointer, ("",))[0] in KNOWN_MISSING_CODES]
            failed = [pointer for pointer in lacking if pointer in self.absent]
            if not failed and (self.made_way or any(pointer in self.behind for pointer in lacking)):
                size = sum(pointer.size for pointer in lacking)
                run.hold(name, Preempted.code, f"fetched behind: {objects_text(len(lacking))} of {size_text(size)}")
                continue
            code, count, sample = ("MS-H004", len(known), known[0]) if known else ("MS-H005", len(lacking), lacking[0])
            path = next((need.path for need in self._tip_needs(name) if need.pointer == sample), "")
            said = self.absent.get(sample, ("", "not fetched yet"))[1]
            lack = "1 LFS object is not here" if count == 1 else f"{count} LFS objects are not here"
            run.hold(name, code, f"{lack}; {printable(path)} ({sample.oid[:12]}): {said}")
