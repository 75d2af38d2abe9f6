"""Which objects cannot be had without a bad one: taint by reachability over what is new in the stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mirror_sync.domain.names import GitOid
from mirror_sync.repos.git import Git
from mirror_sync.repos.queries import oid_lines, types

_GITLINK = b"160000"


def tainted(git: Git, packs: Iterable[Path], bad: Mapping[GitOid, str]) -> dict[GitOid, str]:
    """Return every new object that reaches an object in ``bad`` or one that is nowhere, with the reason.

    ``packs`` are the staged packs, paths without ending.  Trees are read again until
    nothing is added, one pass per directory level: memory stays with what is bad.
    """
    new = objects_in(git, packs)
    kinds = types(git, new)
    reasons = {bytes.fromhex(oid): reason for oid, reason in bad.items()}
    trees = [oid for oid in new if kinds.get(oid) == "tree" and bytes.fromhex(oid) not in reasons]
    graph = [oid for oid in new if kinds.get(oid) in ("commit", "tag") and bytes.fromhex(oid) not in reasons]
    links = {bytes.fromhex(oid): _links(body) for oid, body in _bodies(git, graph)}
    width = len(next(iter(new), "")) // 2
    _add_missing(git, new, trees=trees, links=links, width=width, reasons=reasons)
    while _spread_over_trees(git, trees, width=width, reasons=reasons):
        pass
    _spread_over_commits(links, reasons)
    return {GitOid(oid.hex()): reason for oid, reason in reasons.items()}


def named_by(git: Git, oids: list[GitOid]) -> set[GitOid]:
    """Return what the commits and tags among ``oids`` name, trees left out."""
    kinds = types(git, oids)
    graph = [oid for oid in oids if kinds.get(oid) in ("commit", "tag")]
    return {
        GitOid(link.hex())
        for oid, body in _bodies(git, graph)
        for link in _links(body)[1 if kinds[oid] == "commit" else 0 :]
    }


def objects_in(git: Git, packs: Iterable[Path]) -> list[GitOid]:
    """Return every object in ``packs`` (paths without ending) once."""
    found: dict[GitOid, None] = {}
    for pack in packs:
        index = pack.with_name(pack.name + ".idx")
        width = "sha256" if _is_sha256(git) else "sha1"
        with index.open("rb") as stream:
            answer = git.run(["show-index", f"--object-format={width}"], stdin=stream)
        found.update((GitOid(line.split()[1].decode()), None) for line in answer.splitlines())
    return list(found)


def _is_sha256(git: Git) -> bool:
    return git.run(["rev-parse", "--show-object-format"]).strip() == b"sha256"


def _bodies(git: Git, oids: list[GitOid]) -> Iterator[tuple[GitOid, bytes]]:
    """Yield each object with its content."""
    if not oids:
        return
    with git.stream(["cat-file", "--batch", "--buffer"], stdin=oid_lines(oids)) as child:
        for oid in oids:
            header = child.stdout.readline().split()
            if len(header) != 3:
                continue
            size = int(header[2])
            body = child.stdout.read(size + 1)[:size]
            yield oid, body


def _links(body: bytes) -> list[bytes]:
    """Return the objects that a commit or tag names in its header."""
    links: list[bytes] = []
    for line in body.split(b"\n\n", 1)[0].split(b"\n"):
        word, _, value = line.partition(b" ")
        if word in (b"tree", b"parent", b"object"):
            try:
                links.append(bytes.fromhex(value.decode("ascii", "replace").strip()))
            except ValueError:
                continue
    return links


def _entries(body: bytes, width: int) -> list[bytes]:
    """Return the objects that a tree names, submodules left out."""
    pattern = _ENTRY[width]
    return [match[1] for match in pattern.findall(body) if match[0] != _GITLINK]


_ENTRY = {width: re.compile(rb"([0-7]+) [^\0]*\0(.{%d})" % width, re.DOTALL) for width in (20, 32)}


def _add_missing(
    git: Git,
    new: list[GitOid],
    *,
    trees: list[GitOid],
    links: Mapping[bytes, list[bytes]],
    width: int,
    reasons: dict[bytes, str],
) -> None:
    """Give a reason to every object that is named by something new and is nowhere."""
    here = {bytes.fromhex(oid) for oid in new}
    outside = {oid for named in links.values() for oid in named if oid not in here}
    for _, body in _bodies(git, trees):
        outside.update(oid for oid in _entries(body, width) if oid not in here)
    asked = [GitOid(oid.hex()) for oid in outside]
    present = types(git, asked)
    for oid in asked:
        if oid not in present:
            reasons.setdefault(bytes.fromhex(oid), f"object {oid} did not come")


def _spread_over_trees(git: Git, trees: list[GitOid], *, width: int, reasons: dict[bytes, str]) -> bool:
    """Taint trees that hold something tainted; return whether any was added."""
    before = len(reasons)
    for oid, body in _bodies(git, trees):
        raw = bytes.fromhex(oid)
        if raw in reasons:
            continue
        for entry in _entries(body, width):
            if entry in reasons:
                reasons[raw] = reasons[entry]
                break
    return len(reasons) > before


def _spread_over_commits(links: Mapping[bytes, list[bytes]], reasons: dict[bytes, str]) -> None:
    """Taint commits and tags that name something tainted, children after parents."""
    children: dict[bytes, list[bytes]] = {}
    for oid, named in links.items():
        for target in named:
            children.setdefault(target, []).append(oid)
    todo = list(reasons)
    while todo:
        oid = todo.pop()
        for child in children.get(oid, ()):
            if child not in reasons:
                reasons[child] = reasons[oid]
                todo.append(child)
