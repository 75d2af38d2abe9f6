"""The stage: a quarantine beside the store, borrowing its objects, from which nothing is served."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import AddressRefused, StorageFull
from mirror_sync.ports import GitAccess
from mirror_sync.repos.files import Space, remove_file, remove_tree, replace_file, sync_directory
from mirror_sync.repos.git import Git, config_of_variables
from mirror_sync.repos.journal import GRAPH, Journal
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.queries import oid_lines
from mirror_sync.repos.store import make_bare, whole_packs

ALTERNATES = "../../store/objects"
"""Relative, as git takes it: from the stage's object directory."""

CHECKS = "checks"
"""Directory in the stage with what inspection found in each pack, so that nothing is checked twice."""

PROMOTE = "promote"
"""Directory in the stage where the good part of a pack is packed anew."""

FSCK = "fsck"
"""Directory in the stage with the scratch repository of the thorough check."""

CLOSED_REFS = "packed-refs"
"""File in the stage that names what is closed while stock git fetches; at all other times the stage has no refs."""

_FETCH_CONFIG = {
    "http.followRedirects": "false",
    "http.sslVerify": "true",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "transfer.credentialsInUrl": "die",
    "fetch.unpackLimit": "1",
    "transfer.unpackLimit": "1",
    "promisor.acceptFromServer": "none",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "pack.threads": "1",
}
"""``fsckObjects`` is off on purpose: it refuses a whole pack and the good refs with the bad; inspection checks."""

_FILE_LIMIT_SLACK = 16 * 2**20


class Stage:
    """One mirror's stage on disk."""

    def __init__(self, layout: Layout, git: Git, *, space: Space) -> None:
        self._layout = layout
        self._git = git
        self._space = space

    def exists(self) -> bool:
        """Tell whether the stage is there, empty or not."""
        return (self._layout.stage / "HEAD").is_file()

    def packs(self) -> set[str]:
        """Return the names of the stage's whole packs."""
        return whole_packs(self._layout.stage_packs)

    def ensure(self, object_format: ObjectFormat) -> None:
        """Make the stage when it is absent, and mend what makes it borrow from the store."""
        if not self.exists():
            remove_tree(self._layout.stage)
            make_bare(self._layout.stage, object_format, alternates=ALTERNATES)
            return
        alternates = self._layout.stage / "objects" / "info" / "alternates"
        wanted = f"{ALTERNATES}\n".encode()
        if not alternates.is_file() or alternates.read_bytes() != wanted:
            replace_file(alternates, wanted)

    def fetch(self, access: GitAccess, oids: Sequence[GitOid], *, max_bytes: int) -> int:
        """Fetch ``oids`` with stock git and return the bytes of the packs that came; no ref is written."""
        scheme = urlsplit(access.url).scheme
        if scheme not in ("https", "http") or access.url.startswith("-"):
            raise AddressRefused("git fetches over https or http only")
        config, environment = config_of_variables(access.environment)
        before = self.packs()
        with self._undone_on_error():
            self._git.run(
                [
                    "fetch",
                    "--quiet",
                    "--no-tags",
                    "--no-write-fetch-head",
                    "--no-auto-maintenance",
                    "--no-recurse-submodules",
                    "--stdin",
                    "--",
                    access.url,
                ],
                stdin=oid_lines(oids),
                config=[*_FETCH_CONFIG.items(), (f"protocol.{scheme}.allow", "always"), *config],
                environment={**environment, "GIT_ALLOW_PROTOCOL": scheme},
                file_limit=max_bytes + _FILE_LIMIT_SLACK,
                tick=lambda: self._watch_growth(max_bytes),
            )
            came = self.packs() - before
            size = sum((self._layout.stage_packs / f"{name}.pack").stat().st_size for name in came)
            if size > max_bytes:
                raise too_large(max_bytes)  # it came between two looks
            sync_directory(self._layout.stage_packs)
        return size

    def is_empty(self) -> bool:
        """Tell whether the stage holds neither a pack nor a filling."""
        return not self.packs() and not self._layout.fill.is_dir()

    def discard(self) -> None:
        """Empty the stage, in one rename and then in peace; what an unfinished filling leans on stays."""
        if Journal(self._layout).begun():
            return
        stage = self._layout.stage
        if not os.path.lexists(stage):
            return
        gone = stage.with_name("tmp_discarded")
        remove_tree(gone)
        stage.rename(gone)
        sync_directory(gone.parent)
        remove_tree(gone)

    def sweep(self) -> list[str]:
        """Remove what an interrupted child left, packs without an index included; return the names."""
        stage = self._layout.stage
        if not self.exists():
            return []
        files = [*unfinished_pack_files(stage / "objects"), *stage.glob("*.lock"), *(stage / CHECKS).glob("tmp_*")]
        files.append(stage / CLOSED_REFS)
        removed = [f"stage/{path.name}" for path in files if remove_file(path)]
        removed += [f"stage/{name}" for name in Journal(self._layout).sweep()]
        graph = self._layout.fill / GRAPH
        if graph.is_dir():
            leftovers = [*unfinished_pack_files(graph / "objects"), *graph.glob("*.lock")]
            removed += [f"stage/fill/{path.name}" for path in leftovers if remove_file(path)]
        return removed + [f"stage/{name}" for name in (PROMOTE, FSCK) if remove_tree(stage / name)]

    def _watch_growth(self, max_bytes: int) -> None:
        self._space.check()
        for entry in os.scandir(self._layout.stage_packs):
            with contextlib.suppress(FileNotFoundError):
                if entry.name.startswith("tmp_") and entry.stat().st_size > max_bytes:
                    raise too_large(max_bytes)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Remove what came when the block fails, so that a failed fetch frees what it took."""
        before = self.packs()
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                for name in self.packs() - before:
                    for path in sorted(self._layout.stage_packs.glob(f"{name}.*"), reverse=True):
                        remove_file(path)
                self.sweep()


def unfinished_pack_files(objects: Path) -> list[Path]:
    """Return temporary files below an object directory and packs whose index never came."""
    found: list[Path] = []
    for directory in (objects, *(path for path in objects.iterdir() if path.is_dir() and not path.is_symlink())):
        found += directory.glob("tmp_*")
        found += directory.glob(".tmp-*")
    found += (objects / "info").rglob("*.lock")
    pack = objects / "pack"
    whole = whole_packs(pack)
    for path in pack.glob("pack-*"):
        if path.suffix in (".pack", ".idx", ".rev", ".keep", ".bitmap", ".mtimes") and path.stem not in whole:
            found.append(path)
    found += [path for path in pack.glob("*.lock") if path not in found]
    return sorted(path for path in found if not path.is_dir())


def too_large(limit: int) -> StorageFull:
    """Return the error for a pack that goes beyond ``limit`` bytes."""
    return StorageFull(
        "the pack is larger than one fetch may bring",
        why=f"git.max_pack allows {limit} bytes",
        remedy="raise git.max_pack if this repository is really meant to be mirrored",
        code="MS-S413",
    )
