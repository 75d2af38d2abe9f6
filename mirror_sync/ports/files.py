"""Files of what is published, for reading one at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.trees import FileEntry


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit that published refs reach; ``ref`` is the one it was named by, ``None`` when by its id."""

    commit: GitOid
    ref: RefName | None


class FileView(Protocol):
    """One published snapshot of one mirror; belongs to one thread at a time.

    Leaving its ``with`` block gives back what it holds, unless :meth:`blob` or
    :meth:`checksums` took that over.  Every method may raise :class:`Overloaded` when no
    place for a git child comes free in time, and :class:`GitFailed`.
    """

    def resolve(self, revision: str) -> Revision | None:
        """Return the commit that a revision names: an id, a full ref, a branch, a tag or ``HEAD``, in this order.

        An id is the whole one or at least seven digits that begin one commit alone of
        those that published refs reach.  Objects that they do not reach are not found,
        whether or not they are in the store.  Raises :class:`Overloaded` when a time
        limit passes before that is known.
        """

    def committed_at(self, commit: GitOid) -> float:
        """Return when a commit was made (Unix seconds), as its committer says."""

    def entry(self, commit: GitOid, path: bytes) -> FileEntry | None:
        """Return what stands under a path of a commit that :meth:`resolve` found; ``None`` for nothing."""

    def listing(
        self, commit: GitOid, path: bytes, *, recursive: bool, after: bytes = b"", limit: int
    ) -> list[FileEntry] | None:
        """Return up to ``limit`` entries of a directory whose sort keys come after ``after``; ``None`` when it is none.

        ``recursive`` lists what its directories hold too, each directory before that.
        Costs one page, wherever it begins.
        """

    def head(self) -> RefName:
        """Return HEAD's target, whether or not there is such a ref."""

    def refs(self, *, prefix: str, limit: int) -> list[tuple[RefName, GitOid]]:
        """Return the refs that begin with ``prefix`` and name a commit, sorted, with that commit."""

    def blob(self, oid: GitOid, *, start: int, end: int) -> Iterator[bytes]:
        """Return the bytes of a blob from ``start`` up to ``end``; closing the iterator ends it and this view.

        The blob is one that :meth:`entry` named.  It is never in memory as a whole here.
        """

    def checksums(
        self, commit: GitOid, *, resolves: Callable[[Sequence[Pointer]], Collection[Pointer]], client: str = ""
    ) -> Iterator[bytes]:
        """Return the lines of ``sha256sum`` for every file of a commit; closing the iterator ends it and this view.

        For an LFS file that is the object's own, whether or not the object is here;
        ``resolves`` says which pointers that no attributes mark stand for an object too.
        Links and submodules are left out.  Few lists are computed at a time, and one for
        each ``client``.
        """

    def __enter__(self) -> Self:
        """Return the view."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give everything back."""


class PublishedFiles(Protocol):
    """The files of all mirrors."""

    def open(self, name: MirrorName) -> FileView | None:
        """Return the published view of a mirror, resolved once; ``None`` when it was never published."""
