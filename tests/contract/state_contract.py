"""What every StateStore promises."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from mirror_sync.domain.names import GitOid, LfsOid, MirrorName, RefName
from mirror_sync.domain.pointers import MAX_OBJECT_BYTES, MOST_COUNTED_BYTES, Pointer, PointerBlob
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.domain.readers import Audience, TokenId, Visibilities
from mirror_sync.domain.refs import Change, GuardState, Hold, ObjectFormat
from mirror_sync.domain.runs import (
    HISTORY_RANK,
    LAG_BOUNDS,
    TIP_RANK,
    Availability,
    Delivery,
    KeptTip,
    MirrorId,
    NewMirror,
    Outcome,
    PublishIntent,
    RefJournalEntry,
    RunId,
    RunReport,
    Step,
    Trigger,
    Visibility,
    activity,
    health,
    lag_seconds,
)
from mirror_sync.errors import Conflict, LeaseLost, NotFound
from mirror_sync.ports import MirrorFilter, StateStore
from mirror_sync.testing.clock import HandClock

LEASE = 60.0
HOUR = 3600.0
ODD_REF = RefName("refs/heads/caf\udce9-\udcff")
"""A ref whose bytes are no UTF-8."""


def git_oid(n: int) -> GitOid:
    return GitOid(f"{n:040x}")


def lfs_oid(n: int) -> LfsOid:
    return LfsOid(f"{n:064x}")


def blob(n: int, *, size: int = 10, oid: int | None = None) -> PointerBlob:
    return PointerBlob(git_oid(n), Pointer(lfs_oid(n if oid is None else oid), size))


def new(name: str = "example.org/a/b", **over) -> NewMirror:
    values = {"interval_seconds": 1800.0, "objective_seconds": 7200.0} | over
    return NewMirror(MirrorName(name), f"https://{name}.git", **values)


def report(clock, outcome: Outcome = Outcome.UNCHANGED, **over) -> RunReport:
    now = clock.now()
    values = {"started_at": now - 1, "finished_at": now, "next_due_at": now + 1800.0}
    if outcome in {Outcome.UNCHANGED, Outcome.PUBLISHED}:
        values |= {"observed_at": now - 1, "digest": "d1", "complete": True}
    return RunReport(outcome, **(values | over))


def intent(clock, *, view: int = 1, entries=None, **over) -> PublishIntent:
    values = {
        "view": view,
        "digest": "d1",
        "observed_at": clock.now(),
        "entries": (RefJournalEntry(RefName("refs/heads/main"), None, git_oid(1), Change.CREATE),)
        if entries is None
        else entries,
        "head": RefName("refs/heads/main"),
        "ref_count": 1,
        "complete": True,
    }
    return PublishIntent(**(values | over))


def delivery(n: int = 1, **over) -> Delivery:
    values = {
        "provider": "github",
        "delivery_id": f"id-{n}",
        "event": "push",
        "received_at": 1_700_000_000.0,
        "repository_id": "77",
        "clone_url": "https://example.org/A/B.git",
        "refs": (RefName("refs/heads/main"),),
    }
    return Delivery(**(values | over))


class StateContract:
    """Subclasses give ``state`` and, where a second process can open the same state, more."""

    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    def state(self, clock) -> StateStore:
        raise NotImplementedError

    # ------------------------------------------------------------ mirrors

    def test_enrol_makes_a_mirror_once(self, state, clock):
        mirror, made = state.enrol(new())
        again, made_again = state.enrol(new())
        assert made
        assert not made_again
        assert again == mirror == state.mirror(mirror.name) == state.mirror_by_id(mirror.id)
        assert mirror.due_at == mirror.created_at == clock.now()
        assert mirror.trigger is Trigger.OPERATOR

    def test_two_who_enrol_at_once_make_one(self, state):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: state.enrol(new()), range(16)))
        assert sum(made for _, made in answers) == 1
        assert len({mirror.id for mirror, _ in answers}) == 1

    def test_unknown_mirrors_are_not_found(self, state):
        with pytest.raises(NotFound):
            state.mirror(MirrorName("example.org/no/no"))
        with pytest.raises(NotFound):
            state.mirror_by_id(999)
        with pytest.raises(NotFound):
            state.mark_due(999, Trigger.POLL)

    def test_pages_are_in_name_order_and_end(self, state):
        names = sorted(f"example.org/{letter}/x" for letter in ["a", "B", "é", "z", "_", "b"])
        for name in reversed(names):
            state.enrol(new(name))
        found, cursor = [], ""
        while True:
            page = state.mirrors(MirrorFilter(), cursor=cursor, limit=2)
            found += [mirror.name for mirror in page.items]
            cursor = page.next_cursor
            if not cursor:
                break
        assert found == names

    def test_a_last_full_page_says_so(self, state):
        state.enrol(new("example.org/a/1"))
        state.enrol(new("example.org/a/2"))
        assert state.mirrors(MirrorFilter(), limit=2).next_cursor == ""
        assert state.mirrors(MirrorFilter(glob="nothing*")).items == ()

    @pytest.mark.parametrize(
        ("glob", "found"),
        [
            ("example.org/*", ["Model-1", "a[1]", "a_b", "axb", "deep/er", "x%y"]),
            ("*/deep/*", ["deep/er"]),
            ("*a_b", ["a_b"]),
            ("*a?b", ["a_b", "axb"]),
            ("*model*", []),
            ("*a[[]1]", []),
            ("*a[1]", ["a[1]"]),
            ("*x%y", ["x%y"]),
            ("*%", []),
        ],
    )
    def test_globs_cross_slashes_and_mean_nothing_else(self, state, glob, found):
        for tail in ["Model-1", "a[1]", "a_b", "axb", "deep/er", "x%y"]:
            state.enrol(new(f"example.org/{tail}"))
        page = state.mirrors(MirrorFilter(glob=glob))
        assert [mirror.name.removeprefix("example.org/") for mirror in page.items] == found

    def test_queries_ignore_case_and_wildcards(self, state):
        for tail in ["Model-1", "x%y", "a_b"]:
            state.enrol(new(f"example.org/{tail}"))
        found = {q: [m.name for m in state.mirrors(MirrorFilter(query=q)).items] for q in ("mODEL", "%", "_")}
        assert found == {"mODEL": ["example.org/Model-1"], "%": ["example.org/x%y"], "_": ["example.org/a_b"]}

    def test_totals_and_filters_follow_the_words_of_the_domain(self, state, clock):
        self._make_many(state, clock, random.Random(7), 60)
        now = clock.now()
        everything = state.mirrors(MirrorFilter(), limit=1000).items
        totals = state.totals()
        by_health = Counter(health(mirror, now).value for mirror in everything)
        by_activity = Counter(activity(mirror, now).value for mirror in everything)
        assert len(by_health) >= 6
        assert len(by_activity) == 4
        assert {word: n for word, n in totals.by_health.items() if n} == by_health
        assert {word: n for word, n in totals.by_activity.items() if n} == by_activity
        assert totals.mirrors == len(everything) == totals.lag_within["+Inf"]
        assert totals.due == by_activity["queued"]
        for bound in LAG_BOUNDS:
            assert totals.lag_within[str(bound)] == sum(lag_seconds(mirror, now) <= bound for mirror in everything)
        in_service = [m for m in everything if m.paused_at is None and m.removing_at is None]
        assert totals.oldest_confirmed_at == min(m.confirmed_at for m in in_service if m.confirmed_at is not None)
        for field in ("wanted", "present", "missing", "known_missing", "wanted_bytes", "present_bytes"):
            assert getattr(totals.lfs, field) == sum(getattr(mirror.lfs, field) for mirror in everything)
        for word in by_health:
            page = state.mirrors(MirrorFilter(health=word), limit=1000)
            assert [m.name for m in page.items] == [m.name for m in everything if health(m, now).value == word]
        held = state.mirrors(MirrorFilter(held=True), limit=1000)
        assert [m.name for m in held.items] == [m.name for m in everything if m.held_refs]
        for word in by_activity:
            page = state.mirrors(MirrorFilter(activity=word), limit=1000)
            assert [m.name for m in page.items] == [m.name for m in everything if activity(m, now).value == word]

    def test_what_is_fetched_behind_waits_for_nobody(self, state, clock):
        codes = ["MS-H005", "MS-H007"]
        for code in codes:
            mirror, _ = state.enrol(new(f"example.org/held/{code.lower()}"))
            lease = state.claim_mirror(mirror.id, "w", lease_seconds=60.0, purpose="sync")
            hold = Hold(RefName("refs/heads/main"), code, "waits")
            state.finish(lease, report(clock, Outcome.HELD, code=code, observed_at=clock.now(), holds=(hold,)))
        held = state.mirrors(MirrorFilter(held=True), limit=10)
        names = [mirror.name for mirror in held.items]
        assert names == ["example.org/held/ms-h005"]

    def _make_many(self, state, clock, chance, count):
        start = clock.now()
        for n in range(count):
            mirror, _ = state.enrol(new(f"example.org/many/{n:03}", objective_seconds=chance.choice([60.0, 1e6])))
            for _ in range(chance.randrange(5)):
                clock.advance(chance.choice([0.0, 1.0, 400.0]))
                lease = state.claim_mirror(mirror.id, "w", lease_seconds=1e6, purpose="sync")
                if chance.random() < 0.4:
                    state.add_scan(lease, [blob(n * 10 + k, size=k + 1) for k in range(4)], scanned=None)
                    state.lfs_arrived([lfs_oid(n * 10)])
                    failed = {"code": "MS-L404", "message": "no", "retry_at": clock.now() + 60}
                    missing = chance.random() < 0.7
                    state.lfs_failed(mirror.id, lfs_oid(n * 10 + 1), known_missing=missing, **failed)
                if chance.random() < 0.5:
                    run = state.intend(lease, intent(clock, complete=chance.random() < 0.6), kept=[])
                    state.settle_intent(lease, run, published=True)
                outcome = chance.choice([Outcome.UNCHANGED, Outcome.HELD, Outcome.FAILED, Outcome.FAILED])
                availability = chance.choice([*[Availability.PRESENT] * 6, Availability.GONE, Availability.DENIED])
                over = {"availability": availability, "next_due_at": clock.now() + chance.choice([-5.0, 5e5])}
                if chance.random() < 0.1:
                    break  # still syncing
                state.finish(lease, report(clock, outcome, **over))
            if chance.random() < 0.1:
                state.set_paused(mirror.id, reason="by hand")
            if chance.random() < 0.1:
                state.set_removing(mirror.id, at=start + 1e7)

    def test_paused_mirrors_are_not_claimed_until_resumed(self, state, clock):
        mirror, _ = state.enrol(new())
        state.set_paused(mirror.id, reason="moving house")
        clock.advance(5)
        state.set_paused(mirror.id, reason="still moving")
        paused = state.mirror(mirror.name)
        assert (paused.paused_at, paused.paused_reason) == (clock.now() - 5, "still moving")
        state.mark_due(mirror.id, Trigger.OPERATOR)
        assert state.claim("w", lease_seconds=LEASE) is None
        state.set_paused(mirror.id, reason=None)
        lease = state.claim("w", lease_seconds=LEASE)
        assert lease.mirror.paused_at is None
        assert lease.trigger is Trigger.OPERATOR

    def test_a_mirror_being_removed_is_found_not_synced_and_taken_back(self, state, clock):
        mirror, _ = state.enrol(new())
        state.set_removing(mirror.id, at=clock.now() + HOUR)
        assert state.mirror(mirror.name).removing_at == clock.now() + HOUR
        assert state.claim("w", lease_seconds=LEASE) is None
        assert state.claim_removal("w", lease_seconds=LEASE) is None
        back, made = state.enrol(new())
        assert (back.id, back.removing_at, made) == (mirror.id, None, False)
        assert state.claim("w", lease_seconds=LEASE).mirror.id == mirror.id

    def test_removal_is_claimed_when_its_time_has_come_and_retried(self, state, clock):
        mirror, _ = state.enrol(new())
        state.set_removing(mirror.id, at=clock.now() + HOUR)
        clock.advance(HOUR)
        lease = state.claim_removal("w", lease_seconds=LEASE)
        assert lease.mirror.id == mirror.id
        assert state.claim_removal("w", lease_seconds=LEASE) is None
        state.release(lease)
        assert state.claim_removal("w", lease_seconds=LEASE) is None, "a failed removal is not retried at once"
        clock.advance(HOUR)
        assert state.claim_removal("w", lease_seconds=LEASE).mirror.id == mirror.id

    def test_forget_deletes_everything_of_one_mirror(self, state, clock):
        keep, _ = state.enrol(new("example.org/keep/it"))
        gone, _ = state.enrol(new("example.org/gone/it"))
        for mirror in (keep, gone):
            lease = state.claim_mirror(mirror.id, "w", lease_seconds=LEASE, purpose="sync")
            state.add_scan(lease, [blob(1), blob(2)], scanned=frozenset({git_oid(5)}))
            tip = KeptTip(RunId(0), ODD_REF, git_oid(9), clock.now(), clock.now() + HOUR)
            run = state.intend(lease, intent(clock), kept=[tip])
            state.settle_intent(lease, run, published=True)
            state.finish(lease, report(clock, Outcome.PUBLISHED))
            state.accept_delivery(
                delivery(mirror.id, repository_id="", clone_url=mirror.upstream, deleted_refs=(ODD_REF,))
            )
        lease = state.claim_mirror(gone.id, "w", lease_seconds=LEASE, purpose="removal")
        state.set_removing(gone.id, at=clock.now())
        state.forget(gone.id)
        with pytest.raises(NotFound):
            state.mirror(gone.name)
        with pytest.raises(LeaseLost):
            state.confirm(lease)
        state.release(lease)
        assert state.runs(gone.id) == []
        assert len(state.runs(keep.id)) == 1
        assert len(state.kept_tips(keep.id)) == 1
        assert len(state.ref_journal(keep.id)) == 1
        assert state.lfs_refers(keep.id, [lfs_oid(1)]) == {lfs_oid(1): 10}
        assert state.confirmed_deletions(keep.id) == {ODD_REF}
        again, made = state.enrol(new("example.org/gone/it"))
        assert made
        assert again.id != gone.id
        assert state.known_pointers(again.id) == {}
        assert state.scanned_tips(again.id) == frozenset()
        assert state.kept_tips(again.id) == []
        assert state.ref_journal(again.id) == []
        state.forget(gone.id)

    def test_a_mirror_taken_back_while_its_data_was_deleted_begins_anew(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        run = state.intend(lease, intent(clock), kept=[])
        state.settle_intent(lease, run, published=True)
        state.finish(lease, report(clock, Outcome.PUBLISHED))
        state.set_removing(mirror.id, at=clock.now())
        removal = state.claim_removal("w", lease_seconds=LEASE)
        state.enrol(new())
        state.forget(mirror.id)
        state.release(removal)
        after = state.mirror(mirror.name)
        assert (after.id, after.view, after.published_at, after.confirmed_at) == (mirror.id, 0, None, None)
        assert (after.confirmed_digest, after.ref_count, after.removing_at) == ("", 0, None)
        assert state.claim("w", lease_seconds=LEASE).token > removal.token

    def test_a_shorter_interval_moves_the_next_poll(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock, next_due_at=clock.now() + 10 * HOUR))
        state.set_schedule(mirror.id, interval_seconds=300.0, objective_seconds=900.0)
        after = state.mirror(mirror.name)
        assert (after.interval_seconds, after.objective_seconds) == (300.0, 900.0)
        assert after.due_at == clock.now() + 300.0
        state.set_schedule(mirror.id, interval_seconds=7200.0, objective_seconds=900.0)
        assert state.mirror(mirror.name).due_at == clock.now() + 300.0

    # ------------------------------------------------------------ who may read

    def test_a_mirrors_own_visibility_is_kept_and_can_be_taken_back(self, state):
        plain, _ = state.enrol(new("example.org/a/plain"))
        held, _ = state.enrol(new("example.org/a/held", visibility=Visibility.TOKEN))
        assert (plain.visibility, held.visibility) == (None, Visibility.TOKEN)
        state.set_visibility(plain.id, Visibility.NONE)
        state.set_visibility(held.id, None)
        assert (state.mirror(plain.name).visibility, state.mirror(held.name).visibility) == (Visibility.NONE, None)

    def test_a_removed_mirror_taken_back_keeps_its_visibility_unless_another_is_named(self, state, clock):
        mirror, _ = state.enrol(new(visibility=Visibility.TOKEN))
        state.set_removing(mirror.id, at=clock.now() + HOUR)
        assert state.enrol(new())[0].visibility is Visibility.TOKEN
        state.set_removing(mirror.id, at=clock.now() + HOUR)
        assert state.enrol(new(visibility=Visibility.NONE))[0].visibility is Visibility.NONE

    def test_a_mirror_forgotten_while_it_is_wanted_again_keeps_its_visibility(self, state, clock):
        mirror, _ = state.enrol(new(visibility=Visibility.TOKEN))
        state.forget(mirror.id)
        assert state.mirror(mirror.name).visibility is Visibility.TOKEN

    def test_whether_upstream_shows_a_mirror_is_noted_under_the_fence(self, state, clock):
        mirror, _ = state.enrol(new())
        assert mirror.shown_upstream is None
        lease = state.claim("w", lease_seconds=LEASE)
        for shown in (True, False, False):
            state.note_shown(lease, shown=shown)
            assert state.mirror(mirror.name).shown_upstream is shown
        state.finish(lease, report(clock, Outcome.FAILED))
        assert state.mirror(mirror.name).shown_upstream is False
        with pytest.raises(LeaseLost):
            state.note_shown(lease, shown=True)
        assert state.mirror(mirror.name).shown_upstream is False

    def test_lists_name_to_an_audience_only_what_it_may_see(self, state):
        of_class = {"held": Visibility.TOKEN, "shut": Visibility.NONE}
        words = [None, *Visibility]
        for word in words:
            for class_name in ("", "held", "shut", "unknown"):
                name = f"example.org/{class_name or 'plain'}/{word or 'silent'}"
                state.enrol(new(name, class_name=class_name, visibility=word))
        for number in range(0, len(words) * 4, 3):  # some are hidden upstream, some are known to be shown
            lease = state.claim("w", lease_seconds=LEASE)
            state.note_shown(lease, shown=number % 2 == 0)
        every = state.mirrors(MirrorFilter(), limit=100).items
        seen = set()
        for general in Visibility:
            for globs in ((), ("example.org/held/*",), ("example.org/plain/t?ken", "*/unknown/silent")):
                audience = Audience(Visibilities(general, of_class), globs)
                told = [mirror.name for mirror in state.mirrors(MirrorFilter(audience=audience), limit=100).items]
                assert told == [mirror.name for mirror in every if audience.may_see(mirror)], (general, globs)
                seen.add(tuple(told))
        assert len(seen) > 4

    def test_lists_name_what_upstream_closed(self, state):
        of_class = {"held": Visibility.TOKEN}
        for number, word in enumerate((None, Visibility.PUBLIC, Visibility.OPEN, Visibility.TOKEN)):
            for class_name in ("", "held"):
                state.enrol(
                    new(f"example.org/a/{class_name or 'plain'}{number}", class_name=class_name, visibility=word)
                )
        while lease := state.claim("w", lease_seconds=LEASE):
            if not lease.mirror.name.endswith("held1"):  # nobody asked about that one
                state.note_shown(lease, shown=False)
        rules = Visibilities(Visibility.PUBLIC, of_class)
        closed = state.mirrors(MirrorFilter(closed_by=rules)).items
        assert [m.name for m in closed] == [m.name for m in state.mirrors(MirrorFilter()).items if rules.closes(m)]
        assert [m.name[-6:] for m in closed] == ["plain0", "plain1"]
        narrower = MirrorFilter(closed_by=Visibilities(Visibility.NONE, of_class))
        assert [m.name[-6:] for m in state.mirrors(narrower).items] == ["plain1"]

    def test_lists_for_an_audience_have_full_pages(self, state):
        for number in range(9):
            state.enrol(new(f"example.org/a/{number}", visibility=None if number % 3 == 0 else Visibility.NONE))
        which = MirrorFilter(audience=Audience())
        first = state.mirrors(which, limit=2)
        assert [mirror.name[-1] for mirror in first.items] == ["0", "3"]
        assert [mirror.name[-1] for mirror in state.mirrors(which, cursor=first.next_cursor, limit=2).items] == ["6"]

    def test_a_token_is_found_by_its_digest_alone_and_can_be_revoked_once(self, state, clock):
        assert state.tokens() == []
        one = state.add_token("d" * 64, globs=["a.example/*", "é/*"], expires_at=clock.now() + HOUR, note="CI \x1b")
        two = state.add_token("e" * 64, globs=["*"], expires_at=None, note="")
        assert (one.globs, one.note, one.created_at) == (("a.example/*", "é/*"), "CI \\x1b", clock.now())
        assert state.token("d" * 64) == one
        assert state.token("f" * 64) is None
        assert state.tokens() == [one, two]
        revoked = state.revoke_token(one.id)
        assert revoked.revoked_at == clock.now()
        clock.advance(5)
        assert state.revoke_token(one.id) == revoked
        assert state.token("d" * 64) == revoked
        with pytest.raises(NotFound):
            state.revoke_token(TokenId(99))

    # ------------------------------------------------------------ classes, progress, who waits

    def test_a_mirror_has_a_class_that_lists_go_by(self, state):
        plain, _ = state.enrol(new("example.org/a/plain"))
        small, _ = state.enrol(new("example.org/a/small", class_name="small"))
        assert (plain.class_name, small.class_name) == ("", "small")
        assert [m.name for m in state.mirrors(MirrorFilter(class_name="small")).items] == [small.name]
        state.set_class(plain.id, "small")
        assert {m.name for m in state.mirrors(MirrorFilter(class_name="small")).items} == {plain.name, small.name}
        state.enrol(new("example.org/a/odd", class_name="odd"))
        assert state.classes() == {"odd": 1, "small": 2}
        state.set_class(small.id, "")
        assert state.mirror(small.name).class_name == ""

    def test_a_change_of_class_makes_a_mirror_due(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        state.set_class(mirror.id, "")
        assert state.claim("w", lease_seconds=LEASE) is None
        state.set_class(mirror.id, "small")
        assert state.claim("w", lease_seconds=LEASE).trigger is Trigger.OPERATOR

    def test_a_removed_mirror_taken_back_keeps_its_class_unless_another_is_named(self, state, clock):
        mirror, _ = state.enrol(new(class_name="small"))
        state.set_removing(mirror.id, at=clock.now() + HOUR)
        assert state.enrol(new())[0].class_name == "small"
        state.set_removing(mirror.id, at=clock.now() + HOUR)
        state.enrol(new(class_name="large"))
        assert state.mirror(mirror.name).class_name == "large"

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(Kind.LFS, Way.PARTS, 1, 2**45, 3, 4.5, 8, 2, 1, 7, ("a.example", "b.example:8443"), 5.25, 6.5),
            Progress(Kind.GIT, Way.GRAPH, 0, None, 0, 0.0, 1, 0),
        ],
    )
    def test_progress_is_read_as_it_was_told(self, state, progress):
        mirror, _ = state.enrol(new())
        assert mirror.progress is None
        state.note_progress(mirror.id, progress)
        assert state.mirror(mirror.name).progress == progress
        state.note_progress(mirror.id, None)
        assert state.mirror(mirror.name).progress is None

    def test_mirrors_that_move_are_listed(self, state):
        progress = Progress(Kind.GIT, Way.PLAIN, 0, None, 0, 0.0, 1, 0)
        still, _ = state.enrol(new("example.org/a/still"))
        moving, _ = state.enrol(new("example.org/a/moving"))
        state.note_progress(moving.id, progress)
        state.note_progress(still.id, progress)
        state.note_progress(still.id, None)
        assert [item.name for item in state.mirrors(MirrorFilter(moving=True)).items] == [moving.name]

    def test_progress_of_an_unknown_mirror_is_nobodys(self, state):
        state.note_progress(999, Progress(Kind.GIT, Way.PLAIN, 0, None, 0, 0.0, 1, 0))
        assert state.totals().mirrors == 0

    def test_progress_ends_with_its_run(self, state, clock):
        mirror, _ = state.enrol(new())
        progress = Progress(Kind.GIT, Way.PLAIN, 0, None, 0, 0.0, 1, 0)
        lease = state.claim("w", lease_seconds=LEASE)
        state.note_progress(mirror.id, progress)
        run = state.intend(lease, intent(clock), kept=())
        state.settle_intent(lease, run, published=True)
        assert state.mirror(mirror.name).progress == progress
        state.finish(lease, report(clock))
        assert state.mirror(mirror.name).progress is None
        lease = state.claim_mirror(mirror.id, "w", lease_seconds=LEASE, purpose="sweep")
        state.note_progress(mirror.id, progress)
        state.release(lease)
        assert state.mirror(mirror.name).progress is None

    def test_progress_of_a_dead_worker_ends_with_the_next_lease(self, state, clock):
        mirror, _ = state.enrol(new())
        state.claim("w", lease_seconds=LEASE)
        state.note_progress(mirror.id, Progress(Kind.GIT, Way.PLAIN, 0, None, 0, 0.0, 1, 0))
        clock.advance(LEASE + 1)
        assert state.claim("w", lease_seconds=LEASE).mirror.progress is None
        assert state.mirror(mirror.name).progress is None

    @pytest.mark.parametrize("trigger", list(Trigger))
    def test_a_run_is_awaited_once_its_mirror_is_made_due_again(self, state, clock, trigger):
        mirror, _ = state.enrol(new())
        other, _ = state.enrol(new("example.org/a/other"))
        lease = state.claim("w", lease_seconds=LEASE)
        assert lease.mirror.id == mirror.id
        state.mark_due(other.id, trigger)
        assert not state.awaited(lease)
        state.mark_due(mirror.id, trigger, at=clock.now() + 10)
        assert not state.awaited(lease)
        clock.advance(10)
        assert state.awaited(lease) is True

    def test_nobody_awaits_a_run_that_is_over(self, state, clock):
        mirror, _ = state.enrol(new())
        old = state.claim("w", lease_seconds=LEASE)
        state.mark_due(mirror.id, Trigger.WEBHOOK)
        assert state.awaited(old) is True
        state.finish(old, report(clock))
        assert not state.awaited(old)
        again = state.claim("w", lease_seconds=LEASE)
        state.mark_due(mirror.id, Trigger.WEBHOOK)
        assert state.awaited(again) is True
        assert not state.awaited(old)

    # ------------------------------------------------------------ due times

    def test_claims_go_operator_webhook_poll_then_oldest(self, state, clock):
        ids = [state.enrol(new(f"example.org/o/{n}", trigger=Trigger.POLL))[0].id for n in range(5)]
        for mirror_id in ids:
            state.finish(state.claim_mirror(mirror_id, "w", lease_seconds=LEASE, purpose="sync"), report(clock))
        assert state.claim("w", lease_seconds=LEASE) is None
        clock.advance(1)
        now = clock.now()
        state.mark_due(ids[0], Trigger.POLL, at=now - 30)
        state.mark_due(ids[1], Trigger.POLL, at=now - 40)
        state.mark_due(ids[2], Trigger.WEBHOOK, at=now - 10)
        state.mark_due(ids[3], Trigger.OPERATOR, at=now)
        state.mark_due(ids[4], Trigger.WEBHOOK, at=now + 1)
        leases = [state.claim("w", lease_seconds=LEASE) for _ in range(4)]
        assert [lease.mirror.id for lease in leases] == [ids[3], ids[2], ids[1], ids[0]]
        assert [lease.trigger.value for lease in leases] == ["operator", "webhook", "poll", "poll"]
        assert state.claim("w", lease_seconds=LEASE) is None

    def test_marks_only_bring_forward_and_merge(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock, next_due_at=clock.now() + 100))
        state.mark_due(mirror.id, Trigger.OPERATOR, at=clock.now() + 200)
        assert (state.mirror(mirror.name).due_at, state.mirror(mirror.name).trigger) == (
            clock.now() + 100,
            Trigger.POLL,
        )
        for _ in range(20):
            state.mark_due(mirror.id, Trigger.WEBHOOK)
        state.mark_due(mirror.id, Trigger.OPERATOR, at=clock.now() + 50)
        state.mark_due(mirror.id, Trigger.POLL, at=clock.now())
        lease = state.claim("w", lease_seconds=LEASE)
        assert lease.trigger is Trigger.WEBHOOK
        state.finish(lease, report(clock))
        assert state.claim("w", lease_seconds=LEASE) is None

    def test_marks_during_a_sync_make_exactly_one_more(self, state, clock):
        mirror, _ = state.enrol(new())
        first = state.claim("w", lease_seconds=LEASE)
        for _ in range(50):
            state.mark_due(mirror.id, Trigger.WEBHOOK)
        state.mark_due(mirror.id, Trigger.OPERATOR)
        assert state.claim("w2", lease_seconds=LEASE) is None
        clock.advance(5)
        state.finish(first, report(clock))
        second = state.claim("w", lease_seconds=LEASE)
        assert second.trigger is Trigger.OPERATOR
        state.finish(second, report(clock))
        assert state.claim("w", lease_seconds=LEASE) is None
        assert state.mirror(mirror.name).due_at == clock.now() + 1800

    def test_a_later_mark_during_a_sync_loses_to_an_earlier_poll(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        state.mark_due(mirror.id, Trigger.POLL, at=clock.now() + 2 * HOUR)
        state.finish(lease, report(clock))
        assert state.mirror(mirror.name).due_at == clock.now() + 1800

    def test_marks_during_maintenance_are_simply_due(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        lease = state.claim_mirror(mirror.id, "w", lease_seconds=LEASE, purpose="maintenance")
        state.mark_due(mirror.id, Trigger.WEBHOOK)
        assert state.claim("w2", lease_seconds=LEASE) is None
        state.release(lease)
        assert state.claim("w2", lease_seconds=LEASE).trigger is Trigger.WEBHOOK

    # ------------------------------------------------------------ evidence and lag

    def test_evidence_starts_known_behind_and_a_complete_run_ends_it(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        clock.advance(100)
        told = clock.now()
        state.mark_due(mirror.id, Trigger.WEBHOOK, evidence_at=told)
        clock.advance(5)
        state.mark_due(mirror.id, Trigger.WEBHOOK, evidence_at=clock.now())
        assert state.mirror(mirror.name).known_behind_since == told
        lease = state.claim("w", lease_seconds=LEASE)
        assert lease.evidence_at == told
        clock.advance(5)
        state.finish(lease, report(clock))
        after = state.mirror(mirror.name)
        assert after.known_behind_since is None
        assert after.confirmed_at == clock.now() - 1
        state.mark_due(mirror.id, Trigger.OPERATOR)
        assert state.claim("w", lease_seconds=LEASE).evidence_at is None

    def test_evidence_that_came_after_the_observation_stays(self, state, clock):
        mirror, _ = state.enrol(new())
        clock.advance(10)
        state.mark_due(mirror.id, Trigger.WEBHOOK, evidence_at=clock.now())
        lease = state.claim("w", lease_seconds=LEASE)
        clock.advance(1)
        observed = clock.now()
        clock.advance(3)
        later = clock.now()
        state.mark_due(mirror.id, Trigger.WEBHOOK, evidence_at=later)
        clock.advance(1)
        state.finish(lease, report(clock, observed_at=observed))
        after = state.mirror(mirror.name)
        assert (after.confirmed_at, after.known_behind_since) == (observed, later)
        assert state.claim("w", lease_seconds=LEASE).evidence_at == later

    def test_evidence_older_than_what_is_confirmed_proves_nothing(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        clock.advance(60)
        state.mark_due(mirror.id, Trigger.WEBHOOK, evidence_at=clock.now() - 3600)
        assert state.mirror(mirror.name).known_behind_since is None
        assert state.claim("w", lease_seconds=LEASE).evidence_at is None

    def test_incomplete_runs_keep_the_earliest_evidence(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        first = clock.now()
        state.note_behind(lease, observed_at=first)
        state.note_behind(lease, observed_at=first + 5)
        assert state.mirror(mirror.name).known_behind_since == first
        clock.advance(20)
        state.finish(lease, report(clock, Outcome.HELD, observed_at=first + 10, evidence_at=first + 10))
        after = state.mirror(mirror.name)
        assert (after.known_behind_since, after.confirmed_at, after.observed_at) == (first, None, first + 10)

    def test_confirmed_time_never_goes_back(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock, observed_at=clock.now(), digest="new"))
        state.mark_due(mirror.id, Trigger.OPERATOR)
        confirmed = clock.now()
        lease = state.claim("w", lease_seconds=LEASE)
        state.finish(lease, report(clock, observed_at=confirmed - 50, digest="old"))
        after = state.mirror(mirror.name)
        assert (after.confirmed_at, after.confirmed_digest, after.observed_at) == (confirmed, "new", confirmed)

    # ------------------------------------------------------------ leases

    def test_a_lease_keeps_others_out_until_it_lapses(self, state, clock):
        mirror, _ = state.enrol(new())
        first = state.claim("one", lease_seconds=LEASE)
        assert (first.worker, first.until, first.purpose) == ("one", clock.now() + LEASE, "sync")
        seen = state.mirror(mirror.name)
        assert (seen.leased_by, seen.lease_until, seen.run_step) == ("one", clock.now() + LEASE, Step.OBSERVE)
        assert state.claim("two", lease_seconds=LEASE) is None
        assert state.claim_mirror(mirror.id, "two", lease_seconds=LEASE, purpose="sweep") is None
        clock.advance(LEASE - 1)
        assert state.claim("two", lease_seconds=LEASE) is None
        clock.advance(1)
        second = state.claim("two", lease_seconds=LEASE)
        assert second.mirror.id == mirror.id
        assert second.token > first.token

    def test_an_owner_past_its_lease_changes_nothing(self, state, clock):
        mirror, _ = state.enrol(new())
        late = state.claim("late", lease_seconds=LEASE)
        run = state.intend(late, intent(clock), kept=[])
        clock.advance(LEASE)
        before = state.mirror(mirror.name)
        self._refused(state, clock, late, run)
        assert state.mirror(mirror.name) == before
        taker = state.claim("taker", lease_seconds=LEASE)
        between = state.mirror(mirror.name)
        self._refused(state, clock, late, run)
        state.release(late)
        assert state.mirror(mirror.name) == between
        assert state.open_intent(mirror.id) == (run, intent(clock, observed_at=clock.now() - LEASE))
        state.settle_intent(taker, run, published=False)
        state.finish(taker, report(clock))
        ended = state.mirror(mirror.name)
        self._refused(state, clock, late, run)
        self._refused(state, clock, taker, run)
        assert state.mirror(mirror.name) == ended
        assert state.ref_journal(mirror.id) == []

    def _refused(self, state, clock, lease, run):
        for change in (
            lambda: state.confirm(lease),
            lambda: state.renew(lease, lease_seconds=LEASE),
            lambda: state.note_step(lease, Step.FETCH),
            lambda: state.note_behind(lease, observed_at=1.0),
            lambda: state.intend(lease, intent(clock, view=7), kept=[]),
            lambda: state.settle_intent(lease, run, published=True),
            lambda: state.finish(lease, report(clock, Outcome.PUBLISHED)),
            lambda: state.add_scan(lease, [blob(1)], scanned=frozenset({git_oid(1)})),
            lambda: state.add_scan(lease, [], scanned=None),
            lambda: state.drop_kept(lease, expired_before=clock.now()),
            lambda: state.replace_references(lease, frozenset()),
        ):
            with pytest.raises(LeaseLost):
                change()
        assert state.known_pointers(lease.mirror.id) == {}

    def test_renewed_leases_last(self, state, clock):
        state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        for _ in range(5):
            clock.advance(LEASE / 2)
            state.renew(lease, lease_seconds=LEASE)
        state.confirm(lease)
        assert state.claim("two", lease_seconds=LEASE) is None

    def test_steps_are_shown_while_the_run_is_on(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        state.note_step(lease, Step.TRANSFER, "3 of 7")
        seen = state.mirror(mirror.name)
        assert (seen.run_step, seen.run_detail) == (Step.TRANSFER, "3 of 7")
        state.finish(lease, report(clock))
        seen = state.mirror(mirror.name)
        assert (seen.run_step, seen.run_detail, seen.leased_by, seen.lease_until) == (None, "", "", 0.0)

    def test_an_unfinished_run_is_recorded_as_abandoned(self, state, clock):
        mirror, _ = state.enrol(new())
        state.claim("dead", lease_seconds=LEASE)
        state.mark_due(mirror.id, Trigger.WEBHOOK, evidence_at=clock.now())
        clock.advance(LEASE + 5)
        lease = state.claim("alive", lease_seconds=LEASE)
        assert lease.trigger is Trigger.OPERATOR
        assert lease.evidence_at == clock.now() - LEASE - 5
        (run,) = state.runs(mirror.id)
        assert (run.outcome, run.code, run.started_at, run.finished_at) == (
            Outcome.ABANDONED,
            "MS-R500",
            clock.now() - LEASE - 5,
            clock.now(),
        )
        assert lease.mirror.last_run.outcome is Outcome.ABANDONED
        state.finish(lease, report(clock))
        assert len(state.runs(mirror.id)) == 1
        assert state.counters()["runs", "abandoned"] == 1
        assert state.mirror(mirror.name).failures == 0
        assert state.claim("alive", lease_seconds=LEASE) is None, "the dead run's mark was merged into the next run"

    def test_an_abandoned_run_that_published_keeps_its_record(self, state, clock):
        mirror, _ = state.enrol(new())
        dead = state.claim("dead", lease_seconds=LEASE)
        run = state.intend(dead, intent(clock), kept=[])
        clock.advance(LEASE)
        lease = state.claim("alive", lease_seconds=LEASE)
        assert [(r.id, r.outcome) for r in state.runs(mirror.id)] == [(run, Outcome.ABANDONED)]
        assert state.open_intent(mirror.id)[0] == run
        state.settle_intent(lease, run, published=True)
        assert state.mirror(mirror.name).view == 1
        assert [(r.id, r.outcome, r.ref_updates) for r in state.runs(mirror.id)] == [(run, Outcome.ABANDONED, 1)]
        other = state.intend(lease, intent(clock, view=2), kept=[])
        assert other != run

    def test_maintenance_goes_to_mirrors_with_publishes(self, state, clock):
        mirror, _ = state.enrol(new())
        ask = {"lease_seconds": LEASE, "publishes": 2, "before": 0.0}
        assert state.claim_maintenance("w", **ask) is None
        self._publish(state, clock, mirror.id, views=[1])
        assert state.claim_maintenance("w", **ask) is None
        self._publish(state, clock, mirror.id, views=[2])
        lease = state.claim_maintenance("w", **ask)
        assert (lease.mirror.id, lease.purpose) == (mirror.id, "maintenance")
        assert state.claim_maintenance("w", **ask) is None
        state.release(lease, maintained=True, git_bytes=12345)
        after = state.mirror(mirror.name)
        assert (after.git_bytes, after.maintained_at, after.publishes_since_maintenance) == (12345, clock.now(), 0)
        assert state.claim_maintenance("w", **ask | {"before": clock.now() + 1}) is None
        self._publish(state, clock, mirror.id, views=[3])
        assert state.claim_maintenance("w", **ask) is None
        lease = state.claim_maintenance("w", **ask | {"before": clock.now() + 1})
        state.release(lease)
        again = ask | {"before": clock.now() + 1}
        assert state.claim_maintenance("w", **again) is None, "failed maintenance is not retried at once"
        clock.advance(2 * HOUR)
        assert state.claim_maintenance("w", **again).mirror.id == mirror.id
        state.set_paused(mirror.id, reason="x")

    def _publish(self, state, clock, mirror_id, *, views):
        lease = state.claim_mirror(mirror_id, "w", lease_seconds=LEASE, purpose="sync")
        for view in views:
            run = state.intend(lease, intent(clock, view=view), kept=[])
            state.settle_intent(lease, run, published=True)
        state.finish(lease, report(clock, Outcome.PUBLISHED, ref_updates=len(views)))

    def test_many_who_claim_get_each_mirror_once(self, state):
        ids = {state.enrol(new(f"example.org/race/{n:03}"))[0].id for n in range(200)}
        taken = []

        def work(worker):
            while (lease := state.claim(worker, lease_seconds=1e6)) is not None:
                taken.append(lease.mirror.id)

        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 200
        assert set(taken) == ids

    # ------------------------------------------------------------ runs

    def test_an_unchanged_run_leaves_no_record_of_its_own(self, state, clock):
        mirror, _ = state.enrol(new())
        for _ in range(3):
            state.mark_due(mirror.id, Trigger.POLL)
            state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        after = state.mirror(mirror.name)
        assert state.runs(mirror.id) == []
        assert (after.unchanged_polls, after.last_run.outcome) == (3, Outcome.UNCHANGED)
        assert state.counters()["runs", "unchanged"] == 3

    def test_failures_count_until_a_run_succeeds(self, state, clock):
        mirror, _ = state.enrol(new())
        for n in (1, 2):
            clock.advance(100)
            lease = state.claim("w", lease_seconds=LEASE)
            state.finish(
                lease,
                report(clock, Outcome.FAILED, code="MS-U503", message="no answer", next_due_at=clock.now() + 50),
            )
            assert state.mirror(mirror.name).failures == n
        last = state.mirror(mirror.name).last_run
        assert (last.code, last.message, last.outcome) == ("MS-U503", "no answer", Outcome.FAILED)
        runs = state.runs(mirror.id)
        assert [run.outcome for run in runs] == [Outcome.FAILED] * 2
        assert runs[0].id > runs[1].id
        assert state.runs(mirror.id, before=runs[0].id) == [runs[1]]
        assert state.runs(mirror.id, limit=1) == [runs[0]]
        clock.advance(100)
        lease = state.claim("w", lease_seconds=LEASE)
        state.finish(lease, report(clock, Outcome.ABANDONED, code="MS-R503"))
        assert state.mirror(mirror.name).failures == 2
        clock.advance(1800)
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        assert state.mirror(mirror.name).failures == 0
        counters = state.counters()
        assert (counters["runs", "failed"], counters["runs", "unchanged"]) == (2, 1)

    def test_a_report_is_stored_whole(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        holds = tuple(Hold(RefName(f"refs/heads/{n}"), "MS-L404", "waits") for n in range(150))
        holds = (Hold(ODD_REF, "MS-H001", "odd"), *holds)
        guard = GuardState("f" * 64, 2, clock.now(), "")
        clock.advance(3)
        state.finish(
            lease,
            report(
                clock, Outcome.HELD, observed_at=clock.now() - 2, digest="d", code="MS-H001", message="one waits",
                availability=Availability.GONE, absent_answers=3, guard=guard, holds=holds, notes=("odd \udcff", "é"),
                moved_to="https://example.org/new/name.git", object_format=ObjectFormat.SHA256, git_bytes=2**40,
                ref_updates=5, fetched_bytes=2**33, lfs_bytes=7,
            ),
        )  # fmt: skip
        after = state.mirror(mirror.name)
        assert after.holds == holds[:100]
        assert after.held_refs == 151
        assert after.guard == guard
        assert after.notes == ("odd \udcff", "é")
        assert (after.availability, after.availability_since, after.absent_answers) == (
            Availability.GONE,
            clock.now(),
            3,
        )
        assert (after.upstream, after.object_format, after.git_bytes) == (
            "https://example.org/new/name.git",
            ObjectFormat.SHA256,
            2**40,
        )
        (run,) = state.runs(mirror.id)
        assert (run.ref_updates, run.fetched_bytes, run.lfs_bytes, run.trigger) == (5, 2**33, 7, Trigger.OPERATOR)
        counters = state.counters()
        assert (counters["fetched_bytes", "git"], counters["fetched_bytes", "lfs"]) == (2**33, 7)
        state.mark_due(mirror.id, Trigger.POLL)
        lease = state.claim("w", lease_seconds=LEASE)
        assert lease.mirror.holds == holds[:100]
        state.finish(lease, report(clock, Outcome.FAILED, availability=Availability.GONE, absent_answers=3))
        kept = state.mirror(mirror.name)
        assert (kept.notes, kept.holds, kept.held_refs, kept.guard) == (after.notes, after.holds, 151, guard)
        assert kept.availability_since == after.availability_since

    def test_a_released_guard_lets_the_next_run_through(self, state, clock):
        mirror, _ = state.enrol(new())
        assert not state.release_guard(mirror.id)
        held = GuardState("f" * 64, 1, clock.now(), "")
        lease = state.claim("w", lease_seconds=LEASE)
        state.finish(lease, report(clock, Outcome.HELD, observed_at=clock.now(), guard=held))
        assert state.release_guard(mirror.id)
        state.mark_due(mirror.id, Trigger.OPERATOR)
        lease = state.claim("w", lease_seconds=LEASE)
        assert lease.mirror.guard == replace(held, released="f" * 64)
        state.finish(lease, report(clock))
        assert state.mirror(mirror.name).guard == GuardState()

    def test_a_guard_released_during_a_run_stays_released(self, state, clock):
        mirror, _ = state.enrol(new())
        held = GuardState("f" * 64, 1, clock.now(), "")
        state.finish(
            state.claim("w", lease_seconds=LEASE), report(clock, Outcome.HELD, observed_at=clock.now(), guard=held)
        )
        state.mark_due(mirror.id, Trigger.POLL)
        lease = state.claim("w", lease_seconds=LEASE)
        state.release_guard(mirror.id)
        state.finish(lease, report(clock, Outcome.HELD, observed_at=clock.now(), guard=held))
        assert state.mirror(mirror.name).guard.released == "f" * 64

    # ------------------------------------------------------------ publishing

    def test_a_publish_is_announced_then_recorded(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        entries = (
            RefJournalEntry(RefName("refs/heads/main"), git_oid(1), git_oid(2), Change.FAST_FORWARD),
            RefJournalEntry(ODD_REF, git_oid(3), git_oid(4), Change.FORCED),
            RefJournalEntry(RefName("refs/heads/gone"), git_oid(5), None, Change.DELETE),
            RefJournalEntry(RefName("refs/tags/new"), None, GitOid("ab" * 32), Change.CREATE),
        )
        asked = intent(clock, view=4, entries=entries, head=ODD_REF, ref_count=9)
        run = state.intend(lease, asked, kept=[])
        assert state.open_intent(mirror.id) == (run, asked)
        assert state.ref_journal(mirror.id) == []
        assert state.mirror(mirror.name).view == 0
        clock.advance(2)
        state.settle_intent(lease, run, published=True)
        assert state.open_intent(mirror.id) is None
        state.settle_intent(lease, run, published=True)
        after = state.mirror(mirror.name)
        assert (after.view, after.head, after.ref_count, after.published_at) == (4, ODD_REF, 9, clock.now())
        assert (after.confirmed_at, after.confirmed_digest) == (asked.observed_at, "d1")
        assert after.publishes_since_maintenance == 1
        rows = state.ref_journal(mirror.id)
        assert [row[3] for row in rows] == list(reversed(entries))
        assert {(row[1], row[2]) for row in rows} == {(clock.now(), run)}
        counters = state.counters()
        assert [counters["ref_updates", change.value] for change in Change] == [1, 1, 1, 1]

    def test_a_dropped_intent_leaves_nothing(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        tip = KeptTip(RunId(0), RefName("refs/heads/x"), git_oid(1), clock.now(), clock.now() + HOUR)
        run = state.intend(lease, intent(clock), kept=[tip])
        assert state.kept_tips(mirror.id) == [replace(tip, run=run)], "protected as soon as it is announced"
        state.settle_intent(lease, run, published=False)
        assert state.open_intent(mirror.id) is None
        assert state.kept_tips(mirror.id) == []
        assert state.ref_journal(mirror.id) == []
        assert state.mirror(mirror.name).published_at is None
        assert ("ref_updates", "create") not in state.counters()

    def test_one_run_publishes_in_rounds(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        runs = []
        for view in (1, 2, 3):
            clock.advance(1)
            entry = RefJournalEntry(RefName(f"refs/heads/{view}"), None, git_oid(view), Change.CREATE)
            runs.append(state.intend(lease, intent(clock, view=view, entries=(entry,), complete=view == 3), kept=[]))
            state.settle_intent(lease, runs[-1], published=True)
            assert (state.mirror(mirror.name).confirmed_at is not None) == (view == 3)
        state.finish(lease, report(clock, Outcome.PUBLISHED, ref_updates=3))
        assert len(set(runs)) == 1
        assert [(run.id, run.outcome, run.ref_updates) for run in state.runs(mirror.id)] == [
            (runs[0], Outcome.PUBLISHED, 3)
        ]
        assert [row[3].ref for row in state.ref_journal(mirror.id)] == [f"refs/heads/{n}" for n in (3, 2, 1)]

    def test_an_unchanged_run_after_a_recovered_publish_closes_its_record(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        run = state.intend(lease, intent(clock), kept=[])
        state.settle_intent(lease, run, published=False)
        state.finish(lease, report(clock))
        assert [(r.id, r.outcome) for r in state.runs(mirror.id)] == [(run, Outcome.UNCHANGED)]

    def test_an_incomplete_publish_forgets_what_was_confirmed_whole(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock, digest="whole"))
        assert state.mirror(mirror.name).confirmed_digest == "whole"
        confirmed = state.mirror(mirror.name).confirmed_at
        state.mark_due(mirror.id, Trigger.POLL)
        clock.advance(60)
        lease = state.claim("w", lease_seconds=LEASE)
        run = state.intend(lease, intent(clock, complete=False), kept=[])
        assert state.mirror(mirror.name).confirmed_digest == ""
        state.settle_intent(lease, run, published=True)
        after = state.mirror(mirror.name)
        assert (after.confirmed_digest, after.confirmed_at) == ("", confirmed)

    def test_announcing_again_replaces_the_same_runs_intent(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        tip = KeptTip(RunId(0), RefName("refs/heads/x"), git_oid(1), clock.now(), clock.now() + HOUR)
        state.intend(lease, intent(clock, view=1), kept=[tip])
        second = intent(clock, view=2, entries=())
        run = state.intend(lease, second, kept=[])
        assert state.open_intent(mirror.id) == (run, second)
        assert state.kept_tips(mirror.id) == []
        state.settle_intent(lease, run, published=True)
        assert state.ref_journal(mirror.id) == []

    def test_an_unrecorded_publish_of_a_dead_run_comes_first(self, state, clock):
        state.enrol(new())
        dead = state.claim("dead", lease_seconds=LEASE)
        state.intend(dead, intent(clock), kept=[])
        clock.advance(LEASE)
        lease = state.claim("alive", lease_seconds=LEASE)
        with pytest.raises(Conflict):
            state.intend(lease, intent(clock, view=2), kept=[])

    def test_the_journal_is_read_in_pages(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        names = []
        for view, count in enumerate((3, 1203, 1, 2), start=1):
            some = [RefName(f"refs/heads/{view}/{n:04}") for n in range(count)]
            names += some
            entries = tuple(RefJournalEntry(name, None, git_oid(view), Change.CREATE) for name in some)
            run = state.intend(lease, intent(clock, view=view, entries=entries), kept=[])
            state.settle_intent(lease, run, published=True)
        found, before = [], None
        while page := state.ref_journal(mirror.id, before=before, limit=250):
            assert len(page) <= 250
            found += page
            before = page[-1][0]
        assert [row[3].ref for row in found] == list(reversed(names))
        assert len({row[0] for row in found}) == len(names)

    def test_kept_tips_are_named_protected_and_expire(self, state, clock):
        mirror, _ = state.enrol(new())
        now = clock.now()
        lease = state.claim("w", lease_seconds=LEASE)
        short = KeptTip(RunId(0), ODD_REF, git_oid(1), now, now + 100)
        long = KeptTip(RunId(0), RefName("refs/heads/x"), git_oid(2), now, now + 200)
        run = state.intend(lease, intent(clock), kept=[short, long])
        state.settle_intent(lease, run, published=True)
        named = [replace(short, run=run), replace(long, run=run)]
        assert state.kept_tips(mirror.id) == named
        state.intend(lease, intent(clock, view=2), kept=named)
        assert state.kept_tips(mirror.id) == named, "tips that are kept already are kept once"
        state.settle_intent(lease, run, published=False)
        assert state.kept_tips(mirror.id) == named, "dropping an intent drops only what it brought"
        assert state.expired_kept(now=now + 99) == []
        assert state.expired_kept(now=now + 100) == [mirror.id]
        assert state.drop_kept(lease, expired_before=now + 100) == [named[1]]
        assert state.kept_tips(mirror.id) == [named[1]]
        assert state.expired_kept(now=now + 150) == []

    # ------------------------------------------------------------ LFS

    @pytest.fixture
    def lease(self, state):
        state.enrol(new())
        return state.claim("w", lease_seconds=1e9)

    def counts(self, state, lease):
        lfs = state.mirror_by_id(lease.mirror.id).lfs
        return (lfs.wanted, lfs.present, lfs.missing, lfs.known_missing, lfs.wanted_bytes, lfs.present_bytes)

    def test_pointers_are_indexed_and_counted_once(self, state, lease):
        found = [blob(1, size=5), blob(2, size=7), blob(3, size=5, oid=1)]
        state.add_scan(lease, found, scanned=None)
        assert state.scanned_tips(lease.mirror.id) == frozenset()
        state.add_scan(lease, found, scanned=frozenset({git_oid(50), git_oid(51)}))
        assert state.known_pointers(lease.mirror.id) == {item.blob: item.pointer for item in found}
        assert state.scanned_tips(lease.mirror.id) == {git_oid(50), git_oid(51)}
        assert self.counts(state, lease) == (2, 0, 2, 0, 12, 0)
        state.add_scan(lease, [], scanned=frozenset())
        assert state.scanned_tips(lease.mirror.id) == frozenset()
        big = frozenset(GitOid(f"{n:064x}") for n in range(3000))
        state.add_scan(lease, [], scanned=big)
        assert state.scanned_tips(lease.mirror.id) == big

    def test_a_large_scan_is_stored_whole(self, state, lease):
        state.add_scan(lease, [blob(n) for n in range(12_000)], scanned=frozenset({git_oid(1)}))
        assert len(state.known_pointers(lease.mirror.id)) == 12_000
        assert self.counts(state, lease)[:3] == (12_000, 0, 12_000)
        state.lfs_arrived([lfs_oid(n) for n in range(11_999)])
        assert self.counts(state, lease)[:3] == (12_000, 11_999, 1)

    @pytest.mark.parametrize("left_out", ["", "too large"])
    def test_sizes_that_cannot_be_overflow_nothing(self, state, lease, left_out):
        found = [blob(n, size=MAX_OBJECT_BYTES) for n in range(20)]
        state.add_scan(lease, found, scanned=frozenset(), left_out=left_out)
        assert state.known_pointers(lease.mirror.id) == {item.blob: item.pointer for item in found}
        state.judge_lfs(lease, {lfs_oid(n): "too large" for n in range(20)})
        state.judge_lfs(lease, {lfs_oid(n): "" for n in range(20)})
        assert self.counts(state, lease) == (20, 0, 20, 0, 20 * MOST_COUNTED_BYTES, 0)
        (job,) = state.claim_lfs("w", limit=5, lease_seconds=60.0, most_bytes=1)
        state.lfs_failed(lease.mirror.id, job.oid, code="MS-L404", message="lacks", known_missing=True, retry_at=0.0)
        state.lfs_arrived([lfs_oid(n) for n in range(19)])
        state.replace_references(lease, frozenset(item.blob for item in found))
        assert self.counts(state, lease)[4:] == (20 * MOST_COUNTED_BYTES, 19 * MOST_COUNTED_BYTES)

    def test_objects_arrive_and_are_lost_for_every_mirror(self, state, lease, clock):
        state.enrol(new("example.org/o/o"))
        second = state.claim("w", lease_seconds=1e9)
        state.add_scan(lease, [blob(1), blob(2)], scanned=None)
        state.add_scan(second, [blob(1), blob(3)], scanned=None)
        for _ in range(2):
            state.lfs_arrived([lfs_oid(1), lfs_oid(1), lfs_oid(99)])
            assert self.counts(state, lease) == (2, 1, 1, 0, 20, 10)
            assert self.counts(state, second) == (2, 1, 1, 0, 20, 10)
        state.enrol(new("example.org/p/p"))
        third = state.claim("w", lease_seconds=1e9)
        state.add_scan(third, [blob(1)], scanned=None)
        assert self.counts(state, third) == (1, 1, 0, 0, 10, 10)
        for _ in range(2):
            state.lfs_lost([lfs_oid(1), lfs_oid(2)])
            assert self.counts(state, lease) == (2, 0, 2, 0, 20, 0)
            assert self.counts(state, third) == (1, 0, 1, 0, 10, 0)
        clock.advance(1)
        state.add_scan(second, [blob(9, oid=1)], scanned=None)
        assert self.counts(state, second) == (2, 0, 2, 0, 20, 0)

    def test_failures_and_known_missing_are_told(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(1), blob(2), blob(3)], scanned=None)
        fail = {"code": "MS-L404", "message": "not there", "retry_at": clock.now() + HOUR}
        for _ in range(2):
            state.lfs_failed(mirror_id, lfs_oid(2), known_missing=True, **fail)
        state.lfs_failed(mirror_id, lfs_oid(3), known_missing=False, **fail | {"code": "MS-U503", "message": "m"})
        state.lfs_failed(mirror_id, lfs_oid(77), known_missing=True, **fail)
        assert self.counts(state, lease) == (3, 0, 3, 1, 30, 0)
        missing = [
            (Pointer(lfs_oid(1), 10), "", ""),
            (Pointer(lfs_oid(2), 10), "MS-L404", "not there"),
            (Pointer(lfs_oid(3), 10), "MS-U503", "m"),
        ]
        assert state.lfs_missing(mirror_id) == missing
        assert state.lfs_missing(mirror_id, limit=1) == missing[:1]
        assert state.lfs_missing(mirror_id, after=lfs_oid(1)) == missing[1:]
        state.lfs_failed(mirror_id, lfs_oid(2), known_missing=False, **fail | {"code": "MS-U503", "message": "m"})
        assert self.counts(state, lease)[3] == 1, "a broken line says nothing of what upstream lacks"
        assert state.lfs_missing(mirror_id) == missing
        state.lfs_arrived([lfs_oid(2)])
        assert self.counts(state, lease) == (3, 1, 2, 0, 30, 10)
        state.lfs_failed(mirror_id, lfs_oid(2), known_missing=True, **fail)
        assert self.counts(state, lease) == (3, 1, 2, 0, 30, 10), "what is here cannot fail to come"
        assert [item[0].oid for item in state.lfs_missing(mirror_id)] == [lfs_oid(1), lfs_oid(3)]

    def claim_lfs(self, state, limit=100):
        return [(job.mirror, job.oid, job.attempts) for job in state.claim_lfs("w", limit=limit, lease_seconds=LEASE)]

    def test_wanted_objects_are_claimed_once_until_their_lease_lapses(self, state, lease, clock):
        mirror_id = lease.mirror.id
        assert self.claim_lfs(state) == []
        state.add_scan(lease, [blob(n) for n in range(5)], scanned=None)
        first = self.claim_lfs(state, limit=3)
        second = self.claim_lfs(state)
        assert sorted(first + second) == [(mirror_id, lfs_oid(n), 0) for n in range(5)]
        assert len(first) == 3
        assert self.claim_lfs(state) == []
        state.lfs_arrived([lfs_oid(0)])
        fail = {"code": "c", "message": "m", "known_missing": False}
        state.lfs_failed(mirror_id, lfs_oid(1), retry_at=clock.now() + 10, **fail)
        assert self.claim_lfs(state) == []
        clock.advance(10)
        assert self.claim_lfs(state) == [(mirror_id, lfs_oid(1), 1)]
        clock.advance(LEASE - 10)
        assert sorted(self.claim_lfs(state)) == [(mirror_id, lfs_oid(n), 0) for n in (2, 3, 4)]

    def test_an_object_is_queued_with_one_of_the_sizes_that_pointers_claim(self, state, lease, clock):
        mirror_id, lie = lease.mirror.id, Pointer(lfs_oid(1), 1 << 60)
        state.add_scan(lease, [PointerBlob(blob(50).blob, lie), blob(1), blob(2)], scanned=None)
        assert state.lfs_sizes(mirror_id, [lfs_oid(1), lfs_oid(2), lfs_oid(7)]) == {lfs_oid(1): [10, 1 << 46]}
        assert state.lfs_sizes(mirror_id, []) == {}
        assert self.counts(state, lease) == (2, 0, 2, 0, 10 + (1 << 46), 0)
        fail = {"code": "MS-U502", "message": "m", "known_missing": False, "retry_at": clock.now()}
        state.lfs_failed(mirror_id, lfs_oid(1), size=10, then=77, **fail)
        assert dict(state.lfs_refers(mirror_id, [lfs_oid(1)])) == {lfs_oid(1): 1 << 46}, "another size was tried"
        assert (Pointer(lfs_oid(1), 1 << 46), "", "") in state.lfs_missing(mirror_id)
        state.lfs_failed(mirror_id, lfs_oid(1), size=1 << 60, then=10, **fail)
        assert (Pointer(lfs_oid(1), 10), "MS-U502", "m") in state.lfs_missing(mirror_id)
        assert self.counts(state, lease) == (2, 0, 2, 0, 20, 0)
        assert self.claim_lfs(state) == [(mirror_id, lfs_oid(1), 1), (mirror_id, lfs_oid(2), 0)]
        state.lfs_failed(mirror_id, lfs_oid(1), size=10, then=1 << 60, **fail)
        assert self.counts(state, lease) == (2, 0, 2, 0, 10 + (1 << 46), 0)
        state.lfs_arrived([lfs_oid(1), lfs_oid(2)], sizes={lfs_oid(1): 10, lfs_oid(2): 10})
        assert self.counts(state, lease) == (2, 2, 0, 0, 20, 20)

    def test_known_missing_objects_come_last(self, state, lease, clock):
        state.add_scan(lease, [blob(1), blob(2)], scanned=None)
        state.lfs_failed(
            lease.mirror.id, lfs_oid(1), code="c", message="m", known_missing=True, retry_at=clock.now() - 5
        )
        assert [oid for _, oid, _ in self.claim_lfs(state, limit=1)] == [lfs_oid(2)]
        assert [oid for _, oid, _ in self.claim_lfs(state, limit=1)] == [lfs_oid(1)]

    def test_mirrors_take_turns_and_those_out_of_service_wait(self, state, lease, clock):
        second_mirror, _ = state.enrol(new("example.org/o/o"))
        second = state.claim("w", lease_seconds=1e9)
        paused, _ = state.enrol(new("example.org/p/p"))
        third = state.claim("w", lease_seconds=1e9)
        for n, holder in enumerate((third, lease, second)):
            state.add_scan(holder, [blob(n * 100 + k) for k in range(4)], scanned=None)
            clock.advance(1)
        state.set_paused(paused.id, reason="x")
        turns = []
        for _ in range(4):
            clock.advance(1)
            turns.append({mirror for mirror, _, _ in self.claim_lfs(state, limit=2)})
        assert turns == [{lease.mirror.id}, {second_mirror.id}] * 2
        assert self.claim_lfs(state) == []
        state.set_paused(paused.id, reason=None)
        assert len(self.claim_lfs(state)) == 4

    @pytest.mark.parametrize("trigger", list(Trigger))
    def test_something_is_due_while_there_is_a_mirror_to_claim(self, state, clock, trigger):
        assert state.anything_due() is False
        mirror, _ = state.enrol(new(trigger=trigger))
        assert state.anything_due() is True
        lease = state.claim("w", lease_seconds=LEASE)
        assert state.anything_due() is False
        state.finish(lease, report(clock))
        assert state.anything_due() is False
        state.mark_due(mirror.id, trigger)
        assert state.anything_due() is True
        state.set_paused(mirror.id, reason="x")
        assert state.anything_due() is False

    # ------------------------------------------------------------ the order of fetching

    def oids(self, state, **over):
        return [job.oid for job in state.claim_lfs("w", **({"limit": 100, "lease_seconds": LEASE} | over))]

    def test_what_refs_wait_for_comes_first_each_ref_by_itself_small_before_large(self, state, lease, clock):
        sizes = {1: 50, 2: 40, 3: 30, 4: 20, 5: 10, 6: 60}
        state.add_scan(lease, [blob(n, size=size) for n, size in sizes.items()], scanned=None)
        state.rank_lfs(lease, {lfs_oid(2): 1, lfs_oid(1): 1, lfs_oid(6): 0})
        state.finish(lease, report(clock))
        assert self.oids(state) == [lfs_oid(6)]
        assert self.oids(state) == [lfs_oid(2), lfs_oid(1)]
        assert self.oids(state) == [lfs_oid(5), lfs_oid(4), lfs_oid(3)]

    def test_ranks_are_those_told_last(self, state, lease, clock):
        state.add_scan(lease, [blob(1, size=10), blob(2, size=20), blob(3, size=30)], scanned=None)
        state.rank_lfs(lease, {lfs_oid(1): 1, lfs_oid(2): 2})
        state.rank_lfs(lease, {lfs_oid(3): 1, lfs_oid(2): 2})
        state.finish(lease, report(clock))
        assert [(job.oid, job.rank) for job in state.claim_lfs("w", limit=9, lease_seconds=LEASE)] == [(lfs_oid(3), 1)]
        assert self.oids(state) == [lfs_oid(2)]
        assert [job.rank for job in state.claim_lfs("w", limit=9, lease_seconds=LEASE)] == [HISTORY_RANK]

    def test_what_served_refs_lack_comes_after_what_refs_wait_for_and_before_history(self, state, lease, clock):
        state.add_scan(lease, [blob(1), blob(2), blob(3)], scanned=None)
        state.rank_lfs(lease, {lfs_oid(3): TIP_RANK, lfs_oid(2): 5})
        state.rank_lfs(lease, {lfs_oid(2): 5})
        state.finish(lease, report(clock))
        assert [self.oids(state) for _ in range(3)] == [[lfs_oid(2)], [lfs_oid(3)], [lfs_oid(1)]]
        state.lfs_arrived([lfs_oid(3)])
        assert state.mirror(lease.mirror.name).due_at > clock.now(), "no ref waits for it"

    def test_a_run_keeps_what_its_refs_lack_to_itself(self, state, lease, clock):
        state.add_scan(lease, [blob(1), blob(2)], scanned=None)
        state.rank_lfs(lease, {lfs_oid(1): 0, lfs_oid(2): TIP_RANK})
        state.rank_lfs(lease, {lfs_oid(1): 0})
        assert self.oids(state) == [lfs_oid(2)]
        assert self.oids(state) == []
        state.finish(lease, report(clock))
        assert self.oids(state) == [lfs_oid(1)]
        with pytest.raises(LeaseLost):
            state.rank_lfs(lease, {})

    def test_a_lane_for_small_objects_passes_over_large_ones(self, state, lease, clock):
        state.add_scan(lease, [blob(1, size=1000), blob(2, size=100), blob(3, size=101)], scanned=None)
        state.lfs_failed(lease.mirror.id, lfs_oid(3), code="c", message="m", known_missing=True, retry_at=clock.now())
        state.enrol(new("example.org/z/z"))
        other = state.claim("w", lease_seconds=1e9)
        clock.advance(1)
        state.add_scan(other, [blob(7, size=7)], scanned=None)
        clock.advance(1)
        found = {oid for _ in range(4) for oid in self.oids(state, largest=100)}
        assert found == {lfs_oid(2), lfs_oid(7)}
        assert self.oids(state) == [lfs_oid(1), lfs_oid(3)]

    def test_a_claim_is_bounded_by_bytes_but_for_the_first(self, state, lease):
        state.add_scan(lease, [blob(n, size=100 * n) for n in (1, 2, 3, 9)], scanned=None)
        assert self.oids(state, most_bytes=300) == [lfs_oid(1), lfs_oid(2)]
        assert self.oids(state, most_bytes=300) == [lfs_oid(3)]
        assert self.oids(state, most_bytes=300) == [lfs_oid(9)]

    def test_claims_are_renewed_and_given_back_by_whoever_has_them(self, state, lease, clock):
        state.add_scan(lease, [blob(1), blob(2)], scanned=None)
        jobs = state.claim_lfs("w", limit=9, lease_seconds=LEASE)
        assert state.lfs_claimed(lease.mirror.id) == {lfs_oid(1), lfs_oid(2)}
        clock.advance(LEASE - 1)
        state.renew_lfs("w", jobs[:1], lease_seconds=LEASE)
        state.renew_lfs("another", jobs[1:], lease_seconds=LEASE)
        clock.advance(2)
        assert state.lfs_claimed(lease.mirror.id) == {jobs[0].oid}
        assert self.oids(state) == [jobs[1].oid]
        state.release_lfs("another", jobs)
        assert self.oids(state) == []
        state.release_lfs("w", jobs)
        clock.advance(1)
        again = state.claim_lfs("w", limit=9, lease_seconds=LEASE)
        assert [(job.oid, job.attempts) for job in again] == [(lfs_oid(1), 0), (lfs_oid(2), 0)]
        state.lfs_arrived([lfs_oid(1), lfs_oid(2)])
        state.release_lfs("w", again)
        assert self.oids(state) == []

    def test_objects_given_back_go_behind_those_of_mirrors_that_wait(self, state, lease, clock):
        state.add_scan(lease, [blob(1)], scanned=None)
        first = state.claim_lfs("w", limit=9, lease_seconds=LEASE)
        assert not state.lfs_queued(beside=lease.mirror.id)
        state.enrol(new("example.org/z/z"))
        other = state.claim("w", lease_seconds=1e9)
        clock.advance(1)
        state.add_scan(other, [blob(2)], scanned=None)
        assert state.lfs_queued(beside=lease.mirror.id)
        clock.advance(1)
        state.release_lfs("w", first)
        assert state.lfs_queued(beside=MirrorId(0))
        assert self.oids(state) == [lfs_oid(2)]
        assert self.oids(state) == [lfs_oid(1)]

    def test_a_mirror_is_due_once_the_last_object_that_one_of_its_refs_lacks_is_here(self, state, lease, clock):
        mirror = lease.mirror
        state.add_scan(lease, [blob(n) for n in (1, 2, 3, 4)], scanned=None)
        state.rank_lfs(lease, {lfs_oid(1): 0, lfs_oid(2): 0, lfs_oid(3): 1})
        state.finish(lease, report(clock))
        state.lfs_arrived([lfs_oid(4), lfs_oid(1)])
        assert state.mirror(mirror.name).due_at > clock.now()
        state.lfs_arrived([lfs_oid(2)])
        assert state.mirror(mirror.name).due_at == clock.now()
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        state.lfs_arrived([lfs_oid(2)])
        assert state.mirror(mirror.name).due_at > clock.now()
        state.lfs_arrived([lfs_oid(3)])
        assert state.mirror(mirror.name).due_at == clock.now()

    def test_a_run_does_not_call_itself_by_what_it_brought_but_others_that_waited(self, state, lease, clock):
        state.enrol(new("example.org/z/z"))
        other = state.claim("w", lease_seconds=1e9)
        for holder in (lease, other):
            state.add_scan(holder, [blob(1)], scanned=None)
            state.rank_lfs(holder, {lfs_oid(1): 3})
        state.lfs_arrived([lfs_oid(1)], told_by=lease.mirror.id)
        assert state.awaited(lease) is False
        assert state.awaited(other) is True

    # ------------------------------------------------------------ selection

    def all_counts(self, state, lease):
        lfs = state.mirror_by_id(lease.mirror.id).lfs
        return (lfs.wanted, lfs.present, lfs.missing, lfs.known_missing, lfs.wanted_bytes, lfs.present_bytes), (
            lfs.left_out,
            lfs.left_out_bytes,
        )

    def test_what_is_left_out_is_neither_wanted_nor_missing(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(1, size=5)], scanned=None)
        state.add_scan(lease, [blob(2, size=6), blob(3, size=7)], scanned=None, left_out="not judged yet")
        assert self.all_counts(state, lease) == ((1, 0, 1, 0, 5, 0), (2, 13))
        assert self.oids(state) == [lfs_oid(1)]
        assert [pointer.oid for pointer, _, _ in state.lfs_missing(mirror_id)] == [lfs_oid(1)]
        assert state.lfs_left_out(mirror_id, [lfs_oid(n) for n in (1, 2, 9)]) == {lfs_oid(2): "not judged yet"}
        assert set(state.lfs_refers(mirror_id, [lfs_oid(2)])) == {lfs_oid(2)}
        assert state.lfs_unreferenced([lfs_oid(2)]) == set()
        assert state.totals().lfs == state.mirror_by_id(mirror_id).lfs

    def test_verdicts_move_objects_in_and_out(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(n, size=n) for n in (1, 2, 3)], scanned=None)
        fail = {"code": "MS-L404", "message": "m", "known_missing": True, "retry_at": clock.now() + HOUR}
        state.lfs_failed(mirror_id, lfs_oid(3), **fail)
        state.judge_lfs(lease, {lfs_oid(1): "", lfs_oid(2): "too large", lfs_oid(3): "by its path", lfs_oid(77): "x"})
        assert self.all_counts(state, lease) == ((1, 0, 1, 0, 1, 0), (2, 5))
        assert state.lfs_left_out(mirror_id, [lfs_oid(2), lfs_oid(3)]) == {
            lfs_oid(2): "too large",
            lfs_oid(3): "by its path",
        }
        state.lfs_failed(mirror_id, lfs_oid(2), **fail)
        assert self.all_counts(state, lease) == ((1, 0, 1, 0, 1, 0), (2, 5)), "nobody asks for it"
        state.judge_lfs(lease, {lfs_oid(2): "older", lfs_oid(3): ""})
        assert self.all_counts(state, lease) == ((2, 0, 2, 0, 4, 0), (1, 2))
        assert state.lfs_left_out(mirror_id, [lfs_oid(2), lfs_oid(3)]) == {lfs_oid(2): "older"}
        assert self.oids(state) == [lfs_oid(1), lfs_oid(3)]

    def test_what_is_here_stays_here_whatever_is_left_out(self, state, lease, clock):
        state.add_scan(lease, [blob(1), blob(2)], scanned=None)
        state.lfs_arrived([lfs_oid(1)])
        state.judge_lfs(lease, {lfs_oid(1): "too large", lfs_oid(2): "too large"})
        assert self.all_counts(state, lease) == ((1, 1, 0, 0, 10, 10), (1, 10))
        state.lfs_lost([lfs_oid(1)])
        assert self.all_counts(state, lease) == ((0, 0, 0, 0, 0, 0), (2, 20))
        clock.advance(1)
        assert self.oids(state) == []
        state.lfs_arrived([lfs_oid(2)])
        assert self.all_counts(state, lease) == ((1, 1, 0, 0, 10, 10), (1, 10))
        state.judge_lfs(lease, {lfs_oid(1): "", lfs_oid(2): ""})
        state.lfs_lost([lfs_oid(2)])
        clock.advance(1)
        assert self.oids(state) == [lfs_oid(1), lfs_oid(2)]

    def test_what_another_mirror_has_is_here_though_left_out(self, state, lease):
        state.add_scan(lease, [blob(1)], scanned=None)
        state.lfs_arrived([lfs_oid(1)])
        state.enrol(new("example.org/z/z"))
        other = state.claim("w", lease_seconds=1e9)
        state.add_scan(other, [blob(1), blob(2)], scanned=None, left_out="too large")
        assert self.all_counts(state, other) == ((1, 1, 0, 0, 10, 10), (1, 10))
        assert state.lfs_left_out(other.mirror.id, [lfs_oid(1), lfs_oid(2)]) == {lfs_oid(2): "too large"}

    def test_the_selection_is_named_once_all_are_judged(self, state, lease):
        assert state.mirror_by_id(lease.mirror.id).lfs_selection == ""
        state.add_scan(lease, [blob(n) for n in range(6000)], scanned=None, left_out="not judged yet")
        state.judge_lfs(lease, {lfs_oid(n): "" for n in range(1, 6000)})
        assert state.mirror_by_id(lease.mirror.id).lfs_selection == ""
        state.judge_lfs(lease, {lfs_oid(0): "x"}, selection="s1")
        assert state.mirror_by_id(lease.mirror.id).lfs_selection == "s1"
        assert self.all_counts(state, lease) == ((5999, 0, 5999, 0, 59990, 0), (1, 10))

    def test_a_lost_lease_judges_nothing(self, state, lease, clock):
        state.add_scan(lease, [blob(1)], scanned=None)
        state.finish(lease, report(clock))
        with pytest.raises(LeaseLost):
            state.judge_lfs(lease, {lfs_oid(1): "x"}, selection="s1")
        assert self.all_counts(state, lease) == ((1, 0, 1, 0, 10, 0), (0, 0))
        assert state.mirror_by_id(lease.mirror.id).lfs_selection == ""

    def test_forgotten_references_count_no_more_among_those_left_out(self, state, lease):
        state.add_scan(lease, [blob(1), blob(2)], scanned=None, left_out="x")
        state.add_scan(lease, [blob(3)], scanned=None)
        state.replace_references(lease, frozenset({git_oid(1), git_oid(3)}))
        assert self.all_counts(state, lease) == ((1, 0, 1, 0, 10, 0), (1, 10))

    def test_lost_objects_are_wanted_again(self, state, lease, clock):
        state.add_scan(lease, [blob(1)], scanned=None)
        state.lfs_arrived([lfs_oid(1)])
        assert self.claim_lfs(state) == []
        clock.advance(1)
        state.lfs_lost([lfs_oid(1)])
        assert [oid for _, oid, _ in self.claim_lfs(state)] == [lfs_oid(1)]

    def test_many_who_claim_objects_get_each_once(self, state, lease):
        state.add_scan(lease, [blob(n) for n in range(300)], scanned=None)
        taken = []

        def work():
            while jobs := state.claim_lfs("w", limit=7, lease_seconds=1e6):
                taken.extend(job.oid for job in jobs)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while jobs := state.claim_lfs("w", limit=50, lease_seconds=1e6):
            taken.extend(job.oid for job in jobs)
        assert sorted(taken) == [lfs_oid(n) for n in range(300)]

    def test_references_are_answered_per_mirror(self, state, lease):
        state.add_scan(lease, [blob(1, size=3)], scanned=None)
        other, _ = state.enrol(new("example.org/o/o"))
        oids = [lfs_oid(1), lfs_oid(2)]
        assert state.lfs_refers(lease.mirror.id, oids) == {lfs_oid(1): 3}
        assert state.lfs_refers(other.id, oids) == {}
        assert state.lfs_refers(other.id, []) == {}
        assert state.lfs_unreferenced(oids) == {lfs_oid(2)}

    # ------------------------------------------------------------ LFS objects that clients wait for

    def test_what_clients_wait_for_is_told_as_long_as_they_wait(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(n, size=n) for n in (1, 2, 3)], scanned=None)
        assert state.ask_lfs(mirror_id, lfs_oid(2), seconds=20.0) is None
        clock.advance(1.0)
        assert state.ask_lfs(mirror_id, lfs_oid(1), seconds=20.0) is None
        assert [(job.mirror, job.oid, job.size) for job in state.lfs_asked()] == [
            (mirror_id, lfs_oid(2), 2),
            (mirror_id, lfs_oid(1), 1),
        ]
        clock.advance(10.0)
        assert state.ask_lfs(mirror_id, lfs_oid(2), seconds=20.0) is None  # they wait on, and keep their place
        assert [job.oid for job in state.lfs_asked()] == [lfs_oid(2), lfs_oid(1)]
        clock.advance(11.0)
        assert [job.oid for job in state.lfs_asked()] == [lfs_oid(2)]
        clock.advance(20.0)
        assert state.lfs_asked() == []

    def test_what_arrived_is_missing_upstream_or_out_of_service_is_waited_for_in_vain(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(n) for n in (1, 2, 3, 4)], scanned=None)
        for n in (1, 2, 3, 4, 5):
            state.ask_lfs(mirror_id, lfs_oid(n), seconds=60.0)
        state.lfs_arrived([lfs_oid(1)])
        state.lfs_failed(
            mirror_id, lfs_oid(2), code="MS-L404", message="m", known_missing=True, retry_at=clock.now() + HOUR
        )
        state.judge_lfs(lease, {lfs_oid(3): "too large"})
        assert [job.oid for job in state.lfs_asked()] == [lfs_oid(4)]
        state.set_paused(mirror_id, reason="holiday")
        assert state.lfs_asked() == []
        state.set_paused(mirror_id, reason=None)
        assert [job.oid for job in state.lfs_asked()] == [lfs_oid(4)]
        state.set_removing(mirror_id, at=clock.now() + HOUR)
        assert state.lfs_asked() == []

    def test_what_just_could_not_be_had_is_said_and_not_tried_for_a_while(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(1), blob(2)], scanned=None)
        state.ask_lfs(mirror_id, lfs_oid(1), seconds=600.0)
        state.lfs_ask_failed(mirror_id, lfs_oid(1), code="MS-U503", message="no\x1b", until=clock.now() + 60.0)
        assert state.lfs_asked() == []
        told = ("MS-U503", state.lfs_ask_failures(mirror_id, [lfs_oid(1), lfs_oid(2)])[lfs_oid(1)][1])
        assert state.lfs_ask_failures(mirror_id, [lfs_oid(1), lfs_oid(2)]) == {lfs_oid(1): told}
        assert state.ask_lfs(mirror_id, lfs_oid(1), seconds=20.0) == told
        clock.advance(61.0)
        assert state.lfs_ask_failures(mirror_id, [lfs_oid(1)]) == {}
        assert state.ask_lfs(mirror_id, lfs_oid(1), seconds=20.0) is None
        assert [job.oid for job in state.lfs_asked()] == [lfs_oid(1)]

    def test_what_is_not_here_is_told_with_its_reason(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(n) for n in (1, 2, 3, 4)], scanned=None)
        state.lfs_arrived([lfs_oid(1)])
        state.judge_lfs(lease, {lfs_oid(4): "too large"})
        state.lfs_failed(
            mirror_id, lfs_oid(2), code="MS-L410", message="gone", known_missing=True, retry_at=clock.now() + HOUR
        )
        asked = [lfs_oid(n) for n in range(1, 6)]
        assert state.lfs_absent(mirror_id, asked) == {lfs_oid(2): ("MS-L410", "gone"), lfs_oid(3): ("", "")}

    def test_who_waited_is_forgotten_with_the_mirror_and_in_time(self, state, lease, clock):
        mirror_id = lease.mirror.id
        state.add_scan(lease, [blob(1), blob(2)], scanned=None)
        state.ask_lfs(mirror_id, lfs_oid(1), seconds=20.0)
        state.lfs_ask_failed(mirror_id, lfs_oid(2), code="MS-U503", message="no", until=clock.now() + 900.0)
        state.prune(deliveries_before=0.0, runs_before=0.0)
        assert [job.oid for job in state.lfs_asked()] == [lfs_oid(1)]
        clock.advance(21.0)
        state.prune(deliveries_before=0.0, runs_before=0.0)
        assert state.lfs_ask_failures(mirror_id, [lfs_oid(2)])
        state.set_removing(mirror_id, at=clock.now())
        state.forget(mirror_id)
        assert state.lfs_ask_failures(mirror_id, [lfs_oid(2)]) == {}

    def test_references_of_expired_history_go(self, state, lease):
        mirror_id = lease.mirror.id
        state.add_scan(
            lease,
            [blob(1), blob(2), blob(3), blob(4, oid=3), blob(5)],
            scanned=frozenset({git_oid(9)}),
        )
        state.lfs_arrived([lfs_oid(1), lfs_oid(3)])
        state.lfs_failed(mirror_id, lfs_oid(5), code="c", message="m", known_missing=True, retry_at=0.0)
        state.replace_references(lease, frozenset({git_oid(1), git_oid(4)}))
        assert set(state.known_pointers(mirror_id)) == {git_oid(1), git_oid(4)}
        assert state.lfs_unreferenced([lfs_oid(n) for n in range(1, 6)]) == {lfs_oid(2), lfs_oid(4), lfs_oid(5)}
        assert self.counts(state, lease) == (2, 2, 0, 0, 20, 20)
        assert state.scanned_tips(mirror_id) == frozenset(), "history that comes back is scanned again"
        assert self.claim_lfs(state) == []

    # ------------------------------------------------------------ webhooks

    def test_a_delivery_counts_once(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        clock.advance(1)
        told = delivery(received_at=clock.now())
        assert state.accept_delivery(told)
        assert not state.accept_delivery(replace(told, received_at=clock.now() + 5))
        assert state.accept_delivery(replace(told, provider="gitea"))
        assert [d.provider for d in state.deliveries()] == ["gitea", "github"]
        assert state.deliveries(limit=1)[0] == replace(told, provider="gitea")
        after = state.mirror(mirror.name)
        assert (after.repository_id, after.trigger, after.known_behind_since) == (
            "77",
            Trigger.WEBHOOK,
            clock.now(),
        )
        lease = state.claim("w", lease_seconds=LEASE)
        assert (lease.trigger, lease.evidence_at) == (Trigger.WEBHOOK, clock.now())
        assert state.counters()["deliveries", "push"] == 2

    def test_the_same_delivery_in_parallel_is_one_row(self, state):
        state.enrol(new())
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: state.accept_delivery(delivery()), range(40)))
        assert sum(answers) == 1
        assert len(state.deliveries()) == 1

    def test_a_burst_makes_one_running_and_one_pending_sync(self, state, clock):
        state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: state.accept_delivery(delivery(n, received_at=clock.now())), range(100)))
        assert state.claim("w", lease_seconds=LEASE) is None
        clock.advance(1)
        state.finish(lease, report(clock, observed_at=clock.now()))
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        assert state.claim("w", lease_seconds=LEASE) is None
        assert len(state.deliveries(limit=1000)) == 100

    def test_ids_win_over_urls_and_belong_to_a_host(self, state, clock):
        mirror, _ = state.enrol(new())
        other, _ = state.enrol(new("example.org/moved/here"))
        foreign, _ = state.enrol(new("else.where/a/b"))
        for _ in range(3):
            state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        state.accept_delivery(delivery(1, received_at=clock.now()))
        assert state.claim("w", lease_seconds=LEASE).mirror.id == mirror.id
        state.accept_delivery(delivery(2, repository_id="77", clone_url="https://example.org/moved/here"))
        assert state.mirror(other.name).repository_id == ""
        assert state.claim("w", lease_seconds=LEASE) is None, "the renamed repository's mirror is being synced"
        state.accept_delivery(delivery(3, repository_id="77", clone_url="https://else.where/a/b"))
        assert state.claim("w", lease_seconds=LEASE).mirror.id == foreign.id
        state.accept_delivery(delivery(4, repository_id="", clone_url="http://EXAMPLE.org/Moved/Here/"))
        assert state.claim("w", lease_seconds=LEASE).mirror.id == other.id
        assert state.accept_delivery(delivery(5, repository_id="", clone_url="not a URL"))
        assert state.accept_delivery(delivery(6, repository_id="1", clone_url="https://no.where/x/y"))
        assert state.claim("w", lease_seconds=LEASE) is None

    def test_a_rename_that_was_followed_is_found_by_its_new_url(self, state, clock):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock, moved_to="https://example.org/new/home"))
        state.accept_delivery(delivery(1, repository_id="", clone_url="https://example.org/new/home.git"))
        assert state.claim("w", lease_seconds=LEASE).mirror.id == mirror.id

    @pytest.mark.parametrize(
        ("event", "refs", "due", "behind"),
        [
            ("push", (RefName("refs/heads/main"),), True, True),
            ("create", (), True, True),
            ("delete", (), True, True),
            ("repository", (), True, False),
            ("public", (), True, False),
            ("ping", (), False, False),
            ("star", (), False, False),
        ],
    )
    def test_what_each_event_means(self, state, clock, event, refs, due, behind):
        mirror, _ = state.enrol(new())
        state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        clock.advance(5)
        told = delivery(event=event, refs=refs, action="renamed", received_at=clock.now())
        assert state.accept_delivery(told)
        assert (state.mirror(mirror.name).known_behind_since is not None) == behind
        assert (state.claim("w", lease_seconds=LEASE) is not None) == due
        label = event if event != "star" else "other"
        assert state.counters()["deliveries", label] == 1

    def test_signed_deletions_last_until_the_next_publish(self, state, clock):
        mirror, _ = state.enrol(new())
        lease = state.claim("w", lease_seconds=LEASE)
        early = delivery(1, event="delete", deleted_refs=(ODD_REF, RefName("refs/heads/x")), refs=())
        state.accept_delivery(replace(early, received_at=clock.now()))
        assert state.confirmed_deletions(mirror.id) == {ODD_REF, "refs/heads/x"}
        clock.advance(1)
        announced = intent(clock)
        clock.advance(1)
        late = delivery(2, event="delete", deleted_refs=(RefName("refs/heads/y"),), received_at=clock.now())
        state.accept_delivery(late)
        run = state.intend(lease, announced, kept=[])
        assert len(state.confirmed_deletions(mirror.id)) == 3
        state.settle_intent(lease, run, published=True)
        assert state.confirmed_deletions(mirror.id) == {"refs/heads/y"}
        assert state.deliveries()[1] == replace(early, received_at=clock.now() - 2)

    def test_absurd_delivery_fields_are_stored_safely(self, state):
        odd = delivery(
            delivery_id="x" * 100_000, event="push\ud800", action="a\x1b[31m", clone_url="\udcff", repository_id="é"
        )
        assert state.accept_delivery(odd)
        assert not state.accept_delivery(odd)
        assert len(state.deliveries()[0].delivery_id) <= 200

    # ------------------------------------------------------------ the rest

    def test_hosts_are_blocked_never_shorter(self, state, clock):
        assert state.host_blocked_until("example.org") == 0
        state.block_host("example.org", until=clock.now() + 50)
        state.block_host("example.org", until=clock.now() + 20)
        assert state.host_blocked_until("example.org") == clock.now() + 50
        assert state.host_blocked_until("other.org") == 0

    def test_prune_forgets_what_is_old(self, state, clock):
        mirror, _ = state.enrol(new())
        for n in range(4):
            clock.advance(100)
            state.accept_delivery(delivery(n, received_at=clock.now()))
            lease = state.claim("w", lease_seconds=LEASE)
            state.finish(lease, report(clock, Outcome.FAILED))
        state.mark_due(mirror.id, Trigger.POLL)
        open_lease = state.claim("w", lease_seconds=LEASE)
        run = state.intend(open_lease, intent(clock), kept=[])
        state.prune(deliveries_before=clock.now() - 150, runs_before=clock.now() - 50)
        assert [d.delivery_id for d in state.deliveries()] == ["id-3", "id-2"]
        assert [(r.id, r.finished_at) for r in state.runs(mirror.id)][:1] == [(run, None)]
        assert len(state.runs(mirror.id)) == 2
        assert state.accept_delivery(delivery(0))
        assert state.counters()["runs", "failed"] == 4

    def test_workers_beat(self, state, clock):
        assert state.workers() == {}
        state.beat("one")
        clock.advance(3)
        state.beat("two")
        state.beat("two")
        assert state.workers() == {"one": clock.now() - 3, "two": clock.now()}

    def test_a_clock_set_back_a_day_stalls_nothing(self, state, clock):
        mirror, _ = state.enrol(new())
        state.beat("w")
        lease = state.claim("w", lease_seconds=LEASE)
        state.add_scan(lease, [blob(1)], scanned=None)
        state.finish(lease, report(clock, observed_at=clock.now(), next_due_at=clock.now() + 1800))
        fail = {"code": "c", "message": "m", "known_missing": False}
        state.lfs_failed(mirror.id, lfs_oid(1), retry_at=clock.now() + 600, **fail)
        state.block_host("example.org", until=clock.now() + 60)
        clock.advance(30)
        state.beat("w")
        now = clock.now()
        clock.jump(-86400)
        state.beat("w")
        state.beat("other")
        after = state.mirror(mirror.name)
        assert after.due_at == pytest.approx(clock.now() + 1770, rel=0, abs=0.01)
        assert after.confirmed_at == pytest.approx(clock.now() - 30, rel=0, abs=0.01)
        assert state.host_blocked_until("example.org") == pytest.approx(clock.now() + 30, rel=0, abs=0.01)
        clock.advance(571)
        assert len(self.claim_lfs(state)) == 1
        clock.advance(1200)
        lease = state.claim("w", lease_seconds=LEASE)
        state.beat("w")
        clock.jump(-3600)
        state.beat("w")
        assert state.claim("w", lease_seconds=LEASE) is None
        clock.advance(LEASE + 1)
        assert state.claim("w", lease_seconds=LEASE).token > lease.token
        assert now > clock.now()

    def test_a_clock_set_forward_a_day_runs_each_mirror_once(self, state, clock):
        for n in range(5):
            state.enrol(new(f"example.org/f/{n}"))
            state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        state.beat("w")
        clock.jump(86400)
        state.beat("w")
        for _ in range(5):
            state.finish(state.claim("w", lease_seconds=LEASE), report(clock))
        assert state.claim("w", lease_seconds=LEASE) is None

    def test_the_identity_stays(self, state):
        assert state.identity() == state.identity()
        assert len(state.identity()) == 32
        state.check()
