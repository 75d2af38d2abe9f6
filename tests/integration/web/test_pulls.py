"""Objects that are not here yet: what clients of the real server get while somebody else brings them."""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import ObjectCorrupt
from mirror_sync.lfs_store import FileObjectStore
from mirror_sync.web import create_app, lfs
from mirror_sync.web.pulls import Joined, Pulls
from tests.support.web_world import MirrorSpec, Served, World, make_world, oid_of

NAME = "git.example/acme/model"
KIB = 1024
SIZE = 600 * KIB


def text(seed: str) -> str:
    """Contents that differ in every block."""
    return "".join(hashlib.sha256(f"{seed}{n}".encode()).hexdigest() for n in range(SIZE // 64))


GOOD, BAD, PARTLY, LATE = (text(name) for name in ("good", "bad", "partly", "late"))
SMALL = "small, and not here yet"
LACKED = "upstream lacks this"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    queued = MirrorSpec(queued=[GOOD, BAD, PARTLY, LATE, SMALL], known_missing=[LACKED])
    with Served(root, {NAME: queued}) as served:
        yield served


@pytest.fixture(scope="module")
def store(root: Path, served: Served) -> FileObjectStore:
    """The worker's own view of the same directory."""
    return FileObjectStore(root / "lfs", reserve_bytes=0, clock=SystemClock())


class Client:
    """One request for an object, answered on a thread of its own."""

    def __init__(self, served: Served, content: str, **headers: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        self.path = f"/{NAME}.git/info/lfs/objects/{oid_of(content)}"
        self.headers = headers
        self.status = 0
        self.answered: dict[str, str] = {}
        self.body = b""
        self.error: Exception | None = None
        self.progress = threading.Condition()
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        try:
            self.connection.request("GET", self.path, headers=self.headers)
            answer = self.connection.getresponse()
            self.status = answer.status
            self.answered = {name.lower(): value for name, value in answer.getheaders()}
            while data := answer.read1(64 * KIB):
                with self.progress:
                    self.body += data
                    self.progress.notify_all()
            if answer.length:
                raise http.client.IncompleteRead(self.body, answer.length)
        except (OSError, http.client.HTTPException) as error:
            self.error = error
        finally:
            self.connection.close()

    def wait_for(self, size: int) -> None:
        with self.progress:
            assert self.progress.wait_for(lambda: len(self.body) >= size, 30), (self.status, len(self.body), self.error)

    def end(self) -> bytes:
        self.thread.join(30)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.body


def pointer(content: str) -> Pointer:
    return Pointer(LfsOid(oid_of(content)), len(content))


def test_bytes_are_passed_on_as_they_arrive_and_the_end_once_it_is_verified(
    served: Served, store: FileObjectStore
) -> None:
    raw = GOOD.encode()
    clients = [Client(served, GOOD) for _ in range(4)]
    early = Client(served, GOOD, Range="bytes=100-199")
    to_the_end = Client(served, GOOD, Range=f"bytes={SIZE - 300 * KIB}-")
    with store.incomplete(pointer(GOOD)) as incomplete:
        incomplete.write(0, raw[: 200 * KIB])
        incomplete.missing()
        for client in clients:
            client.wait_for(200 * KIB)
        assert early.end() == raw[100:200]
        assert early.status == 206
        assert "etag" not in early.answered
        assert early.answered["cache-control"] == "no-store"
        incomplete.write(200 * KIB, raw[200 * KIB :])
        incomplete.missing()
        for client in clients:
            client.wait_for(SIZE - 64 * KIB)
        assert all(len(client.body) == SIZE - 64 * KIB for client in clients), "more than what may be wrong still"
        incomplete.promote()
    for client in clients:
        assert client.end() == raw
        assert client.status == 200
        assert client.answered["content-length"] == str(SIZE)
    assert to_the_end.end() == raw[SIZE - 300 * KIB :]


def test_a_wrong_byte_breaks_every_transfer_off_even_when_it_is_put_right(
    served: Served, store: FileObjectStore
) -> None:
    raw = bytearray(BAD.encode())
    raw[50 * KIB] ^= 1
    clients = [Client(served, BAD), Client(served, BAD, Range="bytes=1000-")]
    with store.incomplete(pointer(BAD)) as incomplete:
        incomplete.write(0, bytes(raw))
        incomplete.missing()
        for client in clients:
            client.wait_for(400 * KIB)
        with pytest.raises(ObjectCorrupt):
            incomplete.promote()
        incomplete.write(50 * KIB, BAD[50 * KIB : 50 * KIB + 1].encode())
        incomplete.promote()
    for client in clients:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            client.end()
        assert len(client.body) < SIZE - 1000
    assert Client(served, BAD).end() == BAD.encode()


def test_what_is_begun_anew_is_gone_on_with(served: Served, store: FileObjectStore) -> None:
    raw = PARTLY.encode()
    client = Client(served, PARTLY)
    with store.incomplete(pointer(PARTLY)) as incomplete:
        incomplete.write(0, raw[: 100 * KIB])
        incomplete.missing()
        client.wait_for(100 * KIB)
        incomplete.restart()
    with store.incomplete(pointer(PARTLY)) as incomplete:
        assert incomplete.missing() == [(0, SIZE)]
        incomplete.write(0, raw)
        incomplete.promote()
    assert client.end() == raw


def test_a_small_object_waits_for_its_verified_self(served: Served, store: FileObjectStore) -> None:
    client = Client(served, SMALL)
    with store.incomplete(pointer(SMALL)) as incomplete:
        incomplete.write(0, SMALL.encode())
        incomplete.promote()
    assert client.end() == SMALL.encode()


def test_what_upstream_lacks_is_said_at_once(served: Served) -> None:
    client = Client(served, LACKED)
    assert b"upstream itself lacks" in client.end()
    assert client.status == 404


def test_a_head_and_a_range_beyond_the_end_fetch_nothing(served: Served, root: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    path = f"/{NAME}.git/info/lfs/objects/{oid_of(LATE)}"

    def ask(method: str, **headers: str) -> tuple[int, Any]:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers

    status, headers = ask("HEAD")
    assert (status, headers["Content-Length"], headers["Cache-Control"]) == (200, str(SIZE), "no-store")
    status, headers = ask("GET", Range=f"bytes={SIZE}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert ask("GET", **{"If-None-Match": f'"{oid_of(LATE)}"'})[0] == 304
    connection.close()


# ---------------------------------------------------------------- bounds, in this process


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with make_world(tmp_path, {NAME: MirrorSpec(queued=[GOOD, LATE, SMALL], known_missing=[LACKED])}) as world:
        yield world


def path_of(content: str) -> str:
    return f"/{NAME}.git/info/lfs/objects/{oid_of(content)}"


def test_a_client_that_would_wait_too_long_is_asked_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfs, "FIRST_SECONDS", 0.3)
    client = create_app(world).test_client()
    for _ in range(world.settings.serve.max_streams + 1):  # each gives its place back
        answer = client.get(path_of(GOOD))
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) > 0
        assert "being fetched" in answer.get_data(as_text=True)
    assert world.no_waker.pokes > 0
    assert [job.oid for job in world.memory.lfs_asked()] == [oid_of(GOOD)]


def test_what_can_be_fetched_is_offered_and_what_just_failed_is_not(world: World) -> None:
    client = create_app(world).test_client()
    mirror = world.memory.mirror(MirrorName(NAME))
    asked = {
        "operation": "download",
        "objects": [{"oid": oid_of(text), "size": len(text)} for text in (GOOD, LATE, LACKED)]
        + [{"oid": oid_of(SMALL), "size": 7}],
    }

    def told() -> list[str]:
        answer = client.post(f"/{NAME}.git/info/lfs/objects/batch", json=asked).get_json()
        return ["action" if "actions" in item else item["error"]["message"] for item in answer["objects"]]

    good, late, lacked, of_another_size = told()
    assert (good, late) == ("action", "action")
    assert "upstream itself lacks" in lacked
    assert "queued" in of_another_size
    assert world.memory.lfs_asked() == [], "a batch alone fetches nothing"
    until = world.clock.now() + 60.0
    world.memory.lfs_ask_failed(mirror.id, LfsOid(oid_of(LATE)), code="MS-U503", message="no line", until=until)
    assert "MS-U503: no line" in told()[1]
    assert client.get(path_of(LATE)).status_code == 404
    world.memory.set_paused(mirror.id, reason="holiday")
    assert "queued" in told()[0]
    assert client.get(path_of(GOOD)).status_code == 404


def test_a_failure_met_while_waiting_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = create_app(world).test_client()
    monkeypatch.setattr(world, "ask_lfs", lambda *_arguments, **_options: ("MS-U503", "no line"))
    answer = client.get(path_of(GOOD))
    assert answer.status_code == 503
    assert "MS-U503: no line" in answer.get_data(as_text=True)
    monkeypatch.setattr(world, "ask_lfs", lambda *_arguments, **_options: ("MS-L404", "gone"))
    assert client.get(path_of(LATE)).status_code == 404


def test_those_who_wait_leave_room_for_others_and_one_object_for_another(world: World) -> None:
    mirror = world.memory.mirror(MirrorName(NAME))
    streams = 64
    world.settings = replace(world.settings, serve=replace(world.settings.serve, max_streams=streams))
    waiting = Pulls(world)

    def joined(content: str) -> list[Joined]:
        found = []
        while (one := waiting.join(mirror, pointer(content))) is not None:
            found.append(one)
        return found

    first = joined(GOOD)
    second = joined(LATE)
    assert 50 <= len(first) < len(first) + len(second) == streams - streams // 8
    first[0].leave()
    first[0].leave()
    assert len(joined(SMALL)) == 1
    for one in (*first, *second):
        one.leave()
    assert len(joined(GOOD)) == len(first)


def test_a_stalled_object_ends_the_answer_short_of_its_length(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror_sync.web.pulls.STALL_SECONDS", 0.3)
    with world.objects.incomplete(pointer(GOOD)) as incomplete:
        incomplete.write(0, GOOD[: 100 * KIB].encode())
        incomplete.missing()
        answer = create_app(world).test_client().get(path_of(GOOD), buffered=False)
        assert answer.status_code == 200
        assert answer.headers["Content-Length"] == str(SIZE)
        got: list[bytes] = []
        with pytest.raises(ConnectionResetError):
            got.extend(answer.response)
        assert b"".join(got) == GOOD[: 100 * KIB].encode()
        answer.close()
