from __future__ import annotations

import hashlib
import itertools
import random
import threading
from collections import deque

import pytest

from mirror_sync.actions.budget import Budget
from mirror_sync.actions.transfer import TransferLimits, transfer
from mirror_sync.domain.names import LfsOid, MirrorName
from mirror_sync.domain.pointers import EMPTY_OID, Pointer
from mirror_sync.errors import (
    AddressRefused,
    Interrupted,
    ObjectBusy,
    ObjectMissingUpstream,
    Preempted,
    RateLimited,
    StorageFull,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamStalled,
    UpstreamUnavailable,
)
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.objects import MemoryObjectStore
from mirror_sync.testing.parallel import OneByOne
from mirror_sync.testing.telemetry import ListedTelemetry
from mirror_sync.testing.upstream import Fault, ScriptedUpstream
from mirror_sync.threads import ThreadParallel

MIRROR = MirrorName("upstream.example/acme/model")
KIB = 1024
BIG = random.Random(1).randbytes(1000 * KIB)


class Scene:
    """One transfer's world, in memory."""

    def __init__(self, *, capacity=None):
        self.clock = HandClock()
        self.upstream = ScriptedUpstream(self.clock, piece=100 * KIB)
        self.objects = MemoryObjectStore(self.clock, capacity=capacity)
        self.telemetry = ListedTelemetry()
        self.stop = threading.Event()
        self.parallel = OneByOne()
        self.accelerators = []
        self.reports = []
        self.yielding = lambda: False

    def run(self, *wanted, **limits):
        return transfer(
            wanted,
            mirror=MIRROR,
            sources=[self.upstream, *self.accelerators],
            objects=self.objects,
            parallel=self.parallel,
            clock=self.clock,
            telemetry=self.telemetry,
            limits=TransferLimits(**limits),
            stop=self.stop,
            report=self.reports.append,
            yielding=self.yielding,
        )

    def asked(self, pointer):
        return [(start, end) for oid, start, end in self.upstream.opened if oid == pointer.oid]

    def whole(self, report, *pointers):
        assert report.error is None
        assert not report.failed
        assert not report.known_missing
        assert report.arrived == {pointer.oid for pointer in pointers}
        assert all(self.objects.verify(pointer.oid) for pointer in pointers)


@pytest.fixture
def scene():
    return Scene()


def never(text="nobody has this"):
    return Pointer(LfsOid(hashlib.sha256(text.encode()).hexdigest()), 15)


# ---------------------------------------------------------------- the straight way


def test_objects_arrive_and_are_counted(scene):
    pointers = [scene.upstream.put(f"object {number}".encode()) for number in range(10)]
    report = scene.run(*pointers)
    scene.whole(report, *pointers)
    assert report.bytes_fetched == sum(pointer.size for pointer in pointers) == scene.upstream.sent
    assert all(body.closed for body in scene.upstream.bodies)


def test_nothing_wanted_asks_nothing(scene):
    report = scene.run()
    scene.whole(report)
    assert scene.upstream.batches == []


def test_small_before_large_and_each_once(scene):
    large, small, middle = (scene.upstream.put(bytes([n]) * size) for n, size in enumerate((900, 10, 500)))
    report = scene.run(large, small, middle, small, large)
    scene.whole(report, large, small, middle)
    assert [oid for oid, _, _ in scene.upstream.opened] == [small.oid, middle.oid, large.oid]


def test_what_is_here_is_not_asked_for(scene):
    here = scene.objects.put(b"here before")
    away = scene.upstream.put(b"away")
    report = scene.run(here, away)
    scene.whole(report, here, away)
    assert scene.upstream.batches == [(away,)]


def test_the_empty_object_is_made_without_asking(scene):
    empty = Pointer(EMPTY_OID, 0)
    scene.whole(scene.run(empty), empty)
    assert scene.upstream.batches == []


@pytest.mark.parametrize("pointer", [Pointer(never().oid, 0), Pointer(EMPTY_OID, 12)])
def test_a_size_that_cannot_be_is_refused_without_asking(scene, pointer):
    report = scene.run(pointer)
    assert report.failed[pointer.oid][0] == "MS-L422"
    assert scene.upstream.batches == []


def test_batches_hold_at_most_a_hundred_and_are_asked_just_ahead_of_need(scene):
    pointers = [scene.upstream.put(b"%06d" % number) for number in range(250)]
    asked_after = []
    batch = scene.upstream.batch

    def noting(group, **more):
        asked_after.append(len(scene.upstream.opened))
        return batch(group, **more)

    scene.upstream.batch = noting
    scene.whole(scene.run(*pointers), *pointers)
    assert [len(group) for group in scene.upstream.batches] == [100, 100, 50]
    assert {pointer for group in scene.upstream.batches for pointer in group} == set(pointers)
    assert asked_after[0] == 0
    assert 40 <= asked_after[1] <= 100
    assert 140 <= asked_after[2] <= 200


def test_many_at_once_ask_for_each_object_once(scene):
    scene.parallel = ThreadParallel()
    pointers = [scene.upstream.put(b"%06d" % number) for number in range(450)]
    scene.whole(scene.run(*pointers, connections=8), *pointers)
    asked = [pointer for group in scene.upstream.batches for pointer in group]
    assert len(asked) == len(set(asked)) == 450
    assert max(len(group) for group in scene.upstream.batches) <= 100
    assert len(scene.upstream.opened) == 450


def test_many_that_need_the_same_batch_wait_for_the_one_who_asks(scene):
    scene.parallel = ThreadParallel()
    pointers = [scene.upstream.put(b"%06d" % number) for number in range(150)]
    batch, asking = scene.upstream.batch, []

    def slow(group, **more):
        asking.append(len(scene.upstream.opened))
        threading.Event().wait(0.1)
        return batch(group, **more)

    scene.upstream.batch = slow
    scene.whole(scene.run(*pointers, connections=8), *pointers)
    assert len(asking) == 2
    assert asking[1] > 0, "the second batch was asked for once the first was in use"


def test_progress_is_told_now_and_then_and_at_the_end(scene):
    pointer = scene.upstream.put(BIG, Fault(before_piece=lambda _: scene.clock.advance(0.2)))
    scene.run(pointer)
    told = scene.reports
    assert 2 <= len(told) <= 4
    assert (told[-1].done, told[-1].total) == (len(BIG), len(BIG))
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)


