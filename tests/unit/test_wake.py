"""Wake-ups between processes of one host."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mirror_sync.wake import LocalWaker


@pytest.fixture(params=["short", "l" * 60 + "/" + "o" * 60])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / str(request.param) / "worker.sock"


def test_poke_wakes_the_waiter_once_however_often_it_came(path: Path) -> None:
    waiter, poker = LocalWaker(path), LocalWaker(path)
    assert not waiter.wait(0.0)
    for _ in range(50):
        poker.poke()
    assert waiter.wait(1.0)
    assert not waiter.wait(0.0)
    waiter.close()


def test_poke_without_a_waiter_or_with_a_dead_ones_socket_does_nothing(path: Path) -> None:
    poker = LocalWaker(path)
    poker.poke()
    dead = LocalWaker(path)
    dead.wait(0.0)
    assert dead._listener is not None
    dead._listener.close()
    poker.poke()
    again = LocalWaker(path)
    assert not again.wait(0.0)
    poker.poke()
    assert again.wait(1.0)
    again.close()


def test_thousand_pokes_never_block(path: Path) -> None:
    waiter, poker = LocalWaker(path), LocalWaker(path)
    waiter.wait(0.0)
    for _ in range(1000):
        poker.poke()
    assert waiter.wait(1.0)
    waiter.close()


def test_another_process_wakes_a_waiting_thread(path: Path) -> None:
    waiter = LocalWaker(path)
    waiter.wait(0.0)
    woken = threading.Event()
    thread = threading.Thread(target=lambda: woken.set() if waiter.wait(30.0) else None)
    thread.start()
    code = f"from pathlib import Path; from mirror_sync.wake import LocalWaker; LocalWaker(Path({str(path)!r})).poke()"
    subprocess.run([sys.executable, "-c", code], check=True)
    thread.join(30)
    assert woken.is_set()
    waiter.close()
