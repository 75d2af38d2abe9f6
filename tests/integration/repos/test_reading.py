from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.trees import EntryKind, FileEntry
from mirror_sync.errors import GitFailed, Overloaded, UsageError
from mirror_sync.ports import FileView, Revision
from mirror_sync.repos import reading
from mirror_sync.repos.reading import GitFiles
from tests.support.pointers import pointer_text
from tests.support.published import NAME, publish
from tests.support.raw_history import History

ODD = [
    b"new\nline",
    b"back\\slash",
    b"caf\xe9",
    b" lead",
    b"a\tb",
    "\u4e2d\u6587".encode(),
    b"-rf",
    b"re\rturn",
    b"x%2Fy",
]
BIG = os.urandom(3 * 1024 * 1024 + 17)
OBJECT = Pointer(hashlib.sha256(b"weights").hexdigest(), 7)  # type: ignore[arg-type]  # an oid is a string


class Made:
    """A published mirror with a history of everything that this room reads."""

    def __init__(self, root: Path) -> None:
        self.history = history = History(root / "upstream")
        self.git_dir = root / "git"
        blob = history.blob
        pointer = blob(pointer_text(OBJECT.oid, OBJECT.size))
        odd = sorted((b"odd-" + name, blob(name)) for name in ODD)
        sub = history.tree([("100644", b"deep.txt", blob(b"deep\n")), ("100644", b"w.bin", pointer)])
        same = blob(b"same\n")
        many = history.tree([("100644", b"%04d" % number, same) for number in range(700)])
        entries = [
            ("100644", b".gitattributes", blob(b"*.bin filter=lfs diff=lfs merge=lfs -text\n")),
            ("100644", b"big", blob(BIG)),
            ("40000", b"dir", history.tree([("100644", b"sub.txt", blob(b"s\n")), ("40000", b"sub", sub)])),
            ("100644", b"dir.txt", blob(b"not in dir\n")),
            ("160000", b"elsewhere", "1" * 40),
            ("100644", b"empty", blob(b"")),
            ("120000", b"link", blob(b"dir/sub/deep.txt")),
            ("40000", b"many", many),
            *(("100644", name, oid) for name, oid in odd),
            ("100644", b"text.ptr", pointer),
            ("100755", b"tool", blob(b"#!/bin/sh\n")),
            ("100644", b"w.bin", pointer),
        ]
        self.first = history.commit("first", files={"only": b"one\n"})
        entries.sort(key=lambda line: line[1] + (b"/" if line[0] == "40000" else b""))
        self.tip = history.commit("second", tree=history.tree(entries), parents=[self.first])
        self.slashed = history.commit("slashed", parents=[self.first])
        self.hidden = history.commit("hidden", parents=[self.first], files={"secret": b"s3cret\n"})
        self.tag = history.tag("v1", self.first)
        self.hidden_tag = history.tag("gone", self.hidden)
        tips = {
            "refs/heads/main": self.tip,
            "refs/heads/feature/x": self.slashed,
            "refs/tags/v1": self.tag,
            "refs/tags/light": self.first,
            "refs/tags/tree-only": history.tag("tree-only", sub, "tree"),
        }
        publish(self.git_dir, history, {**tips, "refs/heads/gone": self.hidden, "refs/tags/gone": self.hidden_tag})
        publish(self.git_dir, history, tips)
        self.files = GitFiles(self.git_dir, wait_seconds=5.0)

    def view(self) -> FileView:
        return opened(self.files)


def opened(files: GitFiles) -> FileView:
    found = files.open(NAME)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("reading"))


@pytest.fixture
def view(made: Made) -> Iterator[FileView]:
    with made.view() as view:
        yield view


def test_a_mirror_that_was_never_published_has_no_files(tmp_path: Path) -> None:
    assert GitFiles(tmp_path).open(NAME) is None


def test_names_and_published_ids_are_revisions(made: Made, view: FileView) -> None:
    def of(text: str) -> tuple[str, str | None] | None:
        found = view.resolve(text)
        return (found.commit, found.ref) if found else None

    assert of("main") == (made.tip, "refs/heads/main")
    assert of("refs/heads/main") == (made.tip, "refs/heads/main")
    assert of("HEAD") == (made.tip, "refs/heads/main")
    assert of("feature/x") == (made.slashed, "refs/heads/feature/x")
    assert of("v1") == (made.first, "refs/tags/v1")
    assert of("light") == (made.first, "refs/tags/light")
    for oid in (made.tip, made.first, made.slashed):
        assert of(oid) == (oid, None)
        assert of(oid[:12]) == (oid, None)
    assert of(made.tag) == (made.first, None)


