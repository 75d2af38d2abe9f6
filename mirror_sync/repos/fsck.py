"""What a strict check of one pack finds, and which findings forbid publishing.

A pack is checked once with every message id turned into a warning, so that one pass
lists all faults and none of them refuses the good objects with the bad.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mirror_sync.domain.names import GitOid, printable
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import GitFailed
from mirror_sync.repos.files import remove_tree
from mirror_sync.repos.git import Git
from mirror_sync.repos.queries import oid_lines
from mirror_sync.repos.store import make_bare

BENIGN = frozenset(
    {
        "badDate", "badDateOverflow", "badEmail", "badFilemode", "badName", "badTagName", "badTimezone",
        "extraHeaderEntry", "gitattributesSymlink", "gitignoreSymlink", "gitmodulesParse", "mailmapSymlink",
        "missingEmail", "missingNameBeforeEmail", "missingSpaceBeforeDate", "missingSpaceBeforeEmail",
        "missingTaggerEntry", "multipleAuthors", "nulInCommit", "zeroPaddedDate", "zeroPaddedFilemode",
    }
)  # fmt: skip
"""Faults of old tools in real histories that harm nobody: let pass and noted.

The others can write outside a checkout, run a command, hide content or break clients,
and hold the refs that reach them unless the operator names them as relaxed.
"""

HARMFUL = frozenset(
    {
        "badObjectSha1", "badParentSha1", "badTree", "badTreeSha1", "badType", "duplicateEntries", "emptyName",
        "fullPathname", "gitattributesBlob", "gitattributesLarge", "gitattributesLineLength", "gitattributesMissing",
        "gitmodulesBlob", "gitmodulesLarge", "gitmodulesMissing", "gitmodulesName", "gitmodulesPath",
        "gitmodulesSymlink", "gitmodulesUpdate", "gitmodulesUrl", "hasDot", "hasDotdot", "hasDotgit",
        "missingAuthor", "missingCommitter", "missingObject", "missingTag", "missingTagEntry", "missingTree",
        "missingType", "missingTypeEntry", "nullSha1", "treeNotSorted", "unknownType",
    }
)  # fmt: skip

LACKING = frozenset({"gitattributesMissing", "gitmodulesMissing"})
"""Those of them that say only what is not here."""

UNREADABLE = "unreadable"
"""Our own word for an object that git cannot parse at all."""

_MESSAGE = re.compile(
    rb"(?:error|warning)(?:: object| in [a-z]+) ([0-9a-f]{40}(?:[0-9a-f]{24})?): ([A-Za-z0-9]+): (.*)"
)
_BOGUS = re.compile(
    rb"error: (?:bogus [a-z]+ object )?([0-9a-f]{40}(?:[0-9a-f]{24})?)(?:: object corrupt or missing.*)?\Z"
)
_UNKNOWN = b"Unhandled message id"
_TEXT_LIMIT = 200


@dataclass(slots=True)
class PackCheck:
    """What was found in one pack, whatever the operator relaxes.

    ``counts`` counts objects by message id; ``faults`` maps each object with a message
    id outside :data:`BENIGN` to its ids; ``texts`` has git's words per id.
    """

    counts: dict[str, int] = field(default_factory=dict)
    faults: dict[GitOid, list[str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def hear(self, line: bytes) -> None:
        """Take in one line that git said."""
        match = _MESSAGE.match(line)
        if match is not None:
            oid, name = GitOid(match[1].decode()), match[2].decode()
            self._add(oid, name, match[3])
            return
        bogus = _BOGUS.match(line)
        if bogus is not None:
            self._add(GitOid(bogus[1].decode()), UNREADABLE, b"git cannot read this object")

    def _add(self, oid: GitOid, name: str, text: bytes) -> None:
        if name not in BENIGN:
            ids = self.faults.setdefault(oid, [])
            if name in ids:
                return
            ids.append(name)
        self.counts[name] = self.counts.get(name, 0) + 1
        self.texts.setdefault(name, printable(text.decode("utf-8", "replace"))[:_TEXT_LIMIT])

    def forbidden(self, relaxed: Collection[str]) -> dict[GitOid, str]:
        """Return each object that may not be published with the reason."""
        return {
            oid: f"{names[0]}: {self.texts.get(names[0], '')}".rstrip(": ")
            for oid, ids in self.faults.items()
            if (names := [name for name in ids if name not in relaxed])
        }

    @property
    def lacks(self) -> bool:
        """Whether a file that a tree names could not be looked at: with what comes later it may turn out good."""
        return any(name in LACKING for names in self.faults.values() for name in names)

    def add(self, other: PackCheck) -> None:
        """Take in what was found in another pack."""
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for oid, names in other.faults.items():
            known = self.faults.setdefault(oid, [])
            known.extend(name for name in names if name not in known)
        self.texts = {**other.texts, **self.texts}

    def to_json(self) -> bytes:
        """Return the record as it is kept beside the pack."""
        record = {"counts": self.counts, "faults": self.faults, "texts": self.texts}
        return json.dumps(record, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> PackCheck | None:
        """Return the record in ``data``, or ``None`` when it is not whole."""
        try:
            record = json.loads(data)
            return cls(record["counts"], record["faults"], record["texts"])
        except (ValueError, KeyError, TypeError):
            return None


def notes(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return one line per message id that was let pass, such as ``badTimezone: 3 objects``."""
    return tuple(
        f"{name}: {count} object{'s' if count != 1 else ''}" for name, count in sorted(counts.items()) if count
    )


