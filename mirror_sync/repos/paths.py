"""Where in history pointers lie: at which paths, of commits of which age."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Final

from mirror_sync.domain.names import GitOid
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos.git import PIPE, Child, Git
from mirror_sync.repos.queries import oid_lines, types

_PIECE: Final = 1024 * 1024
_DIFF: Final = ("diff-tree", "--stdin", "-r", "-m", "--root", "--raw", "-z", "--no-renames", "--no-abbrev")
_NO_FILES: Final = {
    40: b"4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    64: b"6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
"""The empty tree, which git knows without having it."""


def pointer_paths(
    git: Git,
    tips: Sequence[GitOid],
    known: Collection[GitOid],
    *,
    excluded: Sequence[GitOid],
    since: float | None,
) -> Iterator[tuple[GitOid, str]]:
    """Yield each of the ``known`` blobs with each path at which a commit has it.

    Of every commit that ``tips`` reach and ``excluded`` do not; with ``since``, only of
    those whose committer's date is not before that Unix time.  A pair may come more than
    once; what a commit merely keeps from a parent that is looked at too is told there.
    Of ``excluded``, ids that are no longer here are passed over.

    Raises :class:`RepositoryDamaged` when a tip is not here.
    """
    here = types(git, {*tips, *excluded})
    absent = [tip for tip in tips if tip not in here]
    if absent:
        raise RepositoryDamaged(f"{absent[0]}, to be looked through for LFS pointers, is not in the repository")
    if not known:
        return
    asked = oid_lines([*tips, *(f"^{oid}" for oid in excluded if oid in here)])
    walk = ["rev-list", "--stdin"]
    if since is not None:
        walk[1:1] = [f"--max-age={max(0, int(since))}", "--no-commit-header", "--format=%H %T %P"]
    wanted = {blob.encode("ascii") for blob in known}
    with git.stream(walk, stdin=asked) as commits, git.stream(list(_DIFF), stdin=PIPE) as changes:
        feed = _feed_all if since is None else _feed_recent
        feeder = threading.Thread(target=feed, args=(commits, changes), name="pointer-paths", daemon=True)
        feeder.start()
        try:
            yield from _read(changes.stdout, wanted)
        except BaseException:
            changes.kill()
            commits.kill()
            raise
        finally:
            feeder.join()


def _feed_all(commits: Child, changes: Child) -> None:
    """Ask for what each commit changes; a child that died is found out by its status."""
    with contextlib.suppress(BrokenPipeError), changes.stdin as asked:
        while data := commits.stdout.read(_PIECE):
            asked.write(data)


def _feed_recent(commits: Child, changes: Child) -> None:
    """Ask for what each commit changes, or, when none of its parents is looked at too, for all that it has."""
    family = [line.split() for line in commits.stdout]
    looked_at = {commit for commit, *_ in family}
    with contextlib.suppress(BrokenPipeError), changes.stdin as asked:
        for commit, tree, *parents in family:
            kept = [parent for parent in parents if parent in looked_at]
            # Named with parents, a commit is compared with those, whatever it has besides.
            asked.write(b" ".join([commit, *kept] if kept else [_NO_FILES[len(tree)], tree]) + b"\n")


def _read(stream: IO[bytes], wanted: Collection[bytes]) -> Iterator[tuple[GitOid, str]]:
    """Read ``:mode mode old new status`` and the path after it; what else comes are the ids of commits."""
    blob: bytes | None = None
    entry = False
    held = b""
    while data := stream.read(_PIECE):
        *fields, held = (held + data).split(b"\0")
        for field in fields:
            if entry:
                entry = False
                if blob is not None:
                    yield GitOid(blob.decode("ascii")), field.decode("utf-8", "surrogateescape")
            elif field[:1] == b":" or b"\n:" in field:
                new = field[field.rindex(b":") :].split(b" ")[3]
                blob = new if new in wanted else None
                entry = True
