from __future__ import annotations

import os
import subprocess
import threading

import pytest

from mirror_sync.domain.names import GitOid, RefName, ref_from_bytes
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.domain.runs import KeptTip, RunId
from mirror_sync.errors import RepositoryDamaged, StorageFull
from mirror_sync.ports import PublishRequest
from mirror_sync.repos import files
from mirror_sync.repos.packed_refs import parse_packed_refs
from mirror_sync.repos.views import held_view
from mirror_sync.testing.clock import HandClock
from tests.support.disk_mirror import MAIN, DiskMirror


@pytest.fixture
def mirror(tmp_path) -> DiskMirror:
    return DiskMirror(tmp_path)


def roots(mirror: DiskMirror):
    return parse_packed_refs((mirror.repository.layout.store / "packed-refs").read_bytes())


def ready(mirror: DiskMirror, tips: dict[str, str], **more) -> PublishRequest:
    number = mirror.repository.current_view()
    named = {RefName(name): GitOid(oid) for name, oid in tips.items()}
    return PublishRequest(
        view=mirror.repository.next_view(), expected_view=number, snapshot=RefSnapshot(named, MAIN), **more
    )


def test_git_serves_what_was_published(mirror):
    commit = mirror.commit()
    tag = mirror.history.tag("v1", commit)
    nested = mirror.history.tag("v1-signed", tag, "tag")
    odd = ref_from_bytes(b"refs/heads/caf\xe9")
    tips = {MAIN: commit, "refs/tags/v1": tag, "refs/tags/v2": nested, "refs/heads/中文": commit, odd: commit}
    mirror.publish(tips)
    refs, head = mirror.served()
    assert head == "ref: refs/heads/main\n"
    assert refs == {**tips, "refs/tags/v1^{}": commit, "refs/tags/v2^{}": commit}
    mirror.check_served()


def test_an_ordinary_clone_of_the_view_is_whole(mirror, tmp_path):
    commit = mirror.commit(files={"a.txt": b"hello\n"})
    mirror.publish({MAIN: commit})
    view = mirror.repository.layout.current_view()
    subprocess.run(["git", "clone", "-q", "--no-local", str(view), str(tmp_path / "clone")], check=True)
    assert (tmp_path / "clone" / "a.txt").read_bytes() == b"hello\n"


def test_a_view_answers_any_object_and_allowed_filters_only(mirror, tmp_path):
    first = mirror.commit()
    mirror.publish({MAIN: first})
    second = mirror.commit()
    mirror.publish({MAIN: second}, kept=(KeptTip(RunId(1), MAIN, first, 0, 1),))
    view = str(mirror.repository.layout.current_view())

    def fetch(number: int, *words: str) -> int:
        work = str(tmp_path / f"work{number}")
        subprocess.run(["git", "init", "-q", work], check=True)
        return subprocess.run(["git", "-C", work, *words], capture_output=True, check=False).returncode

    url = f"file://{view}"
    assert fetch(1, "-c", "protocol.version=0", "fetch", "-q", url, first) == 0
    assert fetch(2, "fetch", "-q", "--filter=blob:none", url, second) == 0
    assert fetch(3, "fetch", "-q", "--filter=tree:0", url, second) == 0
    assert fetch(4, "fetch", "-q", "--filter=tree:5", url, second) != 0
    assert fetch(5, "fetch", "-q", "--filter=sparse:oid=HEAD:x", url, second) != 0


def test_sha256_repositories(tmp_path):
    mirror = DiskMirror(tmp_path, object_format=ObjectFormat.SHA256)
    commit = mirror.commit()
    tag = mirror.history.tag("v1", commit)
    mirror.publish({MAIN: commit, "refs/tags/v1": tag})
    assert len(commit) == 64
    assert mirror.served()[0] == {MAIN: commit, "refs/tags/v1": tag, "refs/tags/v1^{}": commit}
    assert mirror.open().published().snapshot.tips == {MAIN: commit, "refs/tags/v1": tag}


def test_an_unborn_head(mirror):
    commit = mirror.commit()
    mirror.publish({"refs/heads/dev": commit}, head="refs/heads/none-yet")
    assert mirror.repository.published().snapshot.head == "refs/heads/none-yet"
    assert mirror.served()[0] == {"refs/heads/dev": commit}


