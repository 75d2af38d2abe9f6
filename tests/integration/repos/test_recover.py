from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.runs import KeptTip, RunId
from mirror_sync.errors import GitFailed, LeaseLost, RepositoryDamaged
from tests.support.disk_mirror import MAIN, PLENTY, DiskMirror
from tests.support.kill_at import killed_at, steps_of
from tests.support.staging import stage_pack

TAG = "refs/tags/v1"


@pytest.fixture
def mirror(tmp_path) -> DiskMirror:
    return DiskMirror(tmp_path / "original")


def recover(mirror: DiskMirror) -> tuple[str, ...]:
    with mirror.repository.lock():
        return mirror.repository.recover().removed


def test_whatever_a_crash_may_leave_is_removed_and_clients_see_no_change(mirror):
    first, staged = mirror.commit(), mirror.commit()
    mirror.publish({MAIN: first, "refs/heads/a/b": first})
    mirror.stage(staged)
    layout = mirror.repository.layout
    before = mirror.served()
    (layout.store / "refs" / "heads" / "x").mkdir(parents=True)
    (layout.store / "refs" / "heads" / "x" / "y").write_text(f"{staged}\n")
    (layout.store / "refs" / "heads" / "z.lock").touch()
    litter = [
        layout.root / "tmp_current",
        layout.root / "tmp_store",
        layout.store / "packed-refs.lock",
        layout.store / "config.lock",
        layout.store / "tmp_packed-refs",
        layout.store / "gc.pid",
        layout.packs / "tmp_pack_abc123",
        layout.packs / "tmp_idx_abc123",
        layout.packs / ".tmp-77-pack-aa.pack",
        layout.packs / "multi-pack-index.lock",
        layout.packs / f"pack-{'a' * 40}.pack",
        layout.packs / f"pack-{'a' * 40}.keep",
        layout.store_objects / "info" / "commit-graphs" / "commit-graph-chain.lock",
        layout.stage_packs / "tmp_pack_x",
        layout.stage_packs / f"pack-{'b' * 40}.pack",
        layout.stage / "shallow.lock",
        layout.stage / "promote" / "pack-1.pack",
        layout.stage / "fsck" / "HEAD",
        layout.views / ".new-2" / "HEAD",
        layout.views / "2" / "HEAD",
    ]
    for path in litter:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    removed = recover(mirror)
    assert [path for path in litter if path.exists()] == []
    assert f"store/refs/heads/x/y {staged}" in removed
    assert mirror.served() == before
    assert recover(mirror) == ()
    assert mirror.repository.missing([staged]) == set()
    mirror.publish({MAIN: staged})
    mirror.check_served()


def test_keep_files_of_ours_go_and_an_operators_stay(mirror):
    first, second = mirror.commit(), mirror.commit()
    mirror.publish({MAIN: first})
    packs = mirror.repository.layout.packs
    operators = next(packs.glob("*.pack")).with_suffix(".keep")
    operators.write_text("kept by hand: ticket 7\n")
    mirror.stage(second)
    mirror.inspect(second)
    with mirror.repository.lock():
        mirror.repository.promote([second])
        assert len(list(packs.glob("*.keep"))) == 2
        removed = mirror.repository.recover().removed
    assert len(removed) == 1
    assert list(packs.glob("*.keep")) == [operators]


def test_a_published_mirror_without_its_store_is_damage(mirror):
    mirror.publish({MAIN: mirror.commit()})
    layout = mirror.repository.layout
    layout.store.rename(layout.root / "elsewhere")
    with mirror.repository.lock(), pytest.raises(RepositoryDamaged):
        mirror.repository.recover()


def test_recovering_nothing(mirror):
    assert recover(mirror) == ()


