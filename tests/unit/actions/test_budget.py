from __future__ import annotations

import pytest

from mirror_sync.actions.budget import DISTRUST_SECONDS, Advice, Budget, Window
from mirror_sync.testing.clock import HandClock

STEP = 0.01
MB = 1_000_000
HOST = "cdn.example"


class Line:
    """A link on which connections of one host bring bytes; time goes on in hundredths of a second."""

    def __init__(self, *, each=None, all_together=None, most=16):
        self.window = Window()
        self.now = 0.0
        self.each = each
        self.all_together = all_together
        self.most = most
        self.peak = 1

    def rate(self, used):
        rates = [rate for rate in (self.each and self.each * used, self.all_together) if rate is not None]
        return min(rates)

    def run(self, seconds):
        """Let ``seconds`` pass with as many connections as the window gives."""
        end = self.now + seconds
        while self.now < end:
            used = min(self.window.size, self.most)
            self.peak = max(self.peak, used)
            for connection in range(used):
                size = int(self.rate(used) * STEP / used)
                self.window.came(connection, size, answers=0, now=self.now, most=self.most)
            self.now += STEP
        return self.window.size


def test_a_line_with_a_cap_for_each_connection_gets_eight_within_a_second():
    assert Line(each=4 * MB, most=8).run(1.0) == 8


def test_it_gets_as_many_as_are_allowed_and_no_more():
    assert Line(each=4 * MB, most=5).run(3.0) == 5
    assert Line(each=4 * MB, most=16).run(3.0) == 16


def test_a_line_that_one_connection_fills_keeps_one():
    line = Line(all_together=20 * MB)
    assert line.run(1.0) == 1
    line.run(60.0)
    assert line.peak <= 4, "it is tried now and then, with few"


def test_a_line_that_four_connections_fill_keeps_about_four():
    line = Line(each=5 * MB, all_together=20 * MB)
    line.run(30.0)
    sizes = set()
    for _ in range(100):
        sizes.add(line.run(0.1))
    assert min(sizes) >= 3
    assert max(sizes) <= 6


def test_a_line_that_becomes_wider_gets_more():
    line = Line(all_together=10 * MB)
    line.run(5.0)
    line.each, line.all_together = 10 * MB, None
    assert line.run(60.0) >= 8


def test_pushed_back_means_half_once_a_second_and_no_more_for_a_while():
    line = Line(each=4 * MB, most=16)
    line.run(3.0)
    for _ in range(8):
        line.window.pushed_back(line.now)
    assert line.window.size == 8
    assert line.run(4.0) == 8
    line.window.pushed_back(line.now)
    assert line.window.size == 4
    assert line.run(60.0) > 8, "and it is tried again later"


def test_small_answers_count_by_their_number():
    window, now = Window(), 0.0
    while now < 4.0:
        for connection in range(window.size):
            window.came(connection, 10_000, answers=0, now=now, most=32)
            window.came(connection, 0, answers=1, now=now, most=32)
        now += 0.05
    assert window.size == 32


def test_what_was_learnt_long_ago_is_learnt_again():
    line = Line(each=4 * MB, most=16)
    line.run(3.0)
    line.now += 100.0
    line.each, line.all_together = None, 4 * MB
    assert line.run(5.0) <= 8
    line.run(120.0)


# ---------------------------------------------------------------- places


@pytest.fixture
def clock():
    return HandClock()


def widened(budget, clock, share, host=HOST, *, to):
    """Let a host show that it is worth ``to`` connections, each of them held by ``share``."""
    places = []
    while True:
        place = budget.take(share, host)
        if place is not None:
            places.append(place)
        elif len(places) >= to:
            return places
        for used in places:
            budget.came(used, 100_000)
        clock.advance(0.02)


def test_places_are_given_up_to_the_number_of_the_machine(clock):
    budget = Budget(6, clock=clock)
    share = budget.join()
    places = widened(budget, clock, share, to=6)
    assert len(places) == 6
    assert budget.take(share, "other.example") is None
    budget.give_back(places.pop())
    assert budget.take(share, "other.example") is not None


def test_places_are_given_up_to_the_number_of_the_host_at_this_moment(clock):
    allowed = {HOST: 4}
    budget = Budget(16, clock=clock, per_host=lambda host: allowed.get(host, 16))
    share = budget.join()
    places = widened(budget, clock, share, to=4)
    clock.advance(1)
    assert len(places) == 4
    allowed[HOST] = 2
    clock.advance(2)
    assert not budget.keep(places[0])
    assert [budget.came(place, 1000) for place in places].count(Advice.LEAVE) == 2


def test_another_transfer_gets_its_share(clock):
    budget = Budget(8, clock=clock)
    first, second = budget.join(), budget.join()
    places = widened(budget, clock, first, to=8)
    assert budget.take(second, HOST) is None
    leaving = [place for place in places if budget.came(place, 1000) is Advice.LEAVE]
    assert len(leaving) == 4
    for place in leaving:
        assert not budget.keep(place)
        budget.give_back(place)
    theirs = [budget.take(second, HOST) for _ in range(8)]
    assert sum(place is not None for place in theirs) == 4
    assert budget.take(first, HOST) is None


def test_another_transfer_gets_its_share_of_the_machine_too(clock):
    budget = Budget(8, clock=clock)
    first, second = budget.join(), budget.join()
    places = widened(budget, clock, first, to=8)
    assert budget.take(second, "other.example") is None
    leaving = [place for place in places if budget.came(place, 1000) is Advice.LEAVE]
    assert len(leaving) == 4
    for place in leaving:
        budget.give_back(place)
    assert budget.take(second, "other.example") is not None


def test_a_share_nobody_wants_any_more_may_be_used(clock):
    budget = Budget(8, clock=clock)
    first, second = budget.join(), budget.join()
    places = widened(budget, clock, first, to=8)
    assert budget.take(second, HOST) is None
    budget.leave(second)
    assert all(budget.keep(place) for place in places)


def test_a_host_that_wants_to_be_left_alone_is(clock):
    budget = Budget(8, clock=clock)
    share = budget.join()
    place = budget.take(share, HOST)
    until = clock.now() + 20
    budget.pushed_back(HOST, until=until)
    assert budget.rests_until(HOST) == until
    assert not budget.keep(place)
    budget.give_back(place)
    assert budget.take(share, HOST) is None
    assert budget.take(share, "other.example") is not None
    clock.advance(20)
    assert budget.take(share, HOST) is not None


def test_a_place_may_be_changed_for_one_elsewhere(clock):
    budget = Budget(1, clock=clock)
    share = budget.join()
    place = budget.take(share, HOST)
    assert budget.take(share, "other.example") is None
    other = budget.take(share, "other.example", instead=place)
    assert other is not None
    assert share.held == {HOST: 0, "other.example": 1}
    budget.give_back(other)
    assert budget.take(share, HOST) is not None


def test_distrust_ends(clock):
    budget = Budget(1, clock=clock)
    assert not budget.distrusts(HOST)
    budget.distrust(HOST)
    assert budget.distrusts(HOST)
    clock.advance(DISTRUST_SECONDS)
    assert not budget.distrusts(HOST)
