"""Fetching onto a real disk from upstreams that send whole packs of anything but what was asked for."""

from __future__ import annotations

import hashlib
import random
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror_sync.actions.fill import FillLimits, FillReport, fill
from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import GitFailed, UpstreamInvalid, UpstreamLacks, UpstreamUnavailable
from mirror_sync.ports import Abilities, FetchRequest, Goal, Upstream
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.telemetry import ListedTelemetry
from tests.support.disk_mirror import DiskMirror


class Sender(Upstream):  # only what a fill asks for is scripted; anything else fails loudly
    """An upstream that breaks off its first pack and then sends whole ones."""

    def __init__(self, mirror: DiskMirror, *, cut: int = 1) -> None:
        self.mirror = mirror
        self.cut = cut
        self.filters = True
        self.asked: list[FetchRequest] = []
        self.lie = lambda request: b""

    @property
    def host(self) -> str:
        return "upstream.example"

    def abilities(self) -> Abilities:
        return Abilities(2, ObjectFormat.SHA1, self.filters)

    def open_blob(self, commit: GitOid, path: bytes, *, start: int) -> None:
        return None

    def known(self) -> set[str]:
        listed = self.mirror.history.git("cat-file", "--batch-check=%(objectname)", "--batch-all-objects")
        return set(listed.decode().split())

    def fetch(self, request: FetchRequest) -> Iterator[bytes]:
        self.asked.append(request)
        assert len(self.asked) < 400, "this goes on for ever"
        told = self.lie(request)
        if not told and any(want not in self.known() for want in request.wants):
            raise UpstreamLacks("not our ref")
        data = told or self.mirror.history.pack(request.wants, haves=[] if request.filter else request.haves)
        if self.cut:
            self.cut -= 1
            yield data[: len(data) // 2]
            raise UpstreamUnavailable("cut")
        yield data


class Killed(BaseException):
    """The process ended here."""


class Scene:
    def __init__(self, directory: Path) -> None:
        self.mirror = DiskMirror(directory)
        self.mirror.create()
        self.commits = [GitOid(oid) for oid in self.mirror.history.chain(12)]
        self.upstream = Sender(self.mirror)
        self.clock = HandClock()

    def run(self, *nearer: Sender) -> FillReport:
        repository = self.mirror.repository
        with repository.lock():
            repository.recover()
            return fill(
                Goal(ObjectFormat.SHA1, [self.commits[-1], self.commits[5]]),
                filling=repository.filling(),
                sources=[self.upstream, *nearer],
                protocol=2,
                clock=self.clock,
                telemetry=ListedTelemetry(),
                report=lambda progress: None,
                stop=threading.Event(),
                limits=FillLimits(),
            )

    def assert_whole(self) -> None:
        with self.mirror.repository.lock():
            assert self.mirror.repository.inspect(self.commits[-1:]).bad == {}
            assert not self.mirror.repository.filling().begun()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def made_up(mirror: DiskMirror, request: FetchRequest) -> bytes:
    """A sound pack of a commit that nobody asked for, whose parent nobody has."""
    commit = mirror.commit(parents=[f"{mirror.history._counter + 1:040x}"])
    return mirror.history.pack_of([commit])


def test_ever_new_commits_that_lead_nowhere_come_to_an_end(scene: Scene) -> None:
    scene.upstream.lie = lambda request: made_up(scene.mirror, request)
    with pytest.raises((UpstreamInvalid, UpstreamUnavailable, UpstreamLacks)):
        scene.run()
    assert len(scene.upstream.asked) < 60
    scene.upstream.lie = lambda request: b""
    scene.run()
    scene.assert_whole()


def unfounded() -> bytes:
    """A pack of deltas that look sound, on objects that nobody has."""
    entry = bytes([(7 << 4) | 4]) + bytes(range(20)) + zlib.compress(bytes([99, 99, 0x90, 99]))
    data = b"PACK" + (2).to_bytes(4) + (3).to_bytes(4) + entry * 3
    return data + hashlib.sha1(data).digest()


@pytest.mark.parametrize("breaking_off", [False, True])
def test_ever_new_deltas_on_nothing_come_to_an_end(scene: Scene, breaking_off: bool) -> None:
    def send(request: FetchRequest) -> bytes:
        if request.filter or not request.thin:
            return b""
        scene.upstream.cut = len(scene.upstream.asked) if breaking_off else 0
        return unfounded()

    scene.upstream.lie = send
    with pytest.raises((UpstreamInvalid, UpstreamUnavailable)):
        scene.run()
    assert len(scene.upstream.asked) < 60
    scene.upstream.lie = lambda request: b""
    scene.upstream.cut = 0
    scene.run()
    scene.assert_whole()


def test_a_nearer_place_that_makes_up_commits_costs_time_only(scene: Scene) -> None:
    near = Sender(scene.mirror)
    near.lie = lambda request: made_up(scene.mirror, request)
    scene.run(near)
    scene.assert_whole()
    assert len(near.asked) < 60


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_whole_packs_that_lack_some_of_what_was_asked_for_are_made_good(scene: Scene, share: float) -> None:
    def some(request: FetchRequest) -> bytes:
        if request.filter or not request.thin:
            return b""
        asked = "".join([*(f"{oid}\n" for oid in request.wants), *(f"^{oid}\n" for oid in request.haves)])
        listed = scene.mirror.history.git("rev-list", "--objects", "--no-object-names", "--stdin", stdin=asked.encode())
        objects = listed.decode().split()
        return scene.mirror.history.pack_of(objects[: max(1, int(len(objects) * share))])

    scene.upstream.lie = some
    for _ in range(3):
        try:
            scene.run()
            break
        except (UpstreamUnavailable, UpstreamInvalid, GitFailed):
            pass
    scene.upstream.lie = lambda request: b""
    scene.run()
    scene.assert_whole()


def files_first(mirror: DiskMirror, request: FetchRequest) -> bytes:
    """A sound pack of what was asked for in which files come before trees and trees before commits."""
    asked = "".join([*(f"{oid}\n" for oid in request.wants), *(f"^{oid}\n" for oid in request.haves)])
    listed = mirror.history.git("rev-list", "--objects", "--no-object-names", "--stdin", stdin=asked.encode())
    found: dict[str, list[bytes]] = {"blob": [], "tree": [], "commit": []}
    for oid in listed.decode().split():
        kind = mirror.history.git("cat-file", "-t", oid).decode().strip()
        data = mirror.history.git("cat-file", kind, oid)
        number = {"commit": 1, "tree": 2, "blob": 3}[kind]
        more, size = len(data) >> 4, (number << 4) | (len(data) & 15)
        head = [size | (0x80 if more else 0)]
        while more:
            head.append((more & 0x7F) | (0x80 if more > 0x7F else 0))
            more >>= 7
        found[kind].append(bytes(head) + zlib.compress(data))
    entries = [entry for kind in found.values() for entry in kind]
    pack = b"PACK" + (2).to_bytes(4) + len(entries).to_bytes(4) + b"".join(entries)
    return pack + hashlib.sha1(pack).digest()


def test_a_server_without_filters_whose_packs_end_with_the_commits_is_asked_ref_by_ref(scene: Scene) -> None:
    scene.upstream.filters = False
    scene.upstream.lie = lambda request: files_first(scene.mirror, request)
    scene.run()
    scene.assert_whole()


def test_few_large_files_are_asked_for_by_their_ids_and_go_on_so_after_a_cut(scene: Scene) -> None:
    chance = random.Random(1)
    parents: list[str] = []
    for _ in range(12):
        parents = [scene.mirror.commit(parents=parents, files={"data": chance.randbytes(400_000)})]
    scene.commits = [GitOid(parents[0])] * 12
    scene.upstream.cut = 1
    by_id = scene.upstream.fetch

    def fetch(request: FetchRequest) -> Iterator[bytes]:
        if len(scene.upstream.asked) == 1:
            scene.upstream.asked.append(request)
            raise Killed  # killed before the second answer
        yield from by_id(request)

    scene.upstream.fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(Killed):
        scene.run()
    kept = scene.upstream.asked[1]
    scene.upstream.lie = lambda request: scene.mirror.history.pack_of(list(request.wants)) if request.filter else b""
    scene.run()
    scene.assert_whole()
    assert all(request.filter == "tree:0" and not request.haves for request in scene.upstream.asked[1:])
    assert set(scene.upstream.asked[2].wants) == set(kept.wants), "what came of the first pack is not asked for again"
    assert 0 < len(kept.wants) < 12