# ---------------------------------------------------------------- what upstream lacks or refuses


@pytest.mark.parametrize(("status", "code"), [(404, "MS-L404"), (410, "MS-L410")])
def test_what_upstream_lacks_is_known_missing_and_holds_no_other(scene, status, code):
    lost, good = scene.upstream.put(b"lost"), scene.upstream.put(b"good one")
    scene.upstream.refusals[lost.oid] = (status, "gone \x1b[31mfar away")
    report = scene.run(lost, good)
    assert report.arrived == {good.oid}
    assert report.failed == {}
    assert report.known_missing[lost.oid][0] == code
    assert "gone \\x1b[31mfar away" in report.known_missing[lost.oid][1]
    assert report.error is None
    assert lost.oid not in scene.objects.parts


@pytest.mark.parametrize("status", [0, 403, 409, 422])
def test_a_refused_object_fails_and_holds_no_other(scene, status):
    refused, good = scene.upstream.put(b"refused"), scene.upstream.put(b"good one")
    scene.upstream.refusals[refused.oid] = (status, "not today")
    report = scene.run(refused, good)
    assert report.arrived == {good.oid}
    assert report.failed[refused.oid][0] == "MS-L400"
    assert "not today" in report.failed[refused.oid][1]
    assert report.error is None


def test_an_object_the_server_fails_for_is_tried_again(scene):
    pointer = scene.upstream.put(b"shy")
    scene.upstream.refusals[pointer.oid] = (500, "oops")
    scene.clock.on_sleep = lambda _: scene.upstream.refusals.clear() if len(scene.clock.slept) == 2 else None
    scene.whole(scene.run(pointer), pointer)
    assert len(scene.upstream.batches) == 3


@pytest.mark.parametrize("kind", [UpstreamGone, ObjectMissingUpstream])
def test_a_link_gone_twice_names_a_missing_object(scene, kind):
    pointer = scene.upstream.put(b"gone", *[Fault(error=kind("not there")) for _ in range(2)])
    report = scene.run(pointer)
    assert report.known_missing[pointer.oid][0] == "MS-L404"
    assert len(scene.upstream.batches) == 2


def test_a_link_gone_once_is_asked_for_again(scene):
    pointer = scene.upstream.put(b"gone", Fault(error=UpstreamGone("not there")))
    scene.whole(scene.run(pointer), pointer)


def test_a_link_to_a_forbidden_address_is_not_tried_again(scene):
    pointer = scene.upstream.put(b"trap", *[Fault(error=AddressRefused("169.254.169.254 is not allowed"))] * 3)
    report = scene.run(pointer)
    assert report.failed[pointer.oid][0] == "MS-U403"
    assert len(scene.upstream.opened) == 1
    assert report.error is None


# ---------------------------------------------------------------- broken links


def test_a_cut_stream_goes_on_at_once_where_it_broke(scene):
    pointer = scene.upstream.put(BIG, Fault(cut_after=300 * KIB), Fault(cut_after=200 * KIB))
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert scene.asked(pointer) == [(0, len(BIG)), (300 * KIB, len(BIG)), (500 * KIB, len(BIG))]
    assert report.bytes_fetched == len(BIG)
    assert len(scene.upstream.batches) == 1, "an action that worked still does"
    assert scene.clock.slept == []
    assert scene.reports[-1].cuts == 2


def test_a_stream_that_ends_early_goes_on_too(scene):
    pointer = scene.upstream.put(BIG, Fault(ends_after=300 * KIB))
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert scene.asked(pointer)[1] == (300 * KIB, len(BIG))


def test_progress_starts_the_patience_anew(scene):
    faults = [Fault(cut_after=70 * KIB), Fault(error=UpstreamUnavailable("HTTP 503"))] * 10
    pointer = scene.upstream.put(BIG, *faults)
    scene.whole(scene.run(pointer, attempts=2), pointer)


def test_patience_ends_and_the_parts_stay(scene):
    pointer = scene.upstream.put(BIG, Fault(cut_after=300 * KIB), *[Fault(error=UpstreamStalled("nothing came"))] * 9)
    report = scene.run(pointer)
    assert report.arrived == frozenset()
    assert report.failed == {pointer.oid: ("MS-U504", "nothing came")}
    assert report.error is None
    assert len(scene.asked(pointer)) == 6
    assert len(scene.clock.slept) == 4
    assert max(scene.clock.slept) <= 30.0
    with scene.objects.incomplete(pointer) as incomplete:
        assert incomplete.missing() == [(300 * KIB, len(BIG))]
    scene.upstream.faults.clear()
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer)[-1] == (300 * KIB, len(BIG))


def test_a_server_that_gives_a_few_bytes_a_time_is_given_up(scene):
    pointer = scene.upstream.put(BIG, *[Fault(cut_after=10)] * 1000)
    report = scene.run(pointer)
    assert pointer.oid in report.failed
    assert len(scene.asked(pointer)) == 5


def test_a_few_missing_bytes_are_progress_enough(scene):
    data = b"0123456789"
    pointer = scene.upstream.put(data)
    with scene.objects.incomplete(pointer) as incomplete:
        incomplete.write(2, data[2:5])
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer) == [(0, 2), (5, 10)]


def test_a_server_that_is_down_ends_the_transfer(scene):
    pointers = [
        scene.upstream.put(b"%04d" % number, *[Fault(error=UpstreamUnavailable("connection refused"))] * 5)
        for number in range(100)
    ]
    report = scene.run(*pointers)
    assert isinstance(report.error, UpstreamUnavailable)
    assert len(report.failed) == 8
    assert len(scene.upstream.opened) == 40


def test_a_server_that_is_down_for_some_objects_goes_on_with_the_others(scene):
    down = [Fault(error=UpstreamUnavailable("HTTP 500"))] * 5
    pointers = [scene.upstream.put(b"%04d" % number, *(down if number % 5 else [])) for number in range(50)]
    report = scene.run(*pointers)
    assert report.error is None
    assert len(report.failed) == 40
    assert len(report.arrived) == 10


