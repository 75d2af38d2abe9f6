"""Inspection: what is in the stage, checked strictly, and which tips may be published."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from mirror_sync.domain.names import GitOid
from mirror_sync.errors import GitFailed
from mirror_sync.ports import Inspection
from mirror_sync.repos import queries
from mirror_sync.repos.checks import Checks, write_down
from mirror_sync.repos.child import read_lines
from mirror_sync.repos.fsck import BENIGN, HARMFUL, LACKING, UNREADABLE, notes, understood
from mirror_sync.repos.git import Git
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.stage import Stage
from mirror_sync.repos.taint import named_by, objects_in, tainted

BISECTIONS = 400
"""So many walks at most look for the incomplete tips among many; what is undecided then is held too."""

MANY_ROOTS = 2000
SMALL_INDEX = 2**20
"""Bytes of pack index up to which a stage counts as small."""

_VERDICTS = "verdicts.json"
_FAULTS = (HARMFUL | {UNREADABLE}) - LACKING


class Inspector:
    """Checks one mirror's stage."""

    def __init__(
        self,
        layout: Layout,
        *,
        stage: Stage,
        roots: Callable[[], frozenset[GitOid]],
        git: Git,
        checks: Checks,
    ) -> None:
        self._layout = layout
        self._stage = stage
        self.roots = roots
        self._git = git
        self._checks = checks

    def inspect(self, tips: Sequence[GitOid], *, relaxed: Sequence[str]) -> Inspection:
        """Do what :meth:`mirror_sync.ports.GitRepository.inspect` promises."""
        allowed = frozenset(name for name in relaxed if understood(name))
        remarks = [f"relaxed id {name} is not known to this git" for name in relaxed if name not in allowed]
        checks = {name: self._checks.of(name) for name in sorted(self._stage.packs())}
        forbidden: dict[GitOid, str] = {}
        counts: dict[str, int] = {}
        for check in checks.values():
            forbidden.update(check.forbidden(allowed))
            for name, count in check.counts.items():
                if name in BENIGN or name in allowed:
                    counts[name] = counts.get(name, 0) + count
        remembered = self._remembered(allowed)
        bad = self._bad_tips(tips, forbidden, remembered)
        clean = [] if bad else [name for name, check in checks.items() if not check.forbidden(allowed)]
        if checks:
            self._remember(clean, allowed, {**remembered, **bad})
        return Inspection(bad, (*notes(counts), *remarks))

    def linkable(self) -> tuple[set[str], frozenset[str]]:
        """Return the packs that the last inspection found good as a whole, and what it was told to relax."""
        record = self._record()
        return set(record.get("linkable", ())), frozenset(record.get("relaxed", ()))

    def _record(self) -> dict[str, Any]:
        try:
            record = json.loads(self._checks.path(_VERDICTS).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _remember(self, linkable: list[str], relaxed: frozenset[str], bad: Mapping[GitOid, str]) -> None:
        record = {
            "packs": sorted(self._stage.packs()),
            "linkable": linkable,
            "relaxed": sorted(relaxed),
            "bad": dict(bad),
        }
        write_down(self._checks.path(_VERDICTS), json.dumps(record).encode())

    def _remembered(self, relaxed: frozenset[str]) -> dict[GitOid, str]:
        """Return tips found bad before whose verdict still stands.

        A fault stays a fault while the same is relaxed; what did not come may come with another pack.
        """
        record = self._record()
        if frozenset(record.get("relaxed", ())) != relaxed:
            return {}
        bad: dict[GitOid, str] = record.get("bad", {})
        if record.get("packs") == sorted(self._stage.packs()):
            return bad
        return {tip: reason for tip, reason in bad.items() if reason.partition(":")[0] in _FAULTS}

    def _bad_tips(
        self, tips: Sequence[GitOid], forbidden: Mapping[GitOid, str], remembered: Mapping[GitOid, str]
    ) -> dict[GitOid, str]:
        bad = {tip: remembered[tip] for tip in tips if tip in remembered}
        rest = [tip for tip in tips if tip not in bad]
        if not rest:
            return bad
        # A walk stops at the roots, so it cannot see a faulty object that lies behind them, such as
        # a blob that was harmless under its old name; then taint alone tells.
        if not self._in_store(forbidden) and self._sound(rest, self._roots(rest), forbidden):
            return bad
        bad.update((tip, f"{tip} is not here") for tip in self._absent(rest))
        packs = [self._layout.stage_packs / name for name in sorted(self._stage.packs())]
        reasons = tainted(self._git, packs, forbidden)
        bad.update((tip, reasons[tip]) for tip in rest if tip in reasons and tip not in bad)
        bad.update(self._open_tips([tip for tip in rest if tip not in bad], forbidden))
        return bad

    def _roots(self, tips: Sequence[GitOid]) -> list[GitOid]:
        """Return roots behind which nothing needs a walk: all of them, or where they are very many, those next to what came.

        Whatever is left out only makes the walk longer; when the few do not border
        everything that is new, all are taken.
        """
        roots = self.roots()
        packs = [self._layout.stage_packs / name for name in sorted(self._stage.packs())]
        if (
            len(roots) <= MANY_ROOTS
            or sum(pack.with_name(f"{pack.name}.idx").stat().st_size for pack in packs) > SMALL_INDEX
        ):
            return sorted(roots)
        new = set(objects_in(self._git, packs))
        border = named_by(self._git, sorted(new)) | set(tips)
        border -= new
        return sorted(border) if border <= roots else sorted(roots)

    def _in_store(self, oids: Collection[GitOid]) -> bool:
        return bool(oids) and bool(queries.types(self._git.elsewhere(self._layout.store), sorted(oids)))

    def _absent(self, tips: Collection[GitOid]) -> set[GitOid]:
        return set(tips) - queries.types(self._git, tips).keys()

    def _sound(self, tips: Iterable[GitOid], roots: Iterable[GitOid], forbidden: Collection[GitOid]) -> bool:
        """Tell whether every object that ``tips`` reach beyond ``roots`` is here and none is forbidden."""
        asked = queries.oid_lines([*tips, *(f"^{root}" for root in roots)])
        listing = ["--no-object-names"] if forbidden else ["--quiet"]
        try:
            with self._git.stream(["rev-list", "--objects", *listing, "--stdin"], stdin=asked) as child:
                for line in read_lines(child.stdout):
                    if line.decode("ascii") in forbidden:
                        child.kill()
                        return False
        except GitFailed as error:
            if error.status < 0:
                raise
            return False
        return True

    def _open_tips(self, tips: list[GitOid], forbidden: Collection[GitOid]) -> dict[GitOid, str]:
        """Return the tips that reach an object which is nowhere, found by halving."""
        roots = sorted(self.roots())
        bad: dict[GitOid, str] = {}
        todo = [tips] if tips else []
        walks = 0
        while todo:
            part = todo.pop()
            walks += 1
            if walks > BISECTIONS:
                bad.update((tip, "not checked: too many refs beside it are incomplete") for tip in part)
            elif self._sound(part, roots, forbidden):
                continue
            elif len(part) == 1:
                bad[part[0]] = "an object it needs did not come"
            else:
                half = len(part) // 2
                todo += [part[half:], part[:half]]
        return bad
