"""What a checkout of a tip needs, decided as git and git-lfs decide it."""

from __future__ import annotations

import hashlib
import random
import subprocess
import zlib
from pathlib import Path

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.pointers import Pointer, TipNeed
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos import needs as needs_module
from mirror_sync.repos.git import Git
from mirror_sync.repos.needs import tip_needs
from mirror_sync.repos.scan import scan_pointers
from tests.support.history import build_history
from tests.support.pointers import pointer_text
from tests.support.raw_history import History

ATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n"


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "repository.git")


def known(history: History, count: int = 20) -> dict[GitOid, Pointer]:
    """Store pointers 0 to ``count`` and return them by blob."""
    return {
        GitOid(history.blob(pointer_text(f"{number:064x}", number + 1))): Pointer(f"{number:064x}", number + 1)
        for number in range(count)
    }


def asked(history: History, tips: list[str], index: dict[GitOid, Pointer]) -> dict[str, list[tuple[int, str]]]:
    """Return what each tip needs as pairs of size and path; sizes tell the pointers apart."""
    found = tip_needs(Git(history.directory), [GitOid(tip) for tip in tips], index)
    return {tip: sorted((need.pointer.size, need.path) for need in needs) for tip, needs in found.items()}


def tree(history: History, files: dict[str, str], *, modes: dict[str, str] | None = None) -> str:
    """Store the nested tree of these paths to object ids."""
    here: dict[str, str] = {}
    below: dict[str, dict[str, str]] = {}
    for path, oid in files.items():
        head, slash, rest = path.partition("/")
        if slash:
            below.setdefault(head, {})[rest] = oid
        else:
            here[head] = oid
    modes = modes or {}
    entries = [(modes.get(name, "100644"), name.encode("utf-8", "surrogateescape"), oid) for name, oid in here.items()]
    entries += [
        ("40000", name.encode("utf-8", "surrogateescape"), tree(history, files)) for name, files in below.items()
    ]
    return history.tree(sorted(entries, key=lambda entry: entry[1] + (b"/" if entry[0] == "40000" else b"")))


