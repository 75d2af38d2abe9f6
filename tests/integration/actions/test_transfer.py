"""A transfer over real HTTP into real files: cuts, expiry, wrong bytes, silence, kill -9."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mirror_sync.actions.transfer import TransferLimits, transfer
from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import Interrupted, RateLimited
from mirror_sync.lfs_store import FileObjectStore
from mirror_sync.testing.telemetry import ListedTelemetry
from mirror_sync.threads import ThreadParallel
from mirror_sync.upstream import Access
from tests.support.upstream import GitUpstream
from tests.support.upstream_client import client

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[3]
DOWNLOAD = r"GET /-/lfs/"
BATCH = r"POST .*/objects/batch"
HASTY = Access(allow_http=True, allow_private=True, stall_timeout=0.5)


class QuickClock(SystemClock):
    """The machine's clock, with short waits."""

    def sleep(self, seconds, *, stop=None):
        return super().sleep(min(seconds, 0.02), stop=stop)


class Scene:
    def __init__(self, tmp_path, upstream):
        self.upstream = upstream
        self.repo = upstream.create("acme/model")
        self.directory = tmp_path / "lfs"
        self.clock = QuickClock()
        self.objects = FileObjectStore(self.directory, reserve_bytes=0, clock=self.clock, sync_bytes=MIB)
        self.telemetry = ListedTelemetry()
        self.stop = threading.Event()
        self.reports = []
        self.kept: dict[str, bytes] = {}

    def put(self, data):
        oid, size = self.repo.lfs.put(data)
        self.kept[oid] = data
        return Pointer(LfsOid(oid), size)

    def run(self, *wanted, rule=HASTY, **limits):
        with client(self.repo.url, rule=rule, clock=self.clock) as upstream:
            return transfer(
                wanted,
                mirror=MirrorName("127.0.0.1/acme/model"),
                sources=[upstream],
                report=self.reports.append,
                objects=self.objects,
                parallel=ThreadParallel(),
                clock=self.clock,
                telemetry=self.telemetry,
                limits=TransferLimits(**limits),
                stop=self.stop,
            )

    def whole(self, report, *pointers):
        assert report.error is None, report.error
        assert not report.failed, report.failed
        assert not report.known_missing
        assert report.arrived == {pointer.oid for pointer in pointers}
        for pointer in pointers:
            with self.objects.open(pointer.oid) as file:
                assert file.read() == self.kept[pointer.oid]
        assert list((self.directory / "incomplete").iterdir()) == []

    def ranges(self):
        return [recorded.headers.get("range", "") for recorded in self.upstream.seen(DOWNLOAD)]


@pytest.fixture
def scene(tmp_path):
    with GitUpstream(tmp_path / "up") as upstream:
        yield Scene(tmp_path, upstream)


def bytes_of(size, seed=1):
    return random.Random(seed).randbytes(size)


def test_many_objects_of_many_sizes(scene):
    pointers = [scene.put(bytes_of(37 * number * number, number)) for number in range(1, 240)]
    report = scene.run(*pointers)
    scene.whole(report, *pointers)
    assert report.bytes_fetched == sum(pointer.size for pointer in pointers)
    assert len(scene.upstream.seen(DOWNLOAD)) == 239
    assert len(scene.upstream.seen(BATCH)) == 3
    scene.upstream.forget()
    scene.whole(scene.run(*pointers), *pointers)
    assert scene.upstream.requests == []


def test_a_large_object_on_a_line_that_breaks_again_and_again(scene):
    data = bytes_of(12 * MIB)
    pointer = scene.put(data)
    fault = scene.upstream.fault(DOWNLOAD, times=5, cut_after=2 * MIB + 12345)
    report = scene.run(pointer, connections=1)  # a slow machine would share what is left
    scene.whole(report, pointer)
    assert fault.hits == 5
    assert len(scene.ranges()) == 6
    starts = [int(re.match(r"bytes=(\d+)-", text)[1]) for text in scene.ranges()[1:]]
    assert starts == sorted(starts)
    assert starts[0] > 0
    assert report.bytes_fetched <= 1.02 * len(data), "what came once is not asked for again"


