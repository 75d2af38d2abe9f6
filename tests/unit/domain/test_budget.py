"""Sharing a link, played through second by second on paper."""

from __future__ import annotations

import pytest

from mirror_sync.domain.budget import (
    LARGEST,
    MACHINE,
    SMALLEST,
    Cap,
    Hours,
    Ledger,
    LinkRules,
    Payer,
    Urgency,
    quantum,
)

MB = 1_000_000
NOON = 12 * 60
STEP = 0.01


class Reader:
    """A connection that reads as fast as it may, or no faster than ``pace`` bytes per second."""

    def __init__(self, *names, urgency=Urgency.UPDATE, size=20_000, pace=None):
        self.payer, self.size, self.pace = Payer(names, urgency), size, pace
        self.claim = None
        self.got = 0
        self.ready_at = 0.0


def play(rules, readers, seconds, *, ledger=None, start=0.0, minute=NOON):
    """Let ``readers`` read for so long; ``rules`` and ``minute`` may be functions of the time."""
    ledger = ledger or Ledger()
    for step in range(round(seconds / STEP)):
        now = start + step * STEP
        for reader in readers:
            if reader.claim is None and now >= reader.ready_at:
                reader.claim = ledger.claim(reader.payer, reader.size, now)
                reader.ready_at = now + reader.size / reader.pace if reader.pace else now
        ledger.settle(
            rules(now) if callable(rules) else rules, minute=minute(now) if callable(minute) else minute, now=now
        )
        for reader in readers:
            if reader.claim is not None and reader.claim.granted:
                reader.got += reader.size
                reader.claim = None
    return ledger


def test_a_cap_holds_to_the_byte_and_is_used_up():
    reader = Reader(MACHINE)
    play(LinkRules(Cap(1 * MB)), [reader], 60)
    assert reader.got == pytest.approx(60 * MB, rel=0.01)
    assert reader.got <= 60 * MB + 0.25 * MB + reader.size


def test_connections_share_alike():
    readers = [Reader(MACHINE) for _ in range(7)]
    play(LinkRules(Cap(1 * MB)), readers, 30)
    assert sum(reader.got for reader in readers) == pytest.approx(30 * MB, rel=0.02)
    assert max(reader.got for reader in readers) - min(reader.got for reader in readers) <= 20_000


def test_they_share_bytes_and_not_turns():
    readers = [Reader(MACHINE, size=size) for size in (20_000, 40_000, 80_000)]
    play(LinkRules(Cap(1 * MB)), readers, 60)
    assert [reader.got for reader in readers] == pytest.approx([20 * MB] * 3, rel=0.05)


def test_who_was_away_has_nothing_to_make_up_for():
    first, late = Reader(MACHINE), Reader(MACHINE)
    ledger = play(LinkRules(Cap(1 * MB)), [first], 20)
    before = first.got
    play(LinkRules(Cap(1 * MB)), [first, late], 20, ledger=ledger, start=20)
    assert first.got - before == pytest.approx(10 * MB, rel=0.05)
    assert late.got == pytest.approx(10 * MB, rel=0.05)


def test_one_hosts_cap_leaves_the_others_alone():
    slow, free, strange = Reader(MACHINE, "slow"), Reader(MACHINE, "free"), Reader(MACHINE, "strange")
    rules = LinkRules(Cap(3 * MB), {"slow": Cap(1 * MB), "strange": Cap()})
    play(rules, [slow, free, strange], 30)
    assert slow.got == pytest.approx(30 * MB, rel=0.05)
    assert free.got == pytest.approx(30 * MB, rel=0.05)
    assert strange.got == pytest.approx(30 * MB, rel=0.05)
    slow, free = Reader(MACHINE, "slow"), Reader(MACHINE, "free")
    play(rules, [slow, free], 30)
    assert slow.got == pytest.approx(30 * MB, rel=0.05)
    assert free.got == pytest.approx(60 * MB, rel=0.05), "what the other may not use is not lost"


def test_an_update_takes_what_it_wants_before_any_fill():
    update, fills = Reader(MACHINE), [Reader(MACHINE, urgency=Urgency.FILL) for _ in range(5)]
    play(LinkRules(Cap(1 * MB)), [*fills, update], 30)
    assert update.got >= 0.97 * 30 * MB
    assert sum(fill.got for fill in fills) <= 0.05 * 30 * MB


