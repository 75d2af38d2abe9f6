"""Every pointer is found: in all of history, in what is new, in a stage that borrows from a store."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mirror_sync.domain.names import GitOid, MirrorName
from mirror_sync.domain.pointers import EMPTY_OID, Pointer, PointerBlob, parse_pointer
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos import Repositories
from mirror_sync.repos.git import Git
from mirror_sync.repos.scan import has_bitmap, scan_pointers
from mirror_sync.testing.clock import HandClock
from tests.support.history import build_history, pointers_in
from tests.support.pointers import OID, pointer_text
from tests.support.raw_history import History
from tests.support.staging import stage_pack
from tests.support.tools import require

COMMITS = 600


@pytest.fixture(scope="module")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("history") / "long.git"
    build_history(path, COMMITS)
    return path


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repository.git")


def oid_at(repository: Path, name: str) -> GitOid:
    answer = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", name], check=True, capture_output=True, text=True
    )
    return GitOid(answer.stdout.strip())


def scan(repository: Path, tips: list[str], scanned: list[str] | None = None) -> list[PointerBlob]:
    return list(scan_pointers(Git(repository), [GitOid(t) for t in tips], scanned=[GitOid(t) for t in scanned or []]))


def oids(found: list[PointerBlob]) -> set[str]:
    return {item.pointer.oid for item in found}


def listed_by_git_lfs(repository: Path) -> set[str]:
    answer = subprocess.run(
        [require("git-lfs"), "ls-files", "--all", "--long"], cwd=repository, check=True, capture_output=True, text=True
    )
    return {line.split()[0] for line in answer.stdout.splitlines()}


def pointer(number: int) -> bytes:
    return pointer_text(f"{number:064x}", number + 1)


@pytest.mark.parametrize("bitmap", [False, True])
def test_a_full_scan_finds_what_git_lfs_finds(long_history: Path, tmp_path: Path, bitmap: bool) -> None:
    copy = tmp_path / "copy.git"
    subprocess.run(["git", "clone", "-q", "--mirror", str(long_history), str(copy)], check=True)
    if bitmap:
        subprocess.run(["git", "-C", str(copy), "repack", "-adbq"], check=True)
    assert has_bitmap(Git(copy)) is bitmap
    found = scan(copy, [oid_at(copy, "main")])
    assert len(found) == len({item.blob for item in found}) == pointers_in(COMMITS)
    assert oids(found) == listed_by_git_lfs(copy)


def test_an_incremental_scan_finds_what_is_new(long_history: Path) -> None:
    new, old = oid_at(long_history, "main"), oid_at(long_history, "earlier")
    found = scan(long_history, [new], [old])
    assert oids(found) == oids(scan(long_history, [new])) - oids(scan_of_ancestors(long_history, old))
    assert len(found) == pointers_in(50)
    assert scan(long_history, [new], [new]) == []


def scan_of_ancestors(repository: Path, tip: GitOid) -> list[PointerBlob]:
    """Return the pointers below ``tip`` by plain plumbing, one object at a time."""
    git = ["git", "-C", str(repository)]
    listing = subprocess.run(
        [*git, "rev-list", "--objects", "--no-object-names", tip], check=True, capture_output=True, text=True
    ).stdout
    raw = subprocess.run([*git, "cat-file", "--batch"], input=listing.encode(), check=True, capture_output=True).stdout
    found, at = [], 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        oid, kind, size = raw[at:end].decode().split()
        content = raw[end + 1 : end + 1 + int(size)]
        at = end + 2 + int(size)
        pointer = parse_pointer(content) if kind == "blob" else None
        if pointer is not None:
            found.append(PointerBlob(GitOid(oid), pointer))
    return found


def test_looks_at_the_pointer_s_size_window_only(history: History) -> None:
    small = pointer_text(version="http://git-media.io/v/2", size=1).rstrip(b"\n")
    files = {
        "114": small,
        "1023": pointer(1).ljust(1023, b"\n"),
        "1024": pointer(2).ljust(1024, b"\n"),
        "empty": pointer_text(EMPTY_OID, 0),
        "size 0": pointer_text("7" * 64, 0),
        "text": b"x" * 500,
    }
    assert len(small) == 114
    tip = history.commit(files=files)
    expected = {OID, f"{1:064x}"}
    assert oids(scan(history.directory, [tip])) == expected
    assert oids(scan(history.directory, [tip], [history.commit("other")])) == expected


def test_tips_may_be_tags_trees_and_blobs(history: History) -> None:
    tree = history.tree([("100644", b"a", history.blob(pointer(1)))])
    blob = history.blob(pointer(2))
    commit = history.commit(files={"b": pointer(3)})
    tag = history.tag("inner", history.blob(pointer(4)), "blob")
    nested = history.tag("outer", tag, "tag")
    base = history.commit("base")
    found = scan(history.directory, [tree, blob, commit, nested], [base])
    assert oids(found) == {f"{number:064x}" for number in (1, 2, 3, 4)}


def test_finds_what_only_a_merge_brings(history: History) -> None:
    left = history.commit(files={"a": pointer(1)})
    right = history.commit(files={"a": pointer(2)})
    merge = history.commit(parents=(left, right), files={"a": pointer(3)})
    assert f"{3:064x}" in oids(scan(history.directory, [merge], [left, right]))


def test_excluded_ids_that_are_gone_are_passed_over(history: History) -> None:
    old = history.commit(files={"a": pointer(1)})
    new = history.commit(parents=(old,), files={"a": pointer(2)})
    assert oids(scan(history.directory, [new], ["1" * 40, old])) == {f"{2:064x}"}
    assert oids(scan(history.directory, [new], ["1" * 40])) == {f"{1:064x}", f"{2:064x}"}


def test_a_tip_that_is_not_here_is_an_error(history: History) -> None:
    tip = history.commit()
    with pytest.raises(RepositoryDamaged):
        scan(history.directory, [tip, "1" * 40], [tip])


def test_a_blob_that_is_not_here_is_an_error(history: History) -> None:
    blob = history.blob(pointer(1))
    old = history.commit("old")
    tip = history.commit(tree=history.tree([("100644", b"a", blob)]))
    (history.directory / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(Exception, match=blob):
        scan(history.directory, [tip], [old])


def test_no_tips_no_children(tmp_path: Path) -> None:
    assert list(scan_pointers(Git(tmp_path / "nowhere"), [], scanned=[])) == []


def test_leaving_early_ends_the_children(long_history: Path) -> None:
    new, old = oid_at(long_history, "main"), oid_at(long_history, "earlier")
    for scanned in ([], [old]):
        going = scan_pointers(Git(long_history), [new], scanned=scanned)
        assert next(going).pointer.size > 0
        going.close()


def test_knows_sha256(tmp_path: Path) -> None:
    history = History(tmp_path / "wide.git", object_format="sha256")
    old = history.commit(files={"a": pointer(1)})
    new = history.commit(parents=(old,), files={"a": pointer(2)})
    assert scan(history.directory, [new], [old]) == [
        PointerBlob(GitOid(history.blob(pointer(2))), Pointer(f"{2:064x}", 3))
    ]
    assert len(scan(history.directory, [new])) == 2


def test_a_stage_is_scanned_together_with_its_store(tmp_path: Path, history: History) -> None:
    """Through the repository: the old history is in the store (with a bitmap after maintenance), the new one staged."""
    repository = Repositories(tmp_path / "git", clock=HandClock(), reserve_bytes=0).open(MirrorName("h.example/a/b"))
    old = GitOid(history.commit(files={"a": pointer(1)}))
    new = GitOid(history.commit(parents=(old,), files={"a": pointer(2)}))
    with repository.lock():
        repository.create(ObjectFormat.SHA1)
        stage_pack(repository, [history.pack([old])], max_bytes=2**30)
        assert oids(list(repository.scan_pointers([old], scanned=[]))) == {f"{1:064x}"}
        repository.inspect([old])
        repository.promote([old])
        repository.discard_stage()
        stage_pack(repository, [history.pack([new], haves=[old])], max_bytes=2**30)
        assert oids(list(repository.scan_pointers([new], scanned=[old]))) == {f"{2:064x}"}
        assert oids(list(repository.scan_pointers([new], scanned=[]))) == {f"{1:064x}", f"{2:064x}"}
