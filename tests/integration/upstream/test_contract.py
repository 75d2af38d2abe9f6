"""The contract of Upstream, kept by the real one against a real server."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import pytest

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import GitOid, LfsOid
from mirror_sync.domain.pointers import Pointer
from tests.contract.upstream_contract import UpstreamContract
from tests.support.upstream_client import LOOPBACK, client


class HttpWorld:
    def __init__(self, up, repo, upstream, more):
        self.more = more
        self.up = up
        self.repo = repo
        self.upstream = upstream
        self.clock = SystemClock()
        self.counter = itertools.count()

    def commit(self, ref):
        return GitOid(self.repo.commit({"n": str(next(self.counter))}, branch=ref))

    def tag(self, name, target):
        return GitOid(self.repo.tag(name.removeprefix("refs/tags/"), target=target, message="one"))

    def file(self, path, data):
        blob = self.repo.git("hash-object", "-w", "--stdin", data=data)
        for part in reversed(path.split(b"/")):
            mode, kind = ("100644", "blob") if part == path.split(b"/")[-1] else ("040000", "tree")
            blob = self.repo.git("mktree", "-z", data=f"{mode} {kind} {blob}\t".encode() + part + b"\0")
        return GitOid(self.repo.git("commit-tree", blob, "-m", "file"))

    def cut_file(self, after):
        self.up.fault("/-/raw/", cut_after=after)

    def offer_no_files(self):
        return self.more.enter_context(client(self.repo.url, rule=replace(LOOPBACK, raw_url="none")))

    def take_no_filters(self):
        self.repo.filters = False
        return self.more.enter_context(client(self.repo.url))

    def put(self, data):
        oid, size = self.repo.lfs.put(data)
        return Pointer(LfsOid(oid), size)

    def cut_next(self, pointer, after):
        self.up.fault(pointer.oid, cut_after=after)


class TestHttpUpstream(UpstreamContract):
    @pytest.fixture
    def world(self, up):
        repo = up.create("acme/model")
        with contextlib.ExitStack() as more, client(repo.url, rule=replace(LOOPBACK, raw_url=repo.raw_url)) as upstream:
            yield HttpWorld(up, repo, upstream, more)
