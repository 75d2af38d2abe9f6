"""One sync of one mirror, from trigger to published refs: nine steps, top to bottom.

Every step leaves the disk and the database so that a process killed just after it
loses nothing and breaks no promise (``docs/architecture.md`` has the table).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from mirror_sync.actions import selecting
from mirror_sync.actions.fill import FillLimits, fill
from mirror_sync.actions.gate import publish_in_rounds
from mirror_sync.actions.outcome import host_of, record, record_failure
from mirror_sync.actions.publish import adopt_view, replay_intent
from mirror_sync.actions.shown import note_shown
from mirror_sync.actions.world import Policy, Run, World
from mirror_sync.domain.figures import tips_text
from mirror_sync.domain.names import GitOid, LfsOid, RefName, printable, ref_bytes
from mirror_sync.domain.pointers import PointerBlob
from mirror_sync.domain.refs import (
    GUARD_POLLS,
    Change,
    ClassifiedUpdate,
    GuardState,
    Observation,
    RefUpdate,
    choose_head,
    diff,
    guard,
)
from mirror_sync.domain.runs import Lease, Outcome, RunReport, Step
from mirror_sync.errors import (
    HostResting,
    MirrorSyncError,
    RepositoryDamaged,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
)
from mirror_sync.ports import Goal

WITHOUT_LFS = "without-lfs:"
"""Marks the digest of what was confirmed without looking at LFS, so that switching LFS on looks again."""

EXCLUDES_USED = 1000
POINTERS_PER_COMMIT = 5000
GIVEN_UP_TOLD = 3
FETCH_ALONE_SECONDS = 60.0
"""For so long a fetch does not make way for other mirrors, so that each gets on."""


def sync(lease: Lease, world: World, policy: Policy, *, stop: threading.Event) -> RunReport:
    """Bring one mirror up to date and return the recorded report.

    Errors become an outcome here; only a lost lease or an unavailable database is
    raised, because then nothing can be recorded.
    """
    run = Run(lease, world, policy, stop, started_at=world.clock.now())
    world.telemetry.run_started(lease)
    try:
        wait_for_host(run)
        observation = observe(run)
        if observation is None:
            return record(run, GuardState())
        with world.repository.lock():
            prepare(run, observation)
            plan = compare(run, observation)
            if run.complete:
                forget_fetch(run)
            if plan.moves:
                fetch(run, observation, plan.updates)
                sound = check(run, plan.updates)
                classified = classify(run, sound)
                scan(run, classified)
                publish_in_rounds(run, observation, classified)
            return record(run, plan.guard, observation=observation)
    except MirrorSyncError as error:
        return record_failure(run, error)


@contextmanager
def timed(run: Run, step: Step, detail: str = "") -> Iterator[None]:
    """Enter a step and tell telemetry how long it took once it ended well."""
    run.enter(step, detail)
    began = run.world.clock.monotonic()
    yield
    run.world.telemetry.step_finished(run.lease, step, run.world.clock.monotonic() - began)


def wait_for_host(run: Run) -> None:
    """Raise :class:`HostResting` while the upstream's host has asked us, over any mirror, to wait."""
    until = run.world.state.host_blocked_until(host_of(run.mirror.upstream))
    if until > run.world.clock.now():
        raise HostResting(until=until)


def observe(run: Run) -> Observation | None:
    """Take a dated ref snapshot; ``None`` when upstream says exactly what is already served."""
    mirror = run.mirror
    broke_off = mirror.last_run is not None and mirror.last_run.outcome in (Outcome.ABANDONED, Outcome.FAILED)
    # after a run that died or failed there may be something to tidy up, even when all it had to do was done
    settled = (
        not broke_off
        and not selecting.is_changed(run)
        and mirror.view > 0
        and mirror.view == run.world.repository.current_view()
    )
    mark = "" if run.policy.lfs else WITHOUT_LFS
    known = mirror.confirmed_digest.removeprefix(mark) if settled and mirror.confirmed_digest.startswith(mark) else ""
    began = run.world.clock.monotonic()
    run.observed_at = run.world.clock.now()
    try:
        observation = run.world.upstream.observe(run.policy.patterns, known_digest=known)
    except (UpstreamGone, UpstreamRefused) as error:
        note_shown(run, error)
        raise
    note_shown(run)
    run.world.telemetry.step_finished(run.lease, Step.OBSERVE, run.world.clock.monotonic() - began)
    if observation is None:
        run.digest = mark + known
        run.complete = True
        return None
    run.observed_at = observation.started_at
    run.digest = mark + observation.digest
    run.moved_to = observation.moved_to
    return observation


