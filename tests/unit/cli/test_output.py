from __future__ import annotations

import pytest

from mirror_sync.cli.codes import NoWorker, WaitedTooLong, exit_status
from mirror_sync.cli.options import Globals
from mirror_sync.cli.output import Output, show_error, span, width
from mirror_sync.errors import (
    AddressRefused,
    ConfigError,
    Conflict,
    MirrorSyncError,
    NotFound,
    StateUnavailable,
    StorageFull,
    UsageError,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (61, "1m1s"), (8040, "2h14m"), (7200, "2h"), (273600, "3d4h"), (None, "-")],
)
def test_spans_are_short(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_columns_line_up_in_chinese_too(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Globals()).table(("A", "B"), [("模型", "x"), ("abcd", "y")])
    lines = capsys.readouterr().out.splitlines()
    assert [width(line) for line in lines[1:]] == [7, 7]
    Output(Globals(plain=True)).table(("A", "B"), [("模型", "x")])
    assert capsys.readouterr().out == "模型\tx\n"


def test_an_error_says_what_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(StorageFull("first fill stopped", why="92 GiB free,\nreserve 100 GiB", remedy="free space"), Globals())
    assert capsys.readouterr().err == (
        "error[MS-S507]: first fill stopped\n  why: 92 GiB free,\n       reserve 100 GiB\n  do:  free space\n"
    )


def test_an_error_cannot_paint_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(NotFound("\x1b[31mred\u202e"), Globals())
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError(), 2), (AddressRefused(), 2), (NotFound(), 5), (Conflict(), 6), (StateUnavailable(), 7), (NoWorker(), 7),
        (ConfigError(), 8), (WaitedTooLong(), 9), (StorageFull(), 1), (MirrorSyncError("x"), 1),
    ],
)  # fmt: skip
def test_the_exit_status_tells_the_kind_of_error(error: MirrorSyncError, status: int) -> None:
    assert exit_status(error) == status
