"""An LFS server that nobody here wrote: giftless."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mirror_sync.domain.names import LfsOid, RefName
from mirror_sync.domain.pointers import Pointer
from tests.support.giftless_upstream import giftless_upstream
from tests.support.upstream_client import client


def test_objects_come_from_giftless(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    with giftless_upstream(tmp_path / "up") as up, client(f"{up.origin}/acme/model") as upstream:
        repo = up.create("acme/model")
        repo.commit({}, lfs={"weights.bin": data, "small.bin": b"s"})
        oid = LfsOid(hashlib.sha256(data).hexdigest())
        wanted = [Pointer(oid, len(data)), Pointer(LfsOid("0" * 64), 5), Pointer(oid, 1)]
        for ref in (None, RefName("refs/heads/main")):
            whole, missing, wrong = upstream.batch(wanted, ref=ref)
            assert whole.action is not None
            assert whole.action.expires_at is not None
            body = upstream.open_object(whole.pointer, whole.action, start=0, end=len(data))
            assert b"".join(body.chunks()) == data
            assert (missing.action, missing.error_code) == (None, 404)
            assert wrong.action is None
        part = upstream.open_object(whole.pointer, whole.action, start=1000, end=2000)
        assert part.start == 0, "giftless ignores Range"
        assert b"".join(part.chunks())[1000:2000] == data[1000:2000]