def prepare(run: Run, observation: Observation) -> None:
    """Put right what a crash left, finish an interrupted record, and read what is published."""
    repository = run.world.repository
    if not repository.exists() and (run.mirror.view > 0 or repository.current_view() > 0):
        raise RepositoryDamaged(
            why="the mirror was published before, but its store is gone",
            remedy=f"mirror-sync rm {run.mirror.name} --now, then add it again",
        )
    if run.mirror.view == 0:
        # made anew where upstream was, before anything of it was published
        repository.create(observation.object_format)
    recovery = repository.recover()
    if recovery.removed:
        run.world.telemetry.event(
            "repository_recovered", removed=len(recovery.removed), what=list(recovery.removed[:20])
        )
    if run.mirror.published_at is not None and run.mirror.object_format is not observation.object_format:
        raise UpstreamInvalid(
            "upstream changed its object format",
            why=f"was {run.mirror.object_format}, is {observation.object_format}",
            remedy="add the repository under a new mirror once this one is removed; the old one stays served",
            code="MS-U410",
        )
    published = repository.published()
    replay_intent(run, published.number)
    run.view = published.number
    run.published = published.snapshot
    adopt_view(run)


@dataclass(frozen=True, slots=True)
class Plan:
    """What must move, whether there is anything to do at all, and what the deletion guard remembers."""

    updates: tuple[RefUpdate, ...] = ()
    moves: bool = False
    guard: GuardState = field(default_factory=GuardState)


def compare(run: Run, observation: Observation) -> Plan:
    """Return what must move, held back whole when the deletion guard says so."""
    with timed(run, Step.DIFF):
        run.notes = [note for note in run.mirror.notes if not note.startswith("MS-H008")]
        for name, reason in observation.refused.items():
            run.note(f"MS-H008 {printable(name)}: {reason}")
        updates = diff(run.published, observation.snapshot)
        head = choose_head(observation.snapshot, run.published.head, observation.snapshot.tips)
        if run.view and not updates and head == run.published.head:
            run.complete = True
            unscanned = run.policy.lfs and not run.tips() <= run.world.state.scanned_tips(run.mirror.id)
            return Plan(moves=unscanned or selecting.is_changed(run))
        run.world.state.note_behind(run.lease, observed_at=observation.started_at)
        verdict = guard(
            run.published,
            observation.snapshot,
            run.mirror.guard,
            now=run.world.clock.now(),
            confirmed_deletions=run.world.state.confirmed_deletions(run.mirror.id),
        )
        if not verdict.held:
            return Plan(updates, moves=True)
        for update in updates:
            if update.new is None:
                reason = (
                    f"upstream's list lacks {verdict.deletions} refs, more than {verdict.limit}; "
                    f"poll {verdict.state.polls} of {GUARD_POLLS} agrees"
                )
                run.hold(update.name, "MS-H001", reason)
        return Plan(guard=verdict.state)


def fetch(run: Run, observation: Observation, updates: Sequence[RefUpdate]) -> None:
    """Bring the Git objects of every new tip into the stage, where nothing is served."""
    repository = run.world.repository
    filling = repository.filling()
    wanted = list(dict.fromkeys(update.new for update in in_tip_order(updates) if update.new is not None))
    missing = repository.missing(wanted)
    if not missing and not filling.begun():
        return
    with timed(run, Step.FETCH, tips_text(len(missing))):
        goal = Goal(
            observation.object_format,
            wanted,
            boundary=boundary(run, updates),
            peeled={tag: oid for tag, oid in observation.peeled.items() if tag in missing},
        )
        try:
            brought = fill(
                goal,
                filling=filling,
                sources=[run.world.upstream, *run.world.accelerators],
                protocol=observation.protocol,
                clock=run.world.clock,
                telemetry=run.world.telemetry,
                report=run.report,
                stop=run.stop,
                limits=FillLimits(max_bytes=run.policy.max_pack_bytes),
                here=[tip for tip in wanted if tip not in missing],
                yielding=making_way(run),
            )
        finally:
            run.report(None)
        run.fetched_bytes += brought.received
        run.given_up = brought.given_up
        still = repository.missing(wanted)
        if still and not brought.given_up:
            raise UpstreamInvalid(
                "upstream's pack lacks objects it listed",
                why=f"{len(still)} of {len(wanted)} tips did not come",
                remedy="nothing: it is asked again; clients keep the refs published before",
            )


def forget_fetch(run: Run) -> None:
    """Drop an unfinished fetch whose refs upstream took back meanwhile."""
    filling = run.world.repository.filling()
    if filling.begun():
        filling.drop()


