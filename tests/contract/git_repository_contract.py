"""What every GitRepository promises."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.refs import NO_HEAD, Change, ObjectFormat, RefSnapshot, RefUpdate
from mirror_sync.domain.runs import KeptTip, RunId
from mirror_sync.errors import GitFailed, LeaseLost, PublishConflict, RepositoryDamaged, StorageFull, UpstreamInvalid
from mirror_sync.ports import PublishRequest, View
from tests.support.staging import stage_pack

MAIN = RefName("refs/heads/main")
DEV = RefName("refs/heads/dev")
TAG = RefName("refs/tags/v1")
PLENTY = 2**30


class Scene(Protocol):
    """A repository, a second door to the same one, and an upstream to take objects from."""

    repository: Any

    def again(self) -> Any: ...

    def commit(self, text: str, *, parents: tuple[str, ...] = ()) -> GitOid: ...

    def tag(self, text: str, target: str) -> GitOid: ...

    def bad_commit(self, text: str, *, parents: tuple[str, ...] = ()) -> tuple[GitOid, str]:
        """Return a commit that may not be published and the fsck id that lets it pass."""

    def pack(self, wants: list[str], *, haves: list[str] = ...) -> bytes: ...


def allow() -> None:
    """Confirm the lease."""


def bring(scene: Scene, *tips: str, haves: list[str] | None = None) -> None:
    """Stage, check and promote ``tips``."""
    stage_pack(scene.repository, [scene.pack(list(tips), haves=haves or [])], max_bytes=PLENTY)
    assert scene.repository.inspect(list(tips)).bad == {}
    scene.repository.promote(list(tips))


def request(
    number: int, tips: dict[RefName, GitOid], *, head: RefName = MAIN, kept: tuple[KeptTip, ...] = ()
) -> PublishRequest:
    return PublishRequest(view=number, expected_view=number - 1, snapshot=RefSnapshot(tips, head), kept=kept)


class GitRepositoryContract:
    @pytest.fixture
    def scene(self) -> Scene:
        raise NotImplementedError

    @pytest.fixture
    def ready(self, scene):
        """The scene with its store made and its lock held."""
        with scene.repository.lock():
            scene.repository.create(ObjectFormat.SHA1)
            yield scene

    # -- life and lock
    def test_nothing_is_there_at_first(self, scene):
        assert not scene.repository.exists()
        assert scene.repository.current_view() == 0
        assert scene.repository.published() == View(0, RefSnapshot({}, NO_HEAD))
        assert scene.repository.missing([GitOid("1" * 40)]) == {"1" * 40}
        assert scene.repository.stage_is_empty()

    def test_create_twice_keeps_what_is_there(self, ready):
        first = ready.commit("a")
        bring(ready, first)
        ready.repository.create(ObjectFormat.SHA1)
        assert ready.repository.exists()
        assert ready.repository.missing([first]) == set()

    def test_another_object_format_begins_anew_unless_something_was_published(self, ready):
        first = ready.commit("a")
        bring(ready, first)
        ready.repository.create(ObjectFormat.SHA256)
        assert ready.repository.exists()
        assert ready.repository.stage_is_empty()
        assert ready.repository.missing([first]) == {first}
        ready.repository.create(ObjectFormat.SHA1)
        bring(ready, first)
        ready.repository.publish(request(1, {MAIN: first}), confirm=allow)
        ready.repository.create(ObjectFormat.SHA256)
        assert ready.repository.missing([first]) == set()

    def test_the_lock_is_exclusive_and_free_afterwards(self, scene):
        other = scene.again()
        with scene.repository.lock(), pytest.raises(LeaseLost), other.lock():
            pass
        with other.lock():
            pass

    # -- staging
    def test_staged_objects_are_here_and_not_published(self, ready):
        tip = ready.commit("a")
        assert ready.repository.missing([tip]) == {tip}
        assert stage_pack(ready.repository, [ready.pack([tip])], max_bytes=PLENTY) > 0
        assert ready.repository.missing([tip]) == set()
        assert not ready.repository.stage_is_empty()
        assert ready.repository.current_view() == 0

    def test_a_pack_in_many_pieces_is_the_same_pack(self, ready):
        tip = ready.commit("a")
        data = ready.pack([tip])
        assert stage_pack(ready.repository, (data[i : i + 1] for i in range(len(data))), max_bytes=PLENTY) == len(data)
        assert ready.repository.missing([tip]) == set()

    def test_a_cut_pack_stages_nothing(self, ready):
        tip = ready.commit("a")
        taken = ready.repository.filling().take([ready.pack([tip])[:-6]], max_bytes=PLENTY)
        assert isinstance(taken.error, (GitFailed, UpstreamInvalid))
        assert not taken.complete
        assert ready.repository.missing([tip]) == {tip}

    def test_a_pack_past_its_bound_stages_nothing(self, ready):
        tip = ready.commit("a")
        with pytest.raises(StorageFull):
            stage_pack(ready.repository, [ready.pack([tip])], max_bytes=10)
        assert ready.repository.missing([tip]) == {tip}

    def test_an_error_of_the_sender_passes_through(self, ready):
        tip = ready.commit("a")

        def chunks():
            yield ready.pack([tip])[:20]
            raise PublishConflict("the link broke")

        with pytest.raises(PublishConflict, match="the link broke"):
            stage_pack(ready.repository, chunks(), max_bytes=PLENTY)
        assert ready.repository.missing([tip]) == {tip}

    def test_discarding_empties_the_stage(self, ready):
        tip = ready.commit("a")
        stage_pack(ready.repository, [ready.pack([tip])], max_bytes=PLENTY)
        ready.repository.discard_stage()
        assert ready.repository.stage_is_empty()
        assert ready.repository.missing([tip]) == {tip}
        ready.repository.discard_stage()

    def test_promoted_objects_outlive_the_stage(self, ready):
        tip = ready.commit("a")
        bring(ready, tip)
        ready.repository.discard_stage()
        assert ready.repository.missing([tip]) == set()
        assert ready.repository.size_bytes() > 0

    def test_promoting_twice_costs_nothing(self, ready):
        tip = ready.commit("a")
        stage_pack(ready.repository, [ready.pack([tip])], max_bytes=PLENTY)
        ready.repository.inspect([tip])
        assert ready.repository.promote([tip]) > 0
        assert ready.repository.promote([tip]) == 0

    # -- inspection
    def test_a_bad_tip_is_named_and_the_good_one_goes_on(self, ready):
        base = ready.commit("base")
        good = ready.commit("good", parents=(base,))
        bad, fault = ready.bad_commit("bad", parents=(base,))
        later = ready.commit("later", parents=(bad,))
        stage_pack(ready.repository, [ready.pack([good, later])], max_bytes=PLENTY)
        found = ready.repository.inspect([good, later])
        assert set(found.bad) == {later}
        assert fault in found.bad[later]
        ready.repository.promote([good])
        ready.repository.discard_stage()
        assert ready.repository.missing([good, bad, later]) == {bad, later}

    def test_the_operator_may_relax(self, ready):
        bad, fault = ready.bad_commit("bad")
        stage_pack(ready.repository, [ready.pack([bad])], max_bytes=PLENTY)
        assert set(ready.repository.inspect([bad]).bad) == {bad}
        found = ready.repository.inspect([bad], relaxed=[fault])
        assert found.bad == {}
        assert any(fault in note for note in found.notes)
        ready.repository.promote([bad])
        ready.repository.discard_stage()
        assert ready.repository.missing([bad]) == set()

    def test_a_tip_that_did_not_come_is_bad(self, ready):
        here, absent = ready.commit("here"), ready.commit("absent")
        stage_pack(ready.repository, [ready.pack([here])], max_bytes=PLENTY)
        assert set(ready.repository.inspect([here, absent]).bad) == {absent}

    def test_a_tip_whose_history_did_not_come_is_bad(self, ready):
        base = ready.commit("base")
        good = ready.commit("good")
        cut = ready.commit("cut", parents=(base,))
        stage_pack(ready.repository, [ready.pack([good])], max_bytes=PLENTY)
        stage_pack(ready.repository, [ready.pack([cut], haves=[base])], max_bytes=PLENTY)
        assert set(ready.repository.inspect([good, cut]).bad) == {cut}

    def test_nothing_to_inspect(self, ready):
        assert ready.repository.inspect([]).bad == {}

    # -- publishing
    def test_publish_shows_the_snapshot(self, ready):
        tip = ready.commit("a")
        bring(ready, tip)
        made = ready.repository.publish(request(1, {MAIN: tip}), confirm=allow)
        assert made == View(1, RefSnapshot({MAIN: tip}, MAIN))
        assert ready.repository.published() == made
        assert ready.again().published() == made
        assert ready.repository.current_view() == 1
        assert ready.repository.next_view() == 2

    def test_an_empty_snapshot_is_a_snapshot(self, ready):
        made = ready.repository.publish(request(1, {}), confirm=allow)
        assert ready.repository.published() == made == View(1, RefSnapshot({}, MAIN))

    def test_another_view_than_expected_is_a_conflict(self, ready):
        tip = ready.commit("a")
        bring(ready, tip)
        ready.repository.publish(request(1, {MAIN: tip}), confirm=allow)
        asked = []
        with pytest.raises(PublishConflict):
            ready.repository.publish(
                PublishRequest(view=2, expected_view=0, snapshot=RefSnapshot({}, MAIN), kept=()),
                confirm=lambda: asked.append(1),
            )
        assert ready.repository.published().snapshot.tips == {MAIN: tip}
        assert asked == []

    def test_confirmation_forbids_the_flip(self, ready):
        tip = ready.commit("a")
        bring(ready, tip)

        def refuse() -> None:
            raise LeaseLost

        with pytest.raises(LeaseLost):
            ready.repository.publish(request(1, {MAIN: tip}), confirm=refuse)
        assert ready.repository.current_view() == 0
        ready.repository.recover()
        assert ready.repository.current_view() == 0
        number = ready.repository.next_view()
        made = ready.repository.publish(
            PublishRequest(view=number, expected_view=0, snapshot=RefSnapshot({MAIN: tip}, MAIN), kept=()),
            confirm=allow,
        )
        assert ready.repository.published() == made

    def test_a_tip_the_store_lacks_is_never_published(self, ready):
        tip = ready.commit("a")
        stage_pack(ready.repository, [ready.pack([tip])], max_bytes=PLENTY)
        with pytest.raises(RepositoryDamaged):
            ready.repository.publish(request(1, {MAIN: tip}), confirm=allow)
        assert ready.repository.current_view() == 0

    def test_publish_again_and_again(self, ready):
        tip = ready.commit("0")
        bring(ready, tip)
        ready.repository.publish(request(1, {MAIN: tip}), confirm=allow)
        for number in range(2, 6):
            old, tip = tip, ready.commit(str(number), parents=(tip,))
            bring(ready, tip, haves=[old])
            ready.repository.publish(request(number, {MAIN: tip}), confirm=allow)
            ready.repository.discard_stage()
            assert ready.repository.published() == View(number, RefSnapshot({MAIN: tip}, MAIN))

    def test_a_branch_becomes_a_directory(self, ready):
        tip = ready.commit("a")
        bring(ready, tip)
        inside = RefName("refs/heads/dev/a")
        ready.repository.publish(request(1, {MAIN: tip, DEV: tip}), confirm=allow)
        ready.repository.publish(request(2, {MAIN: tip, inside: tip}), confirm=allow)
        assert ready.repository.published().snapshot.tips == {MAIN: tip, inside: tip}
        ready.repository.publish(request(3, {MAIN: tip, DEV: tip}), confirm=allow)
        assert ready.repository.published().snapshot.tips == {MAIN: tip, DEV: tip}

    # -- what stays and what goes
    def test_kept_tips_survive_full_maintenance_and_go_when_dropped(self, ready):
        old, new = ready.commit("old"), ready.commit("new")
        bring(ready, old, new)
        ready.repository.discard_stage()
        ready.repository.publish(request(1, {MAIN: old}), confirm=allow)
        kept = KeptTip(RunId(7), MAIN, old, 0.0, 100.0)
        ready.repository.publish(request(2, {MAIN: new}, kept=(kept,)), confirm=allow)
        ready.repository.maintain(full=True)
        assert ready.repository.missing([old, new]) == set()
        ready.repository.protect([])
        self.let_views_go(ready)
        ready.repository.maintain(full=True)
        assert ready.repository.missing([old, new]) == {old}

    def let_views_go(self, scene: Scene) -> None:
        """Make superseded views old enough to be dropped."""

    def test_maintenance_keeps_what_the_stage_needs(self, ready):
        tip = ready.commit("a")
        bring(ready, tip)
        ready.repository.publish(request(1, {MAIN: tip}), confirm=allow)
        held = ready.commit("held", parents=(tip,))
        stage_pack(ready.repository, [ready.pack([held], haves=[tip])], max_bytes=PLENTY)
        assert ready.repository.maintain(full=True) == ready.repository.size_bytes()
        assert ready.repository.inspect([held]).bad == {}

    def test_remove_leaves_nothing(self, scene):
        with scene.repository.lock():
            scene.repository.create(ObjectFormat.SHA1)
            tip = scene.commit("a")
            bring(scene, tip)
            scene.repository.publish(request(1, {MAIN: tip}), confirm=allow)
            scene.repository.remove()
        assert not scene.repository.exists()
        assert scene.repository.current_view() == 0
        with scene.repository.lock():
            scene.repository.create(ObjectFormat.SHA1)
            assert scene.repository.missing([tip]) == {tip}

    # -- questions
    def test_kinds_of_updates(self, ready):
        base = ready.commit("base")
        forward, aside = ready.commit("forward", parents=(base,)), ready.commit("aside")
        tag, again = ready.tag("v1", base), ready.tag("v1 again", base)
        stage_pack(ready.repository, [ready.pack([forward, aside, tag, again])], max_bytes=PLENTY)
        names = [RefName(f"refs/heads/{n}") for n in range(8)]
        moves = [
            (None, base, Change.CREATE),
            (base, None, Change.DELETE),
            (base, forward, Change.FAST_FORWARD),
            (base, aside, Change.FORCED),
            (forward, base, Change.FORCED),
            (tag, again, Change.FORCED),
            (base, tag, Change.FORCED),
            (tag, base, Change.FORCED),
        ]
        updates = [RefUpdate(name, old, new) for name, (old, new, _) in zip(names, moves, strict=True)]
        expected = {name: kind for name, (_, _, kind) in zip(names, moves, strict=True)}
        assert ready.repository.classify(updates) == expected

    def test_peeling(self, ready):
        base = ready.commit("base")
        tag = ready.tag("v1", base)
        nested = ready.tag("nested", tag)
        stage_pack(ready.repository, [ready.pack([nested])], max_bytes=PLENTY)
        assert ready.repository.peel([base, tag, nested]) == {tag: base, nested: base}

    def test_recovering_a_sound_repository_changes_nothing(self, ready):
        tip = ready.commit("a")
        bring(ready, tip)
        made = ready.repository.publish(request(1, {MAIN: tip}), confirm=allow)
        ready.repository.recover()
        assert ready.repository.recover().removed == ()
        assert ready.repository.published() == made
