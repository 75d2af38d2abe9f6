"""How far mirrors are: one line each on a terminal, key=value lines in a log."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mirror_sync.cli.output import Output, span, width
from mirror_sync.domain.figures import size_text

if TYPE_CHECKING:
    from mirror_sync.actions.status import Document

SAY_EVERY_SECONDS = 30.0
SAY_EVERY_SHARE = 0.1
"""In a log each mirror has a line this often, or whenever this much more of it has arrived."""

MOST_LINES = 5
BAR_CELLS = 10
LEAST_COLUMNS = 20

_NAME, _FIGURES, _REMAINING, _RATE, _KIND, _BAR, _CUTS, _CONNECTIONS, _REFS, _SOURCES = range(10)
"""What a line is made of, the most wanted first: a narrow terminal loses the last ones."""


def doing(item: Document) -> str:
    """Return what is being done with a mirror now, with the step of its run."""
    run = item["run"]
    if item["removing_at"] and run is None:
        return "removing"
    if run is None:
        return str(item["activity"])
    return " ".join(part for part in (item["activity"], run["step"], run["detail"]) if part)


def share(progress: Document) -> float | None:
    """Return how much of a fetch or transfer is done, from 0 to 1; ``None`` while nobody knows."""
    if not progress["total"]:
        return None
    return float(min(1.0, max(0.0, progress["done"] / progress["total"])))


def arrived(progress: Document) -> str:
    """Return how much of it is here, in its own unit."""
    done, total = progress["done"], progress["total"]
    if progress["unit"] == "bytes":
        return f"{size_text(done)} of {size_text(total)}" if total is not None else size_text(done)
    return f"{done} of {total} commits" if total is not None else f"{done} commits" if done else ""


def objects(progress: Document) -> str:
    """Return how many LFS objects have arrived, where they are counted."""
    if progress["objects_total"] is not None:
        return f"{progress['objects']}/{progress['objects_total']}"
    return str(progress["objects"]) if progress["objects"] else ""


def pace(progress: Document) -> list[str]:
    """Return rate, remaining time, connections and cuts survived, as far as there is something to say."""
    parts: list[str] = []
    if progress["rate_bytes_per_second"] is not None:
        parts.append(f"{size_text(progress['rate_bytes_per_second'])}/s")
    if progress["remaining_seconds"] is not None:
        parts.append(f"{span(progress['remaining_seconds'])} left")
    parts += [_counted(progress["connections"], "connection"), _counted(progress["cuts"], "cut")]
    return [part for part in parts if part]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}" if count else ""


def brief(item: Document) -> str:
    """Return what is being done with a mirror now and how far it is."""
    progress = item["progress"]
    if progress is None:
        return doing(item)
    far = [size_text(progress["received_bytes"]) if progress["percent"] is None else f"{progress['percent']} %"]
    if progress["remaining_seconds"] is not None:
        far.append(f"{span(progress['remaining_seconds'])} left")
    return f"{doing(item)}, {progress['kind']} {' '.join(far)}"


def bar(part: float, *, cells: int = BAR_CELLS, plain: bool = False) -> str:
    """Return a share as a bar, in ASCII when ``plain``."""
    full, half, empty = ("#", "#", "-") if plain else ("━", "╸", "─")
    halves = int(part * cells * 2)
    return (full * (halves // 2) + half * (halves % 2)).ljust(cells, empty)


def line(item: Document, columns: int, *, ascii_only: bool = False) -> str:
    """Return one line on a mirror that is no wider than ``columns``."""
    parts: list[tuple[int, str]] = [(_NAME, item["name"])]
    if item["refs"]["count"]:
        parts.append((_REFS, f"refs {item['refs']['count']}"))
    if item["progress"] is not None:
        return _fitted([*parts, *_under_way(item["progress"], ascii_only=ascii_only)], columns)
    parts.append((_FIGURES, doing(item)))
    lfs = item["lfs"]
    if lfs["wanted"]:
        here = f"{size_text(lfs['present_bytes'])} of {size_text(lfs['wanted_bytes'])}"
        parts.append((_KIND, f"lfs {lfs['present']}/{lfs['wanted']}  {here}"))
    return _fitted(parts, columns)


def _under_way(progress: Document, *, ascii_only: bool) -> list[tuple[int, str]]:
    part = share(progress)
    commits = progress["unit"] == "commits"
    seconds, rate = progress["remaining_seconds"], progress["rate_bytes_per_second"]
    told = (
        (_KIND, f"git {progress['way']}" if commits else f"lfs {objects(progress)}".rstrip()),
        (_BAR, bar(part, plain=ascii_only) if part is not None else ""),
        (_FIGURES, arrived(progress)),
        (_FIGURES, size_text(progress["received_bytes"]) if commits else ""),
        (_RATE, "nothing heard lately" if progress["stale"] else ""),
        (_RATE, f"{size_text(rate)}/s" if rate is not None else ""),
        (_REMAINING, f"{span(seconds)} left" if seconds is not None else ""),
        (_CONNECTIONS, _counted(progress["connections"], "connection")),
        (_CUTS, _counted(progress["cuts"], "cut")),
        (_SOURCES, f"from {', '.join(progress['sources'])}" if progress["sources"] else ""),
    )
    return [(rank, text) for rank, text in told if text]


def _fitted(parts: list[tuple[int, str]], columns: int) -> str:
    left = list(parts)
    while len(left) > 1 and width("  ".join(text for _, text in left)) > columns:
        least = max(range(len(left)), key=lambda index: (left[index][0], index))
        del left[least]
    text = "  ".join(text for _, text in left)
    if width(text) <= columns:
        return text
    while width(text) > columns - 3:
        text = text[:-1]
    return f"{text}..."


def key_values(item: Document) -> str:
    """Return one line for a log: what is being done with a mirror and how far it is."""
    run = item["run"] or {"step": "", "detail": ""}
    lfs = item["lfs"]
    pairs: dict[str, object] = {
        "mirror": item["name"],
        "activity": item["activity"],
        "step": run["step"],
        "detail": run["detail"],
        "refs": item["refs"]["count"],
        "lfs_present": lfs["present"],
        "lfs_wanted": lfs["wanted"],
        "lfs_bytes": lfs["present_bytes"],
    }
    progress = item["progress"]
    if progress is not None:
        told = ("kind", "way", "unit", "done", "total", "percent", "objects", "objects_total", "received_bytes",
                "rate_bytes_per_second", "remaining_seconds", "connections", "cuts")  # fmt: skip
        pairs |= {key: progress[key] for key in told}
        pairs["sources"] = ",".join(progress["sources"])
        if progress["stale"]:
            pairs["stale"] = "true"
    return " ".join(f"{key}={_value(value)}" for key, value in pairs.items() if value not in ("", None))


def _value(value: object) -> str:
    text = str(value)
    return '"' + text.replace('"', "'") + '"' if " " in text else text


class Board:
    """Keeps people informed on standard error: lines that renew themselves on a terminal, else a line now and then.

    ``at_once`` says the first lines of a log before anything has moved.  With ``-q`` it says nothing.
    """

    def __init__(self, out: Output, *, at_once: bool) -> None:
        self._out = out
        self._at_once = at_once
        self._live: Any = None
        self._said: dict[str, tuple[float, float]] = {}

    def show(self, items: Sequence[Document], *, now: float) -> None:
        """Show how far ``items`` are at the monotonic time ``now``."""
        if self._out.told.quiet:
            return
        if sys.stderr.isatty():
            self._renew(items)
        else:
            self._say(items, now)

    def clear(self) -> None:
        """Take away what renews itself; what is written next stands alone."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _renew(self, items: Sequence[Document]) -> None:
        if not items:
            self.clear()
            return
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        columns = max(LEAST_COLUMNS, shutil.get_terminal_size().columns - 1)
        letters = (sys.stderr.encoding or "").lower().startswith("utf")
        lines = [line(item, columns, ascii_only=not letters) for item in _moving_first(items)[:MOST_LINES]]
        if len(items) > MOST_LINES:
            lines.append(f"and {len(items) - MOST_LINES} more")
        if self._live is None:
            console = Console(stderr=True, no_color=not self._out.colored(sys.stderr), markup=False, highlight=False)
            self._live = Live(console=console, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(Group(*(Text(text, no_wrap=True, overflow="crop") for text in lines)), refresh=True)

    def _say(self, items: Sequence[Document], now: float) -> None:
        told = [item for item in items if self._has_news(item, now)]
        for item in told[:MOST_LINES]:
            self._out.note(key_values(item))
        if len(told) > MOST_LINES:
            self._out.note(f"more={len(told) - MOST_LINES}")
        names = {item["name"] for item in items}
        self._said = {name: said for name, said in self._said.items() if name in names}

    def _has_news(self, item: Document, now: float) -> bool:
        progress = item["progress"]
        part = (share(progress) or 0.0) if progress is not None else 0.0
        said = self._said.get(item["name"])
        if said is None:
            self._said[item["name"]] = (now, part)
            return self._at_once
        at, before = said
        if part < before:
            before = part  # there is more of it than was known, or the next thing began
            self._said[item["name"]] = (at, before)
        if now - at < SAY_EVERY_SECONDS and part - before < SAY_EVERY_SHARE:
            return False
        self._said[item["name"]] = (now, part)
        return True


def _moving_first(items: Iterable[Document]) -> list[Document]:
    return sorted(items, key=lambda item: item["progress"] is None)
