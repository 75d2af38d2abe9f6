"""What a reload would change, and what of it waits for a restart."""

from __future__ import annotations

from dataclasses import dataclass

from mirror_sync.config.values import Settings


@dataclass(frozen=True, slots=True)
class Changes:
    """Changed keys in name order: those a reload puts in force, and those that wait for a restart."""

    applied: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.applied or self.needs_restart)


def diff(old: Settings, new: Settings) -> Changes:
    """Return which keys differ between two configurations, as they are written."""
    from mirror_sync.config import schema

    restart = {(key.section, key.name) for key in schema.listing() if key.restart}
    changed = sorted(key for key in {*old.written, *new.written} if _written(old, key) != _written(new, key))
    waiting = tuple(key for key in changed if _section_and_name(key) in restart)
    return Changes(tuple(key for key in changed if key not in waiting), waiting)


def _written(settings: Settings, key: str) -> object:
    return settings.written.get(key)


def _section_and_name(key: str) -> tuple[str, str]:
    section = key.partition(".")[0].partition("[")[0]
    return section, key.rpartition(".")[2]