def test_a_child_of_a_killed_process_keeps_the_lock_until_it_ends(mirror, tmp_path):
    """kill -9 of the worker while its git child reads a pack: nobody may begin before the child is gone."""
    mirror.create()
    fifo = tmp_path / "go"
    program = f"""
        import os, sys, time
        from tests.support.disk_mirror import NAME
        from mirror_sync.clock import SystemClock
        from mirror_sync.repos import Repositories
        repository = Repositories(__import__("pathlib").Path({str(mirror.git_dir)!r}), clock=SystemClock(), reserve_bytes=0).open(NAME)
        with repository.lock():
            with repository._git.stream(["cat-file", "--batch-check"], stdin=os.open({str(fifo)!r}, os.O_RDONLY)) as child:
                print(child.pid, flush=True)
                time.sleep(600)
    """
    os.mkfifo(fifo)
    worker = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    writer = os.open(fifo, os.O_WRONLY)
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    try:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        with pytest.raises(LeaseLost), mirror.repository.lock():
            pass
        assert Path(f"/proc/{child}").exists()
    finally:
        os.close(writer)
        worker.stdout.close()
    mirror.wait_until_free()


# ---------------------------------------------------------------- kill -9 before each durable step


class Story:
    """A mirror with one view published, and an upstream that moved on: fast-forward, forced, deleted, new."""

    def __init__(self, mirror: DiskMirror) -> None:
        base = mirror.commit("base")
        rewritten = mirror.commit("rewritten", parents=[base])
        tag = mirror.history.tag("v1", base)
        self.old = {MAIN: base, "refs/heads/forced": rewritten, "refs/heads/gone": rewritten, TAG: tag}
        mirror.publish(self.old)
        top = mirror.commit("top", parents=[base])
        again = mirror.commit("again", parents=[base])
        moved = mirror.history.tag("v1-moved", top)
        self.new = {MAIN: top, "refs/heads/forced": again, "refs/heads/gone/dir": top, TAG: moved}
        self.kept = (KeptTip(RunId(2), MAIN, GitOid(rewritten), 0.0, 1e12),)
        self.rewritten = GitOid(rewritten)
        self.peeled = {tag: base, moved: top}

    def views(self) -> list[tuple[dict[str, str], str]]:
        """Return what a client may see: the old view or the new one, nothing else."""
        seen = []
        for tips in (self.old, self.new):
            seen.append(({**tips, f"{TAG}^{{}}": self.peeled[tips[TAG]]}, "ref: refs/heads/main\n"))
        return seen


def check_after_kill(twin: DiskMirror, story: Story, *, point: int) -> None:
    assert twin.served() in story.views(), f"a mixture after kill before step {point}"
    twin.check_served()
    twin.wait_until_free()


def check_converged(twin: DiskMirror, story: Story, *, point: int) -> None:
    twin.publish(story.new, kept=story.kept)
    assert twin.served() == story.views()[1], point
    twin.check_served()
    assert twin.loose_ends() == [], point
    assert twin.repository.stage_is_empty()
    assert twin.repository.missing([story.rewritten]) == set()
    with twin.repository.lock():
        assert twin.repository.recover().removed == ()


def points(mirror: DiskMirror, tmp_path: Path, act, *, every: int = 1):
    """Yield a fresh copy of the mirror killed at each point in turn, until the act comes to its end by itself."""
    point = 1
    while True:
        twin = mirror.copy(tmp_path / f"kill-{point}")
        if not killed_at(point, lambda twin=twin: act(twin)):
            assert point > 10
            return
        yield point, twin
        subprocess.run(["rm", "-rf", str(twin.directory)], check=True)
        point += every


def test_kill_before_each_step_of_a_sync(mirror, tmp_path):
    story = Story(mirror)
    count = 0
    for point, twin in points(mirror, tmp_path, lambda twin: twin.publish(story.new, kept=story.kept)):
        count += 1
        check_after_kill(twin, story, point=point)
        check_converged(twin, story, point=point)
    assert count >= 40


def test_kill_again_during_recovery(mirror, tmp_path):
    story = Story(mirror)

    def sync(twin: DiskMirror) -> None:
        twin.publish(story.new, kept=story.kept)

    for point, twin in points(mirror, tmp_path, sync, every=7):
        twin.wait_until_free()
        killed_at(3 + point % 11, lambda twin=twin: sync(twin))
        check_after_kill(twin, story, point=point)
        check_converged(twin, story, point=point)