@pytest.mark.parametrize("head", ["refs/tags/v1", "refs/heads/../../x", "refs/heads/a b", "", "HEAD"])
def test_head_cannot_lead_elsewhere(mirror, head):
    commit = mirror.commit()
    mirror.publish({MAIN: commit})
    with pytest.raises(RepositoryDamaged):
        mirror.publish({MAIN: commit}, head=head)
    assert mirror.served() == ({MAIN: commit}, "ref: refs/heads/main\n")
    assert mirror.repository.current_view() == 1


@pytest.mark.parametrize("name", ["refs/heads/a\nb", "refs/heads/a b", "refs/mirror-sync/kept/1/x", "refs/heads/../x"])
def test_a_name_that_would_corrupt_the_file_is_refused(mirror, name):
    commit = mirror.commit()
    mirror.publish({MAIN: commit})
    with pytest.raises(RepositoryDamaged):
        mirror.publish({MAIN: commit, name: commit})
    assert mirror.served()[0] == {MAIN: commit}


def test_roots_hold_published_and_kept_afterwards(mirror):
    first, second = mirror.commit(), mirror.commit()
    mirror.publish({MAIN: first, "refs/heads/gone": first})
    kept = (KeptTip(RunId(3), MAIN, first, 0, 9), KeptTip(RunId(3), RefName("refs/heads/gone"), first, 0, 9))
    mirror.publish({MAIN: second}, kept=kept)
    assert roots(mirror).tips == {
        MAIN: second,
        "refs/mirror-sync/kept/3/refs/heads/main": first,
        "refs/mirror-sync/kept/3/refs/heads/gone": first,
    }
    assert mirror.served()[0] == {MAIN: second}


def test_one_run_may_move_one_ref_twice(mirror):
    commits = [mirror.commit() for _ in range(3)]
    mirror.publish({MAIN: commits[0]})
    kept = tuple(KeptTip(RunId(3), MAIN, commit, 0, 9) for commit in commits[:2])
    mirror.publish({MAIN: commits[1]}, kept=kept[:1])
    mirror.publish({MAIN: commits[2]}, kept=kept)
    assert set(roots(mirror).tips.values()) == set(commits)


def test_roots_are_wide_at_the_flip(mirror):
    first, second, older = mirror.commit(), mirror.commit(), mirror.commit()
    mirror.publish({MAIN: older})
    mirror.publish({MAIN: first}, kept=(KeptTip(RunId(1), MAIN, older, 0, 9),))
    mirror.stage(second)
    mirror.inspect(second)
    seen = []
    with mirror.repository.lock():
        mirror.repository.promote([second])
        request = ready(mirror, {MAIN: second}, kept=())
        mirror.repository.publish(request, confirm=lambda: seen.append(set(roots(mirror).tips.values())))
    assert seen == [{first, second, older}]
    assert set(roots(mirror).tips.values()) == {second}


def test_fifty_publishes_never_show_a_mixture(mirror):
    """Readers see refs and HEAD of one snapshot, though each publish moves every ref and HEAD."""
    commits = [mirror.commit(str(n)) for n in range(4)]
    names = [f"refs/heads/b{n:03d}" for n in range(60)]
    heads = [names[0], names[1]]

    def snapshot(number: int) -> dict[str, str]:
        return dict.fromkeys(names, commits[number % 4]) | {f"refs/heads/only-{number % 2}": commits[number % 4]}

    mirror.publish(snapshot(0), head=heads[0])
    allowed = {(frozenset(snapshot(n).items()), f"ref: {heads[n % 2]}\n") for n in range(4)}
    seen: set[object] = set()
    mixed: list[object] = []
    done = threading.Event()
    other = mirror.open()  # a second door, so that no cache is shared

    def read() -> None:
        while not done.is_set():
            view = other.layout.current_view()
            assert view is not None
            out = subprocess.run(["git", "ls-remote", str(view)], check=True, capture_output=True).stdout.decode()
            refs = dict(reversed(line.split("\t")) for line in out.splitlines())
            head = (view / "HEAD").read_text()
            at_head = refs.pop("HEAD")
            answer = (frozenset(refs.items()), head)
            seen.add(answer)
            if answer not in allowed or refs[head[5:-1]] != at_head:
                mixed.append(answer)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    try:
        for number in range(1, 51):
            mirror.publish(snapshot(number), head=heads[number % 2])
    finally:
        done.set()
        for thread in readers:
            thread.join()
    assert mixed == []
    assert len(seen) >= 2


