"""What is written down about an unfinished filling; every record durable before anything relies on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.ports.filling import Goal
from mirror_sync.repos.files import remove_file, remove_tree, replace_file, sync_directory
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.store import whole_packs

GRAPH = "graph"
"""Repository in a filling where the commit graph is gathered."""

GATHER = "gather"
"""Directory in a filling where the one well-made pack is written."""

BLOBS = "blobs"
"""Directory in a filling with blobs that come in pieces."""

ORDER = "order"
"""File in a filling with the frozen order of commits."""

_GOAL = "goal"
_POSITION = "position"
_CLOSED = "closed"
_GIVEN_UP = "given-up"
_PACKS = "packs"
_GATHERINGS = "gatherings"
_BY_OBJECTS = "by-objects"
_ENDING = "ending"
_DOUBT = "doubt"
_GONE = "tmp_fill"

_OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_PACK = re.compile(r"pack-[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")


@dataclass(frozen=True, slots=True)
class Position:
    """How far the order is closed: the byte offset behind it, and commits of commits."""

    offset: int
    done: int
    total: int


class Journal:
    """The records of one mirror's filling; a record that cannot be read counts as never written."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.directory = layout.fill

    # -- begin and end
    def begun(self) -> bool:
        """Tell whether a filling was begun and neither finished nor dropped."""
        return (self.directory / _GOAL).is_file() and not (self.directory / _ENDING).exists()

    def goal(self) -> Goal | None:
        """Return the goal."""
        record = self._read(_GOAL)
        try:
            return Goal(
                ObjectFormat(record["object_format"]),
                [GitOid(oid) for oid in record["tips"]],
                [GitOid(oid) for oid in record["boundary"]],
                {GitOid(tag): GitOid(oid) for tag, oid in record["peeled"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def write_goal(self, goal: Goal) -> None:
        """Replace the goal."""
        record = {
            "object_format": goal.object_format.value,
            "tips": sorted(set(goal.tips)),
            "boundary": sorted(set(goal.boundary)),
            "peeled": dict(goal.peeled),
        }
        self._write(_GOAL, record)

    def end(self, *, keep: Iterable[str]) -> None:
        """End the filling: remove the packs that came for it except ``keep``, and every record."""
        self._write(_ENDING, {"keep": sorted(keep)})
        self.complete_ending()

    def complete_ending(self) -> bool:
        """Finish an end that a crash interrupted; ``False`` when there is none."""
        if not (self.directory / _ENDING).exists():
            return False
        keep = self._read(_ENDING).get("keep", ())
        remove_packs(self._layout.stage_packs, self.packs() - set(keep))
        self.clear()
        return True

    def clear(self) -> None:
        """Remove every record, in one rename and then in peace."""
        gone = self._layout.stage / _GONE
        remove_tree(gone)
        self.directory.rename(gone)
        sync_directory(gone.parent)
        remove_tree(gone)

    def tidy(self) -> None:
        """Remove the directory when nothing is in it."""
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def _holds_objects(self) -> bool:
        """Tell whether something came before a goal was written down."""
        graph = self.directory / GRAPH / "objects" / "pack"
        return bool(self.packs() or whole_packs(graph) or any(self.directory.glob("*.pack.part")))

    def sweep(self) -> list[str]:
        """Remove what a crash left that nothing can go on from; return the names."""
        removed = [_GONE] if remove_tree(self._layout.stage / _GONE) else []
        if not self.directory.is_dir():
            return removed
        if self.complete_ending():
            return [*removed, self.directory.name]
        if self.goal() is None and not self._holds_objects():
            self.clear()
            return [*removed, self.directory.name]
        for path in sorted(self.directory.glob("tmp_*")):
            remove_tree(path) if path.is_dir() else remove_file(path)
            removed.append(f"{self.directory.name}/{path.name}")
        if remove_tree(self.directory / GATHER):
            removed.append(f"{self.directory.name}/{GATHER}")
        return removed

    # -- the ladder
    def position(self) -> Position | None:
        """Return how far the order is closed; ``None`` when no order stands."""
        record = self._read(_POSITION)
        try:
            position = Position(int(record["offset"]), int(record["done"]), int(record["total"]))
            size = (self.directory / ORDER).stat().st_size
        except (KeyError, TypeError, ValueError, FileNotFoundError):
            return None
        return position if position.offset <= size else None

    def write_position(self, position: Position) -> None:
        """Replace the position."""
        self._write(_POSITION, {"offset": position.offset, "done": position.done, "total": position.total})

    def drop_order(self) -> None:
        """Forget order and position, the position first: without it no order counts."""
        for name in (_POSITION, ORDER, _BY_OBJECTS):
            if remove_file(self.directory / name):
                sync_directory(self.directory)

    def closed(self) -> frozenset[GitOid]:
        """Return the tips noted as closed."""
        return self._oids(_CLOSED)

    def write_closed(self, tips: Iterable[GitOid]) -> None:
        """Replace the tips noted as closed."""
        self._write_oids(_CLOSED, tips)

    def doubted(self) -> bool:
        """Tell whether what is noted as closed turned out not to be."""
        return (self.directory / _DOUBT).exists()

    def doubt(self) -> None:
        """Note that what is noted as closed so far is not to be believed."""
        if not self.doubted() or self.closed_since():
            self.write_closed_since(())

    def closed_since(self) -> frozenset[GitOid]:
        """Return the tips noted as closed since the last doubt."""
        return self._oids(_DOUBT)

    def write_closed_since(self, tips: Iterable[GitOid]) -> None:
        """Replace the tips noted as closed since the last doubt."""
        self._write_oids(_DOUBT, tips)

    def _oids(self, name: str) -> frozenset[GitOid]:
        try:
            text = (self.directory / name).read_text("ascii", "replace")
        except FileNotFoundError:
            return frozenset()
        return frozenset(GitOid(line) for line in text.splitlines() if _OID.match(line))

    def _write_oids(self, name: str, oids: Iterable[GitOid]) -> None:
        replace_file(self.directory / name, "".join(f"{oid}\n" for oid in sorted(oids)).encode())

    # -- single objects
    def given_up(self) -> dict[GitOid, str]:
        """Return the objects given up, with the reasons."""
        return {GitOid(oid): str(reason) for oid, reason in self._read(_GIVEN_UP).items() if _OID.match(oid)}

    def write_given_up(self, objects: Mapping[GitOid, str]) -> None:
        """Replace the objects given up."""
        if objects or (self.directory / _GIVEN_UP).exists():
            self._write(_GIVEN_UP, {str(oid): reason for oid, reason in objects.items()})

    def by_objects(self) -> bool:
        """Tell whether everything is asked for object by object."""
        return (self.directory / _BY_OBJECTS).exists()

    def note_by_objects(self) -> None:
        """Note that everything is asked for object by object."""
        replace_file(self.directory / _BY_OBJECTS, b"")

    def gatherings(self) -> int:
        """Return how often gathering everything in one pack was begun."""
        count = self._read(_GATHERINGS).get("begun", 0)
        return count if isinstance(count, int) else 0

    def note_gathering(self) -> None:
        """Note that gathering begins, once more."""
        self._write(_GATHERINGS, {"begun": self.gatherings() + 1})

    # -- packs
    def packs(self) -> set[str]:
        """Return the packs of the stage that came for this filling, by the names they were noted under."""
        try:
            text = (self.directory / _PACKS).read_text("ascii", "replace")
        except FileNotFoundError:
            return set()
        return {line for line in text.splitlines() if _PACK.match(line)}

    def note_packs(self, names: Iterable[str]) -> None:
        """Note that these packs came for this filling."""
        fresh = set(names) - self.packs()
        if not fresh:
            return
        path = self.directory / _PACKS
        new = not path.exists()
        # a line torn by a crash ends where the next note begins
        data = "\n" + "".join(f"{name}\n" for name in sorted(fresh))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, data.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_directory(self.directory)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            record = json.loads((self.directory / name).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        replace_file(self.directory / name, json.dumps(record, sort_keys=True).encode())


def unfinished_packs(layout: Layout) -> set[str]:
    """Return the packs of the stage that hold parts of an unfinished filling."""
    journal = Journal(layout)
    return journal.packs() & whole_packs(layout.stage_packs) if journal.directory.is_dir() else set()


def remove_packs(directory: Path, names: Iterable[str]) -> None:
    """Remove packs with all that belongs to them, durably."""
    for name in sorted(names):
        for path in sorted(directory.glob(f"{name}.*"), reverse=True):
            remove_file(path)
    sync_directory(directory)
