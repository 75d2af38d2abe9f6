"""Where one mirror's repository lies on disk, and nothing about what is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mirror_sync.domain.names import MirrorName, check_path, printable
from mirror_sync.errors import RepositoryDamaged, UsageError

_HOST = re.compile(r"(?:\[[0-9a-f:.]{2,45}\]|[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?)(?::[0-9]{1,5})?\Z")
_VIEW = re.compile(r"[1-9][0-9]{0,17}\Z")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one mirror: ``<git_dir>/<host>/<path>.git/`` with store, views, current, stage and lock.

    No segment of a mirror's name ends in ``.git``, so the directory of one mirror never
    holds another's.
    """

    root: Path

    @property
    def store(self) -> Path:
        """The bare repository with all objects and the roots; never served."""
        return self.root / "store"

    @property
    def store_objects(self) -> Path:
        """The store's object directory, which views and stage point at."""
        return self.root / "store" / "objects"

    @property
    def packs(self) -> Path:
        """The store's packs."""
        return self.root / "store" / "objects" / "pack"

    @property
    def views(self) -> Path:
        """The directory of the numbered views."""
        return self.root / "views"

    @property
    def current(self) -> Path:
        """The symlink to the published view."""
        return self.root / "current"

    @property
    def stage(self) -> Path:
        """The quarantine: a bare repository that borrows the store's objects."""
        return self.root / "stage"

    @property
    def stage_packs(self) -> Path:
        """The stage's packs."""
        return self.root / "stage" / "objects" / "pack"

    @property
    def fill(self) -> Path:
        """The unfinished fetch, in the stage: its journal, its commit graph, the pack that is coming."""
        return self.root / "stage" / "fill"

    @property
    def lock(self) -> Path:
        """The file whose ``flock`` is the mirror's lock."""
        return self.root / "lock"

    def view(self, number: int) -> Path:
        """The directory of one view."""
        return self.views / str(number)

    def current_number(self) -> int:
        """Return the number of the published view from the symlink alone; 0 when there is none.

        Raises :class:`RepositoryDamaged` when the symlink does not name a view.
        """
        try:
            target = self.current.readlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise RepositoryDamaged(f"{self.current} is no symlink", why=error.strerror or "") from error
        if target.parent != Path("views") or _VIEW.match(target.name) is None:
            raise RepositoryDamaged(f"{self.current} does not name a view", why=printable(str(target)))
        return int(target.name)

    def current_view(self) -> Path | None:
        """Return the directory of the published view, resolved once; ``None`` when there is none.

        One request must use one answer of this throughout, so that it sees one snapshot.
        """
        number = self.current_number()
        return self.view(number) if number else None


def layout_of(git_dir: Path, name: MirrorName) -> Layout:
    """Return the paths of the mirror called ``name`` below ``git_dir``.

    Checks the name again, whoever checked it before; raises :class:`UsageError`.
    """
    host, slash, path = name.partition("/")
    if not slash or _HOST.match(host) is None or len(host) > 260 or ".." in host:
        raise UsageError(f"{printable(name)!r} is not a mirror name")
    check_path("/" + path)
    return Layout(git_dir / host / f"{path}.git")


def view_number(text: str) -> int | None:
    """Return the view number that a directory's name is, or ``None`` when it is no view's."""
    return int(text) if _VIEW.match(text) else None