@pytest.mark.parametrize(
    "error", [UpstreamRefused("HTTP 403"), UpstreamRefused("HTTP 401"), UpstreamInvalid("HTTP 400")]
)
def test_a_refused_link_is_asked_for_again_and_bytes_in_between_count(scene, error):
    pointer = scene.upstream.put(BIG, *[Fault(cut_after=100 * KIB), Fault(error=error)] * 8)
    scene.whole(scene.run(pointer, attempts=2), pointer)
    assert len(scene.upstream.batches) == 9, "asked for again after each refusal"


# ---------------------------------------------------------------- expiry


def test_links_about_to_expire_are_renewed_before_use(scene):
    scene.upstream.lifetime = 600.0
    slow = Fault(before_piece=lambda _: scene.clock.advance(60.0))
    pointers = [scene.upstream.put(bytes([number]) + BIG[:400_000], slow) for number in range(8)]
    report = scene.run(*pointers)
    scene.whole(report, *pointers)
    assert len(scene.upstream.opened) == 8, "no link was used after it had expired"
    assert [len(group) for group in scene.upstream.batches] == [8, 5, 2]


def test_links_that_live_shortly_are_used_nevertheless(scene):
    scene.upstream.lifetime = 30.0
    pointers = [scene.upstream.put(b"%04d" % number) for number in range(150)]
    scene.whole(scene.run(*pointers), *pointers)
    assert len(scene.upstream.batches) == 2


def test_an_expired_link_is_renewed_without_harm(scene):
    scene.upstream.lifetime = 0.0
    pointer = scene.upstream.put(b"too late")
    scene.clock.on_sleep = lambda _: setattr(scene.upstream, "lifetime", 100.0)
    scene.whole(scene.run(pointer), pointer)


# ---------------------------------------------------------------- ranges


def test_a_server_that_ignores_ranges_is_read_from_its_beginning(scene):
    pointer = scene.upstream.put(BIG, Fault(cut_after=300 * KIB), Fault(ignore_range=True))
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert report.bytes_fetched == 300 * KIB + len(BIG)


def test_an_ignored_range_fills_one_gap_and_leaves_the_next(scene):
    pointer = scene.upstream.put(BIG, Fault(ignore_range=True), Fault(ignore_range=True))
    with scene.objects.incomplete(pointer) as incomplete:
        incomplete.write(150 * KIB, BIG[150 * KIB : 250 * KIB])
        incomplete.write(777 * KIB, BIG[777 * KIB : 778 * KIB])
    scene.whole(scene.run(pointer), pointer)


def test_an_answer_from_another_place_is_not_believed(scene):
    pointer = scene.upstream.put(BIG, Fault(start_at=500 * KIB))
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer) == [(0, len(BIG)), (0, len(BIG))]


def test_an_answer_that_begins_earlier_is_passed_over_up_to_the_gap(scene):
    pointer = scene.upstream.put(BIG, Fault(cut_after=300 * KIB), Fault(start_at=33 * KIB))
    scene.whole(scene.run(pointer), pointer)


def test_more_than_was_asked_for_is_left(scene):
    pointer = scene.upstream.put(BIG, Fault(overlong=250 * KIB))
    with scene.objects.incomplete(pointer) as incomplete:
        incomplete.write(0, BIG[: 100 * KIB])
        incomplete.write(400 * KIB, BIG[400 * KIB : 700 * KIB])
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer) == [(100 * KIB, 400 * KIB), (700 * KIB, len(BIG))]


def test_a_server_that_refuses_every_range_is_asked_for_the_whole(scene):
    pointer = scene.upstream.put(BIG)
    open_object = scene.upstream.open_object

    def whole_only(pointer, action, *, start, end):
        if (start, end) != (0, pointer.size):
            scene.upstream.opened.append((pointer.oid, start, end))
            raise UpstreamInvalid("HTTP 416", code="MS-L416")
        return open_object(pointer, action, start=start, end=end)

    scene.upstream.open_object = whole_only
    with scene.objects.incomplete(pointer) as incomplete:
        incomplete.write(0, BIG[: 300 * KIB])
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer) == [(300 * KIB, len(BIG))] * 2 + [(0, len(BIG))]


def test_a_huge_object_is_asked_for_in_pieces(scene, monkeypatch):
    monkeypatch.setattr("mirror_sync.actions.board.WHOLE_BYTES", 500 * KIB)
    monkeypatch.setattr("mirror_sync.actions.board.FIRST_PART", 300 * KIB)
    monkeypatch.setattr("mirror_sync.actions.board.LEAST_PART", 50 * KIB)
    pointer = scene.upstream.put(BIG, Fault(), Fault(cut_after=100 * KIB), Fault(ignore_range=True))
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer) == [(0, 300 * KIB), (300 * KIB, 600 * KIB), (400 * KIB, 700 * KIB)]


# ---------------------------------------------------------------- wrong bytes


def flipped(data, *places):
    wrong = bytearray(data)
    for place in places:
        wrong[place] ^= 0x10
    return bytes(wrong)


def test_a_wrong_small_object_is_fetched_again(scene):
    pointer = scene.upstream.put(BIG, Fault(flip=True))
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert [entry[1]["attempt"] for entry in scene.telemetry.named("lfs_object_corrupt")] == [1]
    assert scene.asked(pointer) == [(0, len(BIG))] * 2


def test_what_upstream_says_twice_is_what_it_has(scene):
    pointer, good = scene.upstream.put(b"data", *[Fault(flip=True)] * 9), scene.upstream.put(b"good one")
    report = scene.run(pointer, good)
    assert report.arrived == {good.oid}
    code, text = report.failed[pointer.oid]
    assert code == "MS-L422"
    assert hashlib.sha256(bytes(byte ^ 0xFF for byte in b"data")).hexdigest() in text
    assert len(scene.asked(pointer)) == 2
    assert pointer.oid not in scene.objects.parts


def test_an_object_that_is_wrong_in_another_way_each_time_is_given_up(scene):
    pointer = scene.upstream.put(BIG)
    answers = itertools.count(100)
    lie(scene.upstream, lambda data: random.Random(next(answers)).randbytes(len(data)))
    report = scene.run(pointer)
    assert report.failed[pointer.oid][0] == "MS-L422"
    assert "other ones each time" in report.failed[pointer.oid][1]
    assert len(scene.asked(pointer)) == 3
    assert pointer.oid not in scene.objects.parts


