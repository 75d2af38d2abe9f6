"""Fillings on disk: the contract in both object formats, crashes, and what only the disk shows."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Timer

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.errors import GitFailed, Interrupted
from mirror_sync.ports import GitAccess, PublishRequest
from mirror_sync.ports.filling import Gap, Goal, Stretch
from mirror_sync.repos import checks, indexing
from mirror_sync.repos.checks import Checks
from mirror_sync.repos.filling import DiskFilling
from mirror_sync.repos.git import Git
from tests.contract.filling_contract import FillingContract, breaking_off, goal_of
from tests.support.disk_mirror import MAIN, PLENTY, DiskMirror
from tests.support.kill_at import killed_at, steps_of
from tests.support.staging import stage_pack
from tests.support.upstream import GitUpstream


class Killed(BaseException):
    """The process ended here."""


class DiskScene:
    """A mirror on disk whose lock is held."""

    def __init__(self, directory: Path, object_format: ObjectFormat) -> None:
        self.mirror = DiskMirror(directory, object_format=object_format)
        self.object_format = object_format
        self.repository = self.mirror.repository
        self._made = 0

    def chain(self, commits: int, *, parents: Sequence[GitOid] = ()) -> list[GitOid]:
        made: list[GitOid] = []
        for _ in range(commits):
            made.append(self.commit(parents=made[-1:] or parents))
        return made

    def commit(self, *, parents: Sequence[GitOid] = (), files: dict[str, bytes] | None = None) -> GitOid:
        self._made += 1
        files = files or {"counter": b"%d\n" % self._made}
        listing = b"".join(sorted(self._paths(files)))
        tree = self.mirror.history.git("mktree", "-z", stdin=listing).decode().strip()
        return self.mirror.commit(f"commit {self._made}", parents=list(parents), tree=tree)

    def _paths(self, files: dict[str, bytes]) -> Iterator[bytes]:
        """Yield what mktree reads for these files: one level of directories."""
        directories: dict[str, dict[str, bytes]] = {}
        for path, content in files.items():
            directory, slash, name = path.rpartition("/")
            if slash:
                directories.setdefault(directory, {})[name] = content
            else:
                yield b"100644 blob %s\t%s\0" % (self.mirror.history.blob(content).encode(), path.encode())
        for directory, inside in directories.items():
            tree = self.mirror.history.git("mktree", "-z", stdin=b"".join(self._paths(inside))).strip()
            yield b"040000 tree %s\t%s\0" % (tree, directory.encode())

    def tag(self, name: str, target: GitOid, kind: str = "commit") -> GitOid:
        return GitOid(self.mirror.history.tag(name, target, kind))

    def blob_at(self, commit: GitOid, path: str) -> GitOid:
        return GitOid(self.mirror.history.git("rev-parse", f"{commit}:{path}").decode().strip())

    def content(self, blob: GitOid) -> bytes:
        return self.mirror.history.git("cat-file", "blob", blob)

    def pack(self, wants: Sequence[GitOid], *, haves: Sequence[GitOid] = ()) -> bytes:
        return self.mirror.history.pack(wants, haves=haves)

    def commits_pack(self, commits: Sequence[GitOid]) -> bytes:
        return self.mirror.history.pack_of(commits)

    def reached(self, tips: Sequence[GitOid]) -> set[GitOid]:
        asked = "".join(f"{tip}\n" for tip in tips).encode()
        listed = self.mirror.history.git("rev-list", "--objects", "--no-object-names", "--stdin", stdin=asked)
        return {GitOid(line) for line in listed.decode().split()}

    def publish(self, tip: GitOid) -> None:
        repository = self.repository
        if repository.missing([tip]):
            stage_pack(repository, [self.pack([tip])], max_bytes=PLENTY)
        assert repository.inspect([tip]).bad == {}
        repository.promote([tip])
        published = repository.published()
        request = PublishRequest(repository.next_view(), published.number, RefSnapshot({MAIN: tip}, MAIN), ())
        repository.publish(request, confirm=lambda: None)
        repository.discard_stage()

    def here(self, oids: Sequence[GitOid]) -> set[GitOid]:
        return set(oids) - self.repository.missing(oids)


class TestFilling(FillingContract):
    @pytest.fixture(params=[ObjectFormat.SHA1, ObjectFormat.SHA256])
    def scene(self, tmp_path, request) -> Iterator[DiskScene]:
        made = DiskScene(tmp_path, request.param)
        with made.repository.lock():
            made.repository.create(made.object_format)
            yield made


@pytest.fixture
def scene(tmp_path) -> DiskScene:
    made = DiskScene(tmp_path, ObjectFormat.SHA1)
    made.mirror.create()
    return made


def text_history(scene: DiskScene, commits: int) -> list[GitOid]:
    """Make a history with deltas, merges and an annotated tag; return the tips, the tag last."""
    text = [b"line %d of a text that makes deltas\n" % number for number in range(80)]
    chance = random.Random(commits)
    made: list[GitOid] = []
    for number in range(commits):
        text[chance.randrange(80)] = b"edit %d\n" % number
        side = [made[-3]] if number % 5 == 4 else []
        files = {"text": b"".join(text), "dir/other": b"".join(text[:20]), "n": b"%d\n" % number}
        made.append(scene.commit(parents=[*made[-1:], *side], files=files))
    return [made[-1], made[-4], scene.tag("v1", made[3])]


class Filler:
    """A small engine whose upstream breaks off every third pack, so that every way of going on is used."""

    def __init__(self, scene: DiskScene, tips: Sequence[GitOid], *, boundary: Sequence[GitOid] = ()) -> None:
        self.scene = scene
        peeled = {tips[-1]: GitOid(scene.mirror.history.git("rev-parse", f"{tips[-1]}^{{}}").decode().strip())}
        self.goal = Goal(scene.object_format, tips, boundary, peeled)
        self.asked = 0

    def run(self) -> None:
        """Fill, finish and promote, from wherever an earlier run was killed."""
        repository = self.scene.mirror.open()
        with repository.lock():
            repository.recover()
            filling = repository.filling()
            if filling.begun() or repository.missing(self.goal.tips):
                self.fill(filling)
            assert repository.inspect(self.goal.tips).bad == {}
            repository.promote(self.goal.tips)

    def fill(self, filling: DiskFilling) -> None:
        history = self.scene.mirror.history
        filling.begin(self.goal)
        filling.salvage()
        while (gap := filling.gap(wants=100, haves=100)) is not None:
            assert self.asked < 200, gap
            filling.take(self.sent(history.pack_of(self.behind(gap))), graph=True, max_bytes=PLENTY)
        filling.freeze()
        while (stretch := filling.stretch(3)) is not None:
            pack = history.pack(stretch.wants, haves=stretch.haves)
            if filling.take(self.sent(pack), behind=True, max_bytes=PLENTY).complete:
                filling.advance(stretch)
                continue
            filling.copy_commits(stretch)
            while lacking := filling.lacking(stretch, limit=5):
                filling.take(self.sent(history.pack_of(lacking)), behind=True, max_bytes=PLENTY)
            filling.advance(stretch)
        while lacking := filling.lacking(None, limit=100):
            filling.take(self.sent(history.pack_of(lacking)), max_bytes=PLENTY)
        filling.finish()

    def behind(self, gap: Gap) -> list[str]:
        """Return the commits that an upstream sends a shallow client that says this."""
        shallow = self.scene.mirror.directory / "shallow"
        shallow.write_bytes(_lines(gap.shallow, []))
        return (
            subprocess.run(
                ["git", f"--git-dir={self.scene.mirror.history.directory}", "rev-list", "--stdin"],
                env={**os.environ, "GIT_SHALLOW_FILE": str(shallow)},
                input=_lines(gap.wants, gap.haves),
                check=True,
                stdout=subprocess.PIPE,
            )
            .stdout.decode()
            .split()
        )

    def sent(self, pack: bytes) -> Iterator[bytes]:
        self.asked += 1
        if self.asked % 3 == 1:
            return breaking_off(pack[: len(pack) * 2 // 3], piece=500)
        return iter([pack])

    def check(self) -> None:
        """Fail unless all is in the store and nothing of the filling is left."""
        mirror = self.scene.mirror
        repository = mirror.open()
        with repository.lock():
            assert not repository.filling().begun()
            repository.discard_stage()
            assert repository.missing(self.scene.reached(self.goal.tips)) == set()
        store = str(mirror.repository.layout.store)
        subprocess.run(["git", f"--git-dir={store}", "fsck", "--full", "--strict", "--no-dangling"], check=True)
        repository = mirror.open()
        with repository.lock():
            repository.recover()
        assert mirror.loose_ends() == []


def _lines(tips: Sequence[str], without: Sequence[str]) -> bytes:
    return "".join([*(f"{oid}\n" for oid in tips), *(f"^{oid}\n" for oid in without)]).encode()


def test_a_filling_over_a_link_that_breaks_off_every_third_pack(scene):
    filler = Filler(scene, text_history(scene, 20))
    filler.run()
    filler.check()


def test_killed_before_any_step_it_goes_on(scene, tmp_path):
    """Some steps are picked; with MIRROR_SYNC_EVERY_POINT set, all of them."""
    filler = Filler(scene, text_history(scene, 12))
    twin = fork_of(filler, tmp_path / "steps")
    steps = steps_of(twin.run, tmp_path / "log")
    total = len([step for step in steps if step[0] != "pwrite"])
    assert total > 150
    every = range(1, total + 1)
    points = every if os.environ.get("MIRROR_SYNC_EVERY_POINT") else random.Random(total).sample(every, 16)
    for point in points:
        twin = fork_of(filler, tmp_path / f"at-{point}")
        assert killed_at(point, twin.run), point
        twin.scene.mirror.wait_until_free()
        twin.run()
        twin.check()
        shutil.rmtree(twin.scene.mirror.directory)


def test_killed_again_and_again_it_comes_to_its_end_and_never_goes_back(scene, tmp_path):
    chance = random.Random(8)
    filler = Filler(scene, text_history(scene, 15))
    reached = (0, 0)
    kills = 0
    while killed_at(chance.randrange(40, 90), filler.run):
        kills += 1
        assert kills < 60
        scene.mirror.wait_until_free()
        filling = scene.mirror.open().filling()
        if filling.frozen():
            assert filling.place() >= reached
            reached = filling.place()
        filler.asked = kills
    assert kills > 3
    filler.check()


def fork_of(filler: Filler, directory: Path) -> Filler:
    """Return the same filler over a copy of its mirror."""
    scene = object.__new__(DiskScene)
    scene.__dict__.update(filler.scene.__dict__)
    scene.mirror = filler.scene.mirror.copy(directory)
    scene.repository = scene.mirror.repository
    twin = object.__new__(Filler)
    twin.__dict__.update(filler.__dict__)
    twin.scene = scene
    return twin


def test_whatever_bits_are_flipped_it_comes_to_its_end_and_nothing_wrong_is_published(scene):
    tips = text_history(scene, 15)
    everything = scene.reached(tips)
    pack = scene.pack(tips)
    chance = random.Random(4)
    kept_some = 0
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, tips))
        for _ in range(25):
            flipped = bytearray(pack)
            flipped[chance.randrange(12, len(pack))] ^= 1 << chance.randrange(8)
            taken = filling.take([bytes(flipped)], max_bytes=PLENTY)
            assert not taken.complete
            assert taken.error is not None
            kept_some += taken.objects > 0
        while lacking := filling.lacking(None, limit=1000):
            assert set(lacking) <= everything
            filling.take([scene.commits_pack(lacking)], max_bytes=PLENTY)
        filling.finish()
        assert scene.repository.inspect(tips).bad == {}
        scene.repository.promote(tips)
        scene.repository.discard_stage()
        assert scene.here(sorted(everything)) == everything
    assert kept_some > 15
    listed = subprocess.run(
        ["git", f"--git-dir={scene.repository.layout.store}", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout.decode()  # fmt: skip
    assert set(listed.split()) == everything, "junk that the damage made stays out"


def test_a_delta_that_fits_no_base_costs_only_what_comes_behind_it(scene):
    """Only git can see it: the entry inflates to what it says."""
    sound = [scene.mirror.history.blob(b"%d" % number * 50) for number in range(6)]
    data = scene.mirror.history.pack_of(sound)[:-20]
    delta = zlib.compress(bytes([99, 99, 0x90, 99]))  # a base of 99 bytes, of which there is none
    tail = zlib.compress(b"last")
    entries = [bytes([(7 << 4) | 4]) + bytes.fromhex(sound[0]) + delta, bytes([(3 << 4) | 4]) + tail]
    damaged = data[:8] + (8).to_bytes(4) + data[12:] + b"".join(entries)
    damaged += hashlib.sha1(damaged).digest()
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, [GitOid(sound[0])]))
        taken = filling.take([damaged], max_bytes=PLENTY)
        assert isinstance(taken.error, GitFailed)
        assert (taken.objects, taken.announced) == (6, 8)
        assert scene.here([GitOid(oid) for oid in sound]) == set(sound)
        assert len(list(scene.repository.layout.stage_packs.glob("*.pack"))) == 1


def test_a_pack_that_turns_out_damaged_after_its_last_byte_takes_the_ladder_back(scene):
    history = scene.mirror.history
    commits = scene.chain(6)
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.commits_pack(commits)], graph=True, max_bytes=PLENTY)
        filling.freeze()

        def sent(stretch: Stretch) -> bytes:
            return history.pack(stretch.wants, haves=stretch.haves)

        first = filling.stretch(2)
        assert filling.take([sent(first)], behind=True, max_bytes=PLENTY).complete
        filling.advance(first)
        second = filling.stretch(2)
        damaged = bytearray(sent(second))
        damaged[-1] ^= 1  # the checksum at the end, which git reads last
        assert filling.take([bytes(damaged)], behind=True, max_bytes=PLENTY).complete
        filling.advance(second)
        third = filling.stretch(2)
        assert filling.place() == (4, 6)
        told = filling.take([sent(third)], behind=True, max_bytes=PLENTY)
        if not isinstance(told.error, GitFailed):
            told = filling.take(iter(()), behind=True, max_bytes=PLENTY)
        assert isinstance(told.error, GitFailed)
        assert not told.complete
        assert filling.place() == (2, 6)
        filling.advance(third)
        assert filling.place() == (2, 6), "it does not begin where the ladder stands"
        while stretch := filling.stretch(2):
            assert filling.take([sent(stretch)], behind=True, max_bytes=PLENTY).complete
            filling.advance(stretch)
        filling.finish()
        assert scene.here(sorted(scene.reached(commits[-1:]))) == scene.reached(commits[-1:])


def ladder_of(scene: DiskScene, filling: DiskFilling, commits: Sequence[GitOid], *tips: GitOid) -> None:
    """Bring everything in ranges of two commits, each checked before the next one comes."""
    filling.begin(goal_of(scene, *tips))
    filling.take([scene.commits_pack(commits)], graph=True, max_bytes=PLENTY)
    filling.freeze()
    while stretch := filling.stretch(2):
        pack = scene.mirror.history.pack(stretch.wants, haves=stretch.haves)
        assert filling.take([pack], behind=True, max_bytes=PLENTY).complete
        filling.advance(stretch)
        filling.settle()


def test_what_was_checked_on_the_way_is_not_checked_again(scene, monkeypatch):
    history = scene.mirror.history
    first = scene.chain(3)
    tree = history.git("rev-parse", f"{first[-1]}^{{tree}}").decode().strip()
    who = "A <a@b> 1700000000"
    body = f"tree {tree}\nparent {first[-1]}\nauthor {who} +051800\ncommitter {who} +0000\n\nold\n"
    legacy = GitOid(history.raw("commit", body.encode()))
    good = scene.chain(2, parents=[legacy])
    inside = history.tree([("100644", b"config", history.blob(b"x"))])
    evil = scene.mirror.commit("evil", parents=[good[-1]], tree=history.tree([("40000", b".git", inside)]))
    above = scene.chain(2, parents=[evil])
    commits = [*first, legacy, *good, evil, *above]
    with scene.repository.lock():
        filling = scene.repository.filling()
        ladder_of(scene, filling, commits, good[-1], above[-1])
        filling.finish()
        assert len(list(scene.repository.layout.stage_packs.glob("*.pack"))) == 1
        monkeypatch.setattr(checks, "check_pack", lambda *_, **__: pytest.fail("checked again"))
        found = scene.repository.inspect([good[-1], above[-1]])
        assert found.bad.keys() == {above[-1]}
        assert found.bad[above[-1]].startswith("hasDotgit")
        assert found.notes == ("badTimezone: 1 object",)
        scene.repository.promote([good[-1]])
        scene.repository.discard_stage()
        assert scene.here([*commits, *scene.reached([good[-1]])]) == scene.reached([good[-1]])


def test_a_pack_with_an_object_that_was_not_checked_does_not_count_as_checked(scene, monkeypatch):
    commits = scene.chain(6)
    with scene.repository.lock():
        filling = scene.repository.filling()
        ladder_of(scene, filling, commits[:4], commits[3])
        packs = scene.repository.layout.stage_packs
        foreign = scene.mirror.history.pack_of([scene.blob_at(commits[5], "counter")])
        subprocess.run(["git", f"--git-dir={packs.parent.parent}", "index-pack", "--stdin"], input=foreign, check=True)
        known = {path.stem for path in packs.glob("*.pack")}
        assert scene.repository.inspect([commits[3]]).bad == {}
        asked = "".join(f"{name}.pack\n" for name in sorted(known)).encode()
        joined = subprocess.run(
            ["git", f"--git-dir={packs.parent.parent}", "pack-objects", "--stdin-packs", str(packs / "pack")],
            input=asked, check=True, stdout=subprocess.PIPE,
        ).stdout.decode().strip()  # fmt: skip
        looked_at = Checks(
            scene.repository.layout,
            git=Git(packs.parent.parent),
            object_format=lambda: scene.object_format,
        )
        looked_at.inherit(sorted(known)[:-1], f"pack-{joined}")
        assert looked_at.unchecked([f"pack-{joined}"]) == [f"pack-{joined}"]
        looked_at.inherit(sorted(known), f"pack-{joined}")
        assert looked_at.unchecked([f"pack-{joined}"]) == []


def test_what_is_released_is_salvaged_later(scene):
    commits = scene.chain(4)
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.commits_pack(commits)], graph=True, max_bytes=PLENTY)
        filling.freeze()
        stretch = filling.stretch(2)
        pack = scene.mirror.history.pack(stretch.wants, haves=stretch.haves)
        assert filling.take([pack], behind=True, max_bytes=PLENTY).complete
        filling.advance(stretch)
        filling.release()
        assert filling.place() == (0, 4)
        assert filling.interrupted()
        left = filling.salvage()
        assert left.objects == left.announced
        assert scene.here(sorted(scene.reached(stretch.wants))) == scene.reached(stretch.wants)
        assert not filling.interrupted()
        assert list(scene.repository.layout.fill.glob("tmp_*")) == []


def test_a_file_that_was_not_here_when_its_tree_was_checked_is_looked_at_once_it_is(scene):
    history = scene.mirror.history
    good = history.blob(b'[submodule "a"]\n\tpath = a\n\turl = https://example.org/a\n')
    evil = history.blob(b'[submodule "b"]\n\tpath = b\n\turl = -uexample\n')
    trees = [history.tree([("100644", b".gitmodules", blob)]) for blob in (good, evil)]
    tips = [scene.mirror.commit(f"tip {tree}", tree=tree) for tree in trees]
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(goal_of(scene, *tips))
        filling.take([history.pack_of([*tips, *trees])], max_bytes=PLENTY)
        found = scene.repository.inspect(tips)
        assert found.bad.keys() == set(tips)
        for blob in (good, evil):
            filling.take([history.pack_of([blob])], max_bytes=PLENTY)
        filling.finish()
        found = scene.repository.inspect(tips)
        assert found.bad.keys() == {tips[1]}
        assert found.bad[tips[1]].startswith("gitmodulesUrl")


def test_a_pack_that_broke_off_is_not_worked_on_once_it_is_released(scene, monkeypatch):
    began = indexing.Indexing.__init__
    statuses: list[int] = []

    def stopped(self: indexing.Indexing, *arguments, **more) -> None:
        began(self, *arguments, **more)
        child = self._child
        os.kill(child.pid, signal.SIGSTOP)  # as slow as can be
        waking.append(Timer(20, os.kill, (child.pid, signal.SIGCONT)))
        waking[-1].start()
        wait = child.wait
        monkeypatch.setattr(child, "wait", lambda: statuses.append(wait()) or statuses[-1])

    waking: list[Timer] = []
    commits = scene.chain(4)
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.commits_pack(commits)], graph=True, max_bytes=PLENTY)
        filling.freeze()
        stretch = filling.stretch(2)
        pack = scene.mirror.history.pack(stretch.wants, haves=stretch.haves)
        monkeypatch.setattr(indexing.Indexing, "__init__", stopped)
        assert not filling.take(breaking_off(pack), behind=True, max_bytes=PLENTY).complete
        filling.release()
        monkeypatch.undo()
        for timer in waking:
            timer.cancel()
        assert statuses
        assert set(statuses) == {-signal.SIGKILL}
        assert filling.interrupted()
        filling.salvage()
        assert scene.here(sorted(scene.reached(stretch.wants))) == scene.reached(stretch.wants)


def test_nobody_who_is_stopping_waits_for_checks(scene, monkeypatch):
    told: list[bool] = []

    def slow(self: Checks, pack: str, *, stop: Event, **_: object) -> None:
        told.append(stop.wait(20))

    def on_the_way_to_the_end() -> None:
        fill = scene.repository.layout.fill
        if (fill / "gatherings").exists() and not (fill / "gather").exists():
            raise Interrupted

    def at_once() -> None:
        raise Interrupted

    monkeypatch.setattr(Checks, "try_early", slow)
    commits = scene.chain(6)
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.commits_pack(commits)], graph=True, max_bytes=PLENTY)
        filling.freeze()
        while stretch := filling.stretch(2):
            pack = scene.mirror.history.pack(stretch.wants, haves=stretch.haves)
            assert filling.take([pack], behind=True, max_bytes=PLENTY).complete
            filling.advance(stretch)
        with pytest.raises(Interrupted):
            filling.settle(tick=at_once)
        assert told == []
        with pytest.raises(Interrupted):
            filling.finish(tick=on_the_way_to_the_end)
        assert told == []
        filling.release()
        assert told == [True]
        filling.finish()
        assert scene.here(sorted(scene.reached(commits[-1:]))) == scene.reached(commits[-1:])


def test_packs_are_compared_with_few_descriptors_and_in_parts(scene, monkeypatch):
    monkeypatch.setattr(checks, "_IDS_AT_ONCE", 5)
    commits = scene.chain(40)
    with scene.repository.lock():
        filling = scene.repository.filling()
        ladder_of(scene, filling, commits[:38], commits[37])
        filling.release()
        packs = scene.repository.layout.stage_packs
        records = Checks(
            scene.repository.layout, git=Git(packs.parent.parent), object_format=lambda: scene.object_format
        )
        known = sorted(path.stem for path in packs.glob("*.pack"))
        assert records.unchecked(known) == []
        asked = "".join(f"{name}.pack\n" for name in known).encode()
        made = "pack-" + subprocess.run(
            ["git", f"--git-dir={packs.parent.parent}", "pack-objects", "--stdin-packs", str(packs / "pack")],
            input=asked, check=True, stdout=subprocess.PIPE,
        ).stdout.decode().strip()  # fmt: skip
        inside = sorted(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(Git, "stream", lambda *_, **__: pytest.fail("a child for each pack"))
        assert records.inherit(known, made)
        assert sorted(os.listdir("/proc/self/fd")) == inside
        for left_out in known:
            assert not records.inherit([name for name in known if name != left_out], made)
        torn = packs / f"{known[0]}.idx"
        torn.chmod(0o644)
        torn.write_bytes(torn.read_bytes()[:1000])
        assert not records.inherit(known, made)


def test_stock_git_is_told_what_is_closed(scene, tmp_path):
    with GitUpstream(tmp_path / "served") as upstream:
        repository = upstream.create("acme/model")
        first = GitOid(repository.commit({"big": os.urandom(300_000)}))
        second = GitOid(repository.commit({"small": b"x\n"}))
        access = GitAccess(repository.url, {})
        with scene.repository.lock():
            filling = scene.repository.filling()
            filling.begin(Goal(scene.object_format, [second]))
            assert filling.take_stock(access, [first], max_bytes=PLENTY) > 300_000
            filling.note_closed([first])
            assert 0 < filling.take_stock(access, [second], max_bytes=PLENTY) < 50_000
            assert not (scene.repository.layout.stage / "packed-refs").exists()
            with pytest.raises(GitFailed):
                filling.take_stock(access, [GitOid("1" * 40)], max_bytes=PLENTY)
            assert scene.here([first, second]) == {first, second}
            assert filling.finish() > 300_000
            assert scene.repository.inspect([second]).bad == {}


def test_refs_left_by_a_fetch_that_was_killed_are_swept(scene):
    with scene.repository.lock():
        scene.repository.filling().begin(Goal(scene.object_format, [scene.commit()]))
        refs = scene.repository.layout.stage / "packed-refs"
        refs.write_text("1" * 40 + " refs/mirror-sync/closed/00000000\n")
        assert "stage/packed-refs" in scene.repository.recover().removed
        assert not refs.exists()
        assert scene.repository.filling().begun()


def test_finish_leaves_one_pack_and_no_trace(scene):
    commits = scene.chain(8)
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, commits[-1:]))
        for index, commit in enumerate(commits):
            filling.take([scene.pack([commit], haves=commits[index - 1 : index])], max_bytes=PLENTY)
        packs = scene.repository.layout.stage_packs
        assert len(list(packs.glob("*.pack"))) == 8
        size = filling.finish()
        [pack] = packs.glob("*.pack")
        assert pack.stat().st_size == size
        assert not scene.repository.layout.fill.exists()


def test_records_that_cannot_be_read_count_as_never_written(scene):
    commits = scene.chain(5)
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, commits[-1:]))
        filling.take([scene.pack(commits[-1:])], max_bytes=PLENTY)
        filling.freeze()
        fill = scene.repository.layout.fill
        (fill / "position").write_bytes(b"{")
        assert not filling.frozen()
        filling.freeze()
        assert filling.place() == (0, 5)
        (fill / "position").write_bytes(b'{"offset": 99999, "done": 5, "total": 5}')
        assert not filling.frozen(), "it lies behind the end of the order"
        (fill / "given-up").write_bytes(b"[]")
        assert filling.given_up() == {}
        (fill / "goal").write_bytes(b"\0\0\0\0")
        scene.repository.recover()
        filling.begin(Goal(scene.object_format, commits[-1:]))
        assert filling.lacking(None, limit=10) == [], "the objects are still here"


def test_maintenance_leaves_the_packs_of_a_filling_alone(scene):
    with scene.repository.lock():
        scene.publish(scene.chain(3)[-1])
        commits = scene.chain(4)
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, commits[-1:]))
        for index, commit in enumerate(commits[:3]):
            filling.take([scene.pack([commit], haves=commits[index - 1 : index])], max_bytes=PLENTY)
        packs = sorted(path.name for path in scene.repository.layout.stage_packs.glob("*.pack"))
        scene.repository.maintain(full=True)
        assert sorted(path.name for path in scene.repository.layout.stage_packs.glob("*.pack")) == packs


def test_many_packs_are_joined_on_the_way_and_nothing_is_lost(scene, monkeypatch):
    monkeypatch.setattr("mirror_sync.repos.filling.PACKS_WORTH_JOINING", 6)
    tips = text_history(scene, 12)
    everything = sorted(scene.reached(tips))
    chance = random.Random(2)
    chance.shuffle(everything)
    packs = scene.repository.layout.stage_packs
    with scene.repository.lock():
        held = scene.chain(1)
        stage_pack(scene.repository, [scene.pack(held)], max_bytes=PLENTY)
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, tips))
        most = 0
        for at in range(0, len(everything), 2):
            some = everything[at : at + 2]
            assert filling.take([scene.commits_pack(some)], max_bytes=PLENTY).complete
            assert scene.here(everything[: at + 2]) == set(everything[: at + 2])
            most = max(most, len(list(packs.glob("*.pack"))))
        assert 3 < most <= 6
        filling.finish()
        assert scene.repository.inspect([*tips, *held]).bad == {}


def test_commits_that_lead_nowhere_hide_no_tip(scene):
    """What nobody asked for has parents that nobody has."""
    commits = scene.chain(3)
    junk = [scene.mirror.commit(parents=[f"{number:040x}"]) for number in range(1, 4)]
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, [commits[-1]]))
        filling.take([scene.commits_pack(junk)], graph=True, max_bytes=PLENTY)
        gap = filling.gap(wants=10, haves=10)
        assert gap.wants[: gap.needed] == [commits[-1]]
        assert len(gap.wants) == 4
        gap = filling.gap(wants=2, haves=10)
        assert gap.wants[0] == commits[-1]


def test_a_commit_with_an_endless_message_takes_no_memory(scene):
    tree = scene.mirror.history.git("mktree", stdin=b"").decode().strip()
    head = b"tree %s\nparent %s\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\n" % (tree.encode(), b"1" * 40)
    huge = GitOid(scene.mirror.history.raw("commit", head + bytes(80 << 20)))
    after = scene.commit(parents=[huge])
    with scene.repository.lock():
        filling = scene.repository.filling()
        filling.begin(Goal(scene.object_format, [after]))
        filling.take([scene.commits_pack([huge, after])], graph=True, max_bytes=PLENTY)
        tracemalloc.start()
        try:
            gap = filling.gap(wants=10, haves=10)
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()
        assert gap.wants == ["1" * 40]


def test_a_gathering_that_is_killed_again_and_again_is_left_to_maintenance(tmp_path: Path) -> None:
    scene = DiskScene(tmp_path, ObjectFormat.SHA1)
    scene.mirror.create()
    commits = scene.chain(5)
    repository = scene.repository
    gather = repository.layout.fill / "gather"
    begun = 0

    def stop() -> None:
        nonlocal begun
        if gather.is_dir():
            begun += 1
            raise Killed

    with repository.lock():
        filling = repository.filling()
        filling.begin(Goal(ObjectFormat.SHA1, commits[-1:]))
        for index, commit in enumerate(commits):
            filling.take([scene.pack([commit], haves=commits[index - 1 : index])], max_bytes=PLENTY)
        for _ in range(2):
            with pytest.raises(Killed):
                filling.finish(tick=stop)
            repository.recover()
        filling.finish(tick=stop)
        assert begun == 2
        assert not filling.begun()
        assert len(list(repository.layout.stage_packs.glob("*.pack"))) == 5
        assert repository.inspect(commits[-1:]).bad == {}
