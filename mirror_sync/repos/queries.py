"""Questions about many objects at once, each one child and always by object id.

A long-lived ``cat-file`` asked by name can answer stale after two publishes in one
second; asked by id it cannot.
"""

from __future__ import annotations

from collections.abc import Iterable

from mirror_sync.domain.names import GitOid
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos.git import Git


def oid_lines(oids: Iterable[str]) -> bytes:
    """Return one line per id, as git reads them."""
    text = "\n".join(oids)
    return f"{text}\n".encode() if text else b""


def types(git: Git, oids: Iterable[GitOid]) -> dict[GitOid, str]:
    """Return the type of each of ``oids`` that is here; those that are not are left out."""
    asked = list(oids)
    if not asked:
        return {}
    answer = git.run(["cat-file", "--batch-check=%(objecttype)", "--buffer"], stdin=oid_lines(asked))
    kinds = answer.decode("ascii").splitlines()
    return {oid: kind for oid, kind in zip(asked, kinds, strict=True) if not kind.endswith(" missing")}


def peel(git: Git, oids: Iterable[GitOid], *, kinds: dict[GitOid, str] | None = None) -> dict[GitOid, GitOid]:
    """Return the object each annotated tag among ``oids`` stands for; other objects are left out.

    Raises :class:`RepositoryDamaged` when a tag's object is not here.
    """
    kinds = types(git, oids) if kinds is None else kinds
    tags = [oid for oid, kind in kinds.items() if kind == "tag"]
    if not tags:
        return {}
    answer = git.run(
        ["cat-file", "--batch-check=%(objectname)", "--buffer"], stdin=oid_lines(f"{oid}^{{}}" for oid in tags)
    )
    targets = answer.decode("ascii").splitlines()
    for tag, target in zip(tags, targets, strict=True):
        if target.endswith(" missing"):
            raise RepositoryDamaged(f"the object of tag {tag} is not in the repository")
    return {tag: GitOid(target) for tag, target in zip(tags, targets, strict=True)}
