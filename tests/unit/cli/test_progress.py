"""How far a mirror is, as terminals and logs have it."""

from __future__ import annotations

import io
from typing import Any

import pytest

from mirror_sync.actions.status import FORGOTTEN_SECONDS, progress_document
from mirror_sync.cli.options import Globals
from mirror_sync.cli.output import Output, width
from mirror_sync.cli.progress import Board, bar, brief, key_values, line, share
from mirror_sync.domain.progress import SILENT_SECONDS, Kind, Progress, Way

NAME = "github.com/acme/model"
NOW = 1_000_000.0


def git(**changes: Any) -> Progress:
    told: dict[str, Any] = {
        "kind": Kind.GIT, "way": Way.LADDER, "done": 100, "total": 400, "received": 3 << 20, "rate": 2048.0,
        "connections": 1, "cuts": 3, "sources": ("github.com",), "began_at": NOW - 60, "at": NOW,
    }  # fmt: skip
    return Progress(**told | changes)


def lfs(**changes: Any) -> Progress:
    told: dict[str, Any] = {
        "kind": Kind.LFS, "way": Way.PARTS, "done": 61 << 30, "total": 198 << 30, "received": 62 << 30,
        "rate": float(84 << 20), "connections": 8, "cuts": 2, "items": 37, "items_total": 120,
        "sources": ("near.example", "github.com"), "began_at": NOW - 60, "at": NOW,
    }  # fmt: skip
    return Progress(**told | changes)


def item(progress: Progress | None, *, name: str = NAME, now: float = NOW, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "activity": "syncing",
        "removing_at": None,
        "run": {"step": "fetch", "detail": ""},
        "refs": {"count": 214},
        "lfs": {"present": 0, "wanted": 0, "present_bytes": 0, "wanted_bytes": 0},
        "progress": progress_document(progress, now),
    } | changes


def test_a_document_has_the_facts_and_the_remaining_time() -> None:
    document = progress_document(lfs(), NOW)
    assert document is not None
    assert (document["kind"], document["way"], document["unit"]) == ("lfs", "parts", "bytes")
    assert document["remaining_seconds"] == 1671  # 137 GiB at 84 MiB/s
    assert document["rate_bytes_per_second"] == 84 << 20
    assert document["sources"] == ["near.example", "github.com"]
    assert document["stale"] is False
    commits = progress_document(git(), NOW)
    assert commits is not None
    assert commits["unit"] == "commits"
    assert commits["remaining_seconds"] == 180  # a quarter took a minute


def test_what_nobody_tells_of_any_more_is_stale_and_then_nothing() -> None:
    assert progress_document(None, NOW) is None
    assert progress_document(git(), NOW + SILENT_SECONDS)["stale"] is False  # type: ignore[index]
    stale = progress_document(git(), NOW + SILENT_SECONDS + 1)
    assert stale is not None
    assert stale["stale"] is True
    assert stale["rate_bytes_per_second"] is None
    assert stale["remaining_seconds"] is None
    assert stale["done"] == 100
    assert progress_document(git(), NOW + FORGOTTEN_SECONDS + 1) is None


def test_a_hostile_source_is_shown_harmlessly() -> None:
    document = progress_document(git(sources=("evil\x1b[31m.example",)), NOW)
    assert document is not None
    assert "\x1b" not in document["sources"][0]


def test_a_line_says_what_people_ask() -> None:
    assert line(item(git()), 200) == (
        "github.com/acme/model  refs 214  git ladder  ━━╸───────  100 of 400 commits  3.0 MiB  2.0 KiB/s  3m left"
        "  1 connection  3 cuts  from github.com"
    )
    assert line(item(lfs()), 200) == (
        "github.com/acme/model  refs 214  lfs 37/120  ━━━───────  61.0 GiB of 198.0 GiB  84.0 MiB/s  27m51s left"
        "  8 connections  2 cuts  from near.example, github.com"
    )
    told = line(item(git(total=None, done=0)), 200)
    assert "git ladder  3.0 MiB  2.0 KiB/s  1 connection" in told
    assert "commits" not in told
    assert "nothing heard lately" in line(item(git(), now=NOW + 60), 200)
    assert line(item(None), 200) == "github.com/acme/model  refs 214  syncing fetch"