def lie(upstream, change):
    """Let every download of an upstream be of changed bytes."""
    open_object = upstream.open_object

    def changed(pointer, action, *, start, end):
        true = upstream.lfs[pointer.oid]
        upstream.lfs[pointer.oid] = change(true)
        try:
            return open_object(pointer, action, start=start, end=end)
        finally:
            upstream.lfs[pointer.oid] = true

    upstream.open_object = changed


@pytest.fixture
def in_parts(monkeypatch):
    """Objects count as large from 200 KiB on, and their parts are of 200 KiB."""
    monkeypatch.setattr("mirror_sync.actions.board.WHOLE_BYTES", 200 * KIB)
    monkeypatch.setattr("mirror_sync.actions.board.FIRST_PART", 200 * KIB)
    monkeypatch.setattr("mirror_sync.actions.board.MOST_PART", 200 * KIB)
    monkeypatch.setattr("mirror_sync.actions.board.LEAST_PART", 50 * KIB)


@pytest.mark.usefixtures("in_parts")
def test_a_flipped_bit_is_found_by_fetching_parts_again(scene):
    pointer = scene.upstream.put(BIG)
    first = iter([flipped(BIG, 450 * KIB)])
    lie(scene.upstream, lambda data: next(first) if len(scene.upstream.opened) == 2 else data)
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert len(scene.asked(pointer)) == 5 + 3 + 1, "up to the part that was wrong, and a third answer about 4 KiB"
    assert scene.asked(pointer)[-1] == (448 * KIB, 452 * KIB)


@pytest.mark.usefixtures("in_parts")
def test_a_link_that_flips_a_bit_in_every_answer_still_brings_the_object(scene):
    pointer = scene.upstream.put(BIG)
    chance = random.Random(5)
    lie(scene.upstream, lambda data: flipped(data, chance.randrange(len(data))))
    scene.whole(scene.run(pointer), pointer)


@pytest.mark.usefixtures("in_parts")
def test_many_flipped_bits_cost_one_more_answer_and_the_blocks_they_are_in(scene):
    pointer = scene.upstream.put(BIG)
    chance, width = random.Random(7), 20 * KIB
    lie(
        scene.upstream, lambda data: flipped(data, *(at + chance.randrange(width) for at in range(0, len(data), width)))
    )
    scene.whole(scene.run(pointer), pointer)
    flips = 2 * len(BIG) // width
    assert scene.upstream.sent <= 2 * len(BIG) + 3 * flips * 4 * KIB + 7 * 100 * KIB


@pytest.mark.usefixtures("in_parts")
def test_a_large_object_that_is_wrong_in_another_way_each_time_is_given_up_soon(scene):
    pointer = scene.upstream.put(BIG)
    answers = itertools.count(100)
    lie(scene.upstream, lambda data: random.Random(next(answers)).randbytes(len(data)))
    assert scene.run(pointer).failed[pointer.oid][0] == "MS-L422"
    assert scene.upstream.sent <= 3.5 * len(BIG)


@pytest.mark.usefixtures("in_parts")
def test_of_three_answers_two_decide(scene):
    pointer = scene.upstream.put(BIG)
    wrong = {0: 100, 4: 900 * KIB, 8: 450 * KIB}
    answers = itertools.count()
    lie(scene.upstream, lambda data: flipped(data, wrong[at]) if (at := next(answers)) in wrong else data)
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer).count((448 * KIB, 452 * KIB)) == 1


@pytest.mark.usefixtures("in_parts")
def test_what_came_twice_the_same_is_not_asked_for_again_after_a_stop(scene):
    pointer = scene.upstream.put(BIG)
    lie(scene.upstream, lambda data: flipped(data, 900 * KIB) if len(scene.upstream.opened) < 6 else data)
    scene.upstream.faults[pointer.oid].extend([Fault()] * 8 + [Fault(before_piece=lambda _: scene.stop.set())])
    assert isinstance(scene.run(pointer).error, Interrupted)
    assert not scene.objects.has(pointer)
    scene.stop.clear()
    asked = len(scene.asked(pointer))
    scene.whole(scene.run(pointer), pointer)
    again = scene.asked(pointer)[asked:]
    assert min(start for start, _ in again) >= 500 * KIB


@pytest.mark.usefixtures("in_parts")
def test_a_large_object_that_upstream_has_wrong_is_looked_at_twice(scene):
    pointer = scene.upstream.put(BIG)
    lie(scene.upstream, lambda data: flipped(data, 5, 900 * KIB))
    report = scene.run(pointer)
    assert report.failed[pointer.oid][0] == "MS-L422"
    assert hashlib.sha256(flipped(BIG, 5, 900 * KIB)).hexdigest() in report.failed[pointer.oid][1]
    assert len(scene.asked(pointer)) == 10
    assert pointer.oid not in scene.objects.parts


@pytest.mark.usefixtures("in_parts")
def test_the_doubt_survives_a_stop(scene):
    pointer = scene.upstream.put(BIG)
    lie(scene.upstream, lambda data: flipped(data, 900 * KIB) if len(scene.upstream.opened) < 5 else data)
    scene.clock.on_sleep = None
    scene.upstream.faults[pointer.oid].extend([Fault()] * 5 + [Fault(before_piece=lambda _: scene.stop.set())])
    assert isinstance(scene.run(pointer).error, Interrupted)
    assert not scene.objects.has(pointer)
    scene.stop.clear()
    scene.whole(scene.run(pointer), pointer)


# ---------------------------------------------------------------- nearer places


def nearer(scene, name="near.example", *, data=None):
    """Another place that has what the upstream has, or ``data``."""
    place = ScriptedUpstream(scene.clock, url=f"https://{name}/acme/model", piece=100 * KIB)
    place.lfs = dict(scene.upstream.lfs) if data is None else {pointer.oid: data for pointer in data}
    scene.accelerators.append(place)
    return place


@pytest.mark.usefixtures("in_parts")
def test_parts_come_from_more_than_one_place(scene):
    pointer = scene.upstream.put(BIG)
    place = nearer(scene)
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert scene.upstream.opened
    assert place.opened
    assert scene.upstream.sent + place.sent == len(BIG)