def in_tip_order(updates: Sequence[RefUpdate]) -> list[RefUpdate]:
    """Return the updates as their tips are best fetched one after another: tags as versions rise, then the rest."""

    def rank(update: RefUpdate) -> tuple[bool, list[tuple[int, int, bytes]]]:
        words = re.split(rb"([0-9]+)", ref_bytes(update.name))
        return not update.name.startswith("refs/tags/"), [
            (0, int(word), b"") if word.isdigit() else (1, 0, word) for word in words
        ]

    return sorted(updates, key=rank)


def making_way(run: Run) -> Callable[[], bool]:
    """Return a question, cheap enough for every piece of a pack: whether others have waited long enough for this run."""
    clock = run.world.clock
    began = asked = clock.monotonic()
    answer = False

    def yielding() -> bool:
        nonlocal asked, answer
        now = clock.monotonic()
        if now - began >= FETCH_ALONE_SECONDS and now - asked >= 1.0:
            asked, answer = now, run.world.crowded()
        return answer

    return yielding


def boundary(run: Run, updates: Sequence[RefUpdate]) -> list[GitOid]:
    """Return our tips, those worth naming first: old tips of what moves, then HEAD's, then the others."""
    tips = run.published.tips
    first = [update.old for update in updates if update.old is not None]
    head = [tips[run.published.head]] if run.published.head in tips else []
    rest = [tips[name] for name in sorted(tips, key=ref_bytes)]
    return list(dict.fromkeys([*first, *head, *rest]))


def check(run: Run, updates: Sequence[RefUpdate]) -> list[RefUpdate]:
    """Check staged objects strictly and return the updates whose tips are whole and sound; hold the others."""
    tips = sorted({update.new for update in updates if update.new is not None})
    if not tips:
        return list(updates)
    inspection = run.world.repository.inspect(tips, relaxed=run.policy.relaxed)
    for note in inspection.notes:
        run.note(note)
    sound: list[RefUpdate] = []
    for update in updates:
        reason = inspection.bad.get(update.new) if update.new is not None else None
        if reason is None:
            sound.append(update)
        elif run.given_up:
            run.hold(update.name, "MS-H009", "; ".join(list(run.given_up.values())[:GIVEN_UP_TOLD]))
        else:
            run.hold(update.name, "MS-H003", reason)
    return sound


def classify(run: Run, updates: Sequence[RefUpdate]) -> list[ClassifiedUpdate]:
    """Return each update with its kind as actually staged; policy may hold forced ones."""
    with timed(run, Step.CLASSIFY):
        kinds = run.world.repository.classify(updates)
        classified: list[ClassifiedUpdate] = []
        for update in updates:
            kind = kinds[update.name]
            if kind is Change.FORCED and run.policy.hold_forced:
                run.hold(update.name, "MS-H002", "upstream rewrote this ref and policy holds forced updates")
                continue
            classified.append(ClassifiedUpdate(update, kind))
        return classified


def scan(run: Run, updates: Sequence[ClassifiedUpdate]) -> None:
    """Find every pointer the new tips bring, store it and judge who wants it before the tips count as scanned."""
    state, mirror = run.world.state, run.mirror
    if not run.policy.lfs:
        return
    tips = run.tips() | frozenset(item.update.new for item in updates if item.update.new is not None)
    scanned = state.scanned_tips(mirror.id)
    fresh = sorted(tips - scanned)
    anew = selecting.is_changed(run)
    if not fresh and not anew:
        return
    with timed(run, Step.SCAN, tips_text(len(fresh))):
        if anew:
            selecting.begin(run)
        left_out = selecting.reason_for_new(run)
        excluded = choose_excludes(run, updates, scanned)
        brought: set[LfsOid] = set()
        pending: list[PointerBlob] = []
        for found in run.world.repository.scan_pointers(fresh, scanned=excluded):
            pending.append(found)
            brought.add(found.pointer.oid)
            if len(pending) >= POINTERS_PER_COMMIT:
                state.add_scan(run.lease, pending, scanned=None, left_out=left_out)
                pending = []
        if pending:
            state.add_scan(run.lease, pending, scanned=None, left_out=left_out)
        selecting.judge(run, tips if anew else fresh, found=brought, excluded=() if anew else excluded, whole=anew)
        state.add_scan(run.lease, (), scanned=tips)


def choose_excludes(run: Run, updates: Sequence[ClassifiedUpdate], scanned: frozenset[GitOid]) -> list[GitOid]:
    """Return scanned tips worth excluding: those the moved refs left, HEAD's, then others up to a bound."""
    first = [item.update.old for item in updates if item.update.old in scanned and item.update.old is not None]
    head: RefName = run.published.head
    tip = run.published.tips.get(head)
    beside = [tip] if tip is not None and tip in scanned else []
    return list(dict.fromkeys([*first, *beside, *sorted(scanned)]))[: max(EXCLUDES_USED, len(first) + 1)]