def test_superseded_views_stay_for_their_grace_and_while_held(tmp_path):
    clock = HandClock()
    mirror = DiskMirror(tmp_path, clock=clock)
    commit = mirror.commit()
    views = mirror.repository.layout.views

    def publish() -> None:
        made = mirror.publish({MAIN: commit})
        os.utime(views / str(made.number), (clock.now(), clock.now()))

    publish()
    clock.advance(86_400)
    publish()
    assert {path.name for path in views.iterdir()} == {"1", "2"}
    clock.advance(599)
    publish()
    assert {path.name for path in views.iterdir()} == {"1", "2", "3"}
    clock.advance(2)
    with held_view(views / "1"):
        publish()
        assert {path.name for path in views.iterdir()} == {"1", "2", "3", "4"}
    clock.advance(700)
    publish()
    assert {path.name for path in views.iterdir()} == {"4", "5"}


def test_a_full_disk_before_the_flip_leaves_the_old_view(mirror, monkeypatch):
    first, second = mirror.commit(), mirror.commit()
    mirror.publish({MAIN: first})
    mirror.stage(second)
    mirror.inspect(second)

    def full(path, data):
        raise OSError(28, "No space left on device")

    with mirror.repository.lock():
        mirror.repository.promote([second])
        monkeypatch.setattr("mirror_sync.repos.views.draft", full)
        with pytest.raises(StorageFull):
            mirror.repository.publish(ready(mirror, {MAIN: second}, kept=()), confirm=lambda: None)
        monkeypatch.undo()
    assert mirror.served()[0] == {MAIN: first}
    mirror.publish({MAIN: second})
    assert mirror.served()[0] == {MAIN: second}
    assert mirror.loose_ends() == []


@pytest.mark.parametrize("failing", [1, 3, 7, 8])
def test_an_io_error_on_sync_before_the_flip_is_not_tried_again(mirror, monkeypatch, failing):
    first, second = mirror.commit(), mirror.commit()
    mirror.publish({MAIN: first})
    synced = []
    sync = os.fsync

    def fail(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        if len(synced) == failing:
            raise OSError(5, "Input/output error")
        sync(descriptor)

    mirror.stage(second)
    mirror.inspect(second)
    with mirror.repository.lock():
        mirror.repository.promote([second])
        monkeypatch.setattr(files.os, "fsync", fail)
        with pytest.raises(RepositoryDamaged):
            mirror.repository.publish(ready(mirror, {MAIN: second}, kept=()), confirm=lambda: None)
        monkeypatch.undo()
    assert len(synced) == len(set(synced))
    assert mirror.served()[0] == {MAIN: first}
    mirror.publish({MAIN: second})
    assert mirror.served()[0] == {MAIN: second}
    assert mirror.loose_ends() == []


@pytest.mark.parametrize("victim", ["packed-refs", "HEAD", "config"])
def test_a_damaged_view_is_noticed(mirror, victim):
    mirror.publish({MAIN: mirror.commit()})
    path = mirror.repository.layout.current_view() / victim
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RepositoryDamaged):
        mirror.open().published()
    with mirror.repository.lock(), pytest.raises(RepositoryDamaged):
        mirror.repository.recover()


def test_current_that_leads_nowhere_is_damage(mirror):
    mirror.publish({MAIN: mirror.commit()})
    layout = mirror.repository.layout
    layout.current.unlink()
    layout.current.symlink_to("views/77")
    with pytest.raises(RepositoryDamaged):
        mirror.open().published()
    layout.current.unlink()
    layout.current.symlink_to("../../elsewhere")
    with pytest.raises(RepositoryDamaged):
        mirror.open().current_view()
