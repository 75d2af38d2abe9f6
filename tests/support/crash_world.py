"""A mirror with LFS beside an upstream that moves on, and what must be true of it after any crash.

``World`` keeps the upstream in a process of its own; ``Site`` is one copy of the daemon's
directory (configuration, database, repositories, LFS objects), looked at on the raw disk
as a client would see it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import parse_upstream_url
from mirror_sync.domain.runs import MirrorId
from mirror_sync.state import SqlState
from tests.support.crash import PUBLISHES, ROOT, Crasher
from tests.support.link import Link, Weather
from tests.support.upstream import GitUpstream, UpstreamRepo

DAY = 86_400.0
LEFT_BEHIND = ("tmp_*", "*.lock", "*.keep", ".new-*", ".tmp-*", "*.tmp", "*.parts", "*.evicted")
POINTER = re.compile(rb"oid sha256:([0-9a-f]{64})\nsize ([0-9]+)\n")


@dataclass(frozen=True)
class Snapshot:
    """What a client sees: refs, and what HEAD says."""

    refs: Mapping[str, str]
    head: str

    def __str__(self) -> str:
        return f"{self.head}: " + ", ".join(f"{name} {oid[:8]}" for name, oid in sorted(self.refs.items()))


NOTHING = Snapshot({}, "")


class World:
    """The upstream, in its own process and behind a link if it is to fail, and directories to mirror it into."""

    def __init__(self, directory: Path, *, seed: int = 20, weather: Weather | None = None) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.upstream = GitUpstream(directory / "upstream")  # never started: only its repositories are changed here
        self.repo: UpstreamRepo = self.upstream.create("acme/model")
        self.needs: dict[str, frozenset[str]] = {}
        """The LFS objects that each commit ever seen upstream needs for a checkout."""
        self._process: subprocess.Popen[str] | None = None
        self._weather = weather
        self.link: Link | None = None
        self.origin = ""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.upstream", str(self.upstream.directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.origin = self._process.stdout.readline().strip()
        if self._weather is not None:
            self.link = Link(int(self.origin.rpartition(":")[2]), self._weather).__enter__()
            self.origin = self.link.origin
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.link is not None:
            self.link.__exit__(kind, error, trace)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    @property
    def url(self) -> str:
        return f"{self.origin}/acme/model"

    @property
    def name(self) -> str:
        return parse_upstream_url(self.url).name

    def begin(self) -> None:
        """Fill upstream: branches with LFS objects of their own, tags, an LFS object only history needs."""
        repo, data = self.repo, self.chance.randbytes
        repo.commit({"README": "one"}, lfs={"a.bin": data(3000), "b.bin": data(60_000)})
        repo.commit({"README": "two"}, lfs={"a.bin": data(4000)})
        repo.commit({"dev": "1"}, branch="dev", start="main", lfs={"dev.bin": data(5000)})
        repo.commit({"gone": "1"}, branch="gone", start="main", lfs={"gone.bin": data(6000)})
        repo.commit({"f": "1"}, branch="a", start="main")
        repo.commit({"text": "1"}, branch="docs", start="main")
        repo.tag("v1", message="first")
        repo.tag("light")
        self.note()

    def move_on(self) -> None:
        """Change upstream in every way at once: ahead, forced, deleted, a file's name as a directory, HEAD elsewhere."""
        repo, data = self.repo, self.chance.randbytes
        repo.commit({"README": "three"}, lfs={"a.bin": data(5 << 20), "c.bin": data(70_000)})
        repo.commit({"README": "four"}, lfs={"b.bin": data(100)})
        repo.commit({"dev": "rewritten"}, branch="dev", root=True, lfs={"dev.bin": data(7000)})
        repo.commit({"text": "2"}, branch="docs")
        repo.delete("refs/heads/gone")
        repo.delete("refs/heads/a")
        repo.commit({"f": "2"}, branch="a/b", start="main~1", lfs={"deep.bin": data(900)})
        repo.commit({"n": "1"}, branch="next", start="main", lfs={"next.bin": data(12_000_000)})
        repo.tag("v2", message="second")
        repo.tag("v1-of-v1", target="v1", message="nested")
        repo.update("refs/tags/light", repo.git("rev-parse", "main"))
        repo.set_head("refs/heads/next")
        self.note()

    def begin_large(self, commits: int) -> None:
        """Fill upstream with Git objects that no connection of a bad link lets through at once."""
        for number in range(commits):
            files = {f"data/{number % 5}": self.chance.randbytes(20_000), "text": f"{number}\n"}
            self.repo.commit(files, lfs={"small.bin": self.chance.randbytes(1000)} if number % 9 == 0 else None)
            if number % 6 == 2:
                self.repo.commit({"side": f"{number}"}, branch=f"side-{number}", start="main")
        self.repo.tag("v1", message="first")
        self.note()

    def rewrite_large(self, commits: int) -> None:
        """Rewrite most of it, and delete a branch."""
        self.repo.update("refs/heads/main", self.repo.git("rev-parse", "main~3"))
        for _ in range(commits):
            self.repo.commit({"again": self.chance.randbytes(25_000)}, lfs={"small.bin": self.chance.randbytes(900)})
        self.repo.tag("v2", message="second")
        self.repo.delete("refs/heads/side-2")
        self.note()

    def note(self) -> None:
        """Remember what the commits upstream has now need."""
        for oid in set(self.repo.refs().values()):
            self.needs[oid] = self._needs_of(oid)

    def _needs_of(self, tip: str) -> frozenset[str]:
        found: set[str] = set()
        for line in self.repo.git("ls-tree", "-r", tip).splitlines():
            meta, _, path = line.partition("\t")
            if path.endswith(".bin"):
                text = self.repo.git("cat-file", "blob", meta.split()[2]).encode() + b"\n"
                match = POINTER.search(text)
                assert match is not None, path
                found.add(match[1].decode())
        return frozenset(found)

    def now(self) -> Snapshot:
        """What upstream has."""
        return Snapshot(self.repo.refs(), f"ref: {self.repo.head()}\n")

    def make(
        self, crasher: Crasher, directory: Path, *, extra: str = "", marks: bool = False, careless: str = ""
    ) -> Site:
        """Make a directory that knows the mirror and has nothing of it yet."""
        directory.mkdir(parents=True)
        site = Site(directory, self)
        host = self.origin.removeprefix("http://")
        site.config.write_text(
            f'[database]\nurl = "state/state.db"\n[storage]\ngit_dir = "git"\nlfs_dir = "lfs"\nrun_dir = "run"\n'
            f'reserve = "none"\n[workers]\nlfs = 3\n[upstream."{host}"]\nallow_http = true\nallow_private = true\n{extra}'
        )
        (directory / "run").mkdir()
        crasher.run(site.config, "setup", urls=(self.url,), marks=marks, careless=careless)
        return site