@pytest.mark.parametrize("length", [40, 39, 12])
def test_what_published_refs_do_not_reach_is_no_revision(made: Made, view: FileView, length: int) -> None:
    objects = made.git_dir.joinpath(*NAME.split("/")).with_suffix(".git") / "store" / "objects"
    for oid in (made.hidden, made.hidden_tag):
        here = ["git", f"--git-dir={objects.parent}", "cat-file", "-e", oid]
        assert subprocess.run(here, check=False).returncode == 0  # it is in the store: hidden, not absent
        assert view.resolve(oid[:length]) is None


@pytest.mark.parametrize(
    "text",
    ["", "gone", "nothing", "feature", "feature/x/y", "main~1", "main^{tree}", "main:dir", "-1", "--all", "..", "@",
     "0" * 40, "f" * 64, "refs/heads/", "refs/heads/main\n", "ma\x00in", "\udcff", "tree-only", "x" * 5000],
)  # fmt: skip
def test_anything_else_is_none(view: FileView, text: str) -> None:
    assert view.resolve(text) is None


def test_objects_that_are_no_commits_are_no_revisions(made: Made, view: FileView) -> None:
    tree = made.history.git("rev-parse", f"{made.tip}^{{tree}}").decode().strip()
    assert view.resolve(tree) is None
    blob = made.history.git("rev-parse", f"{made.tip}:tool").decode().strip()
    assert view.resolve(blob) is None


def test_an_id_too_short_is_none(made: Made, view: FileView) -> None:
    assert view.resolve(made.tip[:6]) is None


def test_a_view_stays_while_names_move_on(tmp_path: Path) -> None:
    history = History(tmp_path / "upstream")
    old, new = history.commit("old"), history.commit("new")
    publish(tmp_path / "git", history, {"refs/heads/main": old})
    files = GitFiles(tmp_path / "git")
    with opened(files) as before:
        publish(tmp_path / "git", history, {"refs/heads/main": new})
        assert before.resolve("main") == Revision(GitOid(old), RefName("refs/heads/main"))
        with opened(files) as after:
            assert after.resolve("main") == Revision(GitOid(new), RefName("refs/heads/main"))
            assert after.resolve(old) is None
        assert before.resolve(old) is not None


def test_reaching_does_not_depend_on_clocks(tmp_path: Path) -> None:
    history = History(tmp_path / "upstream")
    line: list[str] = []
    tree = history.tree([("100644", b"a", history.blob(b"a"))])
    for number in range(30):
        parent = f"parent {line[-1]}\n" if line else ""
        who = f"Ada <ada@example.org> {1_900_000_000 if number < 4 else 1_000_000_000 - number} +0000"
        line.append(history.raw("commit", f"tree {tree}\n{parent}author {who}\ncommitter {who}\n\n{number}\n".encode()))
    publish(tmp_path / "git", history, {"refs/heads/main": line[-1]})
    with opened(GitFiles(tmp_path / "git")) as view:
        assert [oid for oid in line if view.resolve(oid) is None] == []


def test_a_question_of_reach_that_takes_too_long_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "REACH_SECONDS", 0.0)
    with opened(GitFiles(made.git_dir)) as view:
        assert view.resolve(made.tip) is not None  # a tip needs no walk
        with pytest.raises(Overloaded, match="takes too long"):
            view.resolve(made.hidden)


def test_refs_come_with_their_commits(made: Made, view: FileView) -> None:
    assert view.head() == "refs/heads/main"
    assert view.refs(prefix="refs/heads/", limit=10) == [
        ("refs/heads/feature/x", made.slashed), ("refs/heads/main", made.tip)
    ]  # fmt: skip
    assert view.refs(prefix="refs/tags/", limit=10) == [("refs/tags/light", made.first), ("refs/tags/v1", made.first)]
    assert len(view.refs(prefix="refs/", limit=1)) == 1


def test_a_commit_has_its_time(made: Made, view: FileView) -> None:
    wanted = float(made.history.git("show", "-s", "--format=%ct", made.tip))
    assert view.committed_at(GitOid(made.tip)) == wanted


