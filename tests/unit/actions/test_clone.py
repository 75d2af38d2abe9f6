"""How long a clone goes on trying."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mirror_sync.actions import clone
from mirror_sync.actions.clone import PATIENCE, CloneWorld, Waiting, _Job, _persist
from mirror_sync.domain.names import MirrorName
from mirror_sync.errors import (
    Interrupted,
    MirrorSyncError,
    RateLimited,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamLacks,
    UpstreamUnavailable,
)
from mirror_sync.ports import CloneOrder
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.telemetry import ListedTelemetry


def job(clock: HandClock) -> _Job:
    nothing: Any = None
    world = CloneWorld(
        place=nothing,
        open_upstream=nothing,
        open_lfs=nothing,
        open_objects=nothing,
        credentials=None,
        clock=clock,
        parallel=nothing,
        telemetry=ListedTelemetry(),
    )
    return _Job(
        CloneOrder("https://git.test/a"),
        MirrorName("git.test/a"),
        world,
        threading.Event(),
        lambda _: None,
        lambda _: None,
    )


class Step:
    """Fails as told, one after the other, then succeeds; bytes come before each failure when ``moving``."""

    def __init__(self, *errors: MirrorSyncError, moving: bool = False) -> None:
        self.errors = list(errors)
        self.moving = moving
        self.calls = 0

    def __call__(self, job: _Job) -> str:
        self.calls += 1
        job.received += self.moving
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def test_a_link_that_fails_is_tried_again_with_growing_waits() -> None:
    clock = HandClock()
    began, step = clock.monotonic(), Step(UpstreamUnavailable(), UpstreamUnavailable(), UpstreamUnavailable())
    assert _persist(job(clock), step, host="git.test") == "done"
    waited = clock.monotonic() - began
    assert step.calls == 4
    assert waited >= 3 * clone.FIRST_WAIT


def test_each_try_is_told_of_with_how_many_there_are() -> None:
    told: list[Any] = []
    it = job(HandClock())
    it.waits = it.say = told.append
    step = Step(UpstreamUnavailable("git.test is silent"))
    assert _persist(it, step, host="git.test", patience=3) == "done"
    assert told == [
        Waiting("git.test", 1, 3, 60.0),
        "git.test is silent; trying again in 2 s (try 2 of 3)",
        None,
        Waiting("git.test", 2, 3, 60.0),
        None,
    ]


def test_it_ends_when_nothing_comes_any_more_and_says_how_to_go_on() -> None:
    step = Step(*[UpstreamUnavailable("down") for _ in range(50)])
    with pytest.raises(UpstreamUnavailable) as caught:
        _persist(job(HandClock()), step, host="git.test")
    assert step.calls == PATIENCE
    assert caught.value.remedy == clone.RUN_AGAIN


def test_as_long_as_bytes_come_it_never_ends() -> None:
    step = Step(*[UpstreamUnavailable("cut") for _ in range(50)], moving=True)
    assert _persist(job(HandClock()), step, host="git.test") == "done"


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (UpstreamInvalid("strange"), clone.WRONG_ANSWERS),
        (UpstreamInvalid("moved", code="MS-U302"), 1),
        (UpstreamUnavailable("untrusted", code="MS-U495"), 1),
        (UpstreamLacks("rewritten"), 1),
        (UpstreamGone("gone"), 1),
    ],
)
def test_what_stays_as_it_is_is_not_asked_again_and_again(error: MirrorSyncError, calls: int) -> None:
    step = Step(*[error] * 20)
    with pytest.raises(type(error)):
        _persist(job(HandClock()), step, host="git.test")
    assert step.calls == calls


def test_upstream_s_wish_to_wait_is_followed_within_reason() -> None:
    clock = HandClock()
    step = Step(RateLimited(until=clock.now() + 90))
    began = clock.now()
    assert _persist(job(clock), step, host="git.test") == "done"
    assert clock.now() - began >= 90
    with pytest.raises(RateLimited):
        _persist(job(clock), Step(RateLimited(until=clock.now() + clone.WORTH_WAITING + 60)), host="git.test")


def test_a_stop_ends_the_waiting() -> None:
    it = job(HandClock())
    it.stop.set()
    with pytest.raises(Interrupted):
        _persist(it, Step(UpstreamUnavailable()), host="git.test")


def test_of_many_things_the_first_are_named_and_the_others_counted() -> None:
    lines = [str(number) for number in range(clone.NAMED + 3)]
    assert clone._some(lines, "refs") == [*lines[: clone.NAMED], "and 3 more refs"]
    assert clone._some(lines[:2], "refs") == lines[:2]
