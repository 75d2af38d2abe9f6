"""What becomes of a fetch that broke off when upstream, the owner or the disk changes its mind meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror_sync.domain.runs import Outcome
from tests.e2e.test_links_faults import FETCH, HOUR, Scene, scene_at
from tests.support.compare import objects_of, upstream_refs
from tests.support.mirroring import view_of

CUT = 120_000


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with scene_at(tmp_path) as made:
        yield made


def break_off(scene: Scene) -> None:
    """Let a fetch break off so that an unfinished filling stays behind."""
    scene.up.fault(FETCH, times=1, after=1, rewrite=lambda body: body[:150_000])
    scene.up.fault(FETCH, times=None, after=1, drop=True)
    report = scene.sync()
    assert report.outcome is Outcome.FAILED, (report.code, report.message)
    assert (scene.view.parent / "stage" / "fill" / "goal").is_file()
    scene.up.heal()
    scene.assert_untouched()


def test_an_update_that_upstream_takes_back_leaves_nothing(scene: Scene) -> None:
    scene.move_on()
    break_off(scene)
    scene.repo.update("refs/heads/main", scene.before["refs/heads/main"])
    scene.repo.delete("refs/heads/next")
    assert scene.sync().outcome is Outcome.UNCHANGED
    scene.assert_converges()


def test_an_update_that_turns_into_a_deletion(scene: Scene) -> None:
    scene.move_on()
    break_off(scene)
    scene.repo.update("refs/heads/main", scene.before["refs/heads/main"])
    scene.repo.delete("refs/heads/next")
    scene.repo.delete("refs/heads/dev")
    report = scene.sync()
    assert report.outcome is Outcome.PUBLISHED, (report.code, report.message)
    scene.assert_converges()


def test_an_update_that_is_rewritten_meanwhile(scene: Scene) -> None:
    scene.move_on()
    break_off(scene)
    scene.repo.force({"README": "rewritten", "data": os.urandom(100_000)})
    scene.repo.git("reflog", "expire", "--expire=now", "--all")
    scene.repo.git("gc", "-q", "--prune=now")
    scene.assert_converges()


def test_many_deletions_wait_while_a_fetch_is_unfinished(scene: Scene) -> None:
    scene.move_on()
    break_off(scene)
    for ref in upstream_refs(scene.repo):
        if ref.startswith("refs/tags/"):
            scene.repo.delete(ref)
    assert scene.sync().outcome is Outcome.HELD
    scene.assert_untouched()
    assert scene.app.release_guard(scene.name)
    scene.assert_converges()


def test_a_mirror_is_maintained_while_a_fetch_is_unfinished(scene: Scene) -> None:
    scene.move_on()
    break_off(scene)
    repository = scene.app.repositories.open(scene.name)
    with repository.lock():
        repository.recover()
        repository.maintain(full=True)
    assert repository.filling().begun()
    scene.assert_untouched()
    scene.assert_converges()


def test_what_fits_through_no_connection_holds_its_refs_alone_and_is_tried_again(scene: Scene) -> None:
    heavy = os.urandom(300_000)
    scene.repo.commit({"README": "heavy", "dir/heavy": heavy})
    moved = scene.repo.commit({"README": "dev two"}, branch="dev")
    scene.up.fault(FETCH, times=None, rewrite=lambda body: body[:CUT])
    for number in range(3):
        scene.up.forget()
        report = scene.sync()
        assert (report.outcome, report.code) == (Outcome.HELD, "MS-H009"), (report.code, report.message)
        assert scene.served() == scene.before | {"refs/heads/dev": moved}
        (hold,) = scene.state().holds
        assert hold.name == "refs/heads/main"
        assert "dir/heavy" in hold.reason
        assert "300000 bytes" in hold.reason
        assert objects_of(scene.view)
        moved = scene.repo.commit({"README": f"dev {number}"}, branch="dev")
        scene.repo.commit({"README": f"main {number}"})
        scene.clock.ahead += HOUR
    scene.assert_converges()


def test_an_upstream_that_is_made_anew_in_another_object_format_before_the_first_publication(
    scene: Scene, tmp_path: Path
) -> None:
    first = scene.up.create("acme/anew")
    first.commit({"README": "x", "data": os.urandom(200_000)})
    mirror, _ = scene.app.enrol(first.url)
    scene.up.fault("acme/anew/git-upload-pack", times=1, after=1, rewrite=lambda body: body[:100_000])
    scene.up.fault("acme/anew/git-upload-pack", times=None, after=1, drop=True)
    report = scene.sync(mirror)
    assert report.outcome is Outcome.FAILED
    assert (view_of(scene.directory, first.url).parent / "stage" / "fill" / "goal").is_file()
    scene.up.heal()
    first.path.rename(tmp_path / "gone.git")
    again = scene.up.create("acme/anew", object_format="sha256")
    tip = again.commit({"README": "y"})
    scene.clock.ahead += 48 * HOUR
    report = scene.sync(mirror)
    assert report.outcome is Outcome.PUBLISHED, (report.code, report.message)
    assert scene.app.state.mirror(mirror.name).ref_count == 1
    assert len(tip) == 64
