"""One transfer of LFS objects by our code, in a process that may be killed: python -m benchmarks.lfs_carrier N URL STORE OID:SIZE...

``N`` is the most connections.  With ``@FILE`` in place of pointers they are read from a
file, one on each line.  Goes on with what is in the store, and prints a line of JSON: seconds of the transfer alone, bytes,
how many arrived.  Exits 0 when all of them did.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from mirror_sync.actions.transfer import TransferLimits, TransferReport, transfer
from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import LfsOid, parse_upstream_url
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import RateLimited
from mirror_sync.lfs_store import FileObjectStore
from mirror_sync.testing.telemetry import ListedTelemetry
from mirror_sync.threads import ThreadParallel
from mirror_sync.upstream import Access
from tests.support.upstream_client import client

TRIES = 100


def carry(url: str, store: Path, wanted: Sequence[Pointer], *, connections: int, stall: float = 20.0) -> TransferReport:
    """Run one transfer into a store."""
    clock = SystemClock()
    rule = Access(allow_http=True, allow_private=True, stall_timeout=stall, concurrency=connections)
    with client(url, rule=rule) as upstream:
        return transfer(
            wanted,
            mirror=parse_upstream_url(url).name,
            sources=[upstream],
            objects=FileObjectStore(store, reserve_bytes=0, clock=clock),
            parallel=ThreadParallel(),
            clock=clock,
            telemetry=ListedTelemetry(),
            limits=TransferLimits(connections=connections),
            stop=threading.Event(),
            report=lambda _: None,
        )


def pointers(words: Sequence[str]) -> list[Pointer]:
    """Read ``OID:SIZE`` words."""
    if words[0].startswith("@"):
        words = Path(words[0][1:]).read_text().split()
    return [Pointer(LfsOid(oid), int(size)) for oid, _, size in (word.partition(":") for word in words)]


def main() -> int:
    most, url, store, *words = sys.argv[1:]
    wanted, clock = pointers(words), SystemClock()
    began, fetched = time.perf_counter(), 0
    for _ in range(TRIES):
        report = carry(url, Path(store), wanted, connections=int(most))
        fetched += report.bytes_fetched
        if len(report.arrived) == len(wanted):
            break
        if isinstance(report.error, RateLimited):
            clock.sleep(max(0.0, report.error.until - clock.now()))
        print(report.error, list(report.failed.items())[:3], list(report.known_missing.items())[:3], flush=True)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "bytes": fetched, "arrived": len(report.arrived)}), flush=True)
    return 0 if len(report.arrived) == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
