"""What every ObjectStore promises."""

from __future__ import annotations

import contextlib
import hashlib
import threading

import pytest

from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import EMPTY_OID, Pointer
from mirror_sync.errors import NotFound, ObjectBusy, ObjectCorrupt, StorageFull, UsageError
from mirror_sync.ports import ObjectStore
from mirror_sync.testing.clock import HandClock


def pointer_to(data: bytes) -> Pointer:
    return Pointer(LfsOid(hashlib.sha256(data).hexdigest()), len(data))


def keep(objects: ObjectStore, data: bytes) -> Pointer:
    pointer = pointer_to(data)
    with objects.incomplete(pointer) as incomplete:
        if data:
            incomplete.write(0, data)
        incomplete.promote()
    return pointer


def read(objects: ObjectStore, oid: LfsOid) -> bytes:
    with objects.open(oid) as file:
        return file.read()


DATA = bytes(range(256)) * 40


class ObjectStoreContract:
    @pytest.fixture
    def clock(self) -> HandClock:
        return HandClock()

    @pytest.fixture
    def objects(self, clock) -> ObjectStore:
        raise NotImplementedError

    def damage(self, objects: ObjectStore, oid: LfsOid) -> None:
        """Flip one bit of an object at rest."""
        raise NotImplementedError

    def age(self, objects: ObjectStore, oid: LfsOid, *, written_at: float) -> None:
        """Let an incomplete look as if it was last written at ``written_at``."""
        raise NotImplementedError

    def test_an_object_has_a_place_of_its_own_below_the_others_directory(self, objects):
        here, absent = keep(objects, DATA).oid, pointer_to(b"absent").oid
        assert objects.place(here) != objects.place(absent)
        assert all(set(step) <= set("0123456789abcdef") for step in objects.place(absent).split("/"))
        for name in ("", "../../etc/passwd", absent.upper()):
            with pytest.raises(UsageError):
                objects.place(LfsOid(name))

    # -- coming

    def test_nothing_is_here_at_first(self, objects):
        pointer = pointer_to(DATA)
        assert not objects.has(pointer)
        assert objects.size(pointer.oid) is None
        assert list(objects.iterate()) == []
        with pytest.raises(NotFound):
            objects.open(pointer.oid)

    def test_a_promoted_object_is_here(self, objects, clock):
        pointer = keep(objects, DATA)
        assert objects.has(pointer)
        assert objects.size(pointer.oid) == len(DATA)
        assert not objects.has(pointer_to(b"other"))
        assert read(objects, pointer.oid) == DATA
        assert list(objects.iterate()) == [(pointer, clock.now())]

    def test_another_size_is_not_the_same_object(self, objects):
        pointer = keep(objects, DATA)
        assert not objects.has(Pointer(pointer.oid, pointer.size + 1))
        assert not objects.has(Pointer(pointer.oid, pointer.size - 1))

    def test_the_empty_object(self, objects):
        pointer = keep(objects, b"")
        assert pointer.oid == EMPTY_OID
        assert objects.has(pointer)
        assert read(objects, EMPTY_OID) == b""

    def test_parts_may_come_in_any_order(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == [(0, len(DATA))]
            for start, end in [(5000, 10240), (10, 100), (3000, 5000), (0, 10), (100, 3000)]:
                incomplete.write(start, DATA[start:end])
            assert incomplete.missing() == []
            incomplete.promote()
        assert read(objects, pointer.oid) == DATA

    def test_bytes_written_twice_count_as_last_written(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, b"\xff" * 5000)
            incomplete.write(0, DATA[:5000])
            incomplete.write(5000, DATA[5000:])
            incomplete.promote()
        assert objects.has(pointer)

    def test_parts_stay_when_the_holder_lets_go(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(100, DATA[100:200])
            incomplete.write(4000, DATA[4000:5000])
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == [(0, 100), (200, 4000), (5000, len(DATA))]
            for start, end in incomplete.missing():
                incomplete.write(start, DATA[start:end])
            incomplete.promote()
        assert read(objects, pointer.oid) == DATA

    def test_parts_stay_when_the_holder_fails(self, objects):
        pointer = pointer_to(DATA)

        def fail_midway() -> None:
            with objects.incomplete(pointer) as incomplete:
                incomplete.write(0, DATA[:700])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_midway()
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == [(700, len(DATA))]

    def test_missing_tells_of_bytes_just_written(self, objects):
        with objects.incomplete(pointer_to(DATA)) as incomplete:
            incomplete.write(0, DATA[:1])
            assert incomplete.missing() == [(1, len(DATA))]

    def test_restart_forgets_every_part(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, DATA[:700])
            incomplete.restart()
            assert incomplete.missing() == [(0, len(DATA))]
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == [(0, len(DATA))]

    def test_the_same_object_is_held_once(self, objects):
        with objects.incomplete(pointer_to(DATA)):
            with pytest.raises(ObjectBusy), objects.incomplete(pointer_to(DATA)):
                pytest.fail("held twice")
            with objects.incomplete(pointer_to(b"another")):
                pass
        with objects.incomplete(pointer_to(DATA)) as incomplete:
            assert incomplete.missing() == [(0, len(DATA))]

    def test_of_an_object_that_is_here_nothing_is_missing(self, objects):
        pointer = keep(objects, DATA)
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == []
            incomplete.reserve()
            incomplete.restart()
            incomplete.promote()
            with pytest.raises(UsageError):
                incomplete.write(0, DATA[:1])
        assert read(objects, pointer.oid) == DATA

    def test_a_claimed_other_size_keeps_no_parts(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(Pointer(pointer.oid, 500_000)) as incomplete:
            incomplete.write(400_000, b"lies")
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == [(0, len(DATA))]
            incomplete.write(0, DATA)
            incomplete.promote()
        assert read(objects, pointer.oid) == DATA

    def test_parts_stay_when_nothing_comes_for_a_claimed_other_size(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(1000, DATA[1000:3000], source="up.example")
            incomplete.agree(1000, 2000)
        for size in (5, 2500, len(DATA) + 1, 30 << 20):
            with objects.incomplete(Pointer(pointer.oid, size)) as incomplete:
                assert incomplete.missing() == [(0, size)]
                assert incomplete.origins() == incomplete.agreed() == []
                incomplete.reserve()
                incomplete.restart()
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == [(0, 1000), (3000, len(DATA))]
            assert incomplete.agreed() == [(1000, 2000)]
            assert incomplete.origins() == [(1000, 3000, "up.example")]
        with objects.incomplete(Pointer(pointer.oid, 5)) as incomplete:
            incomplete.write(0, b"l")
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.missing() == [(0, len(DATA))]

    # -- who sent what

    def test_who_sent_what_is_told_and_kept(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, DATA[:1000], source="up.example")
            incomplete.write(1000, DATA[1000:2000], source="near.example")
            incomplete.write(2000, DATA[2000:3000])
            incomplete.write(4000, DATA[4000:5000], source="up.example")
            incomplete.write(5000, DATA[5000:6000], source="up.example")
            told = [
                (0, 1000, "up.example"),
                (1000, 2000, "near.example"),
                (2000, 3000, ""),
                (4000, 6000, "up.example"),
            ]
            assert incomplete.origins() == told
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.origins() == told
            incomplete.restart()
            assert incomplete.origins() == []

    def test_bytes_sent_again_are_of_who_sent_them_last(self, objects):
        with objects.incomplete(pointer_to(DATA)) as incomplete:
            incomplete.write(0, DATA[:3000], source="near.example")
            incomplete.write(1000, DATA[1000:2000], source="up.example")
            assert incomplete.origins() == [
                (0, 1000, "near.example"),
                (1000, 2000, "up.example"),
                (2000, 3000, "near.example"),
            ]

    def test_what_came_twice_the_same_is_told_and_kept_until_it_is_written_again(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.agreed() == []
            incomplete.write(0, DATA, source="up.example")
            incomplete.agree(0, 1000)
            incomplete.agree(1000, 2000)
            incomplete.agree(5000, 6000)
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.agreed() == [(0, 2000), (5000, 6000)]
            incomplete.write(1500, DATA[1500:1600], source="up.example")
            assert incomplete.agreed() == [(0, 1500), (1600, 2000), (5000, 6000)]
        with objects.incomplete(pointer) as incomplete:
            assert incomplete.agreed() == [(0, 1500), (1600, 2000), (5000, 6000)]
            incomplete.restart()
            assert incomplete.agreed() == []
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, DATA)
            assert incomplete.agreed() == []

    def test_what_is_here_can_be_read_and_replaced(self, objects):
        pointer = pointer_to(DATA)
        wrong = DATA[:4000] + bytes(100) + DATA[4100:]
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, wrong, source="near.example")
            with pytest.raises(ObjectCorrupt):
                incomplete.verify()
            assert incomplete.read(3990, 4110) == wrong[3990:4110]
            incomplete.write(4000, DATA[4000:4100], source="up.example")
            incomplete.verify()
            assert not objects.has(pointer), "verified is not promoted"
            incomplete.promote()
        assert read(objects, pointer.oid) == DATA

    def test_a_verified_object_that_is_written_again_is_verified_again(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, DATA)
            incomplete.verify()
            incomplete.write(0, b"\xff")
            with pytest.raises(ObjectCorrupt):
                incomplete.promote()

    def test_a_gap_is_not_verified(self, objects):
        with objects.incomplete(pointer_to(DATA)) as incomplete:
            incomplete.write(1, DATA[1:])
            with pytest.raises(UsageError):
                incomplete.verify()

    def test_several_threads_write_one_object(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:

            def write(number):
                for at in range(number * 16, len(DATA), 8 * 16):
                    incomplete.write(at, DATA[at : at + 16], source=f"{number % 3}.example")

            threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert incomplete.missing() == []
            assert sum(end - start for start, end, _ in incomplete.origins()) == len(DATA)
            incomplete.promote()
        assert read(objects, pointer.oid) == DATA

    # -- many at once

    def test_what_has_begun_is_told(self, objects):
        assert objects.begun() == frozenset()
        pointer, here = pointer_to(DATA), keep(objects, b"here")
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, DATA[:10])
        assert objects.begun() == {pointer.oid}
        assert here.oid not in objects.begun()

    @pytest.mark.parametrize("number", [1, 2, 20])
    def test_several_objects_are_promoted_together(self, objects, number):
        contents = [b"%05d" % at for at in range(number)]
        with contextlib.ExitStack() as held:
            incompletes = [held.enter_context(objects.incomplete(pointer_to(data))) for data in contents]
            for incomplete, data in zip(incompletes, contents, strict=True):
                incomplete.write(0, data)
            objects.promote(incompletes)
            objects.promote(incompletes)
            assert all(incomplete.missing() == [] for incomplete in incompletes)
        for data in contents:
            assert read(objects, pointer_to(data).oid) == data
        assert objects.begun() == frozenset()

    @pytest.mark.parametrize("number", [2, 20])
    def test_of_several_none_is_promoted_when_one_is_wrong(self, objects, number):
        contents = [b"%05d" % at for at in range(number)]
        with contextlib.ExitStack() as held:
            incompletes = [held.enter_context(objects.incomplete(pointer_to(data))) for data in contents]
            for incomplete, data in zip(incompletes, contents, strict=True):
                incomplete.write(0, data)
            incompletes[-1].write(0, b"x")
            with pytest.raises(ObjectCorrupt) as caught:
                objects.promote(incompletes)
            assert caught.value.expected == incompletes[-1].pointer.oid
            assert not any(objects.has(pointer_to(data)) for data in contents)
            incompletes[-1].restart()

    # -- refusals

    def test_wrong_bytes_are_never_here(self, objects):
        pointer = pointer_to(DATA)
        wrong = DATA[:-1] + b"\x00"
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, wrong)
            with pytest.raises(ObjectCorrupt) as caught:
                incomplete.promote()
            assert caught.value.expected == pointer.oid
            assert caught.value.actual == hashlib.sha256(wrong).hexdigest()
            assert not objects.has(pointer)
            assert incomplete.missing() == [], "which of them are wrong is for the holder to find out"
            incomplete.write(len(DATA) - 1, DATA[-1:])
            incomplete.promote()
        assert read(objects, pointer.oid) == DATA

    def test_an_object_with_a_gap_is_not_promoted_and_keeps_its_parts(self, objects):
        pointer = pointer_to(DATA)
        with objects.incomplete(pointer) as incomplete:
            incomplete.write(0, DATA[:-1])
            with pytest.raises(UsageError):
                incomplete.promote()
            assert incomplete.missing() == [(len(DATA) - 1, len(DATA))]
        assert not objects.has(pointer)

    @pytest.mark.parametrize(("offset", "length"), [(-1, 5), (len(DATA), 1), (len(DATA) - 1, 2), (0, len(DATA) + 1)])
    def test_bytes_past_the_object_are_refused(self, objects, offset, length):
        with objects.incomplete(pointer_to(DATA)) as incomplete:
            with pytest.raises(UsageError):
                incomplete.write(offset, bytes(length))
            assert incomplete.missing() == [(0, len(DATA))]

    # -- at rest

    def test_verify_reads_at_rest(self, objects):
        pointer = keep(objects, DATA)
        assert objects.verify(pointer.oid)
        self.damage(objects, pointer.oid)
        assert not objects.verify(pointer.oid)
        with pytest.raises(NotFound):
            objects.verify(pointer_to(b"absent").oid)

    def test_verify_that_is_stopped_accuses_nobody(self, objects):
        pointer = keep(objects, DATA)
        self.damage(objects, pointer.oid)
        stop = threading.Event()
        assert not objects.verify(pointer.oid, stop=stop)
        stop.set()
        assert objects.verify(pointer.oid, stop=stop)

    def test_iterate_yields_every_object(self, objects, clock):
        first = keep(objects, b"one")
        clock.advance(5)
        second = keep(objects, b"two")
        with objects.incomplete(pointer_to(DATA)) as incomplete:
            incomplete.write(0, DATA[:10])
        assert sorted(objects.iterate(), key=lambda found: found[1]) == [
            (first, clock.now() - 5),
            (second, clock.now()),
        ]

    # -- going

    @pytest.mark.parametrize("quarantine", [True, False])
    def test_an_evicted_object_is_gone_and_can_come_again(self, objects, quarantine):
        pointer = keep(objects, DATA)
        self.damage(objects, pointer.oid)
        objects.evict(pointer.oid, quarantine=quarantine)
        assert not objects.has(pointer)
        assert list(objects.iterate()) == []
        objects.evict(pointer.oid, quarantine=quarantine)
        keep(objects, DATA)
        assert objects.verify(pointer.oid)

    def test_a_reader_keeps_what_it_opened(self, objects):
        pointer = keep(objects, DATA)
        with objects.open(pointer.oid) as file:
            objects.evict(pointer.oid, quarantine=False)
            assert file.read() == DATA

    def test_touch_restarts_the_grace(self, objects, clock):
        pointer = keep(objects, DATA)
        clock.advance(100)
        assert objects.evict_stale(pointer.oid, older_than=clock.now() - 100) is False
        objects.touch(pointer.oid)
        assert list(objects.iterate()) == [(pointer, clock.now())]
        assert objects.evict_stale(pointer.oid, older_than=clock.now()) is False
        assert objects.has(pointer)
        assert objects.evict_stale(pointer.oid, older_than=clock.now() + 1) is True
        assert not objects.has(pointer)
        assert objects.evict_stale(pointer.oid, older_than=clock.now() + 1) is False
        objects.touch(pointer.oid)
        assert not objects.has(pointer)

    def test_stale_incompletes_are_swept_and_those_in_use_are_not(self, objects, clock):
        old, new, used = pointer_to(b"a" * 100), pointer_to(b"b" * 100), pointer_to(b"c" * 100)
        for pointer in (old, new, used):
            with objects.incomplete(pointer) as incomplete:
                incomplete.write(0, b"x" * 10)
        moment = clock.now()
        self.age(objects, old.oid, written_at=moment - 10)
        self.age(objects, used.oid, written_at=moment - 10)
        self.age(objects, new.oid, written_at=moment)
        with objects.incomplete(used) as incomplete:
            assert objects.sweep_incompletes(older_than=moment) == 1
            assert incomplete.missing() == [(10, 100)]
        with objects.incomplete(old) as incomplete:
            assert incomplete.missing() == [(0, 100)]
        with objects.incomplete(new) as incomplete:
            assert incomplete.missing() == [(10, 100)]

    # -- space

    def test_the_free_space_is_told_and_too_much_is_refused(self, objects):
        assert objects.free_bytes() > 0
        objects.reserve(0)
        with pytest.raises(StorageFull):
            objects.reserve(1 << 62)

    def test_what_is_here_of_an_object_takes_no_more_room(self, objects):
        here, begun, new = keep(objects, b"h" * 70_000), pointer_to(b"b" * 200_000), pointer_to(b"n" * 50_000)
        assert objects.lacking([]) == 0
        assert objects.lacking([here]) == 0
        assert objects.lacking([begun, new, new]) == 250_000
        with objects.incomplete(begun) as incomplete:
            incomplete.write(0, b"b" * 131_072)
        assert 50_000 <= objects.lacking([here, begun, new]) <= 50_000 + 200_000 - 131_072
        assert objects.lacking([Pointer(here.oid, 80_000)]) == 80_000, "another size is another object"
        assert objects.reserved_bytes() >= 0

    def test_no_space_is_set_aside_for_an_impossible_object(self, objects):
        pointer = Pointer(pointer_to(DATA).oid, 1 << 62)
        with objects.incomplete(pointer) as incomplete, pytest.raises(StorageFull):
            incomplete.reserve()
        assert not objects.has(pointer)
