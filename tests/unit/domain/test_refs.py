"""Differences, settlement, HEAD and the deletion guard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.refs import (
    NO_HEAD,
    GuardState,
    RefSnapshot,
    RefUpdate,
    choose_head,
    diff,
    guard,
    parents,
    select,
    settle,
    sound,
)

MAIN = RefName("refs/heads/main")
A, B = GitOid("a" * 40), GitOid("b" * 40)
names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(
    lambda parts: RefName("refs/heads/" + "/".join(parts))
)


def compatible(tips: dict[RefName, GitOid]) -> bool:
    return not any(parent in tips for name in tips for parent in parents(name))


tip_maps = st.dictionaries(names, st.sampled_from([A, B]), max_size=6).map(
    lambda tips: {name: oid for name, oid in tips.items() if not any(parent in tips for parent in parents(name))}
)


def snapshot(*branches: str, head: str = "main") -> RefSnapshot:
    return RefSnapshot({RefName(f"refs/heads/{name}"): A for name in branches}, RefName(f"refs/heads/{head}"))


@given(tip_maps, tip_maps)
def test_settling_the_whole_difference_gives_the_observed_tips(
    old: dict[RefName, GitOid], new: dict[RefName, GitOid]
) -> None:
    updates = diff(RefSnapshot(old), RefSnapshot(new))
    settlement = settle(old, updates)
    assert settlement.tips == new
    assert not settlement.waiting


@given(tip_maps, tip_maps, st.randoms())
def test_any_part_of_a_difference_settles_without_a_directory_conflict(old, new, random) -> None:  # type: ignore[no-untyped-def]
    updates = [update for update in diff(RefSnapshot(old), RefSnapshot(new)) if random.random() < 0.5]
    settlement = settle(old, updates)
    assert compatible(dict(settlement.tips))
    assert len(settlement.moved) + len(settlement.waiting) == len(updates)


def test_an_update_waits_for_the_deletion_of_its_directory_partner() -> None:
    old = {RefName("refs/heads/a"): A}
    settlement = settle(old, [RefUpdate(RefName("refs/heads/a/b"), None, B)])
    assert settlement.tips == old
    assert [update.name for update in settlement.waiting] == ["refs/heads/a/b"]


def test_heads_old_branch_is_not_deleted_before_the_new_one_is_here() -> None:
    update = RefUpdate(MAIN, A, None)
    settlement = settle({MAIN: A}, [update], keep=frozenset({MAIN}))
    assert settlement.tips == {MAIN: A}
    assert settlement.waiting == (update,)


def test_head_follows_upstream_as_soon_as_its_branch_is_served() -> None:
    observed = RefSnapshot({RefName("refs/heads/trunk"): A, MAIN: A}, RefName("refs/heads/trunk"))
    assert choose_head(observed, MAIN, observed.tips) == "refs/heads/trunk"
    assert choose_head(observed, MAIN, {MAIN: A}) == MAIN


def test_head_is_unborn_only_when_upstreams_is() -> None:
    unborn = RefSnapshot({RefName("refs/heads/x"): A}, RefName("refs/heads/none"))
    assert choose_head(unborn, MAIN, unborn.tips) == "refs/heads/none"
    detached = RefSnapshot({RefName("refs/heads/x"): A}, NO_HEAD)
    assert choose_head(detached, NO_HEAD, detached.tips) == "refs/heads/x"


def test_hostile_head_is_never_taken() -> None:
    for target in ("refs/heads/../../../X", "refs/tags/v1", "/etc/passwd", "refs/heads/a.lock", "refs/heads/-\n"):
        observed = RefSnapshot({MAIN: A}, RefName(target))
        assert choose_head(observed, NO_HEAD, observed.tips) == MAIN


def test_guard_lets_few_deletions_through() -> None:
    published = snapshot(*(f"b{number}" for number in range(100)))
    observed = snapshot(*(f"b{number}" for number in range(95)))
    assert not guard(published, observed, GuardState(), now=0.0).held


def test_guard_holds_many_deletions_until_three_polls_ten_minutes_apart_agree() -> None:
    published = snapshot(*(f"b{number}" for number in range(100)))
    observed = snapshot("b1")
    first = guard(published, observed, GuardState(), now=1000.0)
    assert first.held
    soon = guard(published, observed, first.state, now=1100.0)
    assert soon.held
    assert soon.state.polls == 1
    second = guard(published, observed, soon.state, now=1600.0)
    assert second.held
    assert second.state.polls == 2
    assert not guard(published, observed, second.state, now=2200.0).held


def test_guard_starts_over_when_the_list_changes_or_the_clock_jumps_back() -> None:
    published = snapshot(*(f"b{number}" for number in range(100)))
    held = GuardState(snapshot("b1").fingerprint(), 2, 1000.0)
    other = guard(published, snapshot("b2"), held, now=5000.0)
    assert other.held
    assert other.state.polls == 1
    assert guard(published, snapshot("b1"), held, now=10.0).held


def test_guard_holds_an_empty_list_even_of_one_ref_unless_events_or_an_operator_say_so() -> None:
    published, empty = snapshot("main"), RefSnapshot({}, MAIN)
    verdict = guard(published, empty, GuardState(), now=0.0)
    assert verdict.held
    assert not guard(published, empty, verdict.state, now=1.0, confirmed_deletions=frozenset({MAIN})).held
    released = GuardState(verdict.state.fingerprint, 1, 0.0, released=verdict.state.fingerprint)
    assert not guard(published, empty, released, now=1.0).held


def test_selection_takes_prefixes_and_exact_names() -> None:
    tips = {MAIN: A, RefName("refs/pull/1/head"): B, RefName("refs/meta"): B}
    assert select(tips, ("refs/heads/*", "refs/meta")) == {MAIN: A, RefName("refs/meta"): B}
    assert select(tips, ()) == {}


def test_one_bad_name_does_not_cost_the_others() -> None:
    good, refused = sound({MAIN: A, RefName("refs/heads/" + "x" * 251): B})
    assert good == {MAIN: A}
    assert len(refused) == 1


@given(tip_maps)
def test_fingerprint_tells_snapshots_apart(tips: dict[RefName, GitOid]) -> None:
    assert RefSnapshot(tips, MAIN).fingerprint() == RefSnapshot(dict(reversed(tips.items())), MAIN).fingerprint()
    assert RefSnapshot(tips, MAIN).fingerprint() != RefSnapshot(tips, NO_HEAD).fingerprint()
