"""One LFS object over several connections and from several places, over real HTTP and links that fail on purpose."""

from __future__ import annotations

import contextlib
import random
import threading

import pytest

from mirror_sync.actions.budget import Budget
from mirror_sync.actions.transfer import TransferLimits, transfer
from mirror_sync.domain.names import MirrorName
from mirror_sync.threads import ThreadParallel
from tests.integration.actions.test_transfer import BATCH, DOWNLOAD, HASTY, MIB, Scene, bytes_of
from tests.support.link import Link, Weather
from tests.support.upstream import GitUpstream
from tests.support.upstream_client import client

SIZE = 24 * MIB


class Far(Scene):
    """A scene whose upstream is reached over a link, with other places beside it."""

    link: Link | None = None

    def fetch(self, *wanted, others=(), budget=None, connections=8):
        origin = self.upstream.origin
        if self.link is not None:
            origin = self.repo.lfs.href_origin = self.link.origin
        with contextlib.ExitStack() as more:
            urls = [f"{origin}/{self.repo.name}", *others]
            return transfer(
                wanted,
                mirror=MirrorName("127.0.0.1/acme/model"),
                sources=[more.enter_context(client(url, rule=HASTY, clock=self.clock)) for url in urls],
                objects=self.objects,
                parallel=ThreadParallel(),
                clock=self.clock,
                telemetry=self.telemetry,
                limits=TransferLimits(connections=connections, budget=budget),
                stop=self.stop,
                report=self.reports.append,
            )


@pytest.fixture
def scene(tmp_path):
    with GitUpstream(tmp_path / "up") as upstream:
        yield Far(tmp_path, upstream)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    for name, size in (("WHOLE_BYTES", MIB), ("FIRST_PART", MIB), ("LEAST_PART", 128 * 1024)):
        monkeypatch.setattr(f"mirror_sync.actions.board.{name}", size)


def ranges(scene):
    """Return the ranges asked for, as pairs."""
    asked = [text.removeprefix("bytes=").split("-") for text in scene.ranges() if text]
    return [(int(first), int(last) + 1) for first, last in asked]


def test_a_link_that_gives_each_connection_little_is_used_with_many(scene):
    pointer = scene.put(bytes_of(SIZE))
    with Link(scene.upstream.port, Weather(connection_rate=1.5e6)) as scene.link:
        report = scene.fetch(pointer)
        assert scene.link.count().peak == 8
        assert scene.link.count().connections <= 14, "connections are kept"
    scene.whole(report, pointer)
    assert report.bytes_fetched == SIZE
    assert max(progress.connections for progress in scene.reports) == 8


def test_a_link_that_one_connection_fills_is_left_to_few(scene):
    pointer = scene.put(bytes_of(SIZE))
    with Link(scene.upstream.port, Weather(link_rate=8e6)) as scene.link:
        report = scene.fetch(pointer)
        assert scene.link.count().peak <= 4
    scene.whole(report, pointer)


@pytest.mark.parametrize("seed", range(4))
def test_cuts_cost_next_to_nothing(scene, seed):
    pointer, other = scene.put(bytes_of(SIZE)), scene.put(bytes_of(3 * MIB, 2))
    weather = Weather(seed=seed, cut_bytes=(400_000, 4_000_000), resets=0.3, connection_rate=6e6)
    with Link(scene.upstream.port, weather) as scene.link:
        report = scene.fetch(pointer, other)
        assert scene.link.count().cuts > 3
    scene.whole(report, pointer, other)
    assert report.bytes_fetched <= 1.05 * (pointer.size + other.size)
    assert scene.reports[-1].cuts > 0


def test_silence_is_ended_long_before_any_time_out(scene, monkeypatch):
    monkeypatch.setattr("mirror_sync.actions.board.SILENT_SECONDS", 0.5)
    monkeypatch.setattr("mirror_sync.actions.board.DEAD_SECONDS", 0.8)
    monkeypatch.setattr("tests.integration.actions.test_transfer_in_parts.HASTY", PATIENT)
    pointer = scene.put(bytes_of(SIZE))
    weather = Weather(seed=3, cut_bytes=(2_000_000, 6_000_000), stalls=1.0, connection_rate=20e6)
    with Link(scene.upstream.port, weather) as scene.link:
        report = scene.fetch(pointer)
        assert scene.link.count().stalls > 0
    scene.whole(report, pointer)


PATIENT = type(HASTY)(allow_http=True, allow_private=True, stall_timeout=600.0)


def test_a_link_that_flips_bits_brings_the_object_all_the_same(scene):
    pointer = scene.put(bytes_of(SIZE))
    weather = Weather(seed=1, flip_every=9_000_000, flip_after=1000)
    with Link(scene.upstream.port, weather) as scene.link:
        report = scene.fetch(pointer)
        assert scene.link.count().flips > 0
    scene.whole(report, pointer)
    assert scene.telemetry.named("lfs_object_corrupt")


@pytest.mark.parametrize("size", [3 * MIB, 64 * MIB])
def test_a_link_that_flips_bits_for_ever_costs_one_more_reading_and_the_blocks_they_are_in(scene, monkeypatch, size):
    for name, length in (("WHOLE_BYTES", 16 * MIB), ("FIRST_PART", 16 * MIB), ("LEAST_PART", MIB)):
        monkeypatch.setattr(f"mirror_sync.actions.board.{name}", length)
    pointer = scene.put(bytes_of(size))
    with Link(scene.upstream.port, Weather(seed=1, flip_every=1_000_000, flip_after=1000)) as scene.link:
        report = scene.fetch(pointer)
        assert scene.link.count().flips > size // 1_000_000
    scene.whole(report, pointer)
    # Some of what is under way is left unread when the object is looked at in between.
    assert report.bytes_fetched <= 2.1 * size + 16 * MIB * (size > 16 * MIB)