# ---------------------------------------------------------------- trees


def entry(view: FileView, made: Made, path: bytes) -> FileEntry | None:
    return view.entry(GitOid(made.tip), path)


def test_every_path_is_what_git_says(made: Made, view: FileView) -> None:
    listed = made.history.git("ls-tree", "-r", "-t", "-l", "-z", made.tip).split(b"\0")[:-1]
    assert len(listed) > 700
    kinds = {b"120000": EntryKind.LINK, b"160000": EntryKind.SUBMODULE, b"040000": EntryKind.DIRECTORY}
    for line in [*listed[:30], *listed[-20:]]:
        (mode, _, oid, size), path = line.split(b"\t", 1)[0].split(), line.split(b"\t", 1)[1]
        found = entry(view, made, path)
        assert found is not None
        assert (found.path, found.oid, found.kind) == (path, oid.decode(), kinds.get(mode, EntryKind.FILE))
        assert found.size == (0 if size == b"-" else int(size))


@pytest.mark.parametrize(
    "path", [b"nothing", b"dir/", b"/dir", b"dir//sub", b"tool/x", b"..", b".", b"dir/../tool", b"\0"]
)
def test_what_is_not_there_is_none(made: Made, view: FileView, path: bytes) -> None:
    assert entry(view, made, path) is None


def test_pointers_are_seen_and_whether_attributes_mark_them(made: Made, view: FileView) -> None:
    marked = entry(view, made, b"dir/sub/w.bin")
    assert marked is not None
    assert (marked.pointer, marked.marked) == (OBJECT, True)
    plain = entry(view, made, b"text.ptr")
    assert plain is not None
    assert (plain.pointer, plain.marked) == (OBJECT, False)
    other = entry(view, made, b"tool")
    assert other is not None
    assert (other.pointer, other.marked) == (None, False)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_are_the_whole_listing(made: Made, view: FileView, limit: int) -> None:
    wanted = made.history.git("ls-tree", "-r", "-t", "-z", "--name-only", made.tip).split(b"\0")[:-1]
    if limit == 1:
        wanted = wanted[:12]
    found: list[FileEntry] = []
    while True:
        after = found[-1].sort_key if found else b""
        page = view.listing(GitOid(made.tip), b"", recursive=True, after=after, limit=limit)
        assert page is not None
        found += page
        if len(page) < limit or len(found) >= len(wanted):
            break
    assert [item.path for item in found] == wanted


def test_a_directory_is_listed_alone_or_with_all_below(made: Made, view: FileView) -> None:
    def paths(path: bytes, *, recursive: bool) -> list[bytes] | None:
        page = view.listing(GitOid(made.tip), path, recursive=recursive, limit=5000)
        return [item.path for item in page] if page is not None else None

    assert paths(b"dir", recursive=False) == [b"dir/sub.txt", b"dir/sub"]
    assert paths(b"dir", recursive=True) == [b"dir/sub.txt", b"dir/sub", b"dir/sub/deep.txt", b"dir/sub/w.bin"]
    assert paths(b"tool", recursive=True) is None
    assert paths(b"nothing", recursive=False) is None
    page = view.listing(GitOid(made.tip), b"dir/sub", recursive=False, limit=9)
    assert page is not None
    assert [item.marked for item in page] == [False, True]  # by the attributes of the root


