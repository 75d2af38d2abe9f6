"""Which LFS objects a mirror keeps, by path as git-lfs has it, and by size."""

from __future__ import annotations

import subprocess

import pytest

from mirror_sync.domain.selection import ELSEWHERE, ELSEWHERE_OR_OLD, OLD, PathPattern, Selection

PATHS = (
    "a.bin", "b.txt", "data/a.bin", "data/sub/a.bin", "data/sub/deep/x.bin", "x/data/a.bin", "x/data/sub/b.txt",
    "models/base/w.safetensors", "models/base/config.json", "models", "v1/model.bin", "v12/model.bin", "café/ü.bin",
    "with space/a b.bin", "[odd]/a.bin", "*star", "-dash.bin", "!bang.bin", "d.bin/inner.txt",
)  # fmt: skip
PATTERNS = (
    "*.bin", "/*.bin", "data", "data/", "/data", "/data/", "data/*", "data/**", "**/a.bin", "data/**/a.bin", "a.bin",
    "*", "**", "data/sub", "sub", "sub/", "**/sub/", "models/*/w.*", "v?/model.bin", "v[0-9]/model.bin",
    "v[0-9]*/", "café", "with space", "\\[odd\\]", "\\*star", "*.safetensors", "x/**/b.txt", "nothing", "-dash.bin",
    "data/su*", "?ata/", "d.bin",
)  # fmt: skip


@pytest.fixture(scope="module")
def ignored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Which paths git itself ignores by each pattern alone."""
    root = tmp_path_factory.mktemp("ignore")
    subprocess.run(["git", "init", "-q", root], check=True)
    told = {}
    for number, pattern in enumerate(PATTERNS):
        rules = root / f".rules{number}"
        rules.write_text(pattern + "\n", encoding="utf-8")
        # one path after another, so that no file stands where another path has a directory
        done = subprocess.run(
            ["git", "-c", f"core.excludesFile={rules}", "-C", root, "check-ignore", "--no-index", "--stdin", "-z"],
            input="\0".join(PATHS).encode(), capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        told[pattern] = set(done.stdout.decode().split("\0")) - {""}
    return told


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_takes_what_git_would_ignore_by_it(pattern: str, ignored: dict[str, set[str]]) -> None:
    compiled = PathPattern(pattern)
    assert compiled.sound
    assert {path for path in PATHS if compiled.matches(path.encode())} == ignored[pattern]


@pytest.mark.parametrize("pattern", ["", "/", "//", "[", "a[", "a\\", "[[:nonsense:]]"])
def test_what_can_match_nothing_is_not_sound(pattern: str) -> None:
    assert not PathPattern(pattern).sound


def test_no_pattern_takes_every_path() -> None:
    assert all(Selection().takes_path(path) for path in PATHS)


def test_exclude_goes_before_include() -> None:
    selection = Selection(include=("data/",), exclude=("sub/",))
    taken = {path for path in PATHS if selection.takes_path(path)}
    assert taken == {"data/a.bin", "x/data/a.bin"}
    assert {path for path in PATHS if Selection(exclude=("*.bin",)).takes_path(path)} == {
        path for path in PATHS if ".bin" not in path
    }


def test_paths_that_are_no_utf8_can_be_named() -> None:
    assert Selection(include=("caf\udce9/",)).takes_path("caf\udce9/a.bin")
    assert not Selection(include=("*.txt",)).takes_path("caf\udce9/a.bin")


def test_an_object_of_the_limit_itself_is_kept() -> None:
    selection = Selection(max_object=10)
    assert [selection.takes_size(size) for size in (9, 10, 11)] == [True, True, False]
    assert Selection().takes_size(1 << 60)


def test_each_selection_has_a_name_of_its_own_and_everything_has_none() -> None:
    selections = [
        Selection(include=("a",)), Selection(exclude=("a",)), Selection(include=("a", "b")), Selection(max_object=1),
        Selection(recent=1.0), Selection(max_object=1, recent=1.0),
    ]  # fmt: skip
    assert len({selection.name for selection in selections}) == len(selections)
    assert Selection().name == ""
    assert Selection().everything
    assert not any(selection.everything or not selection.name for selection in selections)
    assert Selection(include=("a",)).name == Selection(include=("a",)).name


def test_reasons_say_what_left_an_object_out() -> None:
    assert Selection(include=("a",)).out_of_place == ELSEWHERE
    assert Selection(recent=1.0).out_of_place == OLD
    assert Selection(include=("a",), recent=1.0).out_of_place == ELSEWHERE_OR_OLD
    assert "10.0 GiB" in Selection(max_object=10 << 30).too_large
    assert [s.by_place for s in (Selection(max_object=1), Selection(recent=1.0), Selection(exclude=("a",)))] == [
        False,
        True,
        True,
    ]