@pytest.mark.usefixtures("in_parts")
def test_the_faster_place_brings_the_rest(scene):
    pointer = scene.upstream.put(BIG)
    scene.upstream.faults[pointer.oid].extend([Fault(before_piece=lambda _: scene.clock.advance(0.5))] * 9)
    place = nearer(scene)
    place.faults[pointer.oid] = deque([Fault(before_piece=lambda _: scene.clock.advance(0.01))] * 9)
    scene.whole(scene.run(pointer), pointer)
    assert len(scene.upstream.opened) == 1
    assert len(place.opened) >= 3


def test_a_place_without_the_object_is_not_used_for_it(scene):
    pointer, other = scene.upstream.put(BIG), scene.upstream.put(b"other")
    place = nearer(scene)
    del place.lfs[pointer.oid]
    report = scene.run(pointer, other)
    scene.whole(report, pointer, other)
    assert all(oid == other.oid for oid, _, _ in place.opened)


def test_a_place_that_fails_does_no_harm(scene):
    pointers = [scene.upstream.put(bytes([number]) * 1000) for number in range(20)]
    place = nearer(scene)
    place.batch_errors.extend([UpstreamRefused("HTTP 401")] * 9)
    scene.whole(scene.run(*pointers), *pointers)
    assert place.opened == []
    assert [entry[1]["host"] for entry in scene.telemetry.named("lfs_source_left")] == ["near.example"]


def test_a_place_whose_downloads_fail_is_left_for_the_upstream(scene):
    pointers = [scene.upstream.put(bytes([number]) * 1000) for number in range(20)]
    place = nearer(scene)
    for pointer in pointers:
        place.faults[pointer.oid] = deque([Fault(error=UpstreamUnavailable("HTTP 503"))] * 99)
    scene.whole(scene.run(*pointers), *pointers)


def test_what_upstream_lacks_may_come_from_elsewhere(scene):
    pointer = scene.upstream.put(BIG)
    scene.upstream.refusals[pointer.oid] = (404, "lost it")
    place = nearer(scene)
    scene.whole(scene.run(pointer), pointer)
    assert place.sent == len(BIG)


def test_upstream_alone_says_what_is_missing(scene):
    pointer, lost = scene.upstream.put(BIG), scene.upstream.put(b"lost")
    place = nearer(scene, data={})
    scene.upstream.refusals[lost.oid] = (404, "lost it")
    place.refusals[pointer.oid] = (404, "never seen")
    report = scene.run(pointer, lost)
    assert report.arrived == {pointer.oid}
    assert set(report.known_missing) == {lost.oid}
    assert "lost it" in report.known_missing[lost.oid][1]


def test_an_upstream_without_budget_is_helped_out(scene):
    pointer = scene.upstream.put(BIG)
    scene.upstream.batch_errors.append(UpstreamUnavailable("the LFS budget is used up", code="MS-L509"))
    nearer(scene)
    scene.whole(scene.run(pointer), pointer)


def test_credentials_stay_with_the_place_they_are_for(scene):
    pointer = scene.upstream.put(BIG)
    place = nearer(scene)
    seen = []
    for source in (scene.upstream, place):
        open_object = source.open_object

        def noting(pointer, action, *, start, end, source=source, open_object=open_object):
            seen.append((source.host, action.href))
            return open_object(pointer, action, start=start, end=end)

        source.open_object = noting
    scene.whole(scene.run(pointer), pointer)
    assert seen
    assert all(f"//{host}/" in href for host, href in seen)


@pytest.mark.usefixtures("in_parts")
def test_a_place_that_lies_is_found_out_reported_and_left(scene):
    pointer = scene.upstream.put(BIG)
    later = scene.upstream.put(BIG[::-1])
    place = nearer(scene)
    lie(place, lambda data: flipped(data, *range(0, len(data), 1000)))
    report = scene.run(pointer, connections=1)
    scene.whole(report, pointer)
    assert [entry[1] for entry in scene.telemetry.named("lfs_source_lied")] == [
        {"mirror": MIRROR, "host": "near.example", "oid": pointer.oid}
    ]
    assert scene.upstream.sent == len(BIG), "only what the other place had brought was asked for again"
    assert later.oid not in report.arrived


@pytest.mark.usefixtures("in_parts")
def test_a_place_is_not_blamed_for_bits_that_flip_on_the_way_from_the_upstream(scene):
    pointer = scene.upstream.put(BIG)
    place = nearer(scene)
    chance, width = random.Random(5), 100 * KIB
    lie(
        scene.upstream, lambda data: flipped(data, *(at + chance.randrange(width) for at in range(0, len(data), width)))
    )
    scene.whole(scene.run(pointer, connections=1), pointer)
    assert place.sent > 100 * KIB
    assert scene.telemetry.named("lfs_source_lied") == []


def test_a_small_lie_is_found_out_too(scene):
    pointer = scene.upstream.put(BIG)
    scene.upstream.refusals[pointer.oid] = (500, "later")
    place = nearer(scene)
    lie(place, lambda data: flipped(data, 77))
    scene.clock.on_sleep = lambda _: scene.upstream.refusals.clear()
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert len(scene.telemetry.named("lfs_source_lied")) == 1
    assert len(place.opened) == 1


def test_a_liar_is_not_asked_by_the_next_transfer_either(scene):
    budget = Budget(4, clock=scene.clock)
    pointer = scene.upstream.put(BIG)
    scene.upstream.refusals[pointer.oid] = (404, "lost it")
    place = nearer(scene)
    lie(place, lambda data: flipped(data, 77))
    report = scene.run(pointer, budget=budget)
    assert set(report.known_missing) == {pointer.oid}
    assert not scene.objects.has(pointer)


@pytest.mark.usefixtures("in_parts")
def test_what_upstream_has_wrong_comes_from_a_place_that_has_it_right(scene):
    place, pointer = nearer(scene), scene.upstream.put(BIG)
    place.put(BIG)
    lie(scene.upstream, lambda data: flipped(data, 150 * KIB, 950 * KIB))
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert scene.upstream.sent + place.sent <= 5 * len(BIG)


def test_what_upstream_has_wrong_in_small_comes_from_a_place_that_has_it_right(scene):
    place, pointer = nearer(scene), scene.upstream.put(b"small and sound")
    place.put(b"small and sound")
    scene.upstream.lfs[pointer.oid] = b"small and wrong"
    place.faults[pointer.oid] = deque([Fault(error=UpstreamUnavailable("not now"))])
    scene.whole(scene.run(pointer), pointer)


