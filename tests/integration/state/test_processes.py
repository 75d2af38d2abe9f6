"""What holds between processes: killed, stopped, and many at once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from mirror_sync.clock import SystemClock
from mirror_sync.domain.runs import Delivery, Outcome, RunReport
from mirror_sync.errors import LeaseLost, SchemaOutdated, StateUnavailable
from mirror_sync.ports import MirrorFilter
from mirror_sync.state import SqlState, upgrade
from tests.support.postgres import Server, new_database
from tests.support.state_processes import CHECKOUT, Program, new_mirror, open_state


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        url = str(tmp_path / "state.db")
        upgrade(url)
        return url
    database = new_database()
    if database.secret is not None:
        pytest.skip("impossible here: the programs get no password of TEST_POSTGRES_URL")
    upgrade(database.url)
    return database.url


@pytest.fixture
def state(url) -> SqlState:
    state = open_state(url)
    yield state
    state.close()


def test_processes_claim_each_mirror_once(state, url):
    ids = {state.enrol(new_mirror(n))[0].id for n in range(200)}
    with ExitStack() as stack:
        programs = [stack.enter_context(Program("claim", url, f"w{n}")) for n in range(4)]
        assert {program.hear() for program in programs} == {"ready"}
        for program in programs:
            program.tell("go")
        taken = [int(number) for program in programs for number in program.hear().split()]
    assert len(taken) == 200
    assert set(taken) == ids


def test_a_stopped_owner_cannot_publish_late(state, url):
    mirror, _ = state.enrol(new_mirror(1))
    with Program("own", url, 1.5) as owner:
        assert owner.hear().startswith(f"claimed {mirror.id}")
        owner.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 20
        while (lease := state.claim("taker", lease_seconds=60.0)) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = state.mirror_by_id(mirror.id)
        owner.tell("go on")
        owner.process.send_signal(signal.SIGCONT)
        assert owner.hear() == "refused 4"
    assert state.mirror_by_id(mirror.id) == before
    assert state.open_intent(mirror.id) is None
    state.confirm(lease)


def test_an_accepted_delivery_survives_kill(state, url):
    state.enrol(new_mirror(1))
    with Program("deliver", url, 0) as program:
        accepted = [program.hear() for _ in range(50)]
        program.process.send_signal(signal.SIGKILL)
        program.process.wait()
        accepted += program.process.stdout.read().split()
    stored = {delivery.delivery_id for delivery in state.deliveries(limit=100_000)}
    assert stored >= set(accepted)
    assert state.claim("w", lease_seconds=60.0) is not None
    with Program("deliver", url, len(accepted)) as program:
        assert {program.hear() for _ in accepted} == {"known"}


def test_the_databases_clock_decides_on_postgres():
    database = new_database()
    upgrade(database.url, password=database.password)

    class Fast(SystemClock):
        def now(self) -> float:
            return super().now() + 86_400

    state = SqlState(database.url, clock=SystemClock(), password=database.password)
    ahead = SqlState(database.url, clock=Fast(), password=database.password)
    state.enrol(new_mirror(1))
    lease = state.claim("w", lease_seconds=60.0)
    assert abs(lease.until - time.time() - 60.0) < 5
    assert ahead.claim("other", lease_seconds=60.0) is None
    state.confirm(lease)
    ahead.renew(lease, lease_seconds=0.2)
    time.sleep(0.4)
    with pytest.raises(LeaseLost):
        state.confirm(lease)
    state.close()
    ahead.close()


# ---------------------------------------------------------------- databases that do not answer


def test_a_locked_database_is_unavailable_in_time(tmp_path):
    path = str(tmp_path / "state.db")
    upgrade(path)
    state = SqlState(path, clock=SystemClock(), timeout=0.5)
    state.enrol(new_mirror(1))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(StateUnavailable) as caught:
        state.accept_delivery(Delivery("github", "1", "push", 1.0))
    assert time.monotonic() - started < 5
    assert "locked" in caught.value.why
    assert state.mirrors(MirrorFilter()).items, "readers go on"
    other.execute("ROLLBACK")
    other.close()
    assert state.accept_delivery(Delivery("github", "1", "push", 1.0))
    state.close()


def test_own_threads_queue_for_the_database(tmp_path):
    path = str(tmp_path / "state.db")
    upgrade(path)
    state = SqlState(path, clock=SystemClock(), timeout=0.3)
    held, free = threading.Event(), threading.Event()

    def hold():
        with state._write():
            held.set()
            free.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    with pytest.raises(StateUnavailable):
        state.beat("w")
    free.set()
    thread.join()
    state.beat("w")
    state.close()


def test_a_server_that_went_away_is_unavailable_then_back():
    server = Server()
    url = server.url.render_as_string()
    try:
        upgrade(url)
        state = SqlState(url, clock=SystemClock(), timeout=2.0)
        state.enrol(new_mirror(1))
        lease = state.claim("w", lease_seconds=60.0)
        server.stop()
        for call in (
            lambda: state.confirm(lease),
            lambda: state.mirrors(MirrorFilter()),
            lambda: state.accept_delivery(Delivery("github", "1", "push", 1.0)),
            state.check,
        ):
            with pytest.raises(StateUnavailable):
                call()
        server.start()
        state.confirm(lease)
        assert state.accept_delivery(Delivery("github", "1", "push", 1.0))
        state.close()
    finally:
        server.remove()


def test_a_damaged_file_is_told(tmp_path):
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database, however long it is" * 1000)
    state = SqlState(str(path), clock=SystemClock())
    with pytest.raises(StateUnavailable) as caught:
        state.check()
    assert caught.value.code == "MS-D004"
    state.close()


def test_a_missing_file_is_not_made(tmp_path):
    path = tmp_path / "state.db"
    state = SqlState(str(path), clock=SystemClock())
    with pytest.raises(SchemaOutdated) as caught:
        state.totals()
    assert "db upgrade" in caught.value.remedy
    assert not path.exists()


def test_a_full_disk_is_unavailable_and_damages_nothing(tmp_path):
    path = str(tmp_path / "state.db")
    upgrade(path)
    limit = (tmp_path / "state.db").stat().st_size + 400_000
    program = (
        "import sys, signal, resource\n"
        "from tests.support.state_processes import open_state, new_mirror\n"
        "from mirror_sync.errors import StateUnavailable\n"
        "from mirror_sync.domain.runs import Delivery\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "state = open_state(sys.argv[1]); state.enrol(new_mirror(1)); n = 0\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try:\n"
        "    while True:\n"
        "        state.accept_delivery(Delivery('github', f'{n}', 'push' * 900, 1.0, clone_url='x' * 9000)); n += 1\n"
        "except StateUnavailable as error:\n"
        "    print(n, error.code, error.why)\n"
        "    print(len(state.deliveries(limit=10**6)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, cwd=CHECKOUT, check=True
    )
    accepted, code, *_ = done.stdout.split()
    assert code == "MS-D003"
    assert int(accepted) > 3
    assert done.stdout.split()[-1] == accepted
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == (int(accepted),)
    state = open_state(path)
    assert state.accept_delivery(Delivery("github", "new", "push", 1.0))
    state.close()


def test_threads_lose_no_update(state):
    """Many pollers, deliveries and arrivals at once: counts and due times stay right."""
    mirror, _ = state.enrol(new_mirror(1))

    def work(n):
        for k in range(15):
            clone_url = f"https://{mirror.name}"
            state.accept_delivery(Delivery("github", f"{n}-{k}", "push", time.time(), clone_url=clone_url))
            lease = state.claim(f"w{n}", lease_seconds=60.0)
            if lease is not None:
                now = time.time()
                state.finish(lease, RunReport(Outcome.FAILED, now, now, now + 60, observed_at=now, fetched_bytes=1))
            state.beat(f"w{n}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    counters = state.counters()
    runs = state.runs(mirror.id, limit=1000)
    assert counters["deliveries", "push"] == 120
    assert counters["runs", "failed"] == len(runs) == counters["fetched_bytes", "git"]
    assert state.mirror_by_id(mirror.id).failures == len(runs)
