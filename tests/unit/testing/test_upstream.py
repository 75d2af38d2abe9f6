from __future__ import annotations

import hashlib
from collections import deque

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import RefSnapshot
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.upstream import Fault, ScriptedUpstream
from tests.contract.upstream_contract import MAIN, UpstreamContract


class ScriptedWorld:
    def __init__(self):
        self.clock = HandClock()
        self.upstream = ScriptedUpstream(self.clock, absent={GitOid("1" * 40)})
        self.commits = 0

    def commit(self, ref):
        self.commits += 1
        tip = GitOid(hashlib.sha1(str(self.commits).encode()).hexdigest())
        self.upstream.snapshot = RefSnapshot({**self.upstream.snapshot.tips, ref: tip}, MAIN)
        return tip

    def tag(self, name, target):
        tag = self.commit(name)
        self.upstream.peeled = {tag: target}
        return tag

    def file(self, path, data):
        commit = self.commit(MAIN)
        self.upstream.files[commit, path] = data
        return commit

    def cut_file(self, after):
        self.upstream.file_faults.append(Fault(cut_after=after))

    def offer_no_files(self):
        self.upstream.files = None
        return self.upstream

    def take_no_filters(self):
        self.upstream.filters = False
        return self.upstream

    def put(self, data):
        return self.upstream.put(data)

    def cut_next(self, pointer, after):
        self.upstream.faults[pointer.oid] = deque([Fault(cut_after=after)])


class TestScriptedUpstream(UpstreamContract):
    @pytest.fixture
    def world(self):
        return ScriptedWorld()
