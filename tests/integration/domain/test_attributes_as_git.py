"""The attributes reader against ``git check-attr``, on trees made up by chance."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mirror_sync.domain.attributes import Attributes
from mirror_sync.domain.wildmatch import Wildcard

Files = dict[bytes, bytes]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attributes")
    subprocess.run(["git", "init", "-q", str(path)], check=True)
    return path


def marked_by_us(files: Files, paths: list[bytes]) -> set[bytes]:
    attributes = Attributes(files)
    return {path for path in paths if attributes.marks(path)}


def git(repository: Path, *arguments: str, data: bytes = b"") -> bytes:
    result = subprocess.run(
        ["git", "-C", str(repository), "-c", "core.quotePath=false", *arguments],
        input=data, capture_output=True, check=True, timeout=600,
    )  # fmt: skip
    return result.stdout


def marked_by_git(repository: Path, files: Files, paths: list[bytes]) -> set[bytes]:
    """Return the paths that git, reading ``.gitattributes`` from the index as a checkout does, gives to LFS."""
    git(repository, "read-tree", "--empty")
    entries = []
    for directory, content in files.items():
        blob = git(repository, "hash-object", "-w", "--stdin", data=content).strip()
        name = directory + b"/.gitattributes" if directory else b".gitattributes"
        entries.append(b"100644 %s\t%s\0" % (blob, name))
    git(repository, "update-index", "-z", "--index-info", data=b"".join(entries))
    answer = git(
        repository, "check-attr", "--cached", "-z", "--stdin", "filter", data=b"".join(path + b"\0" for path in paths)
    )
    fields = answer.split(b"\0")
    return {path for path, value in zip(fields[::3], fields[2::3], strict=False) if value == b"lfs"}


# Names and patterns come from the same few letters, so that they meet often.
_NAME = st.text("ab.A1", min_size=1, max_size=4).filter(lambda name: name not in {".", ".."})
_DIRECTORY = st.lists(st.sampled_from(["a", "b", "ab", "a.b", "A"]), min_size=0, max_size=3).map("/".join)
_PATH = st.builds(lambda directory, name: f"{directory}/{name}".lstrip("/"), _DIRECTORY, _NAME)
_PIECE = st.sampled_from(
    [
        "a", "b", ".", "A", "1", "/", "/", "*", "*", "**", "**/", "/**", "/**/", "?", "[ab]", "[!a]", "[^ab]", "[a-b]",
        "[b-a]", "[]a]", "[a-]", "[[:alpha:]]", "[[:upper:]1]", "[[:nope:]]", "[[:]", "[[:a]", "[a", "[\\]a]", "[/]",
        "\\a", "\\*", "\\", "\\/", "!", "#", "***", "[a-\\b]", "[.-b]", "ab", "a/b", "[!/]",
    ]
)  # fmt: skip
_PATTERN = st.one_of(
    st.lists(_PIECE, min_size=1, max_size=5).map("".join),
    _PATH,
    st.builds("*{}".format, _NAME),
    st.builds("/{}".format, _PATH),
    st.builds("{}/**".format, _PATH),
)


def _quoted(pattern: str) -> str:
    return '"' + pattern.replace("\\", "\\\\").replace("a", "\\141").replace("/", "\\057") + '"'


_SUBJECT = st.one_of(
    _PATTERN, _PATTERN, _PATTERN.map(_quoted), st.sampled_from(['"a', '"a\\q"', '"a*"', '""', '"\\000a"'])
)
_STATE = st.sampled_from(
    [
        "filter=lfs", "filter=lfs", "filter=lfs", "-filter", "!filter", "filter", "filter=x", "filter=", "text", "-text",
        "m1", "m1", "m2", "-m1", "!m2", "m1=x", "binary", "-binary", "bad!", "=x", "-", "filter=lfs=x", "-filter=lfs",
    ]
)  # fmt: skip
_BLANK = st.sampled_from([" ", " ", "\t", "  ", "\r", ""])
_RULE = st.builds(
    lambda lead, subject, blank, states, tail: lead + subject + blank + " ".join(states) + tail,
    st.sampled_from(["", "", "", " ", "\t"]),
    _SUBJECT,
    st.sampled_from([" ", " ", " ", "\t", "\r ", ""]),
    st.lists(_STATE, min_size=1, max_size=3),
    _BLANK,
)
_MACRO = st.builds(
    lambda name, states: f"[attr]{name} {' '.join(states)}",
    st.sampled_from(["m1", "m2", "binary", "filter", "-m1", "m 1"]),
    st.lists(_STATE, max_size=3),
)
_LINE = st.one_of(
    _RULE, _RULE, _RULE, _RULE, _MACRO, st.just("# comment"), st.just(""), st.just("* filter=lfs" + " text" * 500)
)
_CONTENT = st.lists(_LINE, max_size=5).map(lambda lines: "\n".join(lines).encode())
_FILES = st.dictionaries(_DIRECTORY.map(str.encode), _CONTENT, min_size=1, max_size=3)
_PATHS = st.lists(_PATH.map(str.encode), min_size=5, max_size=30, unique=True)


@given(files=_FILES, paths=_PATHS)
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@seed(1)
def test_marks_what_git_marks(repository: Path, files: Files, paths: list[bytes]) -> None:
    assert marked_by_us(files, paths) == marked_by_git(repository, files, paths)


@pytest.mark.prove
@pytest.mark.timeout(3600)
@given(files=_FILES, paths=_PATHS)
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_always_marks_what_git_marks(repository: Path, files: Files, paths: list[bytes]) -> None:
    assert marked_by_us(files, paths) == marked_by_git(repository, files, paths)


def test_many_patterns_against_many_paths(repository: Path) -> None:
    """One line a directory, so that each pattern is tried alone; thousands of pairs in one call."""
    drawn: list[tuple[str, list[str]]] = []

    @given(_SUBJECT, st.lists(_PATH, min_size=10, max_size=10))
    @settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @seed(4)
    def draw(subject: str, paths: list[str]) -> None:
        drawn.append((subject, paths))

    draw()
    files = {b"d%d" % number: f"{subject} filter=lfs".encode() for number, (subject, _) in enumerate(drawn)}
    paths = [b"d%d/%s" % (number, path.encode()) for number, (_, paths) in enumerate(drawn) for path in set(paths)]
    theirs = marked_by_git(repository, files, paths)
    assert len(theirs) > 100
    assert marked_by_us(files, paths) == theirs


@pytest.mark.parametrize(
    "subject", ["*.PSD", "*.psd", "A/**/b.Bin", "/A.bin", "[A-C]*.x", "x[[:upper:]]", "A.*", "D/a"]
)
def test_marks_what_git_marks_where_letter_case_does_not_count(repository: Path, subject: str) -> None:
    files = {b"": subject.encode() + b" filter=lfs\n", b"D": b"*.PSD -filter\n"}
    paths = [
        b"a.PSD",
        b"a.psd",
        b"D/a.psd",
        b"a/z/B.bin",
        b"a.bin",
        b"A.BIN",
        b"b1.X",
        b"xa",
        b"xA",
        b"x1",
        b"D/A",
        b"d/a",
    ]
    git(repository, "config", "core.ignoreCase", "true")
    try:
        folded = marked_by_git(repository, files, paths)
    finally:
        git(repository, "config", "--unset", "core.ignoreCase")
    plain = marked_by_git(repository, files, paths)
    attributes = Attributes(files)
    assert {path for path in paths if attributes.marks_anywhere(path)} == plain | folded
    assert {path for path in paths if attributes.marks(path)} == plain


def test_every_class_has_git_s_members(repository: Path) -> None:
    names = [
        "alnum",
        "alpha",
        "blank",
        "cntrl",
        "digit",
        "graph",
        "lower",
        "print",
        "punct",
        "space",
        "upper",
        "xdigit",
    ]
    paths = [b"x" + bytes([byte]) for byte in range(1, 256) if byte != 0x2F]
    for pattern in [f"x[[:{name}:]]" for name in names] + ["x[!a-f]", "x[\x20-\x7f]", "x?", "x[^[:alnum:]]"]:
        quoted = '"' + pattern + '"'
        files = {b"": quoted.encode("latin-1") + b" filter=lfs"}
        assert marked_by_us(files, paths) == marked_by_git(repository, files, paths), pattern


def test_content_after_a_nul_and_carriage_returns_count_as_in_the_index(repository: Path) -> None:
    files = {b"": b"*.a filter=lfs\r\n*.b filter=lfs\0 text\n*.c filter=lfs\n", b"x": b"\0* filter=lfs"}
    paths = [b"1.a", b"1.b", b"1.c", b"x/1"]
    assert marked_by_us(files, paths) == marked_by_git(repository, files, paths)


@pytest.mark.parametrize("length", [2046, 2047, 2048, 2049])
def test_passes_over_the_lines_that_git_passes_over(repository: Path, length: int) -> None:
    files = {b"": b"* filter=lfs".ljust(length)}
    assert marked_by_us(files, [b"a"]) == marked_by_git(repository, files, [b"a"])


def test_a_star_never_matches_a_slash() -> None:
    assert not Wildcard(b"a*").matches(b"a/b")
    assert Wildcard(b"**").matches(b"a/b")
