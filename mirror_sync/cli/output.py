"""Results on stdout, everything else on stderr, for people, grep and programs."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import click

from mirror_sync.cli.options import Globals
from mirror_sync.domain.names import printable
from mirror_sync.errors import MirrorSyncError

GLYPHS = {
    "fresh": ("●", "green"),
    "stale": ("▲", "yellow"),
    "failing": ("✖", "red"),
    "incomplete": ("◆", "magenta"),
    "gone": ("⊘", "bright_black"),
    "denied": ("⊘", "bright_black"),
    "paused": ("‖", "bright_black"),
    "new": ("○", "cyan"),
}


class Output:
    """Writes one command's result in the form the flags ask for."""

    def __init__(self, told: Globals) -> None:
        self.told = told

    @property
    def json(self) -> bool:
        """Whether one JSON document is wanted."""
        return self.told.json

    @property
    def plain(self) -> bool:
        """Whether tab-separated lines are wanted."""
        return self.told.plain

    def document(self, document: object) -> None:
        """Print the one JSON document."""
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))

    def line(self, text: str = "") -> None:
        """Print one line of the result."""
        click.echo(text, color=self.colored(sys.stdout))

    def note(self, text: str) -> None:
        """Tell something beside the result."""
        if not self.told.quiet:
            click.echo(text, err=True, color=self.colored(sys.stderr))

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print aligned columns, or tab-separated ones without headings."""
        if self.plain:
            for row in rows:
                click.echo("\t".join(click.unstyle(cell) for cell in row))
            return
        table = [[click.style(heading, dim=True) for heading in headings], *[list(row) for row in rows]]
        widths = [max(width(row[column]) for row in table) for column in range(len(headings))]
        for row in table:
            cells = (cell + " " * (widths[column] - width(cell)) for column, cell in enumerate(row))
            self.line("  ".join(cells).rstrip())

    def fields(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print names and values, one pair a line."""
        pairs = list(rows)
        if self.plain:
            for name, value in pairs:
                click.echo(f"{name}\t{click.unstyle(value)}")
            return
        longest = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            self.line(f"  {click.style(name.ljust(longest), dim=True)}  {value}".rstrip())

    def colored(self, stream: Any) -> bool:
        """Tell whether ``stream`` gets colours."""
        no_color = self.told.no_color or self.told.plain or bool(os.environ.get("NO_COLOR"))  # noqa: TID251 - an entry point, and NO_COLOR is about the terminal
        return not no_color and bool(stream.isatty())


def width(text: str) -> int:
    """Return how many columns ``text`` takes, colours left out."""
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in click.unstyle(text)
    )


def health_text(health: str) -> str:
    """Return glyph and word, coloured alike."""
    glyph, color = GLYPHS.get(health, ("?", "white"))
    return click.style(f"{glyph} {health}", fg=color)


def span(seconds: float | None) -> str:
    """Return seconds as people say them: ``45s``, ``2h14m``, ``3d4h``."""
    if seconds is None:
        return "-"
    left = int(seconds)
    for large, big, small, little in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if left >= large:
            rest = left % large // small
            return f"{left // large}{big}{rest}{little}" if rest else f"{left // large}{big}"
    return f"{left}s"


def show_error(error: MirrorSyncError, told: Globals) -> None:
    """Tell an error: what happened, why, what to do; with ``--json`` as a document on stdout."""
    out = Output(told)
    problems = tuple(getattr(error, "problems", ()))
    if told.verbose:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if told.json:
        body: dict[str, Any] = {"code": error.code, "message": error.message, "why": error.why, "do": error.remedy}
        if problems:
            body["problems"] = list(problems)
        out.document({"error": body})
        return
    color = out.colored(sys.stderr)
    head = click.style(f"error[{error.code}]", fg="red", bold=True)
    lines = [f"{head}: {printable(error.message)}"]
    reasons = problems or tuple(error.why.splitlines())
    lines += [("  why: " if index == 0 else "       ") + printable(reason) for index, reason in enumerate(reasons)]
    if error.remedy:
        lines.append(f"  do:  {printable(error.remedy)}")
    click.echo("\n".join(lines), err=True, color=color)
