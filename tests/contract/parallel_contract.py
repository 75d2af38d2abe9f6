"""What every Parallel promises."""

from __future__ import annotations

import pytest

from mirror_sync.errors import Interrupted
from mirror_sync.ports import Parallel


class ParallelContract:
    @pytest.fixture
    def parallel(self) -> Parallel:
        raise NotImplementedError

    def test_every_item_is_answered_once(self, parallel):
        assert sorted(parallel.each(lambda item: item * 2, range(50), limit=4)) == [(n, n * 2) for n in range(50)]

    def test_no_items_no_answers(self, parallel):
        assert list(parallel.each(str, [], limit=3)) == []

    def test_our_errors_are_answers(self, parallel):
        def function(item: int) -> int:
            if item == 1:
                raise Interrupted
            return item

        answers = dict(parallel.each(function, range(3), limit=2))
        assert answers[0] == 0
        assert answers[2] == 2
        assert isinstance(answers[1], Interrupted)

    def test_any_other_exception_is_raised(self, parallel):
        with pytest.raises(ZeroDivisionError):
            list(parallel.each(lambda item: 1 // item, [1, 0], limit=2))

    def test_items_are_taken_when_a_place_is_free(self, parallel):
        taken = []

        def items():
            for number in range(10):
                taken.append(number)
                yield number

        answers = parallel.each(lambda item: item, items(), limit=2)
        next(answers)
        assert len(taken) <= 3
        answers.close()