class Site:
    """One daemon's directory."""

    def __init__(self, directory: Path, world: World) -> None:
        self.directory = directory
        self.world = world
        self.config = directory / "config.toml"
        self.database = directory / "state" / "state.db"
        self.objects = directory / "lfs" / "objects"

    @property
    def root(self) -> Path:
        return self.directory / "git" / f"{self.world.name}.git"

    def copy(self, directory: Path) -> Site:
        shutil.copytree(self.directory, directory, symlinks=True)
        return Site(directory, self.world)

    def delete(self) -> None:
        shutil.rmtree(self.directory)

    # ------------------------------------------------------------ looking

    def view(self) -> Path | None:
        current = self.root / "current"
        return self.root / os.readlink(current) if current.is_symlink() else None

    def seen(self) -> Snapshot:
        """Return what a client sees, read by git itself."""
        view = self.view()
        if view is None:
            return NOTHING
        lines = _git(view, "for-each-ref", "--format=%(objectname) %(refname)").splitlines()
        return Snapshot(
            {name: oid for oid, name in (line.split(" ", 1) for line in lines)}, (view / "HEAD").read_text()
        )

    def told(self) -> list[Snapshot]:
        """Return every state that was about to be published, in order, the one before the first included."""
        path = self.directory / PUBLISHES
        found = [NOTHING]
        for line in path.read_text().splitlines() if path.exists() else ():
            record = json.loads(line)
            rows = (row.split(" ", 1) for row in record["refs"].splitlines() if row[0] not in "#^")
            found.append(Snapshot({name: oid for oid, name in rows}, record["head"]))
        return found

    def roots(self) -> set[str]:
        """Return the object ids that the store protects."""
        path = self.root / "store" / "packed-refs"
        rows = path.read_text().splitlines() if path.exists() else ()
        return {row.split(" ", 1)[0] for row in rows if row[0] not in "#^"}

    def row(self, query: str) -> tuple[object, ...]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            found = connection.execute(query).fetchone()
        return tuple(found) if found is not None else ()

    def column(self, query: str) -> list[object]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return [row[0] for row in connection.execute(query)]

    def wait_until_free(self, seconds: float = 30.0) -> None:
        """Wait until no git child of a killed process holds the mirror's lock any more."""
        path = self.root / "lock"
        ends = time.monotonic() + seconds
        while path.exists():
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                except BlockingIOError:
                    assert time.monotonic() < ends, "a git child of a killed process never ended"
            time.sleep(0.005)

    # ------------------------------------------------------------ judging

    def check(self) -> Snapshot:
        """Fail unless every promise holds right now; return what a client sees."""
        seen = self.seen()
        assert seen in self.told(), f"nobody published this: {seen}"
        view = self.view()
        if view is not None:
            _git(view, "rev-list", "--objects", "--all", "--quiet")
            assert set(seen.refs.values()) <= self.roots(), "a published tip is not protected"
        for name, oid in seen.refs.items():
            for needed in self.world.needs[oid]:
                assert self._object(needed).is_file(), f"{name} is published without its LFS object {needed[:12]}"
        self.check_objects()
        self.check_database()
        return seen

    def check_objects(self) -> None:
        """Whatever has a final path is what its name says."""
        for path in self.objects.rglob("*"):
            if path.is_file():
                assert path == self._object(path.name)
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, f"wrong bytes under {path.name}"

    def check_database(self) -> None:
        if self.database.exists() and self.row("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"):
            assert self.row("PRAGMA integrity_check") == ("ok",)
            assert self.row("PRAGMA foreign_key_check") == ()
            for oid in self.column("SELECT lower(hex(oid)) FROM lfs_objects WHERE present"):
                assert self._object(str(oid)).is_file(), f"the database tells of LFS object {oid}, which is not here"

    def check_converged(self) -> None:
        """Fail unless this is upstream, the database says so too, and no crash can be told any more."""
        upstream = self.world.now()
        seen = self.check()
        assert seen == upstream, f"{seen} is not upstream's {upstream}"
        view = self.view()
        assert view is not None
        _git(self.root / "store", "fsck", "--full", "--strict", "--no-dangling")
        row = self.row("SELECT view, CAST(head AS TEXT), ref_count, last_outcome, leased_by, run_id FROM mirrors")
        assert row[:3] == (int(view.name), upstream.head.removeprefix("ref: ").strip(), len(upstream.refs)), row
        assert row[3] in ("published", "unchanged"), row
        assert row[4:] == ("", None), row
        assert self.row("SELECT confirmed_digest <> '', confirmed_at > 0 FROM mirrors") == (1, 1)
        assert self.row("SELECT count(*) FROM intents") == (0,)
        assert self.replayed() == dict(upstream.refs), "the journal does not tell what was published"
        assert self.leftovers() == []

    def check_kept(self, refs: Mapping[str, str]) -> None:
        """Fail unless these old tips are restorable, each told of once."""
        with self._state() as state:
            kept = [(tip.ref, tip.oid) for tip in state.kept_tips(self._mirror_id())]
        assert sorted(kept) == sorted(refs.items())
        assert set(refs.values()) <= self.roots()

    def replayed(self) -> dict[str, str]:
        """Return the refs that the journal leads to from nothing."""
        with self._state() as state:
            entries = state.ref_journal(self._mirror_id(), limit=10_000)
        refs: dict[str, str] = {}
        for _, _, _, entry in reversed(entries):
            assert refs.get(entry.ref) == entry.old, f"the journal of {entry.ref} has a gap"
            if entry.new is None:
                del refs[entry.ref]
            else:
                refs[entry.ref] = entry.new
        return refs

    def _state(self) -> contextlib.closing[SqlState]:
        return contextlib.closing(SqlState(str(self.database), clock=SystemClock()))

    def _mirror_id(self) -> MirrorId:
        (found,) = self.row("SELECT id FROM mirrors")
        return MirrorId(int(str(found)))

    def leftovers(self) -> list[str]:
        """Return every file that only an interruption leaves behind."""
        found = {
            path for pattern in LEFT_BEHIND for top in ("git", "lfs") for path in (self.directory / top).rglob(pattern)
        }
        found |= set((self.root / "stage").glob("objects/pack/*"))
        found |= set((self.directory / "lfs" / "incomplete").glob("*"))
        current = self.view()
        if current is not None:
            numbers = [path for path in (self.root / "views").iterdir() if path.name.isdigit()]
            found |= {path for path in numbers if int(path.name) > int(current.name)}
        return sorted(str(path.relative_to(self.directory)) for path in found)

    def _object(self, oid: str) -> Path:
        return self.objects / oid[:2] / oid[2:4] / oid


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", f"--git-dir={repository}", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout
