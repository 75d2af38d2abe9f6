"""What every benchmark ends in: a table, one line of JSON, and an exit status.

A :class:`Figure` is one measured value beside its floor and its peer, measured in the
same run.  :func:`conclude` prints them; ``--check`` exits 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value; smaller is better unless ``floor`` is a least value."""

    what: str
    value: float
    unit: str
    most: float | None = None
    """The floor where the value must stay below it."""
    least: float | None = None
    """The floor where the value must reach it."""
    peer: str = ""
    peer_value: float | None = None

    @property
    def ratio(self) -> float | None:
        """The peer's value over ours: above 1 where we need less."""
        return self.peer_value / self.value if self.peer_value is not None and self.value else None

    @property
    def missed(self) -> bool:
        """Whether the floor is missed; no number misses every floor."""
        if self.most is not None and not self.value < self.most:
            return True
        return self.least is not None and not self.value >= self.least

    @property
    def floor(self) -> str:
        """The floor as it is printed."""
        if self.most is not None:
            return f"< {number(self.most)} {self.unit}"
        return f">= {number(self.least)} {self.unit}" if self.least is not None else ""

    def row(self) -> list[str]:
        """Return the cells of its line in the table."""
        peer = f"{self.peer}: {number(self.peer_value)} {self.unit}" if self.peer_value is not None else ""
        ratio = f"{self.ratio:.1f}" if self.ratio is not None else ""
        return [
            self.what,
            f"{number(self.value)} {self.unit}",
            self.floor,
            "MISSED" if self.missed else "",
            peer,
            ratio,
        ]

    @classmethod
    def of(cls, document: dict[str, Any]) -> Figure:
        """Return the figure that :meth:`document` wrote."""
        known = {key: value for key, value in document.items() if key not in ("ratio", "missed")}
        return cls(**known)

    def document(self) -> dict[str, object]:
        """Return it for the line of JSON."""
        said = {
            "what": self.what, "value": rounded(self.value), "unit": self.unit, "most": self.most, "least": self.least,
            "peer": self.peer or None, "peer_value": rounded(self.peer_value), "ratio": rounded(self.ratio),
        }  # fmt: skip
        return {key: value for key, value in said.items() if value is not None} | {"missed": self.missed}


HEADINGS = ["", "figure", "floor", "", "peer in the same run", "peer / ours"]


def number(value: float | None) -> str:
    """Return a number with about three digits that count."""
    if value is None or math.isnan(value):
        return "-"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def rounded(value: float | None) -> float | None:
    """Return a number with four digits that count."""
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def options(description: str | None, *more: tuple[tuple[str, ...], dict[str, object]]) -> argparse.ArgumentParser:
    """Return a parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for names, settings in more:
        parser.add_argument(*names, **settings)  # type: ignore[arg-type]
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--check", action="store_true", help="exit 1 when a floor is missed")
    return parser


def conclude(name: str, figures: Sequence[Figure], told: argparse.Namespace, **facts: object) -> int:
    """Print the figures as a table and as one line of JSON, and return the exit status."""
    print(table([HEADINGS, *(figure.row() for figure in figures)]))
    answer = {"benchmark": name, **facts, "machine": machine(), "figures": [figure.document() for figure in figures]}
    print(json.dumps(answer), flush=True)
    if told.json:
        told.json.write_text(json.dumps(answer, indent=2) + "\n")
    return 1 if told.check and any(figure.missed for figure in figures) else 0


def machine() -> dict[str, object]:
    """Return what the figures depend on, the load of others included."""
    return {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)
