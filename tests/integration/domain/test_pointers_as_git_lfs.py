"""The pointer grammar against git-lfs itself, blob by blob and in bulk."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mirror_sync.domain.pointers import MAX_POINTER_BYTES, Pointer, parse_pointer
from tests.support.pointers import nearly_pointers
from tests.support.tools import require
from tests.unit.domain.test_pointers import ACCEPTED, REJECTED


def git_lfs_takes(data: bytes) -> bool:
    """Tell whether git-lfs takes ``data`` for a pointer."""
    command = [require("git-lfs"), "pointer", "--check", "--stdin"]
    return subprocess.run(command, input=data, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("name", [*ACCEPTED, *(name for name in REJECTED if name not in {"nothing", "1,024 bytes"})])
def test_the_table_is_git_lfs_own(name: str) -> None:
    assert git_lfs_takes((ACCEPTED | REJECTED)[name]) is (name in ACCEPTED)


@given(nearly_pointers().filter(lambda data: 0 < len(data) <= MAX_POINTER_BYTES))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@seed(1)
def test_decides_as_git_lfs(data: bytes) -> None:
    assert (parse_pointer(data) is not None) is git_lfs_takes(data)


def listed_by_git_lfs(blobs: list[bytes], repository: Path) -> dict[int, Pointer]:
    """Return what ``git lfs ls-files`` reads from a commit holding ``blobs``, by their number."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(repository)], check=True)
    stream = [b"commit refs/heads/main\ncommitter C <c@example.org> 1700000000 +0000\ndata 0\n"]
    for number, blob in enumerate(blobs):
        stream.append(b"M 100644 inline %d\ndata %d\n%s\n" % (number, len(blob), blob))
    subprocess.run(
        ["git", "-C", str(repository), "fast-import", "--quiet"], input=b"".join(stream), check=True, timeout=600
    )
    listing = subprocess.run(
        [require("git-lfs"), "ls-files", "--debug", "main"],
        cwd=repository, check=True, capture_output=True, timeout=600,
    ).stdout  # fmt: skip
    found: dict[int, Pointer] = {}
    for record in listing.decode().split("\n\n"):
        fields = dict(re.findall(r"^\s*(filepath|size|oid): (.*)$", record, re.MULTILINE))
        if fields:
            oid = fields["oid"].split()[-1].removeprefix("sha256:")
            found[int(fields["filepath"])] = Pointer(oid, int(fields["size"]))
    return found


def differing(blobs: list[bytes], repository: Path) -> list[tuple[bytes, Pointer | None, Pointer | None]]:
    """Return each blob that git-lfs and we read differently, with both readings.

    git-lfs lists nothing of size 0: there is nothing to ask a server for.
    """
    theirs = listed_by_git_lfs(blobs, repository)
    pairs = [(blob, parse_pointer(blob), theirs.get(number)) for number, blob in enumerate(blobs)]
    return [(blob, ours, other) for blob, ours, other in pairs if ours != other and (ours is None or ours.size > 0)]


def drawn(count: int) -> list[bytes]:
    """Return ``count`` near-pointers, always the same ones."""
    blobs: list[bytes] = []

    @given(st.lists(nearly_pointers(), min_size=20, max_size=20))
    @settings(max_examples=count // 20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @seed(2)
    def collect(batch: list[bytes]) -> None:
        blobs.extend(batch)

    collect()
    return blobs


def mutated(count: int) -> list[bytes]:
    """Return ``count`` accepted pointers with one or two random bytes changed, dropped or added."""
    chance = random.Random(3)
    accepted = list(ACCEPTED.values())
    blobs = []
    for _ in range(count):
        data = bytearray(chance.choice(accepted))
        for _ in range(chance.randint(1, 2)):
            at = chance.randrange(len(data))
            byte = chance.choice(b"\0\t\n\v\f\r +-019aAfFgz:x\x80\x85\xa0\xc2\xe3\xff")
            kind = chance.randrange(3)
            data[at : at + (kind != 2)] = bytes([byte]) if kind else b""
        blobs.append(bytes(data))
    return blobs


def test_reads_oid_and_size_as_git_lfs(tmp_path: Path) -> None:
    blobs = [*ACCEPTED.values(), *REJECTED.values(), *drawn(600), *mutated(5000)]
    assert sum(parse_pointer(blob) is not None for blob in blobs) > 300
    assert differing(blobs, tmp_path / "repository.git") == []


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_never_disagrees_with_git_lfs(tmp_path: Path) -> None:
    blobs = [*drawn(20_000), *mutated(500_000)]
    for start in range(0, len(blobs), 100_000):
        assert differing(blobs[start : start + 100_000], tmp_path / f"{start}.git") == []
