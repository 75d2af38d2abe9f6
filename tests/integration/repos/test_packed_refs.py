from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain.names import GitOid, RefName, ref_bytes, ref_from_bytes, refname_fault
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos.packed_refs import (
    HEADER,
    PackedRefs,
    RefLines,
    parse_packed_refs,
    sorted_names,
    split_own,
)

A, B, C = (GitOid(letter * 40) for letter in "abc")

names = (
    st.binary(min_size=1, max_size=12)
    .map(lambda raw: ref_from_bytes(b"refs/heads/" + raw))
    .filter(lambda name: refname_fault(name) is None)
)
oids = st.sampled_from([A, B, C])


@given(st.dictionaries(names, oids, max_size=30), st.dictionaries(oids, oids))
def test_what_is_written_is_read_again(tips, peeled):
    data = RefLines(tips, peeled).packed()
    found = parse_packed_refs(data)
    assert found.tips == tips
    assert found.peeled == {oid: target for oid, target in peeled.items() if oid in set(tips.values())}
    assert list(found.tips) == sorted(tips, key=ref_bytes)


@given(st.lists(names))
def test_order_is_that_of_bytes(found):
    assert sorted_names(found) == sorted(found, key=ref_bytes)


@given(st.dictionaries(names, oids, max_size=20), st.dictionaries(st.integers(0, 99), oids, max_size=5))
def test_own_refs_are_told_from_a_view_by_comparing(tips, numbers):
    own = {RefName(f"refs/mirror-sync/kept/{number}/refs/heads/x"): oid for number, oid in numbers.items()}
    lines = RefLines(tips, {A: B})
    split = split_own(lines.packed(own), lines.packed())
    assert split is not None
    assert parse_packed_refs(HEADER.encode() + split).tips == own


@given(st.dictionaries(names, oids, max_size=8), st.dictionaries(names, oids, max_size=8))
def test_another_view_is_never_taken_for_this_one(tips, others):
    own = {RefName("refs/mirror-sync/kept/1/refs/heads/x"): C}
    split = split_own(RefLines(tips, {}).packed(own), RefLines(others, {}).packed())
    assert (split is not None) == (tips == others)


def test_own_refs_lie_between_heads_and_tags():
    tips = {RefName("refs/heads/main"): A, RefName("refs/tags/v1"): B, RefName("refs/notes/x"): C}
    own = {RefName("refs/mirror-sync/kept/1/refs/heads/main"): C}
    data = RefLines(tips, {B: A}).packed(own).decode()
    assert data == (
        f"{HEADER}{A} refs/heads/main\n{C} refs/mirror-sync/kept/1/refs/heads/main\n"
        f"{C} refs/notes/x\n{B} refs/tags/v1\n^{A}\n"
    )
    assert parse_packed_refs(data.encode()).published() == tips


def test_nothing_is_a_file_too():
    assert RefLines({}, {}).packed() == HEADER.encode()
    assert parse_packed_refs(HEADER.encode()) == PackedRefs()


def test_sha256_ids():
    tip, target = GitOid("d" * 64), GitOid("e" * 64)
    data = RefLines({RefName("refs/tags/v1"): tip}, {tip: target}).packed()
    assert parse_packed_refs(data) == PackedRefs({RefName("refs/tags/v1"): tip}, {tip: target})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"# pack-refs with: peeled\n",
        HEADER.encode() + f"{A} refs/heads/main".encode(),
        HEADER.encode() + f"{A} refs/heads/main\n\n".encode(),
        HEADER.encode() + f"{A[:-1]} refs/heads/main\n".encode(),
        HEADER.encode() + f"{A} refs/heads/ma in\n".encode(),
        HEADER.encode() + b"x\n",
    ],
)
def test_damage_is_noticed(data):
    with pytest.raises(RepositoryDamaged):
        parse_packed_refs(data)


@given(st.dictionaries(names, st.just(""), min_size=1, max_size=25))
def test_git_reads_it_as_meant(tips):
    """Git finds each ref by binary search: one name out of order and it would not be found."""
    repository = _repository()
    wanted = dict.fromkeys(tips, repository.oid)
    wanted = {name: oid for name, oid in wanted.items() if not any(other.startswith(f"{name}/") for other in wanted)}
    (repository.path / "packed-refs").write_bytes(RefLines(wanted, {}).packed())
    out = subprocess.run(
        ["git", f"--git-dir={repository.path}", "for-each-ref", "--format=%(refname)"], capture_output=True, check=True
    ).stdout
    assert out.split(b"\n")[:-1] == sorted(map(ref_bytes, wanted))


class _Repository:
    def __init__(self) -> None:
        import tempfile
        from pathlib import Path

        self._directory = tempfile.TemporaryDirectory()
        self.path = Path(self._directory.name)
        subprocess.run(["git", "init", "-q", "--bare", str(self.path)], check=True)
        made = subprocess.run(
            ["git", f"--git-dir={self.path}", "commit-tree", "-m", "x", "4b825dc642cb6eb9a060e54bf8d69288fbee4904"],
            check=True,
            capture_output=True,
        )
        self.oid = GitOid(made.stdout.decode().strip())


_made: list[_Repository] = []


def _repository() -> _Repository:
    if not _made:
        _made.append(_Repository())
    return _made[0]