def relaxed_option(relaxed: Collection[str]) -> str:
    """Return ``--strict=...`` that lets exactly the benign ids and ``relaxed`` pass."""
    return "--strict=" + ",".join(f"{name}=warn" for name in sorted(BENIGN | set(relaxed)))


@functools.cache
def understood(name: str) -> bool:
    """Tell whether the installed git knows this message id."""
    if name in BENIGN | HARMFUL:
        return True
    if not re.fullmatch(r"[A-Za-z0-9]{1,64}", name):
        return False
    try:
        Git(Path("/nonexistent")).run(["index-pack", f"--strict={name}=warn", "--stdin"], stdin=b"")
    except GitFailed as error:
        return _UNKNOWN.decode() not in error.stderr
    return True


def check_pack(git: Git, pack: Path, *, object_format: ObjectFormat, scratch: Path) -> PackCheck:
    """Check every object of one pack (path without ending) and return what was found.

    The quick way is one ``index-pack --verify``.  It gives up at an object it cannot
    parse and at a reference to an object that is nowhere; then ``fsck`` goes over the
    pack in a scratch repository, which reports and goes on.
    """
    try:
        return check_quickly(git, pack)
    except GitFailed as error:
        if error.status < 0:
            raise
    return _check_thoroughly(git, pack, object_format=object_format, scratch=scratch)


def check_quickly(
    git: Git,
    pack: Path,
    *,
    stop: threading.Event | None = None,
    tick: Callable[[], None] | None = None,
    aside: bool = False,
) -> PackCheck:
    """Check every object of one pack that leans on nothing that is nowhere.

    ``aside``: without taking the processor from anything else.  Raises :class:`GitFailed`
    at an object that git cannot parse and at a reference to one that is nowhere, and
    :class:`Interrupted` soon after ``stop`` is set; ``tick`` is called now and then and may raise.
    """
    found = PackCheck()
    every = ",".join(f"{name}=warn" for name in sorted(BENIGN | HARMFUL))
    git.run(
        ["index-pack", "--verify", f"--strict={every}", f"{pack}.pack"],
        config={"pack.threads": "1" if aside else "2"},
        on_error_line=found.hear,
        stop=stop,
        tick=tick,
        aside=aside,
    )
    return found


def _check_thoroughly(git: Git, pack: Path, *, object_format: ObjectFormat, scratch: Path) -> PackCheck:
    remove_tree(scratch)
    make_bare(scratch, object_format)
    packs = scratch / "objects" / "pack"
    for ending in (".pack", ".idx"):
        (packs / (pack.name + ending)).hardlink_to(pack.with_name(pack.name + ending))
    own = git.elsewhere(scratch)
    found = _fsck(own)
    absent = [oid for oid, ids in found.faults.items() if not LACKING.isdisjoint(ids)]
    if absent:
        # A tree here may give a special name to a blob that came earlier: bring it in and look at it under that name.
        here = {
            line.split()[0]
            for line in git.run(["cat-file", "--batch-check"], stdin=oid_lines(absent)).decode().splitlines()
            if " missing" not in line
        }
        if here:
            git.run(["pack-objects", "--quiet", str(packs / "pack")], stdin=oid_lines(sorted(here)))
            found = _fsck(own)
    remove_tree(scratch)
    return found


def _fsck(git: Git) -> PackCheck:
    """Run fsck and return what it says; it exits with a mask of findings, never refusing the rest."""
    found = PackCheck()
    git.run(
        ["fsck", "--full", "--strict", "--no-dangling", "--no-reflogs", "--no-progress"],
        ok=range(128),
        on_error_line=found.hear,
    )
    return found
