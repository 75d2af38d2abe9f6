from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from mirror_sync.wake import LocalWaker
from tests.contract.waker_contract import SOON, WakerContract


class TestLocalWaker(WakerContract):
    @pytest.fixture
    def make(self, tmp_path):
        opened = []

        def open_one():
            opened.append(LocalWaker(tmp_path / "wake.sock"))
            return opened[-1]

        yield open_one
        for waker in opened:
            waker.close()

    def test_a_second_waiter_never_takes_the_first_ones_place(self, make):
        first, second, poker = make(), make(), make()
        assert not first.wait(0.01)
        assert not second.wait(0.01)
        poker.poke()
        assert not second.wait(0.05)
        assert first.wait(SOON)
        first.close()
        assert not second.wait(0.01)
        poker.poke()
        assert second.wait(SOON)


def test_what_a_killed_waiter_left_is_replaced(tmp_path):
    path = tmp_path / "wake.sock"
    program = (
        "import sys; from pathlib import Path; from mirror_sync.wake import LocalWaker\n"
        "w = LocalWaker(Path(sys.argv[1])); w.wait(0); print('waiting', flush=True); w.wait(60)"
    )
    dead = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, cwd=os.getcwd())
    assert dead.stdout.readline() == b"waiting\n"
    dead.send_signal(signal.SIGKILL)
    dead.wait()
    dead.stdout.close()
    assert path.exists()
    waiter, poker = LocalWaker(path), LocalWaker(path)
    assert not waiter.wait(0.01)
    poker.poke()
    assert waiter.wait(SOON)
    waiter.close()
    assert not path.exists()


def test_any_depth_of_directories_will_do(tmp_path):
    deep = tmp_path.joinpath(*["d" * 60] * 5)
    deep.mkdir(parents=True)
    waiter = LocalWaker(deep / "wake.sock")
    assert not waiter.wait(0.01)
    LocalWaker(deep / "wake.sock").poke()
    assert waiter.wait(SOON)
    waiter.close()


def test_without_a_directory_waiting_is_only_sleeping(tmp_path):
    waker = LocalWaker(tmp_path / "missing" / "wake.sock")
    waker.poke()
    assert not waker.wait(0.05)
    waker.close()


def test_a_foreign_file_in_its_place_is_replaced(tmp_path):
    path = tmp_path / "wake.sock"
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stale.bind(str(path))
    stale.close()
    waiter = LocalWaker(path)
    assert not waiter.wait(0.01)
    LocalWaker(path).poke()
    assert waiter.wait(SOON)
    waiter.close()