def test_fills_have_their_share_beside_an_update_that_wants_little():
    update, fill = Reader(MACHINE, pace=0.1 * MB), Reader(MACHINE, urgency=Urgency.FILL)
    play(LinkRules(Cap(1 * MB), fill_share=0.6), [fill, update], 60)
    assert update.got == pytest.approx(0.1 * 60 * MB, rel=0.05)
    assert fill.got == pytest.approx(0.6 * 60 * MB, rel=0.05)


def test_the_share_is_no_tax_where_the_rest_is_wanted():
    update, fill = Reader(MACHINE, pace=0.5 * MB), Reader(MACHINE, urgency=Urgency.FILL)
    play(LinkRules(Cap(1 * MB), fill_share=0.8), [fill, update], 60)
    assert update.got == pytest.approx(0.5 * 60 * MB, rel=0.05)
    assert fill.got == pytest.approx(0.5 * 60 * MB, rel=0.05)


def test_a_fill_has_it_all_when_no_update_wants_any():
    update, fill = Reader(MACHINE), Reader(MACHINE, urgency=Urgency.FILL)
    rules = LinkRules(Cap(1 * MB), fill_share=0.5)
    ledger = play(rules, [update, fill], 10)
    before = fill.got
    play(rules, [fill], 30, ledger=ledger, start=10)
    assert fill.got - before == pytest.approx(30 * MB, rel=0.1)


def test_a_cap_may_change_while_bytes_come():
    reader = Reader(MACHINE, size=100_000)
    ledger = Ledger()
    for number, (cap, expected) in enumerate([(4 * MB, 20 * MB), (0.5 * MB, 2.5 * MB), (None, None), (1 * MB, 5 * MB)]):
        reader.got = 0
        play(LinkRules(Cap(cap)), [reader], 5, ledger=ledger, start=5.0 * number)
        if expected is None:
            assert reader.got >= 0.9 * reader.size * 5 / STEP, "as fast as it goes"
        else:
            assert reader.got == pytest.approx(expected, rel=0.15)


def test_an_hour_ends_in_the_middle_of_a_transfer():
    reader = Reader(MACHINE)
    cap = Cap(2 * MB, (Hours(8 * 60, 18 * 60, 0.5 * MB),))
    play(LinkRules(cap), [reader], 10, minute=lambda now: 18 * 60 - 1 if now < 5 else 18 * 60)
    assert reader.got == pytest.approx(5 * 0.5 * MB + 5 * 2 * MB, rel=0.1)


@pytest.mark.parametrize(
    ("hours", "minute", "holds"),
    [
        (Hours(480, 1080, None), 480, True),
        (Hours(480, 1080, None), 1079, True),
        (Hours(480, 1080, None), 1080, False),
        (Hours(480, 1080, None), 479, False),
        (Hours(1320, 360, None), 1320, True),
        (Hours(1320, 360, None), 0, True),
        (Hours(1320, 360, None), 359, True),
        (Hours(1320, 360, None), 360, False),
        (Hours(0, 0, None), 700, True),
    ],
)
def test_hours_begin_and_end(hours, minute, holds):
    assert hours.hold(minute) is holds


def test_the_first_hours_that_hold_win():
    cap = Cap(9.0, (Hours(0, 600, 1.0), Hours(300, 900, 2.0), Hours(1000, 1100, None)))
    assert [cap.at(minute) for minute in (0, 400, 700, 950, 1050)] == [1.0, 1.0, 2.0, 9.0, None]
    assert cap.narrows
    assert not Cap(None, (Hours(0, 600, None),)).narrows
    assert Cap(None, (Hours(0, 600, 5.0),)).narrows


def test_who_leaves_the_queue_is_not_waited_for():
    ledger, rules = Ledger(), LinkRules(Cap(1000.0))
    spent = ledger.claim(Payer((MACHINE,), Urgency.UPDATE), 5000, 0.0)
    ledger.settle(rules, minute=NOON, now=0.0)
    assert spent.granted
    ledger.withdraw(spent)
    first = ledger.claim(Payer((MACHINE,), Urgency.UPDATE), 10, 0.0)
    second = ledger.claim(Payer((MACHINE,), Urgency.UPDATE), 10, 0.0)
    ledger.settle(rules, minute=NOON, now=1.0)
    assert not first.granted
    assert ledger.wait(first) == pytest.approx(4.0)
    ledger.withdraw(first)
    ledger.settle(rules, minute=NOON, now=5.1)
    assert (first.granted, second.granted) == (False, True)


def test_nobody_reads_so_much_at_once_that_others_wait_long():
    assert quantum([]) == quantum([None]) == LARGEST
    assert quantum([1 * MB, None, 0.5 * MB]) == 50_000
    assert quantum([100.0]) == SMALLEST
    assert quantum([1e9]) == LARGEST