def write_tree(history: History, data: bytes) -> str:
    """Store a tree without a child: thousands of them are needed."""
    raw = b"tree %d\0" % len(data) + data
    oid = hashlib.sha1(raw).hexdigest()
    path = history.directory / "objects" / oid[:2] / oid[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(zlib.compress(raw))
    return oid


def test_only_marked_paths_with_known_pointers_count(history: History) -> None:
    index = known(history)
    ids = list(index)
    attributes = history.blob(ATTRIBUTES)
    text = history.blob(b"no pointer\n")
    root = tree(
        history,
        {
            ".gitattributes": attributes,
            "a.bin": ids[0],
            "b.txt": ids[1],
            "d/e/f.bin": ids[2],
            "d/e/g.bin": text,
            "d/.gitattributes": history.blob(b"h.* -filter\n"),
            "d/h.bin": ids[3],
            "e/f.bin": ids[4],
        },
    )
    tip = history.commit(tree=root)
    assert asked(history, [tip], index) == {tip: [(1, "a.bin"), (3, "d/e/f.bin"), (5, "e/f.bin")]}


def test_links_and_modules_need_nothing(history: History) -> None:
    index = known(history)
    ids = list(index)
    files = {".gitattributes": history.blob(b"* filter=lfs\n"), "a": ids[0], "b": ids[1], "c": ids[2], "d": ids[3]}
    root = tree(history, files, modes={"a": "120000", "b": "160000", "c": "100755", "d": "100664"})
    tip = history.commit(tree=root)
    assert asked(history, [tip], index) == {tip: [(3, "c"), (4, "d")]}


def test_one_path_for_each_object(history: History) -> None:
    index = known(history)
    ids = list(index)
    crlf = GitOid(history.blob(pointer_text(f"{0:064x}", 1).replace(b"\n", b"\r\n")))
    index[crlf] = Pointer(f"{0:064x}", 1)
    root = tree(history, {".gitattributes": history.blob(ATTRIBUTES), "a.bin": ids[0], "b.bin": ids[0], "c.bin": crlf})
    tip = history.commit(tree=root)
    needs = tip_needs(Git(history.directory), [GitOid(tip)], index)[GitOid(tip)]
    assert needs == [TipNeed(Pointer(f"{0:064x}", 1), "a.bin")]


def test_a_lookalike_under_an_unmarked_path_does_not_hide_a_marked_one(history: History) -> None:
    index = known(history)
    ids = list(index)
    root = tree(history, {".gitattributes": history.blob(ATTRIBUTES), "a.txt": ids[0], "z/b.bin": ids[0]})
    tip = history.commit(tree=root)
    assert asked(history, [tip], index) == {tip: [(1, "z/b.bin")]}


def test_tips_of_every_kind(history: History) -> None:
    index = known(history)
    ids = list(index)
    root = tree(history, {".gitattributes": history.blob(ATTRIBUTES), "a.bin": ids[0]})
    commit = history.commit(tree=root)
    tag = history.tag("one", commit)
    nested = history.tag("two", tag, "tag")
    tree_tag = history.tag("three", root, "tree")
    blob_tag = history.tag("four", ids[0], "blob")
    plain = history.commit("nothing")
    need = [(1, "a.bin")]
    tips = [commit, tag, nested, root, tree_tag, blob_tag, ids[0], plain, commit]
    assert asked(history, tips, index) == {commit: need, tag: need, nested: need, root: need, tree_tag: need}


def test_the_same_tree_under_other_attributes_is_decided_anew(history: History) -> None:
    index = known(history)
    ids = list(index)
    files = {"d/e/a.bin": ids[0], "b.bin": ids[1]}
    marked = history.commit(tree=tree(history, {**files, ".gitattributes": history.blob(ATTRIBUTES)}))
    unmarked = history.commit(tree=tree(history, {**files, ".gitattributes": history.blob(b"*.txt filter=lfs\n")}))
    bare = history.commit(tree=tree(history, files))
    below = history.commit(tree=tree(history, {**files, "d/.gitattributes": history.blob(ATTRIBUTES)}))
    moved = history.commit(
        tree=tree(history, {"x/e/a.bin": ids[0], ".gitattributes": history.blob(b"/x/** filter=lfs")})
    )
    assert asked(history, [marked, unmarked, bare, below, moved], index) == {
        marked: [(1, "d/e/a.bin"), (2, "b.bin")],
        below: [(1, "d/e/a.bin")],
        moved: [(1, "x/e/a.bin")],
    }


def test_paths_keep_bytes_that_are_no_text(history: History) -> None:
    index = known(history)
    ids = list(index)
    name = "caf\udce9 \u4e2d\n.bin"
    tip = history.commit(tree=tree(history, {".gitattributes": history.blob(ATTRIBUTES), name: ids[0]}))
    assert asked(history, [tip], index) == {tip: [(1, name)]}


def test_nothing_known_or_of_size_zero_asks_git_nothing(tmp_path: Path) -> None:
    git = Git(tmp_path / "nowhere")
    assert tip_needs(git, [GitOid("1" * 40)], {}) == {}
    assert tip_needs(git, [GitOid("1" * 40)], {GitOid("2" * 40): Pointer("3" * 64, 0)}) == {}
    assert tip_needs(git, [], {GitOid("2" * 40): Pointer("3" * 64, 1)}) == {}


def test_what_is_not_here_is_an_error(history: History) -> None:
    index = known(history)
    ids = list(index)
    absent_tree = history.raw("commit", b"tree %s\nauthor A <a> 0 +0000\ncommitter A <a> 0 +0000\n\n" % (b"1" * 40))
    subtree = history.commit(tree=history.tree([("40000", b"d", "2" * 40)]))
    attributes = history.commit(tree=tree(history, {".gitattributes": "3" * 40, "a.bin": ids[0]}))
    for tip in ["4" * 40, absent_tree, subtree, attributes]:
        with pytest.raises(RepositoryDamaged):
            asked(history, [tip], index)


def test_an_attributes_file_of_absurd_size_marks_everything(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs_module, "MAX_ATTRIBUTES_BYTES", 10)
    index = known(history)
    ids = list(index)
    tip = history.commit(tree=tree(history, {".gitattributes": history.blob(ATTRIBUTES), "a.txt": ids[0]}))
    assert asked(history, [tip], index) == {tip: [(1, "a.txt")]}


def test_a_tree_made_to_be_walked_for_ever_ends(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs_module, "MAX_DIRECTORIES", 10_000)
    index = known(history)
    ids = list(index)
    level = tree(history, {"a.bin": ids[0], "b.bin": ids[1]})
    for _ in range(12):
        level = history.tree([("40000", bytes([letter]), level) for letter in b"abcdefghij"])
    tip = history.commit(tree=level)
    assert [size for size, _ in asked(history, [tip], index)[tip]] == [1, 2]


def test_a_very_deep_tree_ends(history: History) -> None:
    index = known(history)
    ids = list(index)
    level = history.tree([("100644", b"a.bin", ids[0])])
    for _ in range(3000):
        level = write_tree(history, b"40000 d\0" + bytes.fromhex(level))
    top = history.tree([("100644", b".gitattributes", history.blob(b"* filter=lfs")), ("40000", b"d", level)])
    assert asked(history, [history.commit(tree=top)], index) == {}


def test_attributes_that_are_a_symlink_count_as_in_a_checkout(history: History, tmp_path: Path) -> None:
    """A checkout reads attributes from the index, where a symlink's blob is its target."""
    index = known(history)
    ids = list(index)
    level = history.tree([("120000", b".gitattributes", history.blob(b"* filter=lfs")), ("100644", b"a.bin", ids[0])])
    tip = history.commit(tree=level)
    assert asked(history, [tip], index) == {tip: [(1, "a.bin")]}
    git = ["git", "--git-dir", str(history.directory), "--work-tree", str(tmp_path), "-c", "core.bare=false"]
    subprocess.run([*git, "read-tree", tip], check=True)
    smudge = ["-c", "filter.lfs.smudge=echo smudged; cat >/dev/null", "-c", "filter.lfs.required=true"]
    subprocess.run([*git, *smudge, "checkout-index", "a.bin"], check=True)
    assert (tmp_path / "a.bin").read_bytes() == b"smudged\n"


def test_one_object_under_two_sizes_is_needed_under_both(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    oid = f"{7:064x}"
    index = {GitOid(history.blob(pointer_text(oid, size))): Pointer(oid, size) for size in (5, 12)}
    files = dict(zip(["a.bin", "b.bin"], index, strict=True))
    tip = history.commit(tree=tree(history, {".gitattributes": history.blob(ATTRIBUTES), **files}))
    assert asked(history, [tip], index) == {tip: [(5, "a.bin"), (12, "b.bin")]}
    monkeypatch.setattr(needs_module, "MAX_DIRECTORIES", 0)
    assert asked(history, [tip], index) == {tip: [(5, "a.bin"), (12, "b.bin")]}


def test_many_tips_agree_with_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain ``ls-tree`` and ``check-attr``; again with hardly any memory."""
    repository = tmp_path / "long.git"
    build_history(repository, 400)
    git = Git(repository)
    plain = ["git", "-C", str(repository)]
    commits = subprocess.run([*plain, "rev-list", "main"], check=True, capture_output=True, text=True).stdout.split()
    tips = [GitOid(commit) for commit in random.Random(1).sample(commits, 40)]
    index = {item.blob: item.pointer for item in scan_pointers(git, [GitOid(commits[0])], scanned=[])}
    expected: dict[str, set[str]] = {}
    for tip in tips:
        listing = subprocess.run([*plain, "ls-tree", "-r", tip], check=True, capture_output=True, text=True).stdout
        rows = [line.split("\t") for line in listing.splitlines()]
        expected[tip] = {
            index[GitOid(left.split()[2])].oid
            for left, path in rows
            if left.split()[2] in index and path.endswith(".bin")
        }
    for remembered in (2_000_000, 100):
        monkeypatch.setattr(needs_module, "REMEMBERED_ENTRIES", remembered)
        found = tip_needs(git, tips, index)
        assert {tip: {need.pointer.oid for need in needs} for tip, needs in found.items()} == {
            tip: oids for tip, oids in expected.items() if oids
        }


def test_knows_sha256(tmp_path: Path) -> None:
    history = History(tmp_path / "wide.git", object_format="sha256")
    index = known(history, 2)
    ids = list(index)
    tip = history.commit(tree=tree(history, {".gitattributes": history.blob(ATTRIBUTES), "d/a.bin": ids[1]}))
    assert asked(history, [tip], index) == {tip: [(2, "d/a.bin")]}
