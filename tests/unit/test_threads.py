from __future__ import annotations

import contextvars
import threading

import pytest

from mirror_sync.errors import UsageError
from mirror_sync.testing.parallel import OneByOne
from mirror_sync.threads import ThreadParallel
from tests.contract.parallel_contract import ParallelContract


class TestThreadParallel(ParallelContract):
    @pytest.fixture
    def parallel(self):
        return ThreadParallel()

    def test_as_many_as_the_limit_run_at_once_and_no_more(self, parallel):
        together = threading.Barrier(4, timeout=10)
        running, most, guard = 0, 0, threading.Lock()

        def function(_item):
            nonlocal running, most
            with guard:
                running += 1
                most = max(most, running)
            together.wait()
            with guard:
                running -= 1

        assert len(list(parallel.each(function, range(16), limit=4))) == 16
        assert most == 4

    def test_the_callers_context_is_seen(self, parallel):
        variable = contextvars.ContextVar("variable", default="nobody")
        variable.set("caller")
        assert [answer for _, answer in parallel.each(lambda _: variable.get(), range(3), limit=2)] == ["caller"] * 3

    def test_what_one_call_sets_no_other_sees(self, parallel):
        variable = contextvars.ContextVar("variable", default=0)

        def function(item):
            before = variable.get()
            variable.set(item)
            return before

        assert {answer for _, answer in parallel.each(function, range(1, 20), limit=1)} == {0}

    def test_a_foreign_exception_waits_for_the_running_ones(self, parallel):
        started, ended = threading.Event(), threading.Event()

        def function(item):
            if item == "slow":
                started.set()
                threading.Event().wait(0.2)
                ended.set()
                return
            started.wait(10)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(parallel.each(function, ["slow", "bad"], limit=2))
        assert ended.is_set()

    def test_failing_items_wait_for_the_running_ones(self, parallel):
        ended = threading.Event()

        def items():
            yield 1
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(parallel.each(lambda _: (threading.Event().wait(0.1), ended.set()), items(), limit=2))
        assert ended.is_set()

    def test_none_at_once_is_refused(self, parallel):
        with pytest.raises(UsageError):
            next(parallel.each(str, [1], limit=0))


class TestOneByOne(ParallelContract):
    @pytest.fixture
    def parallel(self):
        return OneByOne()
