from __future__ import annotations

import time

import pytest

from mirror_sync.state import PostgresWaker
from tests.contract.waker_contract import SOON, WakerContract
from tests.support.postgres import Database, Server, new_database


@pytest.fixture(scope="module")
def database() -> Database:
    return new_database()


class TestPostgresWaker(WakerContract):
    @pytest.fixture
    def make(self, database):
        opened = []

        def open_one():
            opened.append(PostgresWaker(database.url, password=database.password))
            return opened[-1]

        yield open_one
        for waker in opened:
            waker.close()

    def test_every_waiter_hears_a_poke(self, make):
        waiters, poker = [make(), make()], make()
        for waiter in waiters:
            assert not waiter.wait(0.01)
        poker.poke()
        assert [waiter.wait(SOON) for waiter in waiters] == [True, True]


def test_a_server_that_went_away_is_found_again():
    server = Server()
    url = server.url.render_as_string()
    waiter, poker = PostgresWaker(url), PostgresWaker(url)
    try:
        assert not waiter.wait(0.01)
        poker.poke()
        assert waiter.wait(SOON)
        server.stop()
        started = time.monotonic()
        poker.poke()
        assert not waiter.wait(0.2)
        assert not waiter.wait(0.2)
        assert time.monotonic() - started < SOON
        server.start()
        assert not waiter.wait(0.01)
        poker.poke()
        assert waiter.wait(SOON)
    finally:
        waiter.close()
        poker.close()
        server.remove()
