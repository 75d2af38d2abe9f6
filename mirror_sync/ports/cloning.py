"""A clone for one person: where it comes to be, and what its owner's own git does with it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.pointers import Pointer, PointerBlob
from mirror_sync.ports.repository import GitRepository


@dataclass(frozen=True, slots=True)
class CloneOrder:
    """What one clone is to be.  ``url`` is the address as it was typed; empty texts leave the choice to git."""

    url: str
    branch: str = ""
    """A branch or a tag to check out."""
    origin: str = ""
    """The name of the remote."""
    bare: bool = False
    checkout: bool = True
    lfs: bool = True

    @property
    def wants_lfs(self) -> bool:
        """Whether LFS objects are brought: only where files are checked out, as git-lfs has it."""
        return self.lfs and self.checkout and not self.bare


class Standing(StrEnum):
    """How far a clone is."""

    FRESH = "fresh"
    """Nothing is here."""
    BEGUN = "begun"
    """Bytes are still coming."""
    MADE = "made"
    """Everything is here; what is left needs no upstream."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A user name and a password for one host."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Draft:
    """A clone with its refs and configuration and no files yet, as git made it.

    ``tip`` is the commit that would be checked out, ``None`` when HEAD names nothing.
    """

    tip: GitOid | None
    notes: tuple[str, ...] = ()
    """What git itself remarked."""


@dataclass(frozen=True, slots=True)
class CloneReport:
    """How a clone ended: ``missing`` says what is not as upstream has it, ``notes`` what is worth knowing besides."""

    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class ClonePlace(Protocol):
    """The directory of one clone; what is unfinished lies in its git directory, under ``mirror-sync``.

    Until :meth:`finish` comes to its end git does not take the directory for a
    repository.  A process killed at any instant leaves something that the same order
    goes on with.
    """

    def standing(self) -> Standing:
        """Tell how far the clone is; raises :class:`Conflict` when something else is here, or another clone."""

    def held(self) -> AbstractContextManager[None]:
        """Be the only one at work here, making the directory when it is absent; raises :class:`Conflict`."""

    def begin(self) -> None:
        """Write the order down; does nothing when it is there."""

    @property
    def repository(self) -> GitRepository:
        """Where Git objects come in."""

    def show_head(self, head: RefName, detached: GitOid | None) -> None:
        """Let what was published look like upstream: HEAD at a branch, or at ``detached``."""

    def draft(self, *, stop: threading.Event) -> Draft:
        """Let the owner's git make a clone of what was published, anew at each call; raises :class:`GitFailed`."""

    def pointers(self, tip: GitOid) -> list[PointerBlob]:
        """Return the pointers in the tree of ``tip``, less those that git-lfs is told to leave out."""

    def lfs_program(self) -> str:
        """Return the version of the installed git-lfs, or an empty string."""

    def lfs_url(self, tip: GitOid) -> str:
        """Return the LFS server that the owner's configuration or the tip's ``.lfsconfig`` names, or an empty string."""

    def lfs_present(self, pointers: Iterable[Pointer]) -> set[Pointer]:
        """Return those that git-lfs has already where it will look for them."""

    def settle(self, report: CloneReport, *, uses_lfs: bool, partial: bool) -> None:
        """Note durably that the draft stands and all that it needs is here; ``report`` is for :meth:`finish`.

        ``uses_lfs`` wants git-lfs set up; ``partial`` says that some LFS objects are not here.
        """

    def finish(self, *, stop: threading.Event) -> CloneReport:
        """Check out, put everything in its place, and return what was reported; idempotent."""


class Credentials(Protocol):
    """Whoever knows the owner's passwords: git's credential helpers, or the person at the terminal."""

    def fill(self) -> Credential | None:
        """Return a credential for the host, ``None`` when nobody knows one."""

    def approve(self, credential: Credential) -> None:
        """Say that it worked."""

    def reject(self, credential: Credential) -> None:
        """Say that it did not."""
