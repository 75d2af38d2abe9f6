"""An unfinished fetch of Git objects: what is here and proven of it, kept on disk through any crash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import MirrorSyncError
from mirror_sync.ports.upstream import GitAccess


@dataclass(frozen=True, slots=True)
class Goal:
    """What a filling is to bring: everything that ``tips`` reach and ``boundary`` does not.

    ``peeled`` gives, for tags among the tips, the object upstream says they stand for;
    it is a hint.  ``boundary`` are tips whose objects are all in the store.
    """

    object_format: ObjectFormat
    tips: Sequence[GitOid]
    boundary: Sequence[GitOid] = ()
    peeled: Mapping[GitOid, GitOid] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one pack as it came.

    ``complete``: the whole pack was sound and is indexed.  Otherwise ``error`` says why
    not, and ``objects`` of ``announced`` were whole, are indexed, and stay.
    """

    received: int
    objects: int
    announced: int
    complete: bool
    error: MirrorSyncError | None = None
    cut_size: int | None = None
    """Size of the object in the middle of which the pack broke off, where its header came and it is no delta."""
    late_size: float = 0.0
    """Average bytes of the last objects that were whole, which are blobs unless the pack broke off early."""
    stopped: bool = False
    """Given up on purpose where the commits ended (``until_trees``)."""
    before: int | None = None
    """How many objects are here of the pack taken ``behind`` before this one, where its bytes promised any."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What to say to get the rest of the commit graph: as a shallow client says it.

    ``shallow`` are commits here whose parents are not; ``haves`` the heads of what is here;
    ``wants`` the parents that are missing, or tips where no parent is.  The first
    ``needed`` of them are on the way from the goal's tips; any other may be nobody's.
    """

    wants: Sequence[GitOid]
    shallow: Sequence[GitOid]
    haves: Sequence[GitOid]
    needed: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """A closed range of the frozen order: with ``haves`` in hand, ``wants`` bring exactly its ``commits``."""

    commits: int
    wants: Sequence[GitOid]
    haves: Sequence[GitOid]
    begin: int
    end: int
    """Opaque positions before and behind it, for :meth:`Filling.advance`."""


class BlobPart(Protocol):
    """One blob that comes in pieces; what is here of it survives any crash."""

    def here(self) -> int:
        """Return how many of its first bytes are here."""

    def write(self, data: bytes) -> None:
        """Append; raises :class:`StorageFull` at the reserve."""

    def restart(self) -> None:
        """Forget every byte."""

    def keep(self) -> bool:
        """Check the bytes against the blob's id; take it into the stage and return ``True``, or forget it all."""


