"""Transfers over real HTTP that keep to their caps, by a clock that moves when somebody sleeps."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import pytest

from mirror_sync.domain.budget import MACHINE, Cap, Hours, LinkRules, Payer, Urgency
from mirror_sync.domain.names import GitOid, LfsOid, parse_upstream_url
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import UpstreamStalled
from mirror_sync.ports import FetchRequest
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream import Connections, HttpUpstream
from mirror_sync.upstream.budget import local_minute
from tests.support.upstream_client import LOOPBACK, Heard

DATA = os.urandom(1_000_000)
RATE = 100_000.0


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def repo(up):
    return up.create("acme/model")


@contextlib.contextmanager
def client(repo, clock, link, *, urgency=Urgency.UPDATE, **more):
    connections = Connections(clock=clock, telemetry=Heard(), link=link)
    upstream = HttpUpstream(
        parse_upstream_url(repo.url), rule=replace(LOOPBACK, raw_url=repo.raw_url, **more), rules=lambda _: LOOPBACK,
        clock=clock, telemetry=Heard(), connections=connections, urgency=urgency,
    )  # fmt: skip
    try:
        yield upstream
    finally:
        connections.close()


def machine(rate):
    return lambda: LinkRules(Cap(rate))


def read_lfs(upstream, repo):
    oid, size = repo.lfs.put(DATA)
    (answer,) = upstream.batch([Pointer(LfsOid(oid), size)])
    body = upstream.open_object(answer.pointer, answer.action, start=0, end=size)
    return b"".join(body.chunks())


def read_pack(upstream, repo):
    tip = GitOid(repo.commit({"big": DATA}))
    pack = b"".join(upstream.fetch(FetchRequest(ObjectFormat.SHA1, [tip], [])))
    return pack if len(pack) >= len(DATA) else b""


def read_file(upstream, repo):
    commit = GitOid(repo.commit({"big": DATA}))
    return b"".join(upstream.open_blob(commit, b"big", start=0).chunks())


@pytest.mark.parametrize("read", [read_lfs, read_pack, read_file])
def test_whatever_is_transferred_is_paid_for(repo, clock, read):
    with client(repo, clock, machine(RATE)) as upstream:
        assert len(read(upstream, repo)) >= len(DATA)
    assert sum(clock.slept) == pytest.approx(len(DATA) / RATE, rel=0.1)


def test_short_questions_are_not(repo, clock):
    for number in range(50):
        repo.commit({"n": str(number)}, branch=f"b{number}")
    with client(repo, clock, machine(10.0)) as upstream:
        upstream.observe(["refs/heads/*"])
        upstream.batch([Pointer(LfsOid("a" * 64), 5)])
    assert clock.slept == []


def test_waiting_for_the_cap_is_no_stall(repo, clock):
    """Slower than the lowest rate that passes for alive, and by our own will."""
    with client(repo, clock, machine(500.0), stall_timeout=5.0) as upstream:
        body = read_lfs(upstream, repo)
    assert body == DATA
    assert sum(clock.slept) > 1000


def test_a_server_that_trickles_is_one_still(up, repo):
    from mirror_sync.clock import SystemClock

    up.fault("GET /-/lfs", drip=(10, 0.02))
    with client(repo, SystemClock(), machine(1e9), stall_timeout=0.3) as upstream, pytest.raises(UpstreamStalled):
        read_lfs(upstream, repo)


def test_the_cap_of_a_host_holds_for_what_it_leads_to_elsewhere(up, other, repo, clock):
    repo.lfs.href_origin = other.origin
    oid, size = other.create("acme/model").lfs.put(DATA)
    repo.lfs.put(DATA)
    (own, elsewhere) = (server.origin.removeprefix("http://") for server in (up, other))
    for hosts, seconds in (
        ({own: Cap(RATE)}, 10.0),
        ({elsewhere: Cap(2 * RATE)}, 5.0),
        ({own: Cap(2 * RATE), elsewhere: Cap(RATE)}, 10.0),
        ({"third.example": Cap(1000.0)}, 0.0),
    ):
        clock.slept.clear()
        with client(repo, clock, lambda hosts=hosts: LinkRules(hosts=hosts)) as upstream:
            (answer,) = upstream.batch([Pointer(LfsOid(oid), size)])
            body = upstream.open_object(answer.pointer, answer.action, start=0, end=size)
            assert b"".join(body.chunks()) == DATA
        assert sum(clock.slept) == pytest.approx(seconds, rel=0.1)


def test_new_rules_reach_a_transfer_that_runs(repo, clock):
    rules = [LinkRules(Cap(RATE))]

    def loosen(_seconds):
        if clock.monotonic() >= 5.0:
            rules[0] = LinkRules(Cap(5 * RATE))

    clock.on_sleep = loosen
    with client(repo, clock, lambda: rules[0]) as upstream:
        assert read_lfs(upstream, repo) == DATA
    assert sum(clock.slept) == pytest.approx(5 + 1, abs=1.2)


def test_an_hour_that_ends_reaches_a_transfer_that_runs(repo):
    """Whatever the machine's time zone is, the hours are those of its wall clock."""
    clock = HandClock(now=1_700_000_000.0 - 1_700_000_000.0 % 60 + 55)
    next_minute = local_minute(clock.now() + 60)
    hours = Hours(next_minute, (next_minute + 600) % 1440, None)
    with client(repo, clock, lambda: LinkRules(Cap(RATE, (hours,)))) as upstream:
        assert read_lfs(upstream, repo) == DATA
    assert sum(clock.slept) == pytest.approx(5.0, abs=1.2)


def test_a_fill_yields_to_an_update(repo, clock):
    """Between two reads of the update the fill gets nothing; alone it gets everything."""
    link = machine(RATE)
    connections = Connections(clock=clock, telemetry=Heard(), link=link)
    ledger = connections.budget._ledger
    upstream = HttpUpstream(
        parse_upstream_url(repo.url), rule=LOOPBACK, clock=clock, telemetry=Heard(), connections=connections,
        urgency=Urgency.FILL,
    )  # fmt: skip
    try:
        assert len(read_lfs(upstream, repo)) == len(DATA)
        alone = sum(clock.slept)
        clock.slept.clear()
        wanted = [2 * len(DATA)]

        def update(_seconds):
            if wanted[0] > 0:
                ledger.claim(Payer((MACHINE,), Urgency.UPDATE), 25_000, clock.monotonic())
                wanted[0] -= 25_000

        clock.on_sleep = update
        assert len(read_lfs(upstream, repo)) == len(DATA)
    finally:
        connections.close()
    assert alone == pytest.approx(10, rel=0.1)
    assert sum(clock.slept) >= 10 + 15, "most of the update's twenty seconds came first"
