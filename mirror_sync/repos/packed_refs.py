"""Git's ``packed-refs`` format: the bytes in which views and roots are written."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mirror_sync.domain.names import OWN_REFS, GitOid, RefName, ref_bytes
from mirror_sync.errors import RepositoryDamaged

HEADER = "# pack-refs with: peeled fully-peeled sorted \n"
"""Git takes the promise of sorting and peeling literally; the blank before the newline belongs to it."""

KEPT_PREFIX = f"{OWN_REFS}kept/"
OLD_PREFIX = f"{OWN_REFS}old/"


@dataclass(frozen=True, slots=True)
class PackedRefs:
    """What a ``packed-refs`` file says: tips by name, and the peeled object of each annotated tag."""

    tips: Mapping[RefName, GitOid] = field(default_factory=dict)
    peeled: Mapping[GitOid, GitOid] = field(default_factory=dict)

    def oids(self) -> frozenset[GitOid]:
        """Return every tip once."""
        return frozenset(self.tips.values())

    def published(self) -> dict[RefName, GitOid]:
        """Return the tips that are not the mirror's own."""
        return {name: oid for name, oid in self.tips.items() if not name.startswith(OWN_REFS)}


def parse_packed_refs(data: bytes) -> PackedRefs:
    """Return what ``data`` says; raises :class:`RepositoryDamaged` when it is not what we write."""
    text = data.decode("utf-8", "surrogateescape")
    if not text.startswith(HEADER) or not text.endswith("\n"):
        raise RepositoryDamaged("packed-refs is damaged", why="its header or its end is missing")
    lines = text[len(HEADER) : -1].split("\n") if len(text) > len(HEADER) else []
    width = 64 if lines and lines[0][64:65] == " " else 40
    peeled: dict[GitOid, GitOid] = {}
    named = lines
    if "\n^" in text:
        named = [line for line in lines if line[:1] != "^"]
        peeled = {
            GitOid(lines[index - 1][:width]): GitOid(line[1:]) for index, line in enumerate(lines) if line[:1] == "^"
        }
    # One blank per line, and samples: a torn or spliced file shows here, cheaply; views have a checksum besides.
    if text.count(" ") - HEADER.count(" ") != len(named) or any(
        line[width : width + 1] != " " for line in named[::997]
    ):
        raise RepositoryDamaged("packed-refs is damaged", why="a line is not an id and a name")
    names = [RefName(line[width + 1 :]) for line in named]
    oids = [GitOid(line[:width]) for line in named]
    return PackedRefs(dict(zip(names, oids, strict=True)), peeled)


def split_own(data: bytes, published: bytes) -> bytes | None:
    """Return the lines of the mirror's own refs in ``data``, when the rest of it is exactly ``published``.

    Roots are a view's refs with our own among them: telling so by comparing bytes saves
    reading them twice.
    """
    added = len(data) - len(published)
    start = data.find(b" " + OWN_REFS.encode()) if added else len(published)
    if added < 0 or start < 0:
        return None
    start = data.rfind(b"\n", 0, start) + 1 if added else start
    if data[:start] != published[:start] or data[start + added :] != published[start:]:
        return None
    return data[start : start + added]


class RefLines:
    """The lines of a set of tips, sorted once and written out several times with other refs among them."""

    def __init__(self, tips: Mapping[RefName, GitOid], peeled: Mapping[GitOid, GitOid]) -> None:
        self._peeled = peeled
        self._names = sorted_names(tips)
        self._tips = tips
        start = bisect.bisect_left(self._names, OWN_REFS.encode(), key=ref_bytes)
        self._before = self._format(self._names[:start], tips)
        self._after = self._format(self._names[start:], tips)

    def packed(self, own: Mapping[RefName, GitOid] | None = None) -> bytes:
        """Return a whole ``packed-refs`` file with ``own`` refs (all below ``refs/mirror-sync/``) added."""
        middle = self._format(sorted_names(own), own) if own else ""
        return f"{HEADER}{self._before}{middle}{self._after}".encode("utf-8", "surrogateescape")

    def _format(self, names: Iterable[RefName], tips: Mapping[RefName, GitOid]) -> str:
        peeled = self._peeled
        if not peeled:
            return "".join([f"{tips[name]} {name}\n" for name in names])
        return "".join(
            [
                f"{oid} {name}\n" if (oid := tips[name]) not in peeled else f"{oid} {name}\n^{peeled[oid]}\n"
                for name in names
            ]
        )


def sorted_names(names: Iterable[RefName]) -> list[RefName]:
    """Return ``names`` in the order of their bytes, which is Git's order."""
    ordered = list(names)
    if "".join(ordered).isascii():
        ordered.sort()  # the same order, several times as fast
    else:
        ordered.sort(key=ref_bytes)
    return ordered
