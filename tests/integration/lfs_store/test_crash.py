"""Kill -9 before every durable step of a transfer; the object is absent and resumable, or present and verified."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
from functools import partial

import pytest

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.parts import count
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store import FileObjectStore, durable
from mirror_sync.testing.clock import HandClock
from tests.support.kill_at import killed_at, steps_of

DATA = random.Random(7).randbytes(900_000)
POINTER = Pointer(LfsOid(hashlib.sha256(DATA).hexdigest()), len(DATA))
PIECE = 100_000


@pytest.fixture(params=["inline", "beside"])
def directory(request, tmp_path, monkeypatch):
    if request.param == "beside":
        monkeypatch.setattr("mirror_sync.lfs_store.incomplete.SMALL", 0)
    return tmp_path / "lfs"


def store(directory):
    return FileObjectStore(directory, reserve_bytes=0, clock=HandClock(), sync_bytes=2 * PIECE)


def fetch(directory):
    """Bring the object in two sittings, out of order, as a broken link would."""
    objects = store(directory)
    with objects.incomplete(POINTER) as incomplete:
        incomplete.reserve()
        for at in (0, PIECE, 3 * PIECE):
            incomplete.write(at, DATA[at : at + PIECE])
        assert incomplete.missing()
    finish(objects)


def finish(objects):
    fetched = 0
    with objects.incomplete(POINTER) as incomplete:
        incomplete.reserve()
        for start, end in incomplete.missing():
            for at in range(start, end, PIECE):
                piece = DATA[at : min(at + PIECE, end)]
                fetched += len(piece)
                incomplete.write(at, piece)
        incomplete.promote()
    return fetched


def inspect(directory):
    """Check what a crash left and return whether the object is here."""
    finals = [path for path in (directory / "objects").rglob("*") if path.is_file()]
    for path in finals:
        assert path.name == POINTER.oid
        assert path.read_bytes() == DATA, "only verified bytes have a final path"
        assert path.stat().st_mode & 0o777 == 0o444
    journal = directory / "incomplete" / f"{POINTER.oid}.parts"
    data = directory / "incomplete" / POINTER.oid
    if journal.exists() and data.exists() and data.stat().st_size:
        held = data.read_bytes()
        for start, end in json.loads(journal.read_text())["parts"]:
            assert held[start:end] == DATA[start:end], "the journal never tells of bytes that are not there"
    return bool(finals)


def complete(directory):
    objects = store(directory)
    here = objects.has(POINTER)
    fetched = finish(objects)
    assert fetched == 0 or not here
    assert objects.verify(POINTER.oid)
    assert [path.name for path in (directory / "incomplete").iterdir()] == [], "nothing is left over"
    assert objects.sweep_incompletes(older_than=2e9) == 0
    return fetched


def test_every_point(directory):
    seen = {"absent": 0, "present": 0}
    refetched = []
    for point in range(1, 200):
        shutil.rmtree(directory, ignore_errors=True)
        killed = killed_at(point, lambda: fetch(directory))
        here = inspect(directory)
        seen["present" if here else "absent"] += 1
        refetched.append(complete(directory))
        if not killed:
            break
    else:
        pytest.fail("the fetch never came to its end")
    assert point > 15
    assert seen["absent"] > 8
    assert seen["present"] >= 3
    assert refetched[0] == len(DATA)
    assert refetched[-1] == 0
    assert any(0 < bytes_again < len(DATA) for bytes_again in refetched), "parts survive"


def test_a_second_kill_while_recovering(directory):
    chance = random.Random(20)
    for _ in range(25):
        shutil.rmtree(directory, ignore_errors=True)
        killed_at(chance.randrange(1, 40), lambda: fetch(directory))
        inspect(directory)
        killed_at(chance.randrange(1, 25), lambda: finish(store(directory)))
        inspect(directory)
        complete(directory)


def test_a_promoted_object_survives_every_point_of_its_eviction(directory):
    for quarantine in (True, False):
        evict = partial(lambda aside: store(directory).evict(POINTER.oid, quarantine=aside), quarantine)
        for point in range(1, 20):
            shutil.rmtree(directory, ignore_errors=True)
            finish(store(directory))
            killed = killed_at(point, evict)
            inspect(directory)
            complete(directory)
            if not killed:
                break
        else:
            pytest.fail("the eviction never came to its end")


def test_sweeping_and_stale_eviction_survive_every_point(directory):
    def sweep():
        objects = store(directory)
        objects.evict_stale(POINTER.oid, older_than=3e9)
        objects.sweep_incompletes(older_than=3e9)

    for point in range(1, 20):
        shutil.rmtree(directory, ignore_errors=True)
        finish(store(directory))
        other = Pointer(LfsOid(hashlib.sha256(b"other").hexdigest()), 5)
        with store(directory).incomplete(other) as incomplete:
            incomplete.write(0, b"ot")
        killed = killed_at(point, sweep)
        inspect(directory)
        assert store(directory).sweep_incompletes(older_than=3e9) <= 2
        complete(directory)
        if not killed:
            break
    else:
        pytest.fail("the sweep never came to its end")


def test_an_object_touched_while_it_is_evicted_outlives_a_kill(directory):
    """Touched after it was found to be old, so that somebody relies on it, and then the sweep is killed."""

    def evict():
        objects = store(directory)
        path = objects._layout.object(POINTER.oid)
        rename = type(path).rename

        def touched_just_before(self, target):
            if self == path:
                os.utime(path, (2e9, 2e9))
            return rename(self, target)

        type(path).rename = touched_just_before
        assert not objects.evict_stale(POINTER.oid, older_than=1.9e9)

    for point in range(1, 20):
        shutil.rmtree(directory, ignore_errors=True)
        finish(store(directory))
        os.utime(store(directory)._layout.object(POINTER.oid), (1e9, 1e9))
        killed = killed_at(point, evict)
        assert store(directory).has(POINTER)
        assert store(directory).verify(POINTER.oid)
        if not killed:
            break
    else:
        pytest.fail("the eviction never came to its end")


SMALL_ONES = [b"%05d" % number * 100 for number in range(12)]


def fetch_many(directory):
    objects = store(directory)
    with contextlib.ExitStack() as held:
        incompletes = []
        for data in SMALL_ONES:
            pointer = Pointer(LfsOid(hashlib.sha256(data).hexdigest()), len(data))
            incomplete = held.enter_context(objects.incomplete(pointer))
            if incomplete.missing():
                incomplete.write(0, data)
            incompletes.append(incomplete)
        objects.promote(incompletes)


def test_every_point_of_many_promoted_together(directory):
    right = {hashlib.sha256(data).hexdigest(): data for data in SMALL_ONES}
    seen = set()
    for point in range(1, 200):
        shutil.rmtree(directory, ignore_errors=True)
        killed = killed_at(point, lambda: fetch_many(directory))
        finals = [path for path in (directory / "objects").rglob("*") if path.is_file()]
        for path in finals:
            assert path.read_bytes() == right[path.name], "only verified bytes have a final path"
            assert path.stat().st_mode & 0o777 == 0o444
        seen.add(len(finals))
        fetch_many(directory)
        assert all(store(directory).verify(LfsOid(oid)) for oid in right)
        assert [path.name for path in (directory / "incomplete").iterdir()] == [], "nothing is left over"
        if not killed:
            break
    else:
        pytest.fail("the fetch never came to its end")
    assert seen == set(range(len(SMALL_ONES) + 1))


def test_order_of_the_durable_steps_of_many(directory, tmp_path):
    """Every byte is durable before the first final name is given, and every name before an object counts as here."""
    calls = tmp_path / "calls"

    def noting():
        sync = durable.sync_file_system

        def noted(path):
            sync(path)
            os.rename(calls, calls)  # a step of its own in the record

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mirror_sync.lfs_store.store.sync_file_system", noted)
            fetch_many(directory)

    calls.touch()
    steps = steps_of(noting, tmp_path / "steps")
    synced = [place for place, step in enumerate(steps) if step[:2] == ("rename", str(calls))]
    placed = [place for place, step in enumerate(steps) if step[0] == "replace" and "/objects/" in step[2]]
    written = [place for place, step in enumerate(steps) if step[0] == "pwrite"]
    changed = [place for place, step in enumerate(steps) if step[0] in {"fchmod", "ftruncate"}]
    assert len(synced) == 2
    assert len(placed) == len(SMALL_ONES)
    assert max([*written, *changed]) < synced[0] < min(placed)
    assert max(placed) < synced[1]


def test_order_of_durable_steps(directory, tmp_path, request):
    """What a power cut would need: bytes before the journal, everything before the final name, names last."""
    steps = steps_of(lambda: fetch(directory), tmp_path / "steps")
    beside = request.node.callspec.params["directory"] == "beside"
    data = str(directory / "incomplete" / POINTER.oid)
    journal = data + ".parts"
    final = directory / "objects" / POINTER.oid[:2] / POINTER.oid[2:4] / POINTER.oid

    def position(*step):
        return max(place for place, found in enumerate(steps) if found[: len(step)] == step)

    dirty = False  # bytes written and not synced
    for name, path, _second in steps:
        if name == "pwrite" and path == data:
            dirty = True
        elif name in {"fsync", "fdatasync"} and path == data:
            dirty = False
        elif name == "replace" and path == data:
            assert not dirty, "the final name is given to durable bytes"
        elif name == "replace" and path == journal + ".tmp" and not beside:
            assert not dirty, "the journal tells of durable bytes only"
    saves = [place for place, found in enumerate(steps) if found[0] == "replace" and found[1] == journal + ".tmp"]
    assert saves
    for place in saves:
        before = [found for found in steps[:place] if found[1] == journal + ".tmp" or found[:2] == ("fsync", data)]
        assert [found[0] for found in before[-3:]] == ["fsync", "pwrite", "fsync"], (
            "bytes first, then what tells of them"
        )
        assert before[-1] == ("fsync", journal + ".tmp", ""), "the journal's bytes are durable before its name"
        after = [found[:2] for found in steps[place + 1 :] if found[1] in (journal, str(directory / "incomplete"))]
        assert after[0] == ("fsync", str(directory / "incomplete")), (
            "the journal's new name is durable before it goes on"
        )
    rename = position("replace", data)
    assert steps[rename][2] == str(final)
    assert position("fchmod", data) < rename
    assert position("fsync", str(directory / "objects")) < rename
    assert position("fsync", str(final.parent.parent)) < rename
    assert rename < position("fsync", str(final.parent))
    assert position("fsync", str(final.parent)) < position("unlink", journal)
    assert position("unlink", journal) < position("fsync", str(directory / "incomplete"))


def test_resuming_reads_nothing_again_that_is_durable(directory):
    objects = store(directory)
    with objects.incomplete(POINTER) as incomplete:
        incomplete.write(0, DATA[: 6 * PIECE])
    with store(directory).incomplete(POINTER) as incomplete:
        assert count(incomplete.missing()) == len(DATA) - 6 * PIECE
