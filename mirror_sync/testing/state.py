"""A state store of lists and a lock."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mirror_sync.domain.deliveries import calls, delivery_key, event_label, repository_key, tells_of_change
from mirror_sync.domain.names import MirrorName, RefName, printable
from mirror_sync.domain.readers import CloneToken, TokenId
from mirror_sync.domain.runs import (
    LAG_BOUNDS,
    Delivery,
    LfsCounts,
    Mirror,
    MirrorId,
    NewMirror,
    Trigger,
    Visibility,
    activity,
    health,
    lag_seconds,
)
from mirror_sync.domain.standing import CLOCK_BACK_SECONDS, Due, Evidence, earliest
from mirror_sync.errors import NotFound, Preempted
from mirror_sync.ports import MirrorFilter, MirrorPage, Totals
from mirror_sync.testing.state_lfs import MemoryLfs
from mirror_sync.testing.state_rows import MirrorRow
from mirror_sync.testing.state_runs import MemoryRuns


class MemoryState(MemoryRuns, MemoryLfs):
    """A whole state store in memory; implements :class:`mirror_sync.ports.StateStore`."""

    # -- mirrors
    def enrol(self, new: NewMirror) -> tuple[Mirror, bool]:
        with self._lock:
            now = self._clock.now()
            for row in self._rows.values():
                if row.mirror.name == new.name:
                    if row.mirror.removing_at is not None:
                        row.mirror = replace(row.mirror, removing_at=None, upstream=new.upstream)
                        if new.class_name:
                            row.mirror = replace(row.mirror, class_name=new.class_name)
                        if new.visibility is not None:
                            row.mirror = replace(row.mirror, visibility=new.visibility)
                        self._call(row, Due(now, new.trigger), None)
                    return row.seen(), False
            self._last_id += 1
            mirror = Mirror(
                id=MirrorId(self._last_id),
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
            self._rows[mirror.id] = MirrorRow(mirror)
            return mirror, True

    def mirror(self, name: MirrorName) -> Mirror:
        with self._lock:
            for row in self._rows.values():
                if row.mirror.name == name:
                    return row.seen()
        raise NotFound(f"no mirror is named {name}")

    def mirror_by_id(self, mirror_id: MirrorId) -> Mirror:
        with self._lock:
            return self._row(mirror_id).seen()

    def mirrors(self, which: MirrorFilter, *, cursor: str = "", limit: int = 100) -> MirrorPage:
        now = self._clock.now()
        pattern = which.glob.replace("[", "[[]")
        with self._lock:
            found = sorted(
                (
                    mirror
                    for mirror in (row.seen() for row in self._rows.values())
                    if mirror.name > cursor
                    and (not pattern or fnmatch.fnmatchcase(mirror.name, pattern))
                    and which.query.lower() in mirror.name.lower()
                    and which.health in {"", health(mirror, now).value}
                    and which.activity in {"", activity(mirror, now).value}
                    and (waits_for_somebody(mirror) or not which.held)
                    and (mirror.progress is not None or not which.moving)
                    and which.class_name in {"", mirror.class_name}
                    and (which.closed_by is None or which.closed_by.closes(mirror))
                    and (which.audience is None or which.audience.may_see(mirror))
                ),
                key=lambda mirror: mirror.name,
            )
        items = tuple(found[:limit])
        return MirrorPage(items, items[-1].name if len(found) > limit and items else "")

    def classes(self) -> Mapping[str, int]:
        with self._lock:
            return Counter(row.mirror.class_name for row in self._rows.values() if row.mirror.class_name)

    def totals(self) -> Totals:
        now = self._clock.now()
        with self._lock:
            mirrors = [row.seen() for row in self._rows.values()]
        lags = [lag_seconds(mirror, now) for mirror in mirrors]
        within = {str(bound): sum(lag <= bound for lag in lags) for bound in LAG_BOUNDS}
        busy = Counter(activity(mirror, now).value for mirror in mirrors)
        counts = [mirror.lfs for mirror in mirrors]
        return Totals(
            by_health=Counter(health(mirror, now).value for mirror in mirrors),
            by_activity=busy,
            lag_within={**within, "+Inf": len(mirrors)},
            oldest_confirmed_at=earliest(
                *(mirror.confirmed_at for mirror in mirrors if mirror.paused_at is None and mirror.removing_at is None)
            ),
            due=busy["queued"],
            lfs=LfsCounts(
                sum(count.wanted for count in counts),
                sum(count.present for count in counts),
                sum(count.missing for count in counts),
                sum(count.known_missing for count in counts),
                sum(count.wanted_bytes for count in counts),
                sum(count.present_bytes for count in counts),
                sum(count.left_out for count in counts),
                sum(count.left_out_bytes for count in counts),
            ),
            mirrors=len(mirrors),
        )

    def set_paused(self, mirror_id: MirrorId, *, reason: str | None) -> None:
        with self._lock:
            row, now = self._row(mirror_id), self._clock.now()
            if reason is not None:
                since = row.mirror.paused_at if row.mirror.paused_at is not None else now
                row.mirror = replace(row.mirror, paused_at=since, paused_reason=reason)
                return
            row.mirror = replace(row.mirror, paused_at=None, paused_reason="")
            self._call(row, Due(now, Trigger.OPERATOR), None)

    def set_removing(self, mirror_id: MirrorId, *, at: float | None) -> None:
        with self._lock:
            row = self._row(mirror_id)
            row.mirror = replace(row.mirror, removing_at=at)
            if at is None:
                self._call(row, Due(self._clock.now(), Trigger.OPERATOR), None)

    def set_schedule(self, mirror_id: MirrorId, *, interval_seconds: float, objective_seconds: float) -> None:
        with self._lock:
            row = self._row(mirror_id)
            sooner_now = interval_seconds < row.mirror.interval_seconds and not row.mirror.failures
            row.mirror = replace(row.mirror, interval_seconds=interval_seconds, objective_seconds=objective_seconds)
            if sooner_now:
                self._call(row, Due(self._clock.now() + interval_seconds, Trigger.POLL), None)

    def set_class(self, mirror_id: MirrorId, class_name: str) -> None:
        with self._lock:
            row = self._row(mirror_id)
            if row.mirror.class_name != class_name:
                row.mirror = replace(row.mirror, class_name=class_name)
                self._call(row, Due(self._clock.now(), Trigger.OPERATOR), None)

    def set_visibility(self, mirror_id: MirrorId, visibility: Visibility | None) -> None:
        with self._lock:
            row = self._row(mirror_id)
            row.mirror = replace(row.mirror, visibility=visibility)

    # -- clone tokens
    def add_token(self, digest: str, *, globs: Sequence[str], expires_at: float | None, note: str) -> CloneToken:
        with self._lock:
            number = TokenId(len(self._tokens) + 1)
            made = CloneToken(number, tuple(globs), self._clock.now(), expires_at, None, printable(note))
            self._tokens[digest] = made
            return made

    def token(self, digest: str) -> CloneToken | None:
        with self._lock:
            return self._tokens.get(digest)

    def tokens(self) -> list[CloneToken]:
        with self._lock:
            return list(self._tokens.values())

    def revoke_token(self, token: TokenId) -> CloneToken:
        with self._lock:
            for digest, found in self._tokens.items():
                if found.id == token:
                    if found.revoked_at is None:
                        self._tokens[digest] = replace(found, revoked_at=self._clock.now())
                    return self._tokens[digest]
        raise NotFound(f"no clone token has the number {token}")

    def release_guard(self, mirror_id: MirrorId) -> bool:
        with self._lock:
            row = self._row(mirror_id)
            guard = row.mirror.guard
            if not guard.fingerprint:
                return False
            row.mirror = replace(row.mirror, guard=replace(guard, released=guard.fingerprint))
            return True

    def forget(self, mirror_id: MirrorId) -> None:
        with self._lock:
            row = self._rows.pop(mirror_id, None)
            self._runs = [run for run in self._runs if run.mirror != mirror_id]
            self._asked = {key: asked for key, asked in self._asked.items() if key[0] != mirror_id}
            if row is None or row.mirror.removing_at is not None:
                return
            now = self._clock.now()
            old = row.mirror
            fresh = Mirror(
                id=old.id,
                name=old.name,
                upstream=old.upstream,
                created_at=now,
                due_at=now,
                trigger=Trigger.OPERATOR,
                interval_seconds=old.interval_seconds,
                objective_seconds=old.objective_seconds,
                repository_id=old.repository_id,
                availability_since=now,
                paused_at=old.paused_at,
                paused_reason=old.paused_reason,
                class_name=old.class_name,
                visibility=old.visibility,
            )
            self._rows[mirror_id] = MirrorRow(fresh, token=row.token)

    # -- webhooks
    def accept_delivery(self, delivery: Delivery) -> bool:
        with self._lock:
            key = (delivery.provider, delivery_key(delivery))
            if any((old.provider, old.delivery_id) == key for old in self._deliveries):
                return False
            self._deliveries.append(replace(delivery, delivery_id=key[1]))
            self._counters["deliveries", event_label(delivery)] += 1
            if not calls(delivery):
                return True
            evidence_at = delivery.received_at if tells_of_change(delivery) else None
            for row in self._concerned(delivery):
                self._call(row, Due(self._clock.now(), Trigger.WEBHOOK), evidence_at)
                for ref in delivery.deleted_refs:
                    row.deletions[ref] = delivery.received_at
            return True

    def _concerned(self, delivery: Delivery) -> list[MirrorRow]:
        host, key = repository_key(delivery.clone_url)
        kept = [row for row in self._rows.values() if row.mirror.removing_at is None]
        if delivery.repository_id:
            known = [
                row
                for row in kept
                if row.mirror.repository_id == delivery.repository_id
                and host in {"", repository_key(row.mirror.upstream)[0]}
            ]
            if known:
                return known
        hinted = [row for row in kept if key and repository_key(row.mirror.upstream)[1] == key]
        for row in hinted:
            if not row.mirror.repository_id:
                row.mirror = replace(row.mirror, repository_id=delivery.repository_id)
        return hinted

    def confirmed_deletions(self, mirror_id: MirrorId) -> frozenset[RefName]:
        with self._lock:
            return frozenset(self._row(mirror_id).deletions)

    def deliveries(self, *, limit: int = 50) -> list[Delivery]:
        with self._lock:
            return self._deliveries[: -limit - 1 : -1]

    # -- hosts, housekeeping, health
    def host_blocked_until(self, host: str) -> float:
        with self._lock:
            return self._hosts.get(host, 0.0)

    def block_host(self, host: str, *, until: float) -> None:
        with self._lock:
            self._hosts[host] = max(until, self._hosts.get(host, 0.0))

    def prune(self, *, deliveries_before: float, runs_before: float) -> None:
        with self._lock:
            self._deliveries = [old for old in self._deliveries if old.received_at >= deliveries_before]
            self._runs = [run for run in self._runs if run.finished_at is None or run.finished_at >= runs_before]

    def beat(self, worker: str) -> None:
        with self._lock:
            now = self._clock.now()
            if self._latest - now > CLOCK_BACK_SECONDS:
                self._set_back(now, self._latest - now)
            self._latest = now
            self._workers[worker] = now

    def _set_back(self, now: float, by: float) -> None:
        def back(time: float) -> float:
            return time - by if time > now else time

        def back_maybe(time: float | None) -> float | None:
            return None if time is None else back(time)

        for row in self._rows.values():
            old = row.mirror
            row.mirror = replace(
                old,
                due_at=back(old.due_at),
                lease_until=back(old.lease_until),
                observed_at=back_maybe(old.observed_at),
                confirmed_at=back_maybe(old.confirmed_at),
                known_behind_since=back_maybe(old.known_behind_since),
            )
            row.chore_after = back(row.chore_after)
            row.pending = row.pending and replace(row.pending, at=back(row.pending.at))
            row.evidence = row.evidence and Evidence(back(row.evidence.first), back(row.evidence.last))
            for wanted in row.wanted.values():
                wanted.retry_at, wanted.leased_until = back(wanted.retry_at), back(wanted.leased_until)
        self._hosts = {host: back(until) for host, until in self._hosts.items()}
        for asked in self._asked.values():
            asked.asked_at, asked.asked_until = back(asked.asked_at), back(asked.asked_until)
            asked.failed_until = back(asked.failed_until)

    def workers(self) -> Mapping[str, float]:
        with self._lock:
            return dict(self._workers)

    def counters(self) -> Mapping[tuple[str, str], int]:
        with self._lock:
            return dict(self._counters)

    def identity(self) -> str:
        return self._identity

    def check(self) -> None:
        """Nothing can be wrong with lists."""

    def close(self) -> None:
        """Nothing is open."""


def waits_for_somebody(mirror: Mirror) -> bool:
    """Tell whether refs wait for more than what is being fetched behind."""
    return mirror.held_refs > 0 and (mirror.last_run is None or mirror.last_run.code != Preempted.code)
