"""Which paths the attributes of a tree send through LFS."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror_sync.domain.attributes import Attributes, Work

BIG = 100 * 1024 * 1024


def lfs_paths(paths: list[bytes], files: dict[bytes, bytes], *, steps: int | None = None) -> list[bytes]:
    attributes = Attributes(files, work=None if steps is None else Work(steps))
    return [path for path in paths if attributes.marks(path)]


def marked(files: dict[str, str], *paths: str) -> list[str]:
    found = lfs_paths([path.encode() for path in paths], {d.encode(): text.encode() for d, text in files.items()})
    return [path.decode() for path in found]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("*.bin filter=lfs diff=lfs merge=lfs -text", "a.bin"),
        ("*.bin filter=lfs", "deep/down/a.bin"),
        ("*.bin\tfilter=lfs\r", "a.bin"),
        ("  *.bin filter=lfs", "a.bin"),
        ("* filter=lfs", "x/y"),
        ("a.bin filter=lfs", "x/a.bin"),
        ("/a.bin filter=lfs", "a.bin"),
        ("x/a.bin filter=lfs", "x/a.bin"),
        ("x/*.bin filter=lfs", "x/a.bin"),
        ("x/** filter=lfs", "x/y/z/a"),
        ("**/x/* filter=lfs", "x/a"),
        ("**/x/* filter=lfs", "a/b/x/a"),
        ("x/**/a filter=lfs", "x/a"),
        ("x/**/a filter=lfs", "x/y/z/a"),
        ("x**/a filter=lfs", "xy/z/a"),
        ("*.[bB][iI][nN] filter=lfs", "a.BIN"),
        ("*.[!a-c] filter=lfs", "a.d"),
        ("*[[:digit:]] filter=lfs", "a7"),
        ("a?c filter=lfs", "abc"),
        (r"\*.bin filter=lfs", "*.bin"),
        (r"\!a filter=lfs", "!a"),
        ('"a b.bin" filter=lfs', "a b.bin"),
        (r'"caf\303\251" filter=lfs', "caf\u00e9"),
        (r'"a\tb"filter=lfs', "a\tb"),
        ('"a filter=lfs', '"a'),
        ("[attr]big filter=lfs\n*.bin big", "a.bin"),
        ("*.bin big\n[attr]big filter=lfs", "a.bin"),
        ("[attr]one two\n[attr]two filter=lfs\n*.bin one", "a.bin"),
        ("[attr]binary filter=lfs\n*.bin binary", "a.bin"),
        ("*.bin -filter\n*.bin filter=lfs", "a.bin"),
        ("*.bin -filter filter=lfs", "a.bin"),
        ("*.bin filter=lfs\n*.bin text", "a.bin"),
        ("*.bin filter=lfs\n*.bin binary", "a.bin"),
        ("*.bin filter=lfs\n!*.bin -filter", "a.bin"),
        ("*.bin filter=lfs\n*.bin -filter bad!name", "a.bin"),
        ("a.bin filter=lfs\na.bin/ -filter", "a.bin"),
        ("\ufeff*.bin filter=lfs", "a.bin"),
    ],
)
def test_marks(text: str, path: str) -> None:
    assert marked({"": text}, path) == [path]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "a.bin"),
        ("#*.bin filter=lfs", "a.bin"),
        ("*.bin filter=other", "a.bin"),
        ("*.bin filter", "a.bin"),
        ("*.bin -filter=lfs", "a.bin"),
        ("*.bin filter=lfs\n*.bin -filter", "a.bin"),
        ("*.bin filter=lfs\n*.bin !filter", "a.bin"),
        ("*.bin filter=lfs -filter", "a.bin"),
        ("*.bin filter=lfs bad!name", "a.bin"),
        ("*.bin filter=lfs =x", "a.bin"),
        ("*.bin filter=lfs", "a.BIN"),
        ("/a.bin filter=lfs", "x/a.bin"),
        ("x/a.bin filter=lfs", "y/x/a.bin"),
        ("x/*.bin filter=lfs", "x/y/a.bin"),
        ("x/**/a filter=lfs", "x/ya"),
        ("x/ filter=lfs", "x/a"),
        ("x filter=lfs", "x/a"),
        ("a[/]b filter=lfs", "a/b"),
        ("a?b filter=lfs", "a/b"),
        ("*.[ab filter=lfs", "x.a"),
        ("*[[:nope:]] filter=lfs", "xa"),
        ("a\\ filter=lfs", "a"),
        ("!*.bin filter=lfs", "a.bin"),
        ("[attr]big filter=lfs\n*.bin big\n*.bin -big", "a.bin"),
        ("[attr]big filter=lfs\n*.bin big=yes", "a.bin"),
        ("*.bin filter=lfs" + " text" * 500, "a.bin"),
        ("a.txt text\0\n*.bin filter=lfs", "a.bin"),
    ],
)
def test_passes_over(text: str, path: str) -> None:
    assert marked({"": text}, path) == []


def test_a_deeper_file_wins() -> None:
    files = {"": "*.bin filter=lfs", "x": "*.bin -filter", "x/y": "a.bin filter=lfs"}
    assert marked(files, "a.bin", "x/a.bin", "x/y/a.bin", "x/y/b.bin", "xy/a.bin") == ["a.bin", "x/y/a.bin", "xy/a.bin"]


def test_patterns_count_from_their_own_directory() -> None:
    assert marked({"x": "/a filter=lfs\ny/b filter=lfs"}, "x/a", "a", "x/y/a", "x/y/b", "y/b") == ["x/a", "x/y/b"]


def test_macros_are_defined_at_the_top_only() -> None:
    assert marked({"x": "[attr]big filter=lfs\n*.bin big"}, "x/a.bin") == []
    assert marked({"": "[attr]big filter=lfs", "x": "*.bin big"}, "x/a.bin") == ["x/a.bin"]


def test_a_macro_chain_of_any_length_ends() -> None:
    chain = "\n".join(f"[attr]m{number} m{number + 1}" for number in range(20_000))
    assert marked({"": f"{chain}\n[attr]m20000 filter=lfs\n[attr]loop loop\n* loop m0"}, "a") == ["a"]


def test_a_file_that_git_passes_over_for_its_size_marks_nothing() -> None:
    content = b"* filter=lfs\n" + b"#" * (BIG - 13)
    assert lfs_paths([b"a"], {b"": content}, steps=2 * BIG) == []
    assert lfs_paths([b"a", b"b/c"], {b"": content[:-1], b"b": b"c -filter"}, steps=2 * BIG) == [b"a"]


def test_hostile_patterns_take_bounded_work() -> None:
    patterns = b"".join(b"*a" * 900 + b"%d filter=lfs\n" % number for number in range(200))
    names = [b"a" * 2000 + b"/" + b"%d" % number for number in range(50)]
    assert lfs_paths(names, {b"": patterns}) == []
    for steps in (100, len(patterns) + 100):  # spent on reading, spent on matching
        assert lfs_paths([b"a" * 4000 + b"x7", b"b"], {b"": patterns}, steps=steps) == [b"a" * 4000 + b"x7", b"b"]


@given(st.binary(max_size=200), st.lists(st.binary(min_size=1, max_size=20), max_size=5))
@settings(max_examples=300, deadline=None)
def test_never_fails(content: bytes, paths: list[bytes]) -> None:
    assert set(lfs_paths(paths, {b"": content, b"a": content})) <= set(paths)