@pytest.mark.usefixtures("in_parts")
def test_what_everybody_has_wrong_is_given_up(scene):
    place, pointer = nearer(scene), scene.upstream.put(BIG)
    place.put(BIG)
    for source in (scene.upstream, place):
        lie(source, lambda data: flipped(data, 150 * KIB))
    report = scene.run(pointer)
    assert report.failed[pointer.oid][0] == "MS-L422"
    assert report.error is None
    assert scene.upstream.sent + place.sent <= 8 * len(BIG)


def test_parts_whole_on_disk_are_promoted_without_asking(scene):
    pointer = scene.upstream.put(BIG)
    with scene.objects.incomplete(pointer) as incomplete:
        incomplete.write(0, BIG)
    report = scene.run(pointer)
    scene.whole(report, pointer)
    assert scene.upstream.batches == []
    assert report.bytes_fetched == 0


@pytest.mark.parametrize("lie", [5, len(BIG) - 5, len(BIG) + 5])
@pytest.mark.parametrize("refused", [None, (404, "never seen"), (422, "another size")])
def test_of_two_claimed_sizes_the_true_one_decides(scene, lie, refused):
    pointer, good = scene.upstream.put(BIG), scene.upstream.put(b"good")
    liar = Pointer(pointer.oid, lie)
    batch = scene.upstream.batch

    def particular(pointers, *, ref):
        assert len({pointer.oid for pointer in pointers}) == len(pointers), "one size of an object at a time"
        if refused and liar in pointers:
            scene.upstream.refusals[liar.oid] = refused
        try:
            return batch(pointers, ref=ref)
        finally:
            scene.upstream.refusals.clear()

    scene.upstream.batch = particular
    for order in ((liar, pointer), (pointer, liar)):
        scene.objects.objects.clear()
        scene.whole(scene.run(*order, good), pointer, good)


def test_an_object_is_known_missing_only_in_every_size_that_is_claimed(scene):
    pointer = scene.upstream.put(BIG)
    batch = scene.upstream.batch

    def particular(pointers, *, ref):
        small = any(asked.size == 5 for asked in pointers)
        scene.upstream.refusals[pointer.oid] = (404, "never seen") if small else (403, "not for you")
        return batch(pointers, ref=ref)

    scene.upstream.batch = particular
    report = scene.run(Pointer(pointer.oid, 5), pointer)
    assert report.failed[pointer.oid][0] == "MS-L400"
    assert not report.known_missing
    report = scene.run(Pointer(pointer.oid, 5))
    assert set(report.known_missing) == {pointer.oid}


def test_nothing_is_said_of_an_object_whose_other_size_was_not_tried(scene):
    pointer = scene.upstream.put(BIG)
    batch = scene.upstream.batch

    def particular(pointers, *, ref):
        if pointers[0].size != 5:
            raise UpstreamRefused("not any more")
        scene.upstream.refusals[pointer.oid] = (404, "never seen")
        return batch(pointers, ref=ref)

    scene.upstream.batch = particular
    report = scene.run(Pointer(pointer.oid, 5), pointer)
    assert isinstance(report.error, UpstreamRefused)
    assert not report.known_missing
    assert not report.failed


def test_parts_are_not_lost_to_a_pointer_that_claims_another_size(scene):
    pointer = scene.upstream.put(BIG)
    with scene.objects.incomplete(pointer) as incomplete:
        incomplete.write(0, BIG[: 700 * KIB])
    report = scene.run(Pointer(pointer.oid, 5), pointer)
    scene.whole(report, pointer)
    assert scene.asked(pointer) == [(700 * KIB, len(BIG))]


# ---------------------------------------------------------------- somebody else fetches it


def test_an_object_somebody_fetches_is_waited_for_and_not_fetched_twice(scene):
    pointer, other = scene.upstream.put(BIG), scene.upstream.put(b"other")
    held = scene.objects.incomplete(pointer)
    incomplete = held.__enter__()

    def finish_later(_seconds):
        if len(scene.clock.slept) == 3:
            incomplete.write(0, BIG)
            incomplete.promote()
            held.__exit__(None, None, None)

    scene.clock.on_sleep = finish_later
    scene.whole(scene.run(pointer, other), pointer, other)
    assert scene.asked(pointer) == []
    assert scene.clock.slept == [1.0, 1.0, 1.0]
    assert scene.upstream.batches == [(other, pointer)]


def test_an_object_somebody_gave_up_is_taken_over(scene):
    pointer = scene.upstream.put(BIG)
    held = scene.objects.incomplete(pointer)
    held.__enter__().write(0, BIG[: 100 * KIB])
    scene.clock.on_sleep = lambda _: held.__exit__(None, None, None) if len(scene.clock.slept) == 2 else None
    scene.whole(scene.run(pointer), pointer)
    assert scene.asked(pointer) == [(100 * KIB, len(BIG))]


def test_waiting_for_somebody_ends(scene):
    pointer = scene.upstream.put(BIG)
    with scene.objects.incomplete(pointer):
        report = scene.run(pointer, busy_seconds=60)
    assert report.failed[pointer.oid][0] == ObjectBusy.code
    assert 60 <= sum(scene.clock.slept) <= 62
    assert report.error is None


def test_stopping_ends_the_wait_for_somebody(scene):
    pointer = scene.upstream.put(BIG)
    scene.clock.on_sleep = lambda _: scene.stop.set()
    with scene.objects.incomplete(pointer):
        report = scene.run(pointer)
    assert isinstance(report.error, Interrupted)
    assert len(scene.clock.slept) == 1


# ---------------------------------------------------------------- the whole transfer ends


def test_a_short_wait_is_waited_for(scene):
    pointer, other = scene.upstream.put(BIG), scene.upstream.put(BIG + b"x")
    scene.upstream.faults[pointer.oid].append(Fault(error=RateLimited(until=scene.clock.now() + 20)))
    scene.upstream.batch_errors.extend([RateLimited(until=scene.clock.now() + 7)])
    scene.whole(scene.run(pointer, other), pointer, other)
    assert scene.clock.slept == [7.0, 13.0]
    assert scene.reports[-1].cuts == 0


