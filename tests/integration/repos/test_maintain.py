from __future__ import annotations

import os
import subprocess
import threading

import pytest

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.refs import Change, RefUpdate
from mirror_sync.domain.runs import KeptTip, RunId
from mirror_sync.testing.clock import HandClock
from tests.support.disk_mirror import MAIN, DiskMirror


@pytest.fixture
def mirror(tmp_path) -> DiskMirror:
    return DiskMirror(tmp_path)


def maintain(mirror: DiskMirror, *, full: bool, stop: threading.Event | None = None) -> int:
    with mirror.repository.lock():
        return mirror.repository.maintain(full=full, stop=stop)


def grow(mirror: DiskMirror, count: int) -> str:
    """Publish ``count`` times, one pack each."""
    tip = ""
    for _ in range(count):
        tip = mirror.commit(parents=[tip] if tip else [], files={"a": os.urandom(200)})
        mirror.publish({MAIN: tip})
    return tip


def packs(mirror: DiskMirror, ending: str = ".pack") -> list[str]:
    return sorted(path.name for path in mirror.repository.layout.packs.glob(f"pack-*{ending}"))


def test_full_maintenance_leaves_one_pack_with_bitmap_and_graph(mirror):
    grow(mirror, 4)
    assert len(packs(mirror)) == 4
    size = maintain(mirror, full=True)
    assert len(packs(mirror)) == 1
    assert len(packs(mirror, ".bitmap")) == 1
    assert size == mirror.repository.size_bytes() > 0
    assert list((mirror.repository.layout.store_objects / "info").rglob("*graph*"))
    assert mirror.loose_ends() == []
    mirror.check_served()
    subprocess.run(["git", f"--git-dir={mirror.repository.layout.store}", "fsck", "--full", "--strict"], check=True)


def test_small_maintenance_joins_packs_when_there_are_several(mirror):
    grow(mirror, 2)
    maintain(mirror, full=True)
    for count in range(1, 8):
        tip = mirror.commit(files={"a": os.urandom(200)}, parents=[mirror.repository.published().snapshot.tips[MAIN]])
        mirror.publish({MAIN: tip})
        maintain(mirror, full=False)
        assert len(packs(mirror)) <= 3, count
        mirror.check_served()
    maintain(mirror, full=True)
    assert len(packs(mirror)) == 1
    assert not (mirror.repository.layout.packs / "multi-pack-index").exists()
    mirror.check_served()


def test_the_first_small_maintenance_makes_the_bitmap(mirror):
    grow(mirror, 1)
    maintain(mirror, full=False)
    assert len(packs(mirror, ".bitmap")) == 1


def test_an_empty_mirror_needs_none(mirror):
    mirror.publish({})
    assert maintain(mirror, full=True) == 0


def test_views_on_disk_keep_what_they_name(tmp_path):
    """A request may have begun with the view before: what it names stays until the view is gone."""
    clock = HandClock()
    mirror = DiskMirror(tmp_path, clock=clock)
    old, new = mirror.commit(), mirror.commit()
    tag = mirror.history.tag("v1", old)
    for tips in ({MAIN: old, "refs/tags/v1": tag}, {MAIN: new}):
        made = mirror.publish(tips)
        os.utime(mirror.repository.layout.view(made.number), (clock.now(), clock.now()))
    clock.advance(60)
    maintain(mirror, full=True)
    assert mirror.repository.missing([old, tag]) == set()
    first = mirror.repository.layout.view(1)
    subprocess.run(["git", f"--git-dir={first}", "rev-list", "--objects", "--all", "--quiet"], check=True)
    clock.advance(600)
    with mirror.repository.lock():
        mirror.repository.protect([])
    maintain(mirror, full=True)
    assert not first.exists()
    assert mirror.repository.missing([old, tag, new]) == {old, tag}


