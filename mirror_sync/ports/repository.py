"""One mirror's repository on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.pointers import Pointer, PointerBlob, TipNeed
from mirror_sync.domain.refs import Change, ObjectFormat, RefSnapshot, RefUpdate
from mirror_sync.domain.runs import (
    KeptTip,
)
from mirror_sync.ports.filling import Filling


@dataclass(frozen=True, slots=True)
class View:
    """The published view: its number (0: never published), its refs, the run and lease that made it."""

    number: int
    snapshot: RefSnapshot


@dataclass(frozen=True, slots=True)
class Inspection:
    """What checking staged objects found.

    ``bad`` maps each tip that may not be published to the reason; ``notes`` are benign
    faults that were let pass (such as ``badTimezone: 3 objects``).
    """

    bad: Mapping[GitOid, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """One publish: the new snapshot, what it replaces, and what it must keep.

    ``expected_view`` is the number of the view the run started from; another current
    view raises :class:`PublishConflict`.  ``view`` is the number the new one gets.
    ``kept`` is everything that stays protected besides the new tips.
    """

    view: int
    expected_view: int
    snapshot: RefSnapshot
    kept: Sequence[KeptTip]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What recovery removed or found, for the log."""

    removed: tuple[str, ...] = ()


class GitRepository(Protocol):
    """One mirror's repository on disk: store, views, stage, lock (``docs/architecture.md``).

    Every method that changes anything is called with :meth:`lock` held.
    """

    def lock(self) -> AbstractContextManager[None]:
        """Hold the mirror's exclusive lock; raises :class:`LeaseLost` when another process has it.

        Every git child inherits the descriptor, so a free lock proves that none lives.
        """

    def exists(self) -> bool:
        """Tell whether the store is there."""

    def create(self, object_format: ObjectFormat) -> None:
        """Make an empty store of this object format; does nothing when it is there already.

        Nothing of a mirror that was never published is worth keeping in another object
        format: that store goes, and what was staged for it.
        """

    def recover(self) -> Recovery:
        """Put right whatever a crash left: temporary files, lock files, unfinished views, stray refs.

        Idempotent.  What clients see is not changed.
        """

    def current_view(self) -> int:
        """Return the number of the published view without reading its refs; 0 when there is none."""

    def published(self) -> View:
        """Return the published view, read from the disk."""

    def missing(self, oids: Iterable[GitOid]) -> set[GitOid]:
        """Return those of ``oids`` that are neither in the store nor in the stage."""

    def filling(self) -> Filling:
        """Return the place where a fetch that does not come in one piece is gathered."""

    def inspect(self, tips: Sequence[GitOid], *, relaxed: Sequence[str] = ()) -> Inspection:
        """Check every staged object strictly and every tip for closure; change nothing that is served.

        ``relaxed`` names further fsck message ids the operator lets pass for this mirror.
        """

    def promote(self, tips: Sequence[GitOid]) -> int:
        """Bring what ``tips`` reach from the stage into the store, strictly checked, and return the pack bytes.

        Durable when this returns; protected by keep files until :meth:`publish` or :meth:`recover`.
        """

    def peel(self, tips: Iterable[GitOid]) -> dict[GitOid, GitOid]:
        """Return the peeled object of each annotated tag among ``tips``, from our own objects."""

    def classify(self, updates: Sequence[RefUpdate]) -> dict[RefName, Change]:
        """Return the kind of each update by ancestry of the objects that are here (stage included)."""

    def scan_pointers(self, tips: Sequence[GitOid], *, scanned: Sequence[GitOid]) -> Iterator[PointerBlob]:
        """Yield every pointer blob reachable from ``tips`` and not from ``scanned`` (stage included)."""

    def tip_needs(
        self, tips: Sequence[GitOid], known: Mapping[GitOid, Pointer], *, selects: Callable[[str], bool] = ...
    ) -> dict[GitOid, list[TipNeed]]:
        """Return the LFS objects that a checkout of each tip needs: paths whose attributes say ``filter=lfs``.

        ``known`` is the mirror's known-pointer index by blob id.  Only paths that
        ``selects`` takes count; by itself it takes every one.  One path stands for each
        object; a tip that needs none may be left out.
        """

    def pointer_paths(
        self,
        tips: Sequence[GitOid],
        known: Mapping[GitOid, Pointer],
        *,
        excluded: Sequence[GitOid],
        since: float | None,
    ) -> Iterator[tuple[GitOid, str]]:
        """Yield each ``known`` pointer blob with each path at which a commit has it (stage included).

        Of every commit that ``tips`` reach and ``excluded`` do not; with ``since`` only
        of those whose committer's date is not before that Unix time.  A pair may come
        more than once.
        """

    def next_view(self) -> int:
        """Return a number larger than that of any view on disk."""

    def publish(self, request: PublishRequest, *, confirm: Callable[[], None]) -> View:
        """Move clients to ``request.snapshot`` by one rename, and return the new view.

        Roots are widened before and narrowed after.  ``confirm`` is called just before
        the flip and raises to forbid it.  A crash at any instant leaves the old view
        or the new one.
        """

    def protect(self, kept: Sequence[KeptTip]) -> None:
        """Make ``kept`` the kept tips among the roots, beside the published ones."""

    def discard_stage(self) -> None:
        """Empty the stage; does nothing while a filling is begun, which :meth:`Filling.drop` forgets."""

    def stage_is_empty(self) -> bool:
        """Tell whether the stage holds nothing, no filling either."""

    def maintain(self, *, full: bool, stop: threading.Event | None = None) -> int:
        """Repack, write bitmap and commit-graph, and return the store's bytes; never disturbs clones."""

    def size_bytes(self) -> int:
        """Return the bytes of the store's packs."""

    def remove(self) -> None:
        """Delete the mirror's repository from disk, the lock file last."""


class GitRepositories(Protocol):
    """All mirrors' repositories under one storage directory."""

    def open(self, name: MirrorName) -> GitRepository:
        """Return the repository of this mirror, whether or not it exists yet."""


class Serving(Protocol):
    """The read side of the repositories, for clients."""

    def advertise(self, name: MirrorName, *, protocol: str) -> bytes | None:
        """Return the body of ``info/refs?service=git-upload-pack``; ``None`` when the mirror was never published."""

    def upload_pack(
        self,
        name: MirrorName,
        request: BinaryIO,
        *,
        protocol: str,
        client: str = "",
        notice: str = "",
        gone: Callable[[], bool] = ...,
    ) -> Iterator[bytes] | None:
        """Yield the answer to one ``git-upload-pack`` POST; closing the iterator kills the child group.

        Packs are computed in turns, shared among clients and mirrors; ``client`` names whose
        share it is.  ``notice`` is one line that the client shows where a pack begins.
        ``gone`` is asked, about once a second while there is nothing to send, whether the
        client has left; then :class:`ConnectionResetError` is raised.  Raises
        :class:`Overloaded` when no turn came in time.
        """

    def load(self) -> tuple[int, int]:
        """Return how many packs are being computed and how many requests wait for that."""

    def refs(
        self, name: MirrorName, *, after: str = "", limit: int = 100, prefix: str = ""
    ) -> tuple[RefName, list[tuple[RefName, GitOid]]]:
        """Return HEAD's target and one page of published refs sorted by name, after the name ``after``."""