def test_parts_come_from_a_nearer_place_too(scene, tmp_path):
    data = bytes_of(SIZE)
    pointer = scene.put(data)
    with GitUpstream(tmp_path / "near", address="127.0.0.2") as near:
        place = near.create("acme/model")
        place.lfs.put(data)
        with Link(scene.upstream.port, Weather(connection_rate=2e6)) as scene.link:
            report = scene.fetch(pointer, others=[place.url])
        scene.whole(report, pointer)
        assert near.seen(DOWNLOAD)
        assert scene.ranges()
    assert report.bytes_fetched <= 1.1 * SIZE


def test_a_nearer_place_that_lies_is_found_out_over_http(scene, tmp_path):
    data = bytes_of(SIZE)
    pointer = scene.put(data)
    with GitUpstream(tmp_path / "near", address="127.0.0.2") as near:
        place = near.create("acme/model")
        place.lfs.put(data)
        place.lfs.replace(pointer.oid, bytes_of(SIZE, 99))
        with Link(scene.upstream.port, Weather(connection_rate=2e6)) as scene.link:
            report = scene.fetch(pointer, others=[place.url])
        assert near.seen(DOWNLOAD)
        (lied,) = scene.telemetry.named("lfs_source_lied")
        assert lied[1]["host"].startswith("127.0.0.2")
    scene.whole(report, pointer)


def test_a_nearer_place_never_sees_what_is_meant_for_the_upstream(scene, tmp_path):
    data = bytes_of(4 * MIB)
    pointer = scene.put(data)
    scene.repo.lfs.headers = {"Authorization": "RemoteAuth for-upstream-alone"}
    with GitUpstream(tmp_path / "near", address="127.0.0.2") as near:
        place = near.create("acme/model")
        place.lfs.put(data)
        with Link(scene.upstream.port, Weather(connection_rate=1e6)) as scene.link:
            scene.whole(scene.fetch(pointer, others=[place.url]), pointer)
        assert near.seen(DOWNLOAD)
        assert all("for-upstream-alone" not in str(recorded) for recorded in near.requests)


def test_a_nearer_place_that_is_down_or_has_nothing_costs_little(scene, tmp_path):
    pointer = scene.put(bytes_of(4 * MIB))
    with GitUpstream(tmp_path / "near", address="127.0.0.2") as near:
        empty = near.create("acme/model").url
        absent = f"{near.origin}/acme/absent"
        scene.whole(scene.fetch(pointer, others=[empty, absent, "http://127.0.0.3:9/acme/model"]), pointer)
        assert near.seen(DOWNLOAD) == []


def test_links_that_expire_in_the_middle_of_parts_are_renewed_and_nothing_is_lost(scene):
    pointer = scene.put(bytes_of(SIZE))
    scene.repo.lfs.lifetime = 0.5
    scene.repo.lfs.expires_in = 3600
    with Link(scene.upstream.port, Weather(connection_rate=2e6)) as scene.link:
        report = scene.fetch(pointer, connections=4)
    scene.whole(report, pointer)
    assert report.bytes_fetched <= 1.05 * SIZE
    batches = scene.upstream.seen(BATCH)
    lives = (batches[-1].at - batches[0].at) / 0.5
    assert 1 < len(batches) <= 2 * lives + 3, "asked for again once in a life, not by every connection"


def test_a_server_without_ranges_is_read_once_by_one_connection(scene):
    pointer = scene.put(bytes_of(8 * MIB))
    scene.upstream.fault(DOWNLOAD, times=None, ignore_range=True)
    with Link(scene.upstream.port, Weather(connection_rate=8e6)) as scene.link:
        report = scene.fetch(pointer)
    scene.whole(report, pointer)
    assert report.bytes_fetched <= 1.6 * pointer.size


def test_a_server_that_refuses_some_of_many_connections_is_given_fewer(scene):
    pointer = scene.put(bytes_of(SIZE))
    scene.upstream.fault(DOWNLOAD, times=3, after=2, status=503)
    with Link(scene.upstream.port, Weather(connection_rate=4e6)) as scene.link:
        report = scene.fetch(pointer)
    scene.whole(report, pointer)
    assert report.bytes_fetched <= 1.05 * SIZE


def test_two_transfers_share_the_connections_of_the_machine(scene):
    pointers = [scene.put(bytes_of(SIZE // 2, seed)) for seed in range(2)]
    reports = {}
    with Link(scene.upstream.port, Weather(connection_rate=2e6)) as scene.link:
        budget = Budget(6, clock=scene.clock)

        def fetch(pointer):
            reports[pointer] = scene.fetch(pointer, budget=budget)

        threads = [threading.Thread(target=fetch, args=(pointer,)) for pointer in pointers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert scene.link.count().peak <= 6 + 2, "and one for the batch requests of each"
    for pointer in pointers:
        assert reports[pointer].arrived == {pointer.oid}
    assert scene.objects.begun() == frozenset()


def test_many_small_objects_share_few_connections_and_batches(scene):
    pointers = [scene.put(random.Random(number).randbytes(500)) for number in range(600)]
    with Link(scene.upstream.port, Weather(round_trip=0.02)) as scene.link:
        report = scene.fetch(*pointers, connections=16)
        assert scene.link.count().connections <= 40
    scene.whole(report, *pointers)
    assert len(scene.upstream.seen(BATCH)) == 6
    assert len(scene.upstream.seen(DOWNLOAD)) == 600
