"""Mirrors: enrolling, listing, pausing, removing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, delete, func, or_, select, update

from mirror_sync.domain.deliveries import repository_key
from mirror_sync.domain.names import MirrorName, printable
from mirror_sync.domain.readers import Audience, Visibilities
from mirror_sync.domain.runs import LAG_BOUNDS, Activity, LfsCounts, Mirror, MirrorId, NewMirror, Trigger, Visibility
from mirror_sync.domain.standing import Due, earliest
from mirror_sync.errors import NotFound, Preempted
from mirror_sync.ports import MirrorFilter, MirrorPage, Totals
from mirror_sync.state.calls import Calls
from mirror_sync.state.database import mirrors
from mirror_sync.state.models import (
    Intent,
    KeptTipRow,
    LfsAsked,
    MirrorLfs,
    PointerRow,
    RefJournal,
    Run,
    ScannedTips,
    SignedDeletion,
    table,
)
from mirror_sync.state.records import mirror_of, new_columns
from mirror_sync.state.words import IN_SERVICE, activity_word, health_word, lag

m = mirrors.c

FORGET_ROWS = 5000
"""Rows deleted in one transaction, so that forgetting a large mirror holds up nobody."""

BELONGINGS = tuple(
    table(model)
    for model in (
        MirrorLfs, LfsAsked, PointerRow, ScannedTips, RefJournal, KeptTipRow, Intent, SignedDeletion, Run,
    )
)  # fmt: skip


BY_NAME = select(mirrors).where(m.name == bindparam("name"))
BY_ID = select(mirrors).where(m.id == bindparam("mirror"))


class Mirrors(Calls):
    """The mirrors table as a whole, and what operators do to one row."""

    def enrol(self, new: NewMirror) -> tuple[Mirror, bool]:
        """Implement :meth:`mirror_sync.ports.StateStore.enrol`."""
        with self._write() as connection:
            by_name = self._rows.where(m.name == bindparam("name")).with_for_update(of=mirrors)
            row = connection.execute(by_name, {"name": new.name}).first()
            if row is None:
                now = connection.execute(select(self._now)).scalar_one()
                blank = _blank(new, now=now)
                made = connection.execute(
                    self._insert(mirrors)
                    .values(new_columns(blank) | {"lease_token": 0, "journaled": 0})
                    .on_conflict_do_nothing()
                    .returning(m.id)
                ).first()
                row = connection.execute(by_name, {"name": new.name}).one()
                return mirror_of(row), made is not None
            if row.removing_at is None:
                return mirror_of(row), False
            host_key, key = repository_key(new.upstream)
            connection.execute(
                update(mirrors)
                .where(m.id == row.id)
                .values(removing_at=None, upstream=new.upstream, host_key=host_key, repository_key=key)
            )
            if new.class_name:
                connection.execute(update(mirrors).where(m.id == row.id).values({"class": new.class_name}))
            if new.visibility is not None:
                connection.execute(update(mirrors).where(m.id == row.id).values(visibility=new.visibility.value))
            self._call(connection, row, Due(row.now, new.trigger))
            return mirror_of(self._locked(connection, MirrorId(row.id))), False

    def mirror(self, name: MirrorName) -> Mirror:
        """Implement :meth:`mirror_sync.ports.StateStore.mirror`."""
        with self._read() as connection:
            row = connection.execute(BY_NAME, {"name": name}).first()
        if row is None:
            raise NotFound(f"no mirror is named {printable(name)}")
        return mirror_of(row)

    def mirror_by_id(self, mirror_id: MirrorId) -> Mirror:
        """Implement :meth:`mirror_sync.ports.StateStore.mirror_by_id`."""
        with self._read() as connection:
            row = connection.execute(BY_ID, {"mirror": mirror_id}).first()
        if row is None:
            raise NotFound(f"no mirror has the number {mirror_id}")
        return mirror_of(row)

    def mirrors(self, which: MirrorFilter, *, cursor: str = "", limit: int = 100) -> MirrorPage:
        """Implement :meth:`mirror_sync.ports.StateStore.mirrors`."""
        query = self._filtered(which).where(m.name > cursor).order_by(m.name).limit(limit + 1)
        with self._read() as connection:
            rows = connection.execute(query).all()
        items = tuple(mirror_of(row) for row in rows[:limit])
        return MirrorPage(items, items[-1].name if len(rows) > limit and items else "")

    def _filtered(self, which: MirrorFilter) -> Select[Any]:
        now = self._clock.now()
        query: Select[Any] = select(mirrors)
        if which.glob:
            query = query.where(self._matches(which.glob))
        if which.query:
            query = query.where(func.lower(m.name).contains(which.query.lower(), autoescape=True))
        if which.health:
            query = query.where(health_word(now) == which.health)
        if which.held:
            query = query.where(m.held_refs > 0, m.last_code != Preempted.code)
        if which.moving:
            query = query.where(m.progress.is_not(None))
        if which.class_name:
            query = query.where(m["class"] == which.class_name)
        if which.closed_by is not None:
            public = _visibility(which.closed_by) == Visibility.PUBLIC.value
            query = query.where(public, m.shown_upstream.is_(False))
        if which.audience is not None:
            query = query.where(self._told_to(which.audience))
        if which.activity:
            query = query.where(activity_word(now) == which.activity)
        return query

    def _matches(self, glob: str) -> ColumnElement[bool]:
        if not self._postgres:  # its LIKE ignores case
            return m.name.op("GLOB", is_comparison=True)(glob.replace("[", "[[]"))
        escaped = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        return m.name.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")

    def classes(self) -> Mapping[str, int]:
        """Implement :meth:`mirror_sync.ports.StateStore.classes`."""
        of_class = mirrors.c["class"]
        counted = select(of_class, func.count()).where(of_class != "").group_by(of_class).order_by(of_class)
        with self._read() as connection:
            return {str(name): int(count) for name, count in connection.execute(counted)}

    def _told_to(self, audience: Audience) -> ColumnElement[bool]:
        """Return which mirrors may be named to an audience, as far as rows tell: what is declared is not in them."""
        word = _visibility(audience.rules)
        everybody = or_(
            word == Visibility.OPEN.value,
            and_(word == Visibility.PUBLIC.value, m.shown_upstream.is_not(False)),
        )
        opened = [self._matches(glob) for glob in audience.globs]
        return or_(everybody, and_(word == Visibility.TOKEN.value, or_(*opened))) if opened else everybody

    def totals(self) -> Totals:
        """Implement :meth:`mirror_sync.ports.StateStore.totals` by one pass over the table."""
        now = self._clock.now()
        each = select(
            health_word(now).label("health"),
            activity_word(now).label("activity"),
            lag(now).label("lag"),
            case((IN_SERVICE, m.confirmed_at)).label("confirmed_at"),
            m.lfs_wanted,
            m.lfs_present,
            m.lfs_known_missing,
            m.lfs_wanted_bytes,
            m.lfs_present_bytes,
            m.lfs_left_out,
            m.lfs_left_out_bytes,
        ).subquery()
        query = select(
            each.c.health,
            each.c.activity,
            func.count(),
            func.min(each.c.confirmed_at),
            func.sum(each.c.lfs_wanted),
            func.sum(each.c.lfs_present),
            func.sum(each.c.lfs_known_missing),
            func.sum(each.c.lfs_wanted_bytes),
            func.sum(each.c.lfs_present_bytes),
            func.sum(each.c.lfs_left_out),
            func.sum(each.c.lfs_left_out_bytes),
            *(func.count().filter(each.c.lag <= bound) for bound in LAG_BOUNDS),
        ).group_by(each.c.health, each.c.activity)
        with self._read() as connection:
            rows = connection.execute(query).all()
        return _totals([tuple(row) for row in rows])

    def set_paused(self, mirror_id: MirrorId, *, reason: str | None) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.set_paused`."""
        with self._write() as connection:
            row = self._locked(connection, mirror_id)
            this = update(mirrors).where(m.id == mirror_id)
            if reason is not None:
                since = row.now if row.paused_at is None else row.paused_at
                connection.execute(this.values(paused_at=since, paused_reason=printable(reason)))
                return
            connection.execute(this.values(paused_at=None, paused_reason=""))
            self._call(connection, row, Due(row.now, Trigger.OPERATOR))

    def set_removing(self, mirror_id: MirrorId, *, at: float | None) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.set_removing`."""
        with self._write() as connection:
            row = self._locked(connection, mirror_id)
            connection.execute(update(mirrors).where(m.id == mirror_id).values(removing_at=at))
            if at is None:
                self._call(connection, row, Due(row.now, Trigger.OPERATOR))

    def set_schedule(self, mirror_id: MirrorId, *, interval_seconds: float, objective_seconds: float) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.set_schedule`."""
        with self._write() as connection:
            row = self._locked(connection, mirror_id)
            if (row.interval_seconds, row.objective_seconds) == (interval_seconds, objective_seconds):
                return
            connection.execute(
                update(mirrors)
                .where(m.id == mirror_id)
                .values(interval_seconds=interval_seconds, objective_seconds=objective_seconds)
            )
            if interval_seconds < row.interval_seconds and not row.failures:
                self._call(connection, row, Due(row.now + interval_seconds, Trigger.POLL))

    def set_class(self, mirror_id: MirrorId, class_name: str) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.set_class`."""
        with self._write() as connection:
            row = self._locked(connection, mirror_id)
            if row._mapping["class"] == class_name:  # noqa: SLF001 - the row's public mapping has this name
                return
            connection.execute(update(mirrors).where(m.id == mirror_id).values({"class": class_name}))
            self._call(connection, row, Due(row.now, Trigger.OPERATOR))

    def set_visibility(self, mirror_id: MirrorId, visibility: Visibility | None) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.set_visibility`."""
        with self._write() as connection:
            self._locked(connection, mirror_id)
            word = "" if visibility is None else visibility.value
            connection.execute(update(mirrors).where(m.id == mirror_id).values(visibility=word))

    def release_guard(self, mirror_id: MirrorId) -> bool:
        """Implement :meth:`mirror_sync.ports.StateStore.release_guard`."""
        with self._write() as connection:
            row = self._locked(connection, mirror_id)
            if not row.guard_fingerprint:
                return False
            connection.execute(update(mirrors).where(m.id == mirror_id).values(guard_released=row.guard_fingerprint))
            return True

    def forget(self, mirror_id: MirrorId) -> None:
        """Implement :meth:`mirror_sync.ports.StateStore.forget`.

        The mirror's own row goes last, so that a crash leaves the rest to the next
        attempt.  A mirror that was taken back meanwhile begins anew, as its data is gone.
        """
        for belonging in BELONGINGS:
            self._empty(belonging, mirror_id)
        with self._write() as connection:
            row = connection.execute(self._lock_row, {"mirror": mirror_id}).first()
            if row is None:
                return
            if row.removing_at is not None:
                connection.execute(delete(mirrors).where(m.id == mirror_id))
            else:
                again = new_columns(_again(mirror_of(row), now=row.now))
                connection.execute(update(mirrors).where(m.id == mirror_id).values(again))
            self._count(connection, {("runs", "unchanged"): row.unchanged_runs})

    def _empty(self, belonging: Any, mirror_id: MirrorId) -> None:
        keys = list(belonging.primary_key.columns)
        page = select(*keys).where(belonging.c.mirror_id == mirror_id).limit(FORGET_ROWS)
        gone = delete(belonging).where(*(key == bindparam(f"old_{key.name}") for key in keys))
        while True:
            with self._write() as connection:
                rows = connection.execute(page).all()
                if rows:
                    names = [f"old_{key.name}" for key in keys]
                    connection.execute(gone, [dict(zip(names, row, strict=True)) for row in rows])
            if len(rows) < FORGET_ROWS:
                return


def _visibility(rules: Visibilities) -> ColumnElement[str]:
    """Return the visibility of a mirror, as far as rows tell."""
    of_class = {name: word.value for name, word in rules.classes.items()}
    of_class[""] = rules.general.value
    shared = case(of_class, value=m["class"], else_=Visibility.NONE.value)
    return case((m.visibility != "", m.visibility), else_=shared)


def _totals(rows: list[tuple[Any, ...]]) -> Totals:
    by_health: Counter[str] = Counter()
    by_activity: Counter[str] = Counter()
    sums = [0] * (8 + len(LAG_BOUNDS))
    oldest: float | None = None
    for health, activity, count, confirmed_at, *rest in rows:
        by_health[health] += count
        by_activity[activity] += count
        oldest = earliest(oldest, confirmed_at)
        sums = [total + int(value) for total, value in zip(sums, (count, *rest), strict=True)]
    mirrors_, wanted, present, known_missing, wanted_bytes, present_bytes, left_out, left_out_bytes, *within = sums
    return Totals(
        by_health=by_health,
        by_activity=by_activity,
        lag_within={**{str(bound): n for bound, n in zip(LAG_BOUNDS, within, strict=True)}, "+Inf": mirrors_},
        oldest_confirmed_at=oldest,
        due=by_activity[Activity.QUEUED.value],
        lfs=LfsCounts(
            wanted,
            present,
            wanted - present,
            known_missing,
            wanted_bytes,
            present_bytes,
            left_out,
            left_out_bytes,
        ),
        mirrors=mirrors_,
    )


def _blank(new: NewMirror, *, now: float) -> Mirror:
    return Mirror(
        id=MirrorId(0),
        name=new.name,
        upstream=new.upstream,
        created_at=now,
        due_at=now,
        trigger=new.trigger,
        interval_seconds=new.interval_seconds,
        objective_seconds=new.objective_seconds,
        availability_since=now,
        class_name=new.class_name,
        visibility=new.visibility,
    )


def _again(old: Mirror, *, now: float) -> Mirror:
    """Return a taken-back mirror as new, but for what operators and forges told of it."""
    new = NewMirror(
        old.name,
        old.upstream,
        old.interval_seconds,
        old.objective_seconds,
        class_name=old.class_name,
        visibility=old.visibility,
    )
    return replace(
        _blank(new, now=now),
        repository_id=old.repository_id,
        paused_at=old.paused_at,
        paused_reason=old.paused_reason,
    )