def test_a_rate_limit_on_a_download_ends_the_transfer_and_keeps_what_came(scene):
    first, second, third = (scene.upstream.put(bytes([n]) * (n + 1)) for n in range(3))
    limited = RateLimited(until=scene.clock.now() + 300)
    scene.upstream.faults[second.oid] = deque([Fault(error=limited)])
    report = scene.run(first, second, third)
    assert report.error is limited
    assert report.arrived == {first.oid}
    assert not report.failed
    assert scene.asked(third) == []


def test_a_rate_limit_on_the_next_batch_lets_the_objects_in_hand_end(scene):
    pointers = [scene.upstream.put(b"%06d" % number) for number in range(150)]
    limited = RateLimited(until=scene.clock.now() + 300)
    scene.upstream.batch_errors.extend([None, limited])
    report = scene.run(*pointers)
    assert report.error is limited
    assert 40 <= len(report.arrived) <= 100
    assert not report.failed


def test_a_rate_limit_on_one_object_of_a_batch_ends_the_transfer(scene):
    pointer = scene.upstream.put(b"popular")
    scene.upstream.refusals[pointer.oid] = (429, "slow down")
    report = scene.run(pointer)
    assert isinstance(report.error, RateLimited)
    assert report.error.until == scene.clock.now() + 60
    assert not report.failed


def test_a_failing_batch_is_asked_again(scene):
    pointer = scene.upstream.put(b"data")
    scene.upstream.batch_errors.extend([UpstreamUnavailable("HTTP 503"), UpstreamInvalid("a login page")] * 2)
    scene.whole(scene.run(pointer), pointer)


def test_a_batch_that_fails_for_good_ends_the_transfer(scene):
    pointers = [scene.upstream.put(b"%04d" % number) for number in range(300)]
    scene.upstream.batch_errors.extend([UpstreamUnavailable("HTTP 503")] * 99)
    report = scene.run(*pointers)
    assert isinstance(report.error, UpstreamUnavailable)
    assert len(scene.upstream.batches) == 5
    assert not report.failed
    assert not report.arrived


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRefused("HTTP 401"),
        AddressRefused("private"),
        UpstreamGone("HTTP 451"),
        UpstreamUnavailable("the LFS budget is used up", code="MS-L509"),
    ],
)
def test_a_refused_batch_ends_the_transfer_at_once(scene, error):
    pointers = [scene.upstream.put(b"%04d" % number) for number in range(3)]
    scene.upstream.batch_errors.append(error)
    report = scene.run(*pointers)
    assert report.error is error
    assert len(scene.upstream.batches) == 1
    assert not report.failed


def test_a_refused_batch_ends_the_transfer_for_every_thread(scene):
    scene.parallel = ThreadParallel()
    pointers = [scene.upstream.put(b"%04d" % number) for number in range(300)]
    scene.upstream.batch_errors.extend([UpstreamRefused("HTTP 401")] * 99)
    report = scene.run(*pointers, connections=8)
    assert isinstance(report.error, UpstreamRefused)
    assert not report.failed
    assert scene.upstream.opened == []


# ---------------------------------------------------------------- space


def test_what_does_not_fit_fails_before_its_first_byte_and_smaller_ones_arrive():
    scene = Scene(capacity=1000)
    small, large, middle = (scene.upstream.put(bytes([n]) * size) for n, size in enumerate((100, 2000, 700)))
    report = scene.run(large, middle, small)
    assert report.arrived == {small.oid, middle.oid}
    assert report.failed[large.oid][0] == "MS-S507"
    assert isinstance(report.error, StorageFull)
    assert scene.asked(large) == []
    assert scene.telemetry.named("lfs_space_short")[0][1]["wanted_bytes"] == 2800


def test_a_disk_that_fills_up_meanwhile_stops_new_transfers_and_keeps_the_parts():
    scene = Scene(capacity=1200 * KIB)

    def fill(at):
        if at == 300 * KIB:
            scene.objects.put(bytes(800 * KIB))

    pointer, larger = scene.upstream.put(BIG, Fault(before_piece=fill)), scene.upstream.put(BIG + b"x")
    report = scene.run(pointer, larger)
    assert isinstance(report.error, StorageFull)
    assert report.failed[pointer.oid][0] == "MS-S507"
    assert scene.asked(larger) == []
    with scene.objects.incomplete(pointer) as incomplete:
        assert incomplete.missing() == [(400 * KIB, len(BIG))]


# ---------------------------------------------------------------- stopping


def test_stopping_ends_within_a_piece_and_keeps_what_came(scene):
    def stop(at):
        if at == 500 * KIB:
            scene.stop.set()

    small, pointer, larger = (
        scene.upstream.put(b"small"),
        scene.upstream.put(BIG, Fault(before_piece=stop)),
        scene.upstream.put(BIG + b"x"),
    )
    report = scene.run(small, pointer, larger)
    assert isinstance(report.error, Interrupted)
    assert report.arrived == {small.oid}
    assert not report.failed
    assert scene.asked(larger) == []
    assert all(body.closed for body in scene.upstream.bodies)
    scene.stop.clear()
    scene.whole(scene.run(small, pointer, larger), small, pointer, larger)
    assert scene.asked(pointer)[-1] == (500 * KIB, len(BIG))


def test_stopping_ends_the_wait_before_a_retry(scene):
    pointer = scene.upstream.put(BIG, *[Fault(error=UpstreamUnavailable("HTTP 503"))] * 9)
    scene.clock.on_sleep = lambda _: scene.stop.set()
    report = scene.run(pointer)
    assert isinstance(report.error, Interrupted)
    assert not report.failed
    assert len(scene.clock.slept) == 1


def test_stopped_before_it_began_it_does_nothing(scene):
    scene.stop.set()
    report = scene.run(scene.upstream.put(b"data"))
    assert isinstance(report.error, Interrupted)
    assert scene.upstream.batches == []


def test_others_that_wait_end_it_and_the_parts_stay(scene):
    pointer, larger = (
        scene.upstream.put(BIG, Fault(before_piece=lambda _: scene.clock.advance(0.5))),
        scene.upstream.put(BIG + b"x"),
    )
    asked = []

    def waiting():
        asked.append(scene.clock.monotonic())
        return len(asked) == 3

    scene.yielding = waiting
    report = scene.run(pointer, larger)
    assert isinstance(report.error, Preempted)
    assert not report.failed
    assert not report.arrived
    assert asked == [0.0, 1.0, 2.0], "about once a second"
    assert scene.asked(larger) == []
    with scene.objects.incomplete(pointer) as incomplete:
        assert incomplete.missing() == [(400 * KIB, len(BIG))]
    scene.yielding = lambda: False
    scene.whole(scene.run(pointer, larger), pointer, larger)


