"""Reading an object while somebody else brings it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.lfs_store import FileArrivals, FileObjectStore

DATA = os.urandom(6 << 20)
"""Large enough for disk to be set aside, so that the file is as long as the object from the beginning."""

POINTER = Pointer(LfsOid(hashlib.sha256(DATA).hexdigest()), len(DATA))


@pytest.fixture
def store(tmp_path: Path) -> FileObjectStore:
    return FileObjectStore(tmp_path, reserve_bytes=0, clock=SystemClock())


def test_only_what_is_durable_is_found_and_all_of_it_once_it_is_verified(
    store: FileObjectStore, tmp_path: Path
) -> None:
    seen = FileArrivals(tmp_path).watch(POINTER)
    assert (seen.look(), seen.verified, seen.read(0, 10)) == ([], False, b"")
    with store.incomplete(POINTER) as incomplete:
        incomplete.reserve()
        assert seen.look() == []
        incomplete.write(1000, DATA[1000:5000])
        incomplete.missing()
        assert seen.look() == [(1000, 5000)]
        assert seen.read(1000, 5000) == DATA[1000:5000]
        incomplete.write(0, DATA[:1000])
        incomplete.write(5000, DATA[5000:])
        incomplete.missing()
        assert (seen.look(), seen.verified) == ([(0, len(DATA))], False)
        incomplete.promote()
    assert seen.read(0, 10) == DATA[:10]  # the same file under its final name
    assert (seen.look(), seen.verified) == ([(0, len(DATA))], True)
    store.evict(POINTER.oid, quarantine=False)
    assert seen.read(0, len(DATA)) == DATA  # whoever reads goes on
    seen.close()


def test_what_is_begun_anew_or_swept_is_not_here(store: FileObjectStore, tmp_path: Path) -> None:
    seen = FileArrivals(tmp_path).watch(POINTER)
    with store.incomplete(POINTER) as incomplete:
        incomplete.write(0, DATA[:1000])
        incomplete.missing()
        assert seen.look() == [(0, 1000)]
        incomplete.restart()
        assert seen.look() == []
        incomplete.write(0, DATA[:2000])
    assert seen.look() == [(0, 2000)]
    assert store.sweep_incompletes(older_than=2**40) == 1
    assert seen.look() == []
    with store.incomplete(POINTER) as incomplete:
        incomplete.write(4000, DATA[4000:4500])
        incomplete.missing()
        assert seen.look() == [(4000, 4500)]
        assert seen.read(4000, 4500) == DATA[4000:4500]
    seen.close()


def test_a_journal_without_its_bytes_tells_of_nothing(store: FileObjectStore, tmp_path: Path) -> None:
    with store.incomplete(POINTER) as incomplete:
        incomplete.write(0, DATA[:3000])
    os.truncate(tmp_path / "incomplete" / POINTER.oid, 1000)
    seen = FileArrivals(tmp_path).watch(POINTER)
    assert seen.look() == [(0, 1000)]
    (tmp_path / "incomplete" / POINTER.oid).unlink()
    assert FileArrivals(tmp_path).watch(POINTER).look() == []
    seen.close()


def test_a_file_of_another_size_or_a_link_is_no_verified_object(store: FileObjectStore, tmp_path: Path) -> None:
    place = tmp_path / "objects" / store.place(POINTER.oid)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"short")
    seen = FileArrivals(tmp_path).watch(POINTER)
    assert (seen.look(), seen.verified) == ([], False)
    seen.close()
    place.unlink()
    (tmp_path / "elsewhere").write_bytes(DATA)
    place.symlink_to(tmp_path / "elsewhere")
    other = FileArrivals(tmp_path).watch(POINTER)
    assert (other.look(), other.verified) == ([], False)
    other.close()
