"""The gate: which refs may move now, in rounds, as their LFS objects arrive.

A ref moves when every LFS object that a checkout of its new tip needs is here and
verified.  One ref waiting for a 50 GB object never holds the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mirror_sync.actions.publish import publish
from mirror_sync.actions.transfer import TransferLimits, transfer
from mirror_sync.actions.world import Run
from mirror_sync.domain.names import GitOid, RefName, printable
from mirror_sync.domain.pointers import Pointer, TipNeed
from mirror_sync.domain.refs import ClassifiedUpdate, Observation, choose_head, settle
from mirror_sync.domain.runs import Step
from mirror_sync.errors import KNOWN_MISSING_CODES, Interrupted, MirrorSyncError

RETRY_KNOWN_MISSING_SECONDS = 3600.0
RETRY_FAILED_SECONDS = 300.0


def publish_in_rounds(run: Run, observation: Observation, updates: Sequence[ClassifiedUpdate]) -> None:
    """Transfer what the tips need and publish every ref as soon as it may move."""
    gate = Gate(run, observation, updates)
    gate.publish_ready(first=True)
    for group in gate.groups():
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
        self.here: set[Pointer] = set()
        self._lacking: dict[GitOid, list[Pointer]] = {}
        self._over = False
        self._find_needs()

    def _find_needs(self) -> None:
        run = self.run
        if not run.policy.lfs:
            return
        known = run.world.state.known_pointers(run.mirror.id) if self.waiting else {}
        if not known:
            return
        tips = sorted({item.update.new for item in self.waiting.values() if item.update.new is not None})
        self.needs = {tip: needs for tip, needs in run.world.repository.tip_needs(tips, known).items() if needs}
        pointers = {need.pointer for needs in self.needs.values() for need in needs}
        for oid in {pointer.oid for pointer in pointers}:
            run.world.objects.touch(oid)  # restarts the grace of what this run is about to rely on
        self._arrived(pointers)

    def _arrived(self, pointers: Iterable[Pointer]) -> None:
        """Look which of ``pointers`` are here, and say so."""
        fresh = {pointer for pointer in pointers if pointer not in self.here and self.run.world.objects.has(pointer)}
        if fresh:
            self.run.world.state.lfs_arrived(sorted({pointer.oid for pointer in fresh}))
            self.here |= fresh

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
        groups.extend(by_magnitude[magnitude] for magnitude in sorted(by_magnitude))
        return groups

    def transfer(self, names: Sequence[RefName]) -> None:
        """Bring what ``names`` lack; note what cannot be had."""
        run = self.run
        still = [name for name in names if name in self.waiting]  # an earlier group's objects may have freed some
        wanted = dict.fromkeys(pointer for name in still for pointer in self.lacking(name))
        ordered = [pointer for pointer in wanted if pointer not in self.absent]
        if not ordered or self._over:
            return
        run.enter(Step.TRANSFER, f"{len(ordered)} LFS objects, {sum(pointer.size for pointer in ordered)} bytes")
        began = run.world.clock.monotonic()
        report = transfer(
            ordered,
            upstream=run.world.upstream,
            objects=run.world.objects,
            parallel=run.world.parallel,
            clock=run.world.clock,
            telemetry=run.world.telemetry,
            mirror=run.mirror.name,
            limits=TransferLimits(connections=run.policy.lfs_connections, max_object_bytes=run.policy.max_object_bytes),
            stop=run.stop,
        )
        run.lfs_bytes += report.bytes_fetched
        self._arrived(pointer for pointer in ordered if pointer.oid in report.arrived)
        ended = {**report.known_missing, **report.failed, **dict.fromkeys(report.arrived, WRONG_SIZE)}
        lacking = [pointer for pointer in ordered if pointer not in self.here]
        self.absent.update((pointer, ended[pointer.oid]) for pointer in lacking if pointer.oid in ended)
        now = run.world.clock.now()
        for oid, (code, message) in {**report.known_missing, **report.failed}.items():
            missing = oid in report.known_missing
            run.world.state.lfs_failed(
                run.mirror.id,
                oid,
                code=code,
                message=message,
                known_missing=missing,
                retry_at=now + (RETRY_KNOWN_MISSING_SECONDS if missing else RETRY_FAILED_SECONDS),
            )
        if isinstance(report.error, Interrupted):
            raise report.error
        if report.error is not None:
            self._over = True
            run.lfs_failure = report.error
        elif report.failed and run.lfs_failure is None:
            oid, (code, message) = next(iter(report.failed.items()))
            run.lfs_failure = MirrorSyncError(
                f"{len(report.failed)} LFS objects could not be fetched",
                why=f"{oid[:12]}: {message}",
                remedy="nothing: they are tried again; clients keep the refs published before",
                code=code,
            )
        self._lacking.clear()
        run.world.telemetry.step_finished(run.lease, Step.TRANSFER, run.world.clock.monotonic() - began)

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
            known = [pointer for pointer in lacking if self.absent.get(pointer, ("",))[0] in KNOWN_MISSING_CODES]
            code, count, sample = ("MS-H004", len(known), known[0]) if known else ("MS-H005", len(lacking), lacking[0])
            path = next((need.path for need in self._tip_needs(name) if need.pointer == sample), "")
            said = self.absent.get(sample, ("", "not fetched yet"))[1]
            lack = "1 LFS object is not here" if count == 1 else f"{count} LFS objects are not here"
            run.hold(name, code, f"{lack}; {printable(path)} ({sample.oid[:12]}): {said}")


WRONG_SIZE = ("MS-L422", "the object is here, but it has another size than this pointer says")