def test_kept_tips_alone_hold_their_history(tmp_path):
    clock = HandClock()
    mirror = DiskMirror(tmp_path, clock=clock)
    base = mirror.commit()
    old = mirror.commit(parents=[base])
    new = mirror.commit()
    mirror.publish({MAIN: old})
    kept = KeptTip(RunId(1), MAIN, GitOid(old), 0, 1)
    made = mirror.publish({MAIN: new}, kept=(kept,))
    os.utime(mirror.repository.layout.view(made.number), (clock.now() - 3600, clock.now() - 3600))
    maintain(mirror, full=True)
    assert mirror.repository.missing([base, old]) == set()
    with mirror.repository.lock():
        mirror.repository.protect([])
    maintain(mirror, full=True)
    assert mirror.repository.missing([base, old, new]) == {base, old}


def test_stopping_leaves_the_store_as_it_was(mirror):
    grow(mirror, 4)
    before = packs(mirror)
    stop = threading.Event()
    stop.set()
    maintain(mirror, full=True, stop=stop)
    assert packs(mirror) == before
    assert mirror.loose_ends() == []
    mirror.check_served()


def test_clones_go_on_through_publishes_and_maintenance(mirror, tmp_path):
    grow(mirror, 3)
    done = threading.Event()
    failures: list[str] = []
    clones = 0

    def clone() -> None:
        nonlocal clones
        while not done.is_set():
            target = tmp_path / f"clone-{clones}"
            view = mirror.open().layout.current_view()
            ran = subprocess.run(
                ["git", "clone", "-q", "--bare", "--no-local", str(view), str(target)], capture_output=True, check=False
            )
            if ran.returncode:
                failures.append(ran.stderr.decode())
                return
            clones += 1
            subprocess.run(["rm", "-rf", str(target)], check=True)

    thread = threading.Thread(target=clone)
    thread.start()
    try:
        for number in range(8):
            tip = mirror.commit(files={"a": os.urandom(200_000)})
            mirror.publish({MAIN: tip})
            maintain(mirror, full=number % 3 == 2)
    finally:
        done.set()
        thread.join()
    assert failures == []
    assert clones > 0


# ---------------------------------------------------------------- kinds of many updates


def test_many_updates_are_classified_alike_one_by_one_and_together(mirror):
    history = mirror.history
    line = history.chain(60)
    side = history.chain(20, parent=line[10])
    alone = history.chain(5)
    merge = mirror.commit(parents=[line[30], side[5]])
    mirror.publish({MAIN: line[-1], "refs/heads/side": side[-1], "refs/heads/alone": alone[-1], "refs/heads/m": merge})
    pairs = [
        (line[0], line[59], Change.FAST_FORWARD),
        (line[5], line[6], Change.FAST_FORWARD),
        (line[6], line[5], Change.FORCED),
        (line[10], side[19], Change.FAST_FORWARD),
        (line[11], side[19], Change.FORCED),
        (side[5], merge, Change.FAST_FORWARD),
        (side[6], merge, Change.FORCED),
        (line[30], merge, Change.FAST_FORWARD),
        (line[31], merge, Change.FORCED),
        (alone[0], line[59], Change.FORCED),
        (line[59], alone[4], Change.FORCED),
        (alone[0], alone[4], Change.FAST_FORWARD),
        (GitOid("9" * 40), line[0], Change.FORCED),
    ]
    updates = [RefUpdate(RefName(f"refs/heads/{n}"), GitOid(a), GitOid(b)) for n, (a, b, _) in enumerate(pairs)]
    expected = {update.name: kind for update, (_, _, kind) in zip(updates, pairs, strict=True)}
    assert mirror.repository.classify(updates) == expected
    one_by_one: dict[RefName, Change] = {}
    for update in updates:
        one_by_one.update(mirror.repository.classify([update]))
    assert one_by_one == expected


def test_a_rewritten_history_of_many_refs_is_told_by_one_walk(mirror):
    old, new = mirror.history.chain(400), mirror.history.chain(400)
    mirror.publish({"refs/heads/old": old[-1], "refs/heads/new": new[-1]})
    updates = [
        RefUpdate(RefName(f"refs/heads/{n}"), GitOid(a), GitOid(b))
        for n, (a, b) in enumerate(zip(old, new, strict=True))
    ]
    assert set(mirror.repository.classify(updates).values()) == {Change.FORCED}
