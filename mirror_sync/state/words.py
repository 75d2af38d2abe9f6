"""Health, activity and lag as SQL: the same rules as :mod:`mirror_sync.domain.runs`, for many mirrors at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, case, func, or_
from sqlalchemy.sql import ColumnElement

from mirror_sync.domain.runs import Activity, Availability, Health
from mirror_sync.state.database import mirrors

m = mirrors.c

OUT_OF_SERVICE = or_(m.paused_at.is_not(None), m.removing_at.is_not(None))
IN_SERVICE = and_(m.paused_at.is_(None), m.removing_at.is_(None))


def lag(now: float) -> ColumnElement[float]:
    """Return the sync lag in seconds; below zero when the clock went back."""
    return now - func.coalesce(m.confirmed_at, m.created_at)


def health_word(now: float) -> ColumnElement[Any]:
    """Return the health of a row as :func:`mirror_sync.domain.runs.health` tells it."""
    return case(
        (OUT_OF_SERVICE, Health.PAUSED.value),
        (m.availability == Availability.GONE.value, Health.GONE.value),
        (m.availability == Availability.DENIED.value, Health.DENIED.value),
        (m.failures >= 3, Health.FAILING.value),
        (m.published_at.is_(None), Health.NEW.value),
        (m.lfs_known_missing > 0, Health.INCOMPLETE.value),
        (lag(now) > m.objective_seconds, Health.STALE.value),
        else_=Health.FRESH.value,
    )


def activity_word(now: float) -> ColumnElement[Any]:
    """Return the activity of a row as :func:`mirror_sync.domain.runs.activity` tells it."""
    return case(
        (and_(m.leased_by != "", m.lease_until > now), Activity.SYNCING.value),
        (and_(IN_SERVICE, m.due_at <= now), Activity.QUEUED.value),
        (m.failures > 0, Activity.BACKING_OFF.value),
        else_=Activity.IDLE.value,
    )