@pytest.mark.parametrize("columns", range(20, 160, 7))
@pytest.mark.parametrize("name", [NAME, "git.example/很长的名字/" + "仓库" * 9])
def test_a_line_is_never_wider_than_the_terminal(columns: int, name: str) -> None:
    told = line(item(lfs(), name=name), columns)
    assert width(told) <= columns
    if columns >= 100:
        assert "27m51s left" in told


def test_a_bar_fills_by_half_cells_and_is_full_only_at_the_end() -> None:
    assert bar(0.0) == "─" * 10
    assert bar(0.05) == "╸" + "─" * 9
    assert bar(0.999) == "━" * 9 + "╸"
    assert bar(1.0) == "━" * 10
    assert bar(0.5, plain=True) == "#####-----"
    assert item(git(done=399))["progress"]["percent"] == 99
    assert item(git(done=500))["progress"]["percent"] == 100
    assert share(item(git(done=500))["progress"]) == 1.0
    assert share(item(git(total=0))["progress"]) is None


def test_lists_say_it_in_short() -> None:
    assert brief(item(git())) == "syncing fetch, git 25 % 3m left"
    assert brief(item(git(total=None))) == "syncing fetch, git 3.0 MiB"
    assert brief(item(None)) == "syncing fetch"


def test_a_log_line_has_keys_and_values() -> None:
    told = dict(pair.split("=", 1) for pair in key_values(item(lfs())).split())
    assert told["mirror"] == NAME
    assert told["way"] == "parts"
    assert told["done"] == str(61 << 30)
    assert told["remaining_seconds"] == "1671"
    assert told["connections"] == "8"
    assert told["cuts"] == "2"
    assert told["sources"] == "near.example,github.com"
    assert "stale" not in told
    assert "stale=true" in key_values(item(lfs(), now=NOW + 60))
    assert "total" not in key_values(item(git(total=None)))
    nothing = {"present": None, "wanted": None, "present_bytes": None, "wanted_bytes": None}
    of_a_clone = key_values(item(lfs(), refs={"count": None}, lfs=nothing))
    assert "objects_total=120" in of_a_clone
    assert "refs=" not in of_a_clone
    assert "lfs_" not in of_a_clone


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_gets_a_line_every_half_minute_or_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(Output(Globals()), at_once=False)
    board.show([item(git(done=0))], now=0.0)
    board.show([item(git(done=39))], now=1.0)
    assert said(capsys) == []
    board.show([item(git(done=40))], now=2.0)
    assert len(said(capsys)) == 1
    board.show([item(git(done=41))], now=31.9)
    assert said(capsys) == []
    board.show([item(git(done=41))], now=32.0)
    assert len(said(capsys)) == 1
    board.show([item(git(done=1))], now=33.0)  # the next job begins again
    board.show([item(git(done=42))], now=34.0)
    assert len(said(capsys)) == 1


def test_many_mirrors_are_said_as_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board(Output(Globals()), at_once=True)
    board.show([item(None, name=f"h.example/r{number}") for number in range(17)], now=0.0)
    told = said(capsys)
    assert len(told) == 6
    assert told[-1] == "more=12"
    Board(Output(Globals(quiet=True)), at_once=True).show([item(None)], now=0.0)
    assert said(capsys) == []


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("encoding", "cell"), [("utf-8", "━"), ("ascii", "#")])
def test_a_terminal_gets_lines_that_renew_themselves(monkeypatch: pytest.MonkeyPatch, encoding: str, cell: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stderr", Terminal(raw, encoding=encoding, write_through=True))
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("TERM", "xterm")
    board = Board(Output(Globals()), at_once=False)
    items = [item(None, name=f"h.example/r{number}") for number in range(16)] + [item(git())]
    board.show(items, now=0.0)
    board.show(items, now=0.5)
    text = raw.getvalue().decode(encoding)
    assert f"{NAME}  refs 214  git ladder  {cell}{cell}" in text, "one that moves comes first"
    assert "and 12 more" in text
    assert text.count("h.example/r3") == 2
    assert "h.example/r4" not in text
    board.clear()
    board.show([], now=1.0)