def test_a_server_that_forgets_about_ranges(scene):
    pointer = scene.put(bytes_of(6 * MIB))
    scene.upstream.fault(DOWNLOAD, times=1, cut_after=3 * MIB)
    scene.upstream.fault(DOWNLOAD, times=1, ignore_range=True)
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert 6 * MIB < report.bytes_fetched <= 10 * MIB


def test_links_that_expire_in_the_middle(scene):
    scene.repo.lfs.lifetime = 0.4
    scene.repo.lfs.expires_in = 3600  # and the server tells nobody
    pointers = [scene.put(bytes_of(2 * MIB, seed)) for seed in range(6)]
    scene.upstream.fault(DOWNLOAD, times=6, drip=(MIB, 0.15))
    report = scene.run(*pointers, connections=1)
    scene.whole(report, *pointers)
    assert len(scene.upstream.seen(BATCH)) >= 3


def test_wrong_bytes_once_and_wrong_bytes_for_good(scene):
    good, bad = scene.put(bytes_of(5 * MIB, 1)), scene.put(bytes_of(MIB, 2))
    scene.upstream.fault(f"{DOWNLOAD}.*{good.oid}", rewrite=lambda body: body[:-1] + bytes([body[-1] ^ 1]))
    scene.repo.lfs.replace(bad.oid, bytes_of(MIB, 3))
    report = scene.run(good, bad)
    assert report.arrived == {good.oid}
    assert report.failed[bad.oid][0] == "MS-L422"
    assert scene.objects.verify(good.oid)
    assert not scene.objects.has(bad)
    assert len(scene.upstream.seen(f"{DOWNLOAD}.*{bad.oid}")) == 2, "what upstream says twice is what it has"
    assert [path for path in scene.directory.rglob("*") if path.is_file() and path.name != good.oid] == []


def test_an_error_page_is_no_object(scene):
    pointer = scene.put(bytes_of(MIB))
    page = b"<html>Please sign in</html>"
    scene.upstream.fault(DOWNLOAD, times=2, body=page, headers={"Content-Type": "text/html"})
    scene.whole(scene.run(pointer), pointer)


def test_a_server_that_falls_silent(scene):
    pointer = scene.put(bytes_of(8 * MIB))
    scene.upstream.fault(DOWNLOAD, times=1, pause_after=(3 * MIB, 20.0))
    began = time.monotonic()
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert time.monotonic() - began < 10
    assert report.bytes_fetched <= 1.1 * pointer.size


def test_what_the_server_lacks_and_what_it_refuses(scene):
    good, lost, refused = (scene.put(bytes_of(1000, seed)) for seed in range(3))
    scene.repo.lfs.errors[lost.oid] = (404, "never had it")
    scene.repo.lfs.errors[refused.oid] = (422, "will not")
    report = scene.run(good, lost, refused)
    assert report.arrived == {good.oid}
    assert report.known_missing[lost.oid][0] == "MS-L404"
    assert report.failed[refused.oid][0] == "MS-L400"
    assert report.error is None


def test_a_link_to_bytes_that_are_gone(scene):
    good, gone = scene.put(bytes_of(1000, 1)), scene.put(bytes_of(1000, 2))
    scene.upstream.fault(f"{DOWNLOAD}.*{gone.oid}", times=None, status=404)
    report = scene.run(good, gone)
    assert report.arrived == {good.oid}
    assert report.known_missing[gone.oid][0] == "MS-L404"


def test_a_server_that_asks_us_to_wait(scene):
    pointers = [scene.put(bytes_of(1000, seed)) for seed in range(3)]
    scene.upstream.fault(DOWNLOAD, times=None, status=429, headers={"Retry-After": "77"})
    before = time.time()
    report = scene.run(*pointers, connections=1)
    assert isinstance(report.error, RateLimited)
    assert 76 <= report.error.until - before <= 80
    assert len(scene.upstream.seen(DOWNLOAD)) == 1
    assert not report.failed


def test_a_server_without_lfs_lacks_everything(scene):
    pointers = [scene.put(bytes_of(1000, seed)) for seed in range(3)]
    scene.repo.lfs.status = 404
    report = scene.run(*pointers)
    assert set(report.known_missing) == {pointer.oid for pointer in pointers}


