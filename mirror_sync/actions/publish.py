"""Publish one settled set of refs: journal, flip, record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mirror_sync.actions.world import Run
from mirror_sync.domain.figures import refs_text
from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.refs import Change, ClassifiedUpdate, RefSnapshot
from mirror_sync.domain.runs import KeptTip, PublishIntent, RefJournalEntry, RunId, Step
from mirror_sync.ports import PublishRequest


def replay_intent(run: Run, current_view: int) -> None:
    """Finish or drop the record of a publish that a dead run left open; git says which."""
    state = run.world.state
    opened = state.open_intent(run.mirror.id)
    if opened is None:
        return
    run_id, intent = opened
    happened = intent.view == current_view
    state.settle_intent(run.lease, run_id, published=happened)
    run.world.telemetry.event("intent_replayed", run=run_id, view=intent.view, published=happened)


def adopt_view(run: Run) -> None:
    """Record a published view that the disk has and the database does not, as after a lost database."""
    state = run.world.state
    recorded = state.mirror_by_id(run.mirror.id).view
    if run.view == 0 or run.view == recorded:
        return
    intent = PublishIntent(
        view=run.view,
        digest="",
        observed_at=run.started_at,
        entries=(),
        head=run.published.head,
        ref_count=len(run.published.tips),
        complete=False,
    )
    state.settle_intent(run.lease, state.intend(run.lease, intent, kept=()), published=True)
    run.world.telemetry.event("view_adopted", view=run.view)


def publish(
    run: Run,
    *,
    tips: Mapping[RefName, GitOid],
    head: RefName,
    moved: Sequence[ClassifiedUpdate],
    complete: bool,
) -> None:
    """Move clients to ``tips`` and ``head`` by one rename, with the journal written before and settled after."""
    world = run.world
    run.enter(Step.PUBLISH, refs_text(len(moved)))
    began = world.clock.monotonic()
    world.repository.promote(sorted({item.update.new for item in moved if item.update.new is not None}))
    view = world.repository.next_view()
    now = world.clock.now()
    intent = PublishIntent(
        view=view,
        digest=run.digest,
        observed_at=run.observed_at or run.started_at,
        entries=tuple(
            RefJournalEntry(item.update.name, item.update.old, item.update.new, item.change) for item in moved
        ),
        head=head,
        ref_count=len(tips),
        complete=complete,
    )
    kept = [
        KeptTip(RunId(0), item.update.name, item.update.old, now, now + run.policy.keep_forced)
        for item in moved
        if item.update.old is not None and item.change in (Change.FORCED, Change.DELETE)
    ]
    run.run_id = world.state.intend(run.lease, intent, kept=kept)
    request = PublishRequest(
        view=view,
        expected_view=run.view,
        snapshot=RefSnapshot(dict(tips), head),
        # maintenance may have let the objects of expired ones go before it could say so
        kept=[tip for tip in world.state.kept_tips(run.mirror.id) if tip.expires_at > now],
    )
    published = world.repository.publish(request, confirm=lambda: world.state.confirm(run.lease))
    world.state.settle_intent(run.lease, run.run_id, published=True)
    run.view = published.number
    run.published = published.snapshot
    run.ref_updates += len(moved)
    world.telemetry.step_finished(run.lease, Step.PUBLISH, world.clock.monotonic() - began)
