from __future__ import annotations

import hashlib
import os
import random
import threading

import pytest

from mirror_sync.domain.parts import add
from mirror_sync.lfs_store.beside import WAITING, Lane
from mirror_sync.lfs_store.prefix_hash import PrefixHash

DATA = random.Random(3).randbytes(5_000_000)


def test_a_job_is_refused_when_too_many_wait():
    lane, go_on, done = Lane("test"), threading.Event(), []
    lane.put(go_on.wait)
    offered = [lane.offer(lambda number=number: done.append(number)) for number in range(WAITING + 2)]
    go_on.set()
    lane.finish()
    lane.drop()
    assert offered.count(False) in (2, 3), "the thread may have taken the first job out of the queue already"
    assert done == [number for number, taken in enumerate(offered) if taken]


def test_jobs_are_done_in_order():
    lane, done = Lane("test"), []
    for number in range(100):
        lane.put(lambda number=number: done.append(number))
    lane.finish()
    assert done == list(range(100))
    assert lane.idle()
    lane.drop()


def test_a_failed_job_is_told_and_later_ones_are_not_done():
    lane, done = Lane("test"), []
    lane.put(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        lane.finish()
    with pytest.raises(ZeroDivisionError):
        lane.put(lambda: done.append(1))
    lane.rest()
    lane.put(lambda: done.append(2))
    lane.finish()
    assert done == [2]
    lane.drop()


def test_dropping_ends_the_thread_without_doing_the_rest():
    lane, go, done = Lane("test"), threading.Event(), []
    lane.put(lambda: go.wait(10))
    for number in range(WAITING - 1):
        lane.put(lambda number=number: done.append(number))
    before = threading.active_count()
    threading.Timer(0.05, go.set).start()
    lane.drop()
    assert done == []
    assert threading.active_count() <= before
    assert not any(thread.name == "test" for thread in threading.enumerate())


def test_no_job_no_thread():
    before = threading.active_count()
    lane = Lane("test")
    lane.finish()
    assert threading.active_count() == before
    lane.drop()


@pytest.fixture
def file(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_the_digest_is_right_in_whatever_order_the_bytes_come(file, beside, seed):
    chance = random.Random(seed)
    pieces = [(at, DATA[at : at + 70_000]) for at in range(0, len(DATA), 70_000)]
    if seed:
        chance.shuffle(pieces)
    if seed > 3:
        pieces += chance.sample(pieces, 5)  # written again
    digest, written = PrefixHash(file, beside=beside), []
    for at, piece in pieces:
        os.pwrite(file, piece, at)
        written = add(written, (at, at + len(piece)))
        digest.follow(at, piece, written=written)
    assert digest.digest(len(DATA)) == hashlib.sha256(DATA).hexdigest()
    digest.close()


def test_bytes_in_order_are_not_read_back(file, monkeypatch):
    digest, written = PrefixHash(file, beside=False), []
    monkeypatch.setattr(os, "preadv", lambda *_: pytest.fail("read back"))
    for at in range(0, len(DATA), 1 << 20):
        piece = DATA[at : at + (1 << 20)]
        written = add(written, (at, at + len(piece)))
        digest.follow(at, piece, written=written)
    assert digest.digest(len(DATA)) == hashlib.sha256(DATA).hexdigest()


def test_what_was_on_disk_before_is_read_once(file, monkeypatch):
    os.pwrite(file, DATA[:3_000_000], 0)
    read, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: read.append(preadv(*args)) or read[-1])
    digest, written = PrefixHash(file, beside=True), [(0, 3_000_000)]
    for at in range(3_000_000, len(DATA), 500_000):
        piece = DATA[at : at + 500_000]
        os.pwrite(file, piece, at)
        written = add(written, (at, at + len(piece)))
        digest.follow(at, piece, written=written)
    assert digest.digest(len(DATA)) == hashlib.sha256(DATA).hexdigest()
    assert sum(read) == 3_500_000
    digest.close()


def test_closing_does_not_read_the_rest(file):
    os.ftruncate(file, 50 << 30)  # a sparse file that would take half a minute
    digest = PrefixHash(file, beside=True)
    digest.follow(50 << 30, b"", written=[(0, 50 << 30)])
    digest._catch_up(50 << 30)
    digest.close()
