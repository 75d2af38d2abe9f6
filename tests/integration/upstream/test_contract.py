"""The contract of Upstream, kept by the real one against a real server."""

from __future__ import annotations

import itertools

import pytest

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import Pointer
from tests.contract.upstream_contract import UpstreamContract
from tests.support.upstream_client import client


class HttpWorld:
    def __init__(self, up, repo, upstream):
        self.up = up
        self.repo = repo
        self.upstream = upstream
        self.clock = SystemClock()
        self.counter = itertools.count()

    def commit(self, ref):
        return GitOid(self.repo.commit({"n": str(next(self.counter))}, branch=ref))

    def put(self, data):
        oid, size = self.repo.lfs.put(data)
        return Pointer(LfsOid(oid), size)

    def cut_next(self, pointer, after):
        self.up.fault(pointer.oid, cut_after=after)


class TestHttpUpstream(UpstreamContract):
    @pytest.fixture
    def world(self, up):
        repo = up.create("acme/model")
        with client(repo.url) as upstream:
            yield HttpWorld(up, repo, upstream)