def test_a_batch_that_fails_at_first(scene):
    pointer = scene.put(bytes_of(1000))
    scene.upstream.fault(BATCH, times=3, status=503)
    scene.whole(scene.run(pointer), pointer)


def test_a_server_that_takes_small_batches_only(scene):
    scene.repo.lfs.max_batch = 10
    pointers = [scene.put(b"%05d" % number) for number in range(60)]
    scene.whole(scene.run(*pointers), *pointers)


def test_stopping_keeps_what_came(scene):
    pointer = scene.put(bytes_of(8 * MIB))
    scene.upstream.fault(DOWNLOAD, times=None, drip=(64 * 1024, 0.1))
    threading.Timer(0.5, scene.stop.set).start()
    began = time.monotonic()
    report = scene.run(pointer)
    assert time.monotonic() - began < 1.5
    assert isinstance(report.error, Interrupted)
    assert not report.failed
    scene.stop.clear()
    scene.upstream.heal()
    again = scene.run(pointer)
    scene.whole(again, pointer)
    assert 0 < again.bytes_fetched < pointer.size
    assert report.bytes_fetched + again.bytes_fetched <= pointer.size + MIB


def test_two_mirrors_that_want_the_same_object_fetch_it_once(scene):
    pointer = scene.put(bytes_of(6 * MIB))
    scene.upstream.fault(DOWNLOAD, times=1, drip=(512 * 1024, 0.02))
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(scene.run(pointer))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for report in reports:
        scene.whole(report, pointer)
    assert sum(report.bytes_fetched for report in reports) == pointer.size
    assert len(scene.upstream.seen(DOWNLOAD)) == 1


CHILD = """
import sys, threading
from pathlib import Path
from mirror_sync.actions.transfer import TransferLimits, transfer
from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store import FileObjectStore
from mirror_sync.testing.telemetry import ListedTelemetry
from mirror_sync.threads import ThreadParallel
from tests.support.upstream_client import client

url, directory, *wanted = sys.argv[1:]
clock = SystemClock()
objects = FileObjectStore(Path(directory), reserve_bytes=0, clock=clock, sync_bytes=1 << 20)
pointers = [Pointer(LfsOid(text.split(":")[0]), int(text.split(":")[1])) for text in wanted]
print("ready", flush=True)
with client(url) as upstream:
    report = transfer(pointers, mirror=MirrorName("127.0.0.1/acme/model"), sources=[upstream], objects=objects,
                      parallel=ThreadParallel(), clock=clock, telemetry=ListedTelemetry(),
                      limits=TransferLimits(connections=2), stop=threading.Event(), report=lambda progress: None)
print(len(report.arrived), report.bytes_fetched, report.error, flush=True)
"""


def test_kill_9_in_the_middle_again_and_again(scene, tmp_path):
    """Whatever was durable is never fetched again; what is lost is bounded by the sync interval."""
    large, small = scene.put(bytes_of(24 * MIB, 1)), scene.put(bytes_of(6 * MIB, 2))
    scene.upstream.fault(DOWNLOAD, times=None, drip=(256 * 1024, 0.025))
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    chance = random.Random(11)
    asked = []

    def start():
        return subprocess.Popen(
            [sys.executable, str(script), scene.repo.url, str(scene.directory)]
            + [f"{pointer.oid}:{pointer.size}" for pointer in (large, small)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    for _ in range(4):
        child = start()
        assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.2, 0.5))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        for pointer, _at in scene.objects.iterate():
            assert scene.objects.verify(pointer.oid), "unverified bytes never have a final path"
        with scene.objects.incomplete(large) as incomplete:
            asked.append(sum(end - start for start, end in incomplete.missing()))
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] < asked[0] < large.size, "every life brought something"
    child = start()
    output, _ = child.communicate(timeout=60)
    arrived, fetched, error = output.splitlines()[-1].split(" ", 2)
    assert (arrived, error) == ("2", "None")
    assert int(fetched) <= asked[-1] + small.size
    scene.whole(scene.run(large, small), large, small)
