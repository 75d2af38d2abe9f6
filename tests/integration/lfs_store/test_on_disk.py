from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import NotFound, ObjectBusy, ObjectCorrupt, StorageFailed, StorageFull, UsageError
from mirror_sync.lfs_store import FileObjectStore, durable
from mirror_sync.lfs_store.incomplete import SMALL
from mirror_sync.testing.clock import HandClock
from tests.contract.objects_contract import DATA, keep, pointer_to
from tests.support.kill_at import killed_at, steps_of

LARGE = random.Random(5).randbytes(SMALL + 1_000_000)
MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "lfs"


@pytest.fixture
def objects(directory):
    return FileObjectStore(directory, reserve_bytes=0, clock=HandClock())


def path_of(directory, pointer):
    return directory / "objects" / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid


# ---------------------------------------------------------------- layout


@pytest.mark.parametrize("data", [DATA, LARGE])
def test_a_verified_object_is_a_read_only_file_under_its_oid(objects, directory, data):
    pointer = keep(objects, data)
    found = path_of(directory, pointer).stat()
    assert stat.S_ISREG(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o444
    assert found.st_size == len(data)
    assert list((directory / "incomplete").iterdir()) == []
    with objects.open(pointer.oid) as file:
        assert os.fstat(file.fileno()).st_ino == found.st_ino


def test_bytes_on_their_way_are_not_readable_by_others(objects, directory):
    with objects.incomplete(pointer_to(DATA)) as incomplete:
        incomplete.write(0, DATA[:10])
        assert stat.S_IMODE((directory / "incomplete" / incomplete.pointer.oid).stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in (directory / "incomplete").iterdir()} == {0o600}


@pytest.mark.parametrize("oid", ["", "../../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n", "0/" * 32, "0" * 65])
def test_what_is_no_oid_never_becomes_a_path(objects, oid):
    pointer = Pointer(LfsOid(oid), 5)
    assert objects.size(pointer.oid) is None
    assert not objects.has(pointer)
    for call in (
        lambda: objects.evict(pointer.oid, quarantine=True),
        lambda: objects.touch(pointer.oid),
        lambda: objects.evict_stale(pointer.oid, older_than=9e9),
        lambda: objects.incomplete(pointer).__enter__(),
    ):
        with pytest.raises(UsageError):
            call()


def test_a_damaged_object_is_kept_aside(objects, directory):
    pointer = keep(objects, DATA)
    objects.evict(pointer.oid, quarantine=True)
    (aside,) = (directory / "quarantine").iterdir()
    assert aside.name == f"{pointer.oid}.1700000000"
    assert aside.read_bytes() == DATA


def test_strange_files_among_the_objects_are_passed_over(objects, directory):
    pointer = keep(objects, DATA)
    (directory / "objects" / "README").write_text("who put this here?")
    path_of(directory, pointer).with_name("notes.txt").write_text("x")
    assert [found for found, _ in objects.iterate()] == [pointer]


def test_a_symlink_in_an_object_s_place_is_no_object(objects, directory, tmp_path):
    pointer = keep(objects, DATA)
    outside = tmp_path / "outside"
    outside.write_bytes(DATA)
    path_of(directory, pointer).unlink()
    path_of(directory, pointer).symlink_to(outside)
    assert not objects.has(pointer)
    assert list(objects.iterate()) == []
    with pytest.raises(NotFound):
        objects.open(pointer.oid)
    keep(objects, DATA)
    assert stat.S_ISREG(path_of(directory, pointer).lstat().st_mode)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_an_object_touched_while_it_is_evicted_stays(objects, directory, monkeypatch):
    pointer = keep(objects, DATA)
    path = path_of(directory, pointer)
    rename = type(path).rename

    def touched_just_before(self, target):
        if self == path:
            os.utime(path, (2e9, 2e9))
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", touched_just_before)
    assert objects.evict_stale(pointer.oid, older_than=1.8e9) is False
    assert objects.verify(pointer.oid)


def test_nobody_makes_an_object_writable_that_another_is_about_to_keep(objects, directory, monkeypatch):
    pointer = pointer_to(DATA)
    really = os.open

    def as_nobody(path, flags, *mode, **more):
        """Refuse to write what is read-only, as every system does unless root asks."""
        if flags & os.O_RDWR and os.path.exists(path) and not os.stat(path).st_mode & 0o200:
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", as_nobody)
    with objects.incomplete(pointer) as incomplete:
        incomplete.write(0, DATA)
        incomplete.finish()
        with pytest.raises(ObjectBusy), objects.incomplete(pointer):
            pass
        assert stat.S_IMODE((directory / "incomplete" / pointer.oid).stat().st_mode) == 0o444
        incomplete.promote()


# ---------------------------------------------------------------- the journal and its data


def part_of(objects, pointer, data, *ranges):
    with objects.incomplete(pointer) as incomplete:
        for start, end in ranges:
            incomplete.write(start, data[start:end])


def gaps(objects, pointer):
    with objects.incomplete(pointer) as incomplete:
        return incomplete.missing()


def test_a_damaged_journal_means_starting_over(objects, directory):
    pointer = pointer_to(DATA)
    part_of(objects, pointer, DATA, (0, 500))
    journal = directory / "incomplete" / f"{pointer.oid}.parts"
    journal.write_bytes(journal.read_bytes().replace(b"500", b"900"))
    assert gaps(objects, pointer) == [(0, len(DATA))]


def test_a_journal_without_its_data_never_comes_true_again(objects, directory):
    pointer = pointer_to(LARGE)
    part_of(objects, pointer, LARGE, (0, MIB))
    (directory / "incomplete" / pointer.oid).unlink()
    with objects.incomplete(pointer) as incomplete:
        assert incomplete.missing() == [(0, len(LARGE))]
        incomplete.reserve()  # the file grows to its full size, with nothing in it
        incomplete.write(0, b"")
    assert gaps(objects, pointer) == [(0, len(LARGE))]
    keep(objects, LARGE)


def test_data_cut_short_counts_as_missing(objects, directory):
    pointer = pointer_to(DATA)
    part_of(objects, pointer, DATA, (0, 500))
    os.truncate(directory / "incomplete" / pointer.oid, 100)
    assert gaps(objects, pointer) == [(0, len(DATA))]


def test_bytes_damaged_in_between_are_found_at_the_end(objects, directory):
    pointer = pointer_to(DATA)
    part_of(objects, pointer, DATA, (0, 5000))
    with (directory / "incomplete" / pointer.oid).open("r+b") as file:
        file.seek(77)
        file.write(b"\xff\xff")
    with objects.incomplete(pointer) as incomplete:
        assert incomplete.missing() == [(5000, len(DATA))]
        incomplete.write(5000, DATA[5000:])
        with pytest.raises(ObjectCorrupt):
            incomplete.promote()
        assert not objects.has(pointer)
        assert incomplete.read(76, 80) == DATA[76:77] + b"\xff\xff" + DATA[79:80]
        incomplete.write(77, DATA[77:79])
        incomplete.promote()
    assert objects.verify(pointer.oid)


def test_a_longer_file_than_the_object_is_cut_to_its_size(objects, directory):
    pointer = pointer_to(DATA)
    (directory / "incomplete" / pointer.oid).write_bytes(b"z" * (len(DATA) + 999))
    keep(objects, DATA)
    assert path_of(directory, pointer).stat().st_size == len(DATA)


def test_what_arrives_is_durable_after_so_many_bytes_and_after_so_long(directory, tmp_path):
    def write(*, sync_bytes, wait):
        clock = HandClock()
        objects = FileObjectStore(directory, reserve_bytes=0, clock=clock, sync_bytes=sync_bytes)
        with objects.incomplete(pointer_to(DATA)) as incomplete:
            for at in range(0, 6000, 1000):
                incomplete.write(at, DATA[at : at + 1000])
                clock.advance(wait)
            os._exit(0)  # no close: only what was durable meanwhile counts

    def saves(**how):
        shutil.rmtree(directory, ignore_errors=True)
        steps = steps_of(lambda: write(**how), tmp_path / "steps")
        return sum(1 for name, path, _ in steps if name == "replace" and path.endswith(".parts.tmp"))

    assert saves(sync_bytes=MIB, wait=0.0) == 0
    assert saves(sync_bytes=2000, wait=0.0) == 3
    assert saves(sync_bytes=MIB, wait=0.52) == 2


def test_a_failed_sync_loses_what_was_not_durable_before(objects, monkeypatch):
    """The kernel reports a failed write once and forgets the pages: asking again would lie."""
    pointer = pointer_to(DATA)
    part_of(objects, pointer, DATA, (0, 1000))
    fsync, broken = os.fsync, [True]

    def failing(fd):
        if broken and stat.S_ISREG(os.fstat(fd).st_mode):
            broken.clear()
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", failing)
    with objects.incomplete(pointer) as incomplete:
        incomplete.write(1000, DATA[1000:])
        with pytest.raises(StorageFailed):
            incomplete.promote()
        assert incomplete.missing() == [(1000, len(DATA))]
    assert not broken
    assert gaps(objects, pointer) == [(1000, len(DATA))]
    with objects.incomplete(pointer) as incomplete:
        incomplete.write(1000, DATA[1000:])
        incomplete.promote()
    assert objects.verify(pointer.oid)


@pytest.mark.skipif(os.geteuid() != 0, reason="impossible here: only root can become another user")
def test_an_unprivileged_user_resumes_after_a_kill_just_before_the_last_rename(directory):
    def as_somebody():
        os.setgid(65534)
        os.setuid(65534)
        objects = FileObjectStore(directory, reserve_bytes=0, clock=HandClock())
        pointer = pointer_to(DATA)
        part_of(objects, pointer, DATA, (0, 100))
        (directory / "incomplete" / pointer.oid).chmod(0o444)
        keep(objects, DATA)
        assert objects.verify(pointer.oid)

    directory.mkdir()
    for path in (directory, *directory.parents[:4]):
        path.chmod(path.stat().st_mode | 0o011)
    os.chown(directory, 65534, 65534)
    assert killed_at(0, as_somebody) is False


def test_a_file_that_went_away_before_it_was_locked_is_not_written(objects, directory, monkeypatch):
    pointer, flock = pointer_to(DATA), fcntl.flock
    path, swept = directory / "incomplete" / pointer.oid, []

    def swept_just_before(fd, operation):
        if not swept:
            swept.append(path.read_bytes())
            path.unlink()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", swept_just_before)
    keep(objects, DATA)
    assert swept == [b""]
    assert objects.verify(pointer.oid)


# ---------------------------------------------------------------- sweeping


def test_orphans_are_swept(objects, directory):
    pointer = pointer_to(DATA)
    incompletes = directory / "incomplete"
    for name in (f"{pointer.oid}.parts", f"{pointer.oid}.parts.tmp", f"{pointer_to(b'x').oid}.evicted"):
        (incompletes / name).write_text("left over")
        os.utime(incompletes / name, (1e9, 1e9))
    (incompletes / "lost+found").mkdir()
    assert objects.sweep_incompletes(older_than=1.1e9) == 2
    assert [path.name for path in incompletes.iterdir()] == ["lost+found"]


# ---------------------------------------------------------------- space


@pytest.fixture
def small_disk(tmp_path):
    """Eight MiB and not a byte more."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mounted)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"impossible here: a small file system cannot be mounted ({done.stderr.strip()})")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_an_object_that_does_not_fit_is_refused_before_its_first_byte(small_disk):
    objects = FileObjectStore(small_disk, reserve_bytes=2 * MIB, clock=HandClock())
    pointer = Pointer(pointer_to(DATA).oid, 7 * MIB)
    before = objects.free_bytes()
    with objects.incomplete(pointer) as incomplete, pytest.raises(StorageFull):
        incomplete.reserve()
    assert objects.free_bytes() == before
    with objects.incomplete(Pointer(pointer.oid, 5 * MIB)) as incomplete:
        incomplete.reserve()
        assert before - 5 * MIB - 64 * 1024 <= objects.free_bytes() <= before - 5 * MIB
    assert objects.free_bytes() == before


def test_space_set_aside_is_counted_once_for_all(small_disk):
    stores = [FileObjectStore(small_disk, reserve_bytes=0, clock=HandClock()) for _ in range(2)]
    first, second = (Pointer(pointer_to(text).oid, 5 * MIB) for text in (b"a", b"b"))
    with stores[0].incomplete(first) as one, stores[1].incomplete(second) as two:
        one.reserve()
        with pytest.raises(StorageFull):
            two.reserve()
        one.reserve()


def test_space_is_set_aside_by_one_process_at_a_time(objects, directory):
    fd = os.open(directory, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # as another process would while it decides
    decided = threading.Event()

    def decide():
        with objects.incomplete(pointer_to(LARGE)) as incomplete:
            incomplete.reserve()
            decided.set()

    thread = threading.Thread(target=decide)
    thread.start()
    assert not decided.wait(0.1)
    os.close(fd)
    assert decided.wait(10)
    thread.join()


def test_a_resumed_object_needs_no_space_twice(small_disk):
    objects = FileObjectStore(small_disk, reserve_bytes=0, clock=HandClock())
    data = random.Random(1).randbytes(6 * MIB)
    pointer = pointer_to(data)
    with objects.incomplete(pointer) as incomplete:
        incomplete.reserve()
        incomplete.write(0, data[:MIB])
    with objects.incomplete(pointer) as incomplete:
        incomplete.reserve()
        (gap,) = incomplete.missing()
        incomplete.write(gap[0], data[gap[0] :])
        incomplete.promote()
    assert objects.verify(pointer.oid)


def test_a_full_disk_corrupts_nothing_and_goes_on_later(small_disk, monkeypatch):
    monkeypatch.setattr("mirror_sync.lfs_store.incomplete.allocate", lambda *_: False)  # a file system that cannot
    objects = FileObjectStore(small_disk, reserve_bytes=0, clock=HandClock(), sync_bytes=MIB)
    kept = keep(objects, DATA)
    data = random.Random(1).randbytes(7 * MIB)
    pointer = pointer_to(data)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 * MIB))

    def fetch():
        with objects.incomplete(pointer) as incomplete:
            for start, end in incomplete.missing():
                for at in range(start, end, 100_000):
                    incomplete.write(at, data[at : min(at + 100_000, end)])
            incomplete.promote()

    with pytest.raises(StorageFull):
        fetch()
    assert not objects.has(pointer)
    assert objects.verify(kept.oid), "what is here is served on"
    with pytest.raises(StorageFull):
        fetch()
    ballast.unlink()
    held = objects.free_bytes()
    fetch()
    assert objects.verify(pointer.oid)
    assert held < 8 * MIB, "the parts that had arrived were kept"


def test_a_disk_filled_to_the_last_byte_by_others(small_disk):
    objects = FileObjectStore(small_disk, reserve_bytes=0, clock=HandClock())
    pointer = pointer_to(DATA)
    ballast = small_disk / "ballast"

    def fetch():
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, DATA)
            incomplete.promote()

    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert objects.free_bytes() < 4096
    with pytest.raises(StorageFull) as caught:
        fetch()
    assert caught.value.remedy
    assert not objects.has(pointer)
    ballast.unlink()
    fetch()
    assert objects.verify(pointer.oid)


def test_writes_stop_at_the_reserve_where_nothing_could_be_set_aside(small_disk, monkeypatch):
    monkeypatch.setattr("mirror_sync.lfs_store.incomplete.allocate", lambda *_: False)
    monkeypatch.setattr("mirror_sync.lfs_store.incomplete.CHECK_BYTES", 256 * 1024)
    objects = FileObjectStore(small_disk, reserve_bytes=3 * MIB, clock=HandClock())
    pointer = Pointer(pointer_to(DATA).oid, 8 * MIB)

    def fill():
        with objects.incomplete(pointer) as incomplete:
            for at in range(0, 8 * MIB, 64 * 1024):
                incomplete.write(at, bytes(64 * 1024))

    with pytest.raises(StorageFull):
        fill()
    assert 3 * MIB - 64 * 1024 <= objects.free_bytes() <= 3 * MIB + 512 * 1024
    ((start, end),) = gaps(objects, pointer)
    assert start >= 4 * MIB
    assert end == 8 * MIB


def test_the_automatic_reserve_is_a_twentieth(small_disk):
    objects = FileObjectStore(small_disk, clock=HandClock())
    free = objects.free_bytes()
    reserve = 8 * MIB // 20
    objects.reserve(free - reserve)
    with pytest.raises(StorageFull):
        objects.reserve(free - reserve + 1)


def test_what_cannot_have_space_set_aside_says_so():
    read_end, write_end = os.pipe()
    with pytest.raises(OSError, match="seek"):
        durable.allocate(write_end, 10_000)
    os.close(read_end)
    os.close(write_end)


def test_an_unwritable_store_is_told_in_our_words(directory, monkeypatch):
    objects = FileObjectStore(directory, reserve_bytes=0, clock=HandClock())

    def refuse(*_args, **_more):
        raise OSError(errno.EROFS, "Read-only file system", str(directory))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageFailed, match="Read-only file system") as caught:
        objects.incomplete(pointer_to(DATA)).__enter__()
    assert caught.value.code == "MS-S500"
    assert caught.value.remedy


# ---------------------------------------------------------------- many at once


def test_threads_that_want_the_same_object_write_it_once(objects):
    pointer, wrote, busy = pointer_to(LARGE), [], []
    together = threading.Barrier(8)

    def fetch(number):
        together.wait()
        while True:
            try:
                with objects.incomplete(pointer) as incomplete:
                    for start, end in incomplete.missing():
                        wrote.append((number, start, end))
                        incomplete.write(start, LARGE[start:end])
                    incomplete.promote()
                return
            except ObjectBusy:
                busy.append(number)
                time.sleep(0.002)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrote) == 1
    assert busy
    assert objects.verify(pointer.oid)


def test_processes_that_want_the_same_object_write_it_once(directory, tmp_path):
    """Three processes; the first holder is killed in the middle, the others go on from its parts."""
    script = tmp_path / "contender.py"
    script.write_text(f"""
import os, random, sys, time
from pathlib import Path
from mirror_sync.clock import SystemClock
from mirror_sync.errors import ObjectBusy
from mirror_sync.lfs_store import FileObjectStore
from tests.contract.objects_contract import pointer_to

data = random.Random(9).randbytes(6_000_000)
objects = FileObjectStore(Path({str(directory)!r}), reserve_bytes=0, clock=SystemClock(), sync_bytes=500_000)
dies = sys.argv[1] == "dies"
wrote = busy = 0
while True:
    try:
        with objects.incomplete(pointer_to(data)) as incomplete:
            if dies:
                print("held", flush=True)
            for start, end in incomplete.missing():
                for at in range(start, end, 100_000):
                    piece = data[at : min(at + 100_000, end)]
                    incomplete.write(at, piece)
                    wrote += len(piece)
                    if dies and wrote >= 3_000_000:
                        incomplete.missing()
                        print("half", flush=True)
                        time.sleep(60)
                    time.sleep(0.002)
            incomplete.promote()
        break
    except ObjectBusy:
        if not busy:
            print("busy", flush=True)
        busy += 1
        time.sleep(0.005)
print(wrote, flush=True)
""")

    def start(role):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([sys.executable, str(script), role], stdout=subprocess.PIPE, text=True, env=environment)

    first = start("dies")
    assert first.stdout.readline() == "held\n"
    others = [start("lives") for _ in range(2)]
    assert [other.stdout.readline() for other in others] == ["busy\n", "busy\n"]
    assert first.stdout.readline() == "half\n"
    first.kill()
    first.wait()
    first.stdout.close()
    wrote = [int(other.communicate(timeout=60)[0].split()[-1]) for other in others]
    assert [other.returncode for other in others] == [0, 0]
    assert sorted(wrote) == [0, 3_000_000]
    objects = FileObjectStore(directory, reserve_bytes=0, clock=HandClock())
    assert [objects.verify(pointer.oid) for pointer, _ in objects.iterate()] == [True]
    assert list((directory / "incomplete").iterdir()) == []
