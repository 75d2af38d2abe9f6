"""Single moments of a transfer that threads reach in no fixed order."""

from __future__ import annotations

import threading

import pytest

from mirror_sync.actions.batches import Source
from mirror_sync.actions.board import SILENT_SECONDS, Board, Hand, Rules
from mirror_sync.actions.bring import Bringer
from mirror_sync.actions.budget import Budget
from mirror_sync.actions.course import Course
from mirror_sync.actions.wanted import Brought, Doubt, End, State
from mirror_sync.domain.names import MirrorName
from mirror_sync.errors import StorageFull, UpstreamUnavailable
from mirror_sync.ports import LfsAction, LfsAnswer
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.objects import MemoryObjectStore
from mirror_sync.testing.telemetry import ListedTelemetry
from mirror_sync.testing.upstream import ScriptedUpstream

SIZE = 64 << 20


class Scene:
    """One object of 64 MiB, asked for and granted, and as many legs as a test takes."""

    def __init__(self):
        self.clock = HandClock()
        self.upstream = ScriptedUpstream(self.clock)
        self.pointer = self.upstream.put(bytes(SIZE))
        self.objects = MemoryObjectStore(self.clock)
        self.course = Course(
            MirrorName("upstream.example/acme/model"), clock=self.clock, telemetry=ListedTelemetry(),
            stop=threading.Event(), total=SIZE, items=1, report=lambda _: None, yielding=lambda: False,
        )  # fmt: skip
        rules = Rules(100, 5, 3, 600.0, 8)
        self.source = Source(0, self.upstream)
        self.budget = Budget(8, clock=self.clock)
        self.board = Board([self.pointer], [self.source], begun=(), budget=self.budget, course=self.course, rules=rules)
        self.bringer = Bringer(self.board, self.objects, self.course, rules, None)
        ask = self.board.next(Hand())
        answer = LfsAnswer(self.pointer, LfsAction(f"https://{self.upstream.host}/o", {}, None))
        self.board.answered(ask, [answer], asked_at=self.clock.now())
        self.hand = Hand()
        begin = self.board.next(self.hand)
        self.wanted = begin.wanted
        self.board.opened(self.wanted, self.bringer._hold(self.wanted))

    def leg(self):
        hand = Hand(place=self.budget.take(self.board.share, self.upstream.host))
        if hand.place is None:
            hand.place = self.hand.place
        leg = self.board.part_of(self.wanted, hand)
        assert leg is not None
        return leg


@pytest.fixture
def scene():
    return Scene()


def test_nobody_writes_to_an_object_that_has_ended(scene):
    one, other = scene.leg(), scene.leg()
    assert scene.board.claim(other, 1000) == 1000
    scene.board.wrote(other)
    scene.board.failed(one, StorageFull("the disk is full"))
    assert scene.board.over(scene.wanted)
    assert scene.board.claim(other, 1000) == 0, "its file may be closed by now, and the descriptor be another's"


def test_an_object_that_has_ended_stays_held_while_an_answer_is_compared(scene):
    leg = scene.leg()
    scene.wanted.doubt = Doubt()
    assert scene.board.claim(leg, 1000) == 1000
    scene.board.end(scene.wanted, Brought(End.FAILED, "MS-S500", "the disk is full"))
    assert not scene.board.over(scene.wanted)
    scene.board.wrote(leg)
    assert scene.board.over(scene.wanted)


def test_what_a_silent_connection_compares_still_keeps_the_object_from_being_checked(scene):
    victim = scene.leg()
    scene.wanted.doubt = Doubt()
    scene.wanted.gaps = []
    assert scene.board.claim(victim, 1000) == 1000
    scene.clock.advance(100 * SILENT_SECONDS)
    thief = scene.board.next(Hand(place=scene.hand.place))
    assert (thief.start, thief.end) == (1000, victim.asked_end)
    assert scene.board.claim(thief, thief.left) > 0
    scene.board.wrote(thief)
    assert not scene.board.read(thief), "what is compared may be written again"
    scene.board.wrote(victim)
    assert scene.board.failed(victim, UpstreamUnavailable("the connection broke"))
    assert scene.wanted.state is State.CHECKING