def test_kill_during_a_partial_promote(mirror, tmp_path):
    """One tip is bad, so the good part is packed anew: nothing bad may ever reach the store."""
    story = Story(mirror)
    inner = mirror.history.tree([("100644", b"config", mirror.history.blob(b"evil"))])
    bad = mirror.commit("bad", tree=mirror.history.tree([("40000", b".git", inner)]), parents=[story.new[MAIN]])
    wanted = sorted(set(story.new.values()))
    mirror.stage(bad, *wanted, haves=sorted(set(story.old.values())))
    assert set(mirror.inspect(bad, *wanted).bad) == {bad}

    def promote(twin: DiskMirror) -> None:
        with twin.repository.lock():
            twin.repository.promote([GitOid(oid) for oid in wanted])

    for point, twin in points(mirror, tmp_path, promote):
        check_after_kill(twin, story, point=point)
        check_converged(twin, story, point=point)
        assert twin.repository.missing([bad, inner]) == {bad, inner}


def test_kill_while_a_mirror_is_removed(mirror, tmp_path):
    story = Story(mirror)

    def remove(twin: DiskMirror) -> None:
        with twin.repository.lock():
            twin.repository.remove()

    for point, twin in points(mirror, tmp_path, remove, every=5):
        if twin.repository.current_view():
            assert twin.served() == story.views()[0]
            twin.check_served()
        remove(twin)
        assert not twin.repository.layout.root.exists(), point
        twin.publish(story.old)
        assert twin.served() == story.views()[0]


def test_kill_inside_git_while_it_indexes(mirror, tmp_path):
    """The child dies, not we: an error, nothing of the pack left, and the next try goes well."""
    first = mirror.commit()
    mirror.publish({MAIN: first})
    big = mirror.commit(files={"a": os.urandom(3_000_000)}, parents=[first])
    data = mirror.history.pack([big], haves=[first])
    repository = mirror.repository

    def chunks():
        yield data[: len(data) // 2]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes()
                    ours = str(repository.layout.stage).encode() in (entry / "environ").read_bytes()
                except OSError:
                    continue
                if b"index-pack" in line and ours:
                    os.kill(int(entry.name), signal.SIGKILL)
        time.sleep(0.05)
        yield data[len(data) // 2 :]

    with repository.lock(), pytest.raises(GitFailed) as caught:
        stage_pack(repository, chunks(), max_bytes=PLENTY)
    assert caught.value.status == -signal.SIGKILL
    assert mirror.loose_ends() == []
    mirror.publish({MAIN: big})
    mirror.check_served()


def test_nothing_gets_a_name_before_its_bytes_are_durable(mirror, tmp_path):
    """Power loss: every file is flushed before it is renamed or linked, every name before the next visible step."""
    story = Story(mirror)
    twin = mirror.copy(tmp_path / "traced")
    steps = steps_of(lambda: twin.publish(story.new, kept=story.kept), tmp_path / "steps")
    root = twin.repository.layout.root
    synced: set[str] = set()
    unnamed: set[str] = set()
    flips = 0
    for name, first, second in steps:
        if name == "fsync":
            synced.add(first)
            unnamed = {path for path in unnamed if str(Path(path).parent) != first}
        elif name in {"replace", "rename", "link"} and Path(second).is_relative_to(root) and "/stage" not in second:
            if second == str(root / "current"):
                flips += 1
                assert unnamed == set(), "clients were led on before these names were durable"
                assert str(root / "views" / "2") in synced or str(root / "views" / ".new-2") in synced
            elif "tmp_discarded" not in second:
                source = Path(first)
                assert first in synced, f"{source.name} was given its name before it was durable"
            unnamed.add(second)
    assert flips == 1
    assert {path for path in unnamed if "tmp_" not in path} == set(), "names that a power cut may take back"
