"""Whether upstream shows a repository to everybody, which a public mirror must not outlive."""

from __future__ import annotations

from mirror_sync.actions.world import Run
from mirror_sync.errors import LeaseLost, MirrorSyncError, StateUnavailable, UpstreamGone, UpstreamRefused

OUTSIDERS_PATTERNS = ("HEAD",)


def note_shown(run: Run, error: MirrorSyncError | None = None) -> None:
    """Record what this observation tells of it, before anything that it brings can be served.

    ``error`` is how the observation failed: not there, or not for us.  What cannot be
    learnt now stays as it was; of a mirror that never was known to be shown and has
    served nothing yet, it counts as not shown.
    """
    shown = _shown(run, error)
    before = run.mirror.shown_upstream
    if shown is None and before is None and run.mirror.published_at is None:
        shown = False
    if shown is None or shown is before:
        return
    run.world.state.note_shown(run.lease, shown=shown)
    if run.policy.public and (before is not None or not shown):
        run.closed = not shown
        name = run.mirror.name
        if shown:
            run.world.telemetry.event("mirror_opened", mirror=name, why="upstream shows it to everybody again")
        else:
            run.world.telemetry.event(
                "mirror_closed", level="warning", mirror=name, why="upstream does not show it to everybody"
            )


def _shown(run: Run, error: MirrorSyncError | None) -> bool | None:
    outside = run.world.outside
    if outside is None:
        return _told(error)
    if not run.policy.public:
        # nobody is served by it, so upstream is not asked; should it become public, the next look asks
        return False
    try:
        outside.observe(OUTSIDERS_PATTERNS)
    except (LeaseLost, StateUnavailable):
        raise
    except MirrorSyncError as answer:
        return _told(answer)
    return True


def _told(error: MirrorSyncError | None) -> bool | None:
    """Return what an outsider's answer means; ``None`` when it says nothing of who may see the repository."""
    if error is None:
        return True
    if isinstance(error, UpstreamRefused) or (isinstance(error, UpstreamGone) and not error.for_everybody):
        return False
    return None
