"""The failing link and the liar that tests and benchmarks rely on do what they are told."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import requests

from tests.support.lies import LIES, Liar
from tests.support.link import Link, Weather
from tests.support.upstream import GitUpstream

SIZE = 1_000_000
DATA = bytes(number % 251 for number in range(SIZE))


@pytest.fixture
def server() -> Iterator[int]:
    """A port that answers every byte with :data:`DATA`, as often as it is asked on one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(client: socket.socket) -> None:
            with client:
                try:
                    while client.recv(1):
                        client.sendall(DATA)
                except OSError:
                    return

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def got(link: Link, size: int = SIZE) -> bytes | str:
    """Ask once and return what came, or ``reset`` or ``silence`` in place of an end."""
    with socket.create_connection(("127.0.0.1", link.port)) as client:
        client.settimeout(0.5)
        client.sendall(b"?")
        came = b""
        try:
            while len(came) < size and (piece := client.recv(1 << 16)):
                came += piece
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return f"silence after {len(came)}"
        return came


def test_a_good_link_changes_nothing(server: int) -> None:
    with Link(server) as link:
        assert got(link) == DATA
        count = link.count()
        assert (count.connections, count.cuts, count.flips, count.down, count.up) == (1, 0, 0, SIZE, 1)


def test_cuts_fall_where_the_seed_says(server: int) -> None:
    def lengths(seed: int) -> list[int]:
        with Link(server, Weather(seed=seed, cut_bytes=(1000, 900_000))) as link:
            found = [len(got(link)) for _ in range(8)]
            assert link.count().cuts == 8
            assert link.count().down == sum(found)
        return found

    first = lengths(1)
    assert first == lengths(1)
    assert first != lengths(2)
    assert min(first) >= 1000
    assert max(first) <= 900_000
    assert len(set(first)) == 8


def test_a_reset_is_a_reset_and_a_stall_is_silence(server: int) -> None:
    with Link(server, Weather(cut_bytes=(1000, 1000), resets=1.0)) as link:
        assert got(link) == "reset"
        link.turn(Weather(cut_bytes=(1000, 1000), stalls=1.0))
        assert got(link) == "silence after 1000"
        count = link.count()
        assert (count.cuts, count.resets, count.stalls) == (2, 1, 1)


def test_breaks_are_shared_out(server: int) -> None:
    with Link(server, Weather(seed=3, cut_bytes=(1000, 1000), resets=0.3, stalls=0.3)) as link:
        with ThreadPoolExecutor(40) as threads:
            ends = list(threads.map(lambda _: got(link), range(40)))
        count = link.count()
    assert count.cuts == 40
    assert count.resets == ends.count("reset") > 0
    assert count.stalls == ends.count("silence after 1000") > 0
    assert ends.count(DATA[:1000]) == 40 - count.resets - count.stalls > 0


def test_time_cuts_too_and_so_does_an_order(server: int) -> None:
    with Link(server, Weather(cut_seconds=(0.2, 0.3), connection_rate=100_000)) as link:
        assert 0 < len(got(link)) < SIZE
        link.turn(Weather(connection_rate=100_000))
        with ThreadPoolExecutor(1) as thread:
            slow = thread.submit(got, link)
            before = link.count().down
            while link.count().down < before + 5000:
                pass
            link.cut()
            assert 5000 <= len(slow.result()) < SIZE
        assert link.count().cuts == 2


def test_a_connection_gets_its_rate_and_all_of_them_theirs(server: int) -> None:
    with Link(server, Weather(connection_rate=4_000_000)) as link, ThreadPoolExecutor(4) as threads:
        began = time.monotonic()
        assert list(threads.map(lambda _: got(link), range(4))) == [DATA] * 4
        each = time.monotonic() - began
        assert each >= 0.9 * SIZE / 4_000_000 - 0.05
        link.turn(Weather(link_rate=4_000_000))
        began = time.monotonic()
        assert list(threads.map(lambda _: got(link), range(4))) == [DATA] * 4
        assert time.monotonic() - began >= 0.9 * 4 * SIZE / 4_000_000 - 0.05


def test_latency_delays_and_does_not_narrow(server: int) -> None:
    with Link(server, Weather(round_trip=0.2)) as link:
        with socket.create_connection(("127.0.0.1", link.port)) as client:
            for trips in (2, 1):  # the first answer waits for the handshake as well
                began = time.monotonic()
                client.sendall(b"?")
                client.recv(1, socket.MSG_PEEK)
                assert time.monotonic() - began >= trips * 0.2
                left = SIZE
                while left:
                    left -= len(client.recv(left))
                # a sleep for each of the pieces would take four times as long
                assert time.monotonic() - began < trips * 0.2 + 4 * 0.2
        assert link.count().down == 2 * SIZE


def test_bits_flip_behind_the_head_of_each_answer(server: int) -> None:
    with (
        Link(server, Weather(seed=5, flip_every=50_000, flip_after=400_000)) as link,
        socket.create_connection(("127.0.0.1", link.port)) as client,
    ):
        flipped = 0
        for _ in range(3):
            client.sendall(b"?")
            came = b""
            while len(came) < SIZE:
                came += client.recv(1 << 16)
            assert came[:400_000] == DATA[:400_000]
            flips = [a ^ b for a, b in zip(came, DATA, strict=True) if a != b]
            assert all(flip.bit_count() == 1 for flip in flips)
            flipped += len(flips)
        assert flipped == link.count().flips > 3


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with Link(port) as link:
        assert got(link) == "reset"


def test_a_failure_tells_the_seed(server: int) -> None:
    with pytest.raises(AssertionError) as failure, Link(server, Weather(seed=4711, resets=0.5)) as link:
        assert got(link) == b"something else"
    assert "Weather(seed=4711, resets=0.5)" in failure.value.__notes__[0]
    assert f"down={SIZE}" in failure.value.__notes__[0]


def test_a_weather_goes_through_json() -> None:
    weather = Weather(seed=1, cut_bytes=(1, 2), cut_seconds=(0.5, 1.0), flip_every=3)
    assert Weather.of(asdict(weather)) == weather


def test_lies_follow_the_seed(tmp_path: Path) -> None:
    with GitUpstream(tmp_path / "up") as up:
        repo = up.create("acme/model")
        oid, size = repo.lfs.put(DATA)
        url = f"{up.origin}/-/lfs/acme/model/{oid}"

        def answers(seed: int) -> list[tuple[int, bytes]]:
            up.liar = Liar(seed, pattern="/-/lfs/", share=0.8)
            found = []
            for _ in range(80):
                with contextlib.suppress(requests.ConnectionError):
                    found.append(asked(url))
            honest = (206, DATA[1000:2000], f"bytes 1000-1999/{size}")
            assert found.count(honest) == 80 - sum(up.liar.told.values())
            assert len(found) == 80 - up.liar.told["dropped"]
            assert set(up.liar.told) == set(LIES)
            return [(status, body) for status, body, _ in found]

        first = answers(1)
        assert first == answers(1)
        assert first != answers(2)
        assert {status for status, _ in first} == {200, 206, 429, 503}


def asked(url: str) -> tuple[int, bytes, str]:
    """Ask for a range and return status, body as it came, and what range it is said to be."""
    with requests.get(url, headers={"Range": "bytes=1000-1999"}, stream=True) as answer:
        return answer.status_code, answer.raw.read(decode_content=False), answer.headers.get("Content-Range", "")
