from __future__ import annotations

import pytest

from mirror_sync.errors import Interrupted, LeaseLost, MirrorSyncError, StateUnavailable
from mirror_sync.testing.clock import HandClock
from mirror_sync.worker.edge import REPEAT_EVERY_SECONDS, Edge
from tests.support.worker_app import Heard


def raising(error: BaseException):
    def function() -> None:
        raise error

    return function


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def edge(heard: Heard, clock: HandClock) -> Edge:
    return Edge(heard, clock=clock)  # type: ignore[arg-type]


def test_the_result_passes(edge: Edge, heard: Heard) -> None:
    assert edge.run("look", lambda: 7) == 7
    assert heard.events == []


@pytest.mark.parametrize("error", [LeaseLost(), Interrupted()])
def test_nobodys_errors_are_quiet(edge: Edge, heard: Heard, error: MirrorSyncError) -> None:
    assert edge.run("sync", raising(error)) is None
    assert [(name, fields["level"]) for name, fields in heard.events] == [("job_ended_early", "debug")]


def test_one_complaint_a_minute_and_one_recovery(edge: Edge, heard: Heard, clock: HandClock) -> None:
    for _ in range(5):
        edge.run("look", raising(StateUnavailable()))
        clock.advance(1)
    assert len(heard.named("job_failed")) == 1
    clock.advance(REPEAT_EVERY_SECONDS)
    edge.run("look", raising(StateUnavailable()))
    assert len(heard.named("job_failed")) == 2
    edge.run("look", lambda: None)
    edge.run("look", lambda: None)
    assert heard.named("job_recovered") == [{"job": "look", "after": "MS-D003"}]


def test_another_complaint_is_news(edge: Edge, heard: Heard) -> None:
    edge.run("look", raising(StateUnavailable()))
    edge.run("look", raising(ZeroDivisionError("1/0")))
    assert [name for name, _ in heard.events] == ["job_failed", "job_broke"]


def test_a_fault_of_our_own_keeps_its_traceback_and_is_handed_on(edge: Edge, heard: Heard) -> None:
    fault = ZeroDivisionError("1/0")
    handed: list[Exception] = []
    assert edge.run("sync", raising(fault), mirror="h/a", on_break=handed.append) is None
    assert heard.named("job_broke") == [{"job": "sync", "mirror": "h/a", "level": "error", "exc_info": fault}]
    assert handed == [fault]


def test_handing_on_may_fail_too(edge: Edge, heard: Heard) -> None:
    def fail(error: Exception) -> None:
        raise StateUnavailable from error

    edge.run("sync", raising(ZeroDivisionError()), on_break=fail)
    assert [name for name, _ in heard.events] == ["job_broke", "job_failed"]


def test_what_ends_the_process_passes(edge: Edge) -> None:
    with pytest.raises(SystemExit):
        edge.run("look", raising(SystemExit(3)))