def test_others_that_wait_from_the_beginning_let_nothing_begin(scene):
    scene.yielding = lambda: True
    report = scene.run(scene.upstream.put(b"data"))
    assert isinstance(report.error, Preempted)
    assert scene.upstream.batches == []


def test_progress_says_all_that_people_ask_for(scene):
    here = scene.objects.put(b"here")
    begun = scene.upstream.put(BIG, Fault(before_piece=lambda _: scene.clock.advance(1.0), cut_after=300 * KIB))
    small = scene.upstream.put(b"small")
    with scene.objects.incomplete(begun) as incomplete:
        incomplete.write(0, BIG[: 100 * KIB])
    scene.run(here, small, begun)
    first, last = scene.reports[0], scene.reports[-1]
    assert (first.done, first.total) == (200 * KIB + 5, len(BIG) + 5), "what was here before is done"
    assert first.received == 100 * KIB + 5
    assert (first.items, first.items_total) == (0, 2)
    assert first.connections == 1
    assert first.sources == ("upstream.example",)
    assert first.rate > 0
    assert (last.done, last.received) == (len(BIG) + 5, 900 * KIB + 5)
    assert (last.items, last.connections, last.cuts) == (2, 0, 1)


def test_stopping_with_many_at_once_loses_nothing(scene):
    scene.parallel = ThreadParallel()
    pointers = [scene.upstream.put(random.Random(number).randbytes(300 * KIB)) for number in range(40)]
    stopper = Fault(before_piece=lambda _: scene.stop.set())
    scene.upstream.faults[pointers[20].oid] = deque([stopper])
    ordered = sorted(pointers, key=lambda pointer: pointer.size)
    report = scene.run(*ordered, connections=4)
    assert isinstance(report.error, Interrupted)
    assert not report.failed
    assert all(scene.objects.verify(oid) for oid in report.arrived)
    scene.stop.clear()
    scene.whole(scene.run(*ordered, connections=4), *pointers)
    assert scene.upstream.sent <= sum(pointer.size for pointer in pointers) + 4 * 100 * KIB


@pytest.mark.parametrize("where", ["batch", "open_object"])
def test_a_server_that_asks_for_a_moment_for_ever_ends_the_transfer(scene, where):
    pointer = scene.upstream.put(BIG)
    times = []

    def refuse(*_args, **_more):
        times.append(scene.clock.now())
        assert len(times) < 1000, "it goes on for ever"
        raise RateLimited("slower, please", until=scene.clock.now() + 1)

    setattr(scene.upstream, where, refuse)
    report = scene.run(pointer)
    assert isinstance(report.error, RateLimited)
    assert not report.failed
    assert times[-1] - times[0] <= 130


def test_a_nearer_place_that_asks_for_a_moment_for_ever_is_left(scene):
    place, pointer = nearer(scene), scene.upstream.put(BIG)
    place.put(BIG)

    def refuse(*_args, **_more):
        raise RateLimited("slower, please", until=scene.clock.now() + 1)

    place.batch = refuse
    scene.upstream.faults[pointer.oid] = deque([Fault(before_piece=lambda _: scene.clock.advance(20.0))])
    scene.whole(scene.run(pointer), pointer)


def test_many_short_waits_with_something_in_between_are_waited_for(scene):
    pointer = scene.upstream.put(BIG)
    faults = []
    for _ in range(9):
        faults += [Fault(error=RateLimited(until=0.0)), Fault(cut_after=100 * KIB)]
    scene.upstream.faults[pointer.oid] = deque(faults)
    opened = scene.upstream.open_object

    def wait_long(*args, **more):
        try:
            return opened(*args, **more)
        except RateLimited as error:
            error.until = scene.clock.now() + 25
            raise

    scene.upstream.open_object = wait_long
    scene.whole(scene.run(pointer), pointer)


def test_every_connection_silent_or_not_stopping_ends_all_of_them(scene):
    scene.parallel = ThreadParallel()
    pointers = [scene.upstream.put(random.Random(number).randbytes(300 * KIB)) for number in range(12)]
    budget = Budget(8, clock=scene.clock)
    budget._known("upstream.example").window.size = 8
    silent = threading.Semaphore(0)
    ended = []

    def fall_silent(_at):
        with scene.upstream.guard:
            mine = len(scene.upstream.bodies) - 1
        silent.release()
        ended.append(scene.upstream.bodies[mine].abandoned.wait(20))

    for pointer in pointers:
        scene.upstream.faults[pointer.oid] = deque([Fault(before_piece=fall_silent)])

    def stop_when_all_are_silent():
        silent.acquire()
        silent.acquire()
        scene.stop.set()

    stopper = threading.Thread(target=stop_when_all_are_silent)
    stopper.start()
    report = scene.run(*pointers, connections=2, budget=budget)
    stopper.join()
    assert isinstance(report.error, Interrupted)
    assert ended == [True, True], "two connections are allowed, and both are broken off"


def test_a_server_that_fails_for_every_object_is_not_asked_for_all_of_them(scene):
    pointers = [scene.upstream.put(b"%06d" % number) for number in range(3000)]
    for pointer in pointers:
        scene.upstream.refusals[pointer.oid] = (500, "oops")
    report = scene.run(*pointers)
    assert isinstance(report.error, UpstreamUnavailable)
    assert len({pointer for batch in scene.upstream.batches for pointer in batch}) <= 400


def test_hundreds_of_objects_that_fail_once_hold_up_nobody(scene):
    pointers = [scene.upstream.put(b"%06d" % number) for number in range(900)]
    for pointer in pointers[:450]:
        scene.upstream.refusals[pointer.oid] = (500, "oops")
    batch = scene.upstream.batch

    def once(group, **more):
        answers = batch(group, **more)
        for pointer in group:
            scene.upstream.refusals.pop(pointer.oid, None)
        return answers

    scene.upstream.batch = once
    scene.whole(scene.run(*pointers), *pointers)
