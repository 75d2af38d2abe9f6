"""The link budget with a clock that moves when somebody sleeps."""

from __future__ import annotations

import pytest

from mirror_sync.domain.budget import LARGEST, MACHINE, SMALLEST, Cap, Hours, LinkRules, Payer, Urgency
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream.budget import LONGEST_SLEEP, PATIENCE_SECONDS, LinkBudget

MB = 1_000_000


def drain(purse, clock, seconds):
    """Read as fast as the purse allows for so long; return the bytes."""
    got, end = 0, clock.monotonic() + seconds
    while clock.monotonic() < end:
        size = purse.room()
        purse.pay(size)
        got += size
    return got


def test_without_a_cap_nobody_waits():
    clock = HandClock()
    purse = LinkBudget(clock=clock).purse(("h",), Urgency.FILL)
    for _ in range(100):
        assert purse.room() == LARGEST
        purse.pay(LARGEST)
    assert clock.slept == []


def test_a_transfer_keeps_to_its_cap_in_small_sleeps():
    clock = HandClock()
    purse = LinkBudget(clock=clock, rules=lambda: LinkRules(Cap(1 * MB))).purse(("h",), Urgency.UPDATE)
    assert drain(purse, clock, 20) == pytest.approx(20 * MB, rel=0.02)
    assert max(clock.slept) <= LONGEST_SLEEP


def test_the_hosts_account_and_the_one_that_led_there_both_pay():
    clock = HandClock()
    budget = LinkBudget(clock=clock, rules=lambda: LinkRules(hosts={"hub": Cap(1 * MB), "cdn": Cap(4 * MB)}))
    assert drain(budget.purse(("hub", "cdn"), Urgency.UPDATE), clock, 10) == pytest.approx(10 * MB, rel=0.05)
    assert drain(budget.purse(("", "cdn"), Urgency.UPDATE), clock, 10) == pytest.approx(40 * MB, rel=0.05)
    assert drain(budget.purse(("cdn", "cdn"), Urgency.UPDATE), clock, 10) == pytest.approx(40 * MB, rel=0.05)


def test_new_rules_hold_for_what_runs():
    clock, rules = HandClock(), [LinkRules(Cap(1 * MB))]
    purse = LinkBudget(clock=clock, rules=lambda: rules[0]).purse(("h",), Urgency.UPDATE)
    drain(purse, clock, 5)
    rules[0] = LinkRules(Cap(0.1 * MB))
    assert drain(purse, clock, 20) == pytest.approx(20 * 0.1 * MB, rel=0.6), "within a second"
    assert drain(purse, clock, 20) == pytest.approx(20 * 0.1 * MB, rel=0.05)
    rules[0] = LinkRules()
    clock.advance(1.0)
    slept = len(clock.slept)
    purse.pay(LARGEST)
    assert purse.room() == LARGEST
    assert len(clock.slept) == slept


def test_the_hour_is_that_of_the_wall_clock():
    clock = HandClock(now=0.0)
    cap = Cap(2 * MB, (Hours(0, 10, 0.5 * MB),))
    budget = LinkBudget(clock=clock, rules=lambda: LinkRules(cap), minute=lambda now: int(now // 60))
    purse = budget.purse(("h",), Urgency.UPDATE)
    clock.advance(595)
    assert drain(purse, clock, 10) == pytest.approx(5 * 0.5 * MB + 5 * 2 * MB, rel=0.15)


def test_who_waited_long_passes_with_little_and_pays_again_later():
    clock = HandClock()
    budget = LinkBudget(clock=clock, rules=lambda: LinkRules(Cap(1 * MB)))
    fill = budget.purse(("h",), Urgency.FILL)
    updates = []

    def others(_seconds):
        """Updates that want more than there is."""
        updates.append(budget._ledger.claim(Payer((MACHINE,), Urgency.UPDATE), 300_000, clock.monotonic()))

    others(0)
    clock.on_sleep = others
    began = clock.monotonic()
    fill.pay(100_000)
    assert PATIENCE_SECONDS <= clock.monotonic() - began < PATIENCE_SECONDS + 1
    assert fill.room() == SMALLEST
    clock.on_sleep = None
    for update in updates:
        budget._ledger.withdraw(update)
    clock.advance(3)
    fill.pay(SMALLEST)
    assert fill.room() == 100_000, "paid again"


def test_a_sleep_that_is_interrupted_leaves_nobody_in_the_queue():
    clock = HandClock()
    budget = LinkBudget(clock=clock, rules=lambda: LinkRules(Cap(1000.0)))
    purse = budget.purse(("h",), Urgency.UPDATE)
    purse.pay(5000)

    def interrupt(_seconds):
        raise KeyboardInterrupt

    clock.on_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        purse.pay(5000)
    clock.on_sleep = None
    clock.advance(5.5)
    slept = len(clock.slept)
    purse.pay(10)
    assert len(clock.slept) == slept, "nobody else is waited for"