class Filling(Protocol):
    """The place where one mirror's unfinished fetch lies, beside its stage; every method needs the mirror's lock.

    Nothing in it is ever served.  Each method leaves the disk so that a process killed
    at any instant loses at most the bytes of the pack in its hands, and of those only
    what :meth:`salvage` cannot save.
    """

    def begun(self) -> bool:
        """Tell whether a filling was begun and not finished."""

    def begin(self, goal: Goal) -> None:
        """Freeze the goal, durably.

        The same goal again continues where it was; another one keeps every object and
        what is known closed, and drops the order.
        """

    def interrupted(self) -> bool:
        """Tell whether a pack that broke off, or that a killed process was receiving, waits for :meth:`salvage`."""

    def salvage(self) -> Taken | None:
        """Keep the whole objects of a pack that broke off; ``None`` when there is none."""

    def take(
        self,
        pack: Iterable[bytes],
        *,
        graph: bool = False,
        until_trees: bool = False,
        behind: bool = False,
        max_bytes: int,
    ) -> Taken:
        """Index a pack as it arrives; when it breaks off or is damaged, keep the objects that came whole.

        Works before :meth:`begin` too, for one pack that is all there is to fetch: then
        nothing is kept of one that breaks off until :meth:`salvage`, because objects must
        not be staged without a note that others are missing.  ``graph``
        puts it beside the stage, where only the commit graph is kept.  Errors of
        the upstream that ``pack`` raises end up in the result; every other error passes
        through, and what had come by then is left for :meth:`salvage`.  Raises
        :class:`StorageFull` beyond ``max_bytes`` or at the reserve.

        With ``behind`` it may return when the last byte is here, while git still works on
        the pack and the next one is asked for; ``complete`` and ``objects`` then say what
        the bytes promise.  Whatever needs the objects waits for them.  When they turn out
        damaged, every :meth:`advance` since is undone, and the next call takes nothing and
        returns the error, once.
        """

    def settle(self, *, tick: Callable[[], None] = ...) -> None:
        """Wait until nothing taken ``behind`` is worked on or checked any more.

        While only checks are waited for, ``tick`` is called now and then and may raise; they go on then.
        """

    def release(self) -> None:
        """Stop what is worked on behind; its pack is left for :meth:`salvage`, and every :meth:`advance` since undone."""

    def take_stock(self, access: GitAccess, tips: Sequence[GitOid], *, max_bytes: int) -> int:
        """Fetch ``tips`` with stock git, naming what is closed, and return the bytes; raises :class:`GitFailed`."""

    # -- the graph
    def gap(self, *, wants: int, haves: int, strict: bool = False) -> Gap | None:
        """Return what is missing of the commits that the goal reaches, at most so many of each; ``None`` when nothing is.

        A cut leaves many holes apart from each other, so every parent that is missing
        anywhere is wanted; ``strict``: only those on the way from tips that are here,
        since what came for an earlier goal may be gone upstream.
        """

    def frozen(self) -> bool:
        """Tell whether the order stands."""

    def freeze(self) -> None:
        """Write down, durably, the order of all commits between what is closed and the goal, parents first."""

    # -- the ladder
    def place(self) -> tuple[int, int]:
        """Return how many commits of the order are closed, and of how many."""

    def stretch(self, commits: int) -> Stretch | None:
        """Return the next closed range of at most ``commits`` commits; ``None`` at the end of the order."""

    def advance(self, stretch: Stretch) -> None:
        """Note durably that everything up to the end of ``stretch`` is here.

        Where its last pack was taken ``behind``, that is noted as soon as it is so.  Does
        nothing when ``stretch`` does not begin where the ladder stands.
        """

    def closed(self) -> frozenset[GitOid]:
        """Return tips, beyond the boundary, that were noted as closed since :meth:`finish` last found something missing."""

    def note_closed(self, tips: Sequence[GitOid]) -> None:
        """Note durably that everything these ``tips`` reach is here."""

    # -- single objects
    def by_objects(self) -> bool:
        """Tell whether :meth:`go_by_objects` was called for this goal."""

    def go_by_objects(self) -> None:
        """Note durably that everything is asked for object by object, without an order."""

    def copy_commits(self, stretch: Stretch) -> None:
        """Bring the commits of a stretch from the graph into the stage."""

    def lacking(self, stretch: Stretch | None, *, limit: int) -> list[GitOid]:
        """Return objects that are not here and that ``stretch`` (or without one, the whole goal) needs.

        Tips that are not here come first and alone.  Objects given up are left out.
        """

    def locate(self, blob: GitOid) -> tuple[GitOid, bytes] | None:
        """Return a commit and the path at which it holds ``blob``."""

    def blob(self, blob: GitOid) -> BlobPart:
        """Return the place for one blob that comes in pieces."""

    def give_up(self, oid: GitOid, reason: str) -> None:
        """Note durably that an object cannot be had for now, and why; whatever needs it stays unpublished."""

    def given_up(self) -> Mapping[GitOid, str]:
        """Return the objects given up, with the reasons; :meth:`begin` forgets them, so that they are tried again."""

    def finish(self, *, tick: Callable[[], None] = ...) -> int:
        """Gather what the goal needs in one well-made pack and end the filling; return the pack's bytes.

        Returns with the filling ended and the tips whose objects are all here staged as
        if one fetch had brought them.  Tips that need an object given up stay unfinished:
        then the filling stays begun and everything else is staged all the same.  ``tick``
        is called now and then and may raise.  Raises :class:`GitFailed` when something
        else is missing.
        """

    def drop(self) -> None:
        """Forget the filling and everything that came for it."""