def test_a_directory_too_large_is_refused_plainly(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_TREE_BYTES", 4000)
    with opened(GitFiles(made.git_dir)) as view:
        assert entry(view, made, b"tool") is not None
        with pytest.raises(UsageError, match="many"):
            entry(view, made, b"many/0001")


# ---------------------------------------------------------------- contents


def blob_of(view: FileView, made: Made, path: bytes, start: int, end: int) -> bytes:
    found = entry(view, made, path)
    assert found is not None
    return b"".join(view.blob(found.oid, start=start, end=end))


@pytest.mark.parametrize(
    ("start", "end"), [(0, len(BIG)), (0, 1), (300_000, 300_001), (len(BIG) - 5, len(BIG)), (1, 2_000_000), (9, 9)]
)
def test_a_blob_is_read_in_part(made: Made, start: int, end: int) -> None:
    with made.view() as view:
        assert blob_of(view, made, b"big", start, end) == BIG[start:end]


def test_an_empty_blob_is_empty(made: Made) -> None:
    with made.view() as view:
        assert blob_of(view, made, b"empty", 0, 0) == b""


def test_a_closed_stream_gives_its_place_and_its_view_back(made: Made) -> None:
    files = GitFiles(made.git_dir, readers=1, wait_seconds=0.01)
    with opened(files) as view:
        found = entry(view, made, b"big")
        assert found is not None
        pieces = view.blob(found.oid, start=0, end=found.size)
    assert BIG.startswith(next(pieces))  # the view outlives its block as long as the stream needs it
    with opened(files) as other, pytest.raises(Overloaded, match="files"):
        other.committed_at(GitOid(made.tip))
    pieces.close()  # type: ignore[attr-defined]  # the port says so
    with opened(files) as never_read:
        never_read.blob(found.oid, start=0, end=1).close()  # type: ignore[attr-defined]
    with opened(files) as last:
        assert last.committed_at(GitOid(made.tip))


# ---------------------------------------------------------------- checksums


def test_checksums_are_what_sha256sum_checks(made: Made, tmp_path: Path) -> None:
    asked: list[Pointer] = []

    def resolves(pointers: object) -> list[Pointer]:
        asked.extend(pointers)  # type: ignore[call-overload]
        return []

    with made.view() as view:
        lines = b"".join(view.checksums(GitOid(made.tip), resolves=resolves))
    assert asked == [OBJECT]
    tree = tmp_path / "tree"
    tree.mkdir()
    archive = made.history.git("archive", "--worktree-attributes", made.tip)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    for path in (b"w.bin", b"dir/sub/w.bin"):
        (tree / os.fsdecode(path)).write_bytes(b"weights")
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "-"], input=lines, cwd=tree, capture_output=True, check=False
    )
    assert checked.returncode == 0, checked
    files = made.history.git("ls-tree", "-r", "-z", made.tip).split(b"\0")[:-1]
    assert len(lines.splitlines()) == len([line for line in files if line.startswith(b"100")])
    (tree / "tool").write_bytes(b"#!/bin/false\n")
    checked = subprocess.run(
        ["sha256sum", "--strict", "-c", "-"], input=lines, cwd=tree, capture_output=True, check=False
    )
    assert checked.returncode == 1


def test_a_list_is_computed_once_unless_it_may_change(made: Made) -> None:
    files = made.files
    with made.view() as view:
        first = b"".join(view.checksums(GitOid(made.first), resolves=lambda pointers: pointers))
    assert files.lists.get((NAME, GitOid(made.first))) == first
    with made.view() as view:
        assert b"".join(view.checksums(GitOid(made.first), resolves=lambda pointers: pointers)) == first
    with made.view() as view:
        lines = b"".join(view.checksums(GitOid(made.tip), resolves=lambda pointers: pointers))
    assert f"{OBJECT.oid}  text.ptr\n".encode() in lines
    assert files.lists.get((NAME, GitOid(made.tip))) is None


def test_trees_that_stand_for_endless_files_are_left_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "upstream")
    tree = history.tree([("100644", b"f", history.blob(b"f\n"))])
    for _ in range(12):
        tree = history.tree([("40000", b"%d" % number, tree) for number in range(10)])
    tip = GitOid(history.commit("bomb", tree=tree))
    publish(tmp_path / "git", history, {"refs/heads/main": tip})
    files = GitFiles(tmp_path / "git", wait_seconds=5.0)
    with opened(files) as view:
        page = view.listing(tip, b"", recursive=True, limit=50)
        assert page is not None
        assert len(page) == 50
        assert view.listing(tip, b"", recursive=True, after=page[-1].sort_key, limit=1) != page[:1]
    monkeypatch.setattr(reading, "MOST_SUMS", 1000)
    for _ in range(2):
        with opened(files) as view, pytest.raises(UsageError, match="too many"):
            b"".join(view.checksums(tip, resolves=lambda pointers: pointers, client="somebody"))


def test_a_lookup_that_does_not_end_is_ended(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOOKUP_SECONDS", 0.0)
    with opened(GitFiles(made.git_dir)) as view, pytest.raises(GitFailed, match=r"did not end|ran longer"):
        view.listing(GitOid(made.tip), b"", recursive=True, limit=5000)
