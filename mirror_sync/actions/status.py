"""What people and programs are told of mirrors.  Pages, API and command line all read here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mirror_sync.domain.names import MirrorName, printable
from mirror_sync.domain.progress import Kind, Progress
from mirror_sync.domain.readers import CLOSED_CODE, Audience, Visibilities
from mirror_sync.domain.runs import (
    Activity,
    Health,
    LastRun,
    LfsCounts,
    Mirror,
    Outcome,
    RunRecord,
    Visibility,
    activity,
    health,
    lag_seconds,
)
from mirror_sync.errors import KNOWN_MISSING_CODES, AddressRefused
from mirror_sync.ports import Clock, MirrorFilter, StateStore, Totals

Document = dict[str, Any]
"""A JSON document: the published contract of the API and of ``--json``."""

EVERYBODY = Visibilities()
"""What holds where the configuration says nothing."""

ATTENTION_LIMIT = 20
ATTENTION = (
    MirrorFilter(health=Health.FAILING.value),
    MirrorFilter(health=Health.DENIED.value),
    MirrorFilter(health=Health.GONE.value),
    MirrorFilter(held=True),
    MirrorFilter(health=Health.INCOMPLETE.value),
    MirrorFilter(health=Health.STALE.value),
)
"""Which mirrors need somebody, most urgent first."""

RUNNING = (MirrorFilter(moving=True), MirrorFilter(activity=Activity.SYNCING.value))
"""Which mirrors something is being done with: bytes on their way first."""

FORGOTTEN_SECONDS = 900.0
"""Progress older than this says nothing of the present and is not shown."""

ASKING_AGAIN_IS_NO_USE = frozenset({"MS-H001", "MS-H002", "MS-H003"})


def rfc3339(at: float | None) -> str | None:
    """Return Unix seconds as RFC 3339 in UTC with milliseconds, ``None`` for ``None``."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def mirror_document(mirror: Mirror, now: float, rules: Visibilities = EVERYBODY) -> Document:
    """Return the public JSON document of one mirror; ``rules`` are what the configuration says of who may read."""
    syncing = activity(mirror, now) is Activity.SYNCING
    return {
        "name": mirror.name,
        "upstream": mirror.upstream,
        "class": mirror.class_name,
        "visibility": rules.of(mirror).value,
        "closed": rules.closes(mirror),
        "health": health(mirror, now).value,
        "activity": activity(mirror, now).value,
        "created_at": rfc3339(mirror.created_at),
        "observed_at": rfc3339(mirror.observed_at),
        "confirmed_at": rfc3339(mirror.confirmed_at),
        "lag_seconds": int(lag_seconds(mirror, now)),
        "objective_seconds": int(mirror.objective_seconds),
        "interval_seconds": int(mirror.interval_seconds),
        "known_behind_since": rfc3339(mirror.known_behind_since),
        "published_at": rfc3339(mirror.published_at),
        "next_due_at": rfc3339(mirror.due_at) if mirror.paused_at is None else None,
        "object_format": mirror.object_format.value,
        "refs": {"count": mirror.ref_count, "head": printable(mirror.head), "held": mirror.held_refs},
        "lfs": lfs_document(mirror.lfs),
        "failures": mirror.failures,
        "last_run": last_run_document(mirror.last_run) if mirror.last_run else None,
        "holds": [
            {"ref": printable(hold.name), "code": hold.code, "reason": printable(hold.reason)} for hold in mirror.holds
        ],
        "notes": [printable(note) for note in mirror.notes],
        "paused": {"at": rfc3339(mirror.paused_at), "reason": mirror.paused_reason}
        if mirror.paused_at is not None
        else None,
        "removing_at": rfc3339(mirror.removing_at),
        "run": {"step": (mirror.run_step or "claim"), "detail": printable(mirror.run_detail)} if syncing else None,
        "progress": progress_document(mirror.progress, now),
        "git_bytes": mirror.git_bytes,
    }


def lfs_document(lfs: LfsCounts) -> Document:
    """Return counts and sizes of LFS objects; those left out by choice are neither wanted nor missing."""
    return {
        "wanted": lfs.wanted,
        "present": lfs.present,
        "missing": lfs.missing,
        "known_missing": lfs.known_missing,
        "left_out": lfs.left_out,
        "wanted_bytes": lfs.wanted_bytes,
        "present_bytes": lfs.present_bytes,
        "left_out_bytes": lfs.left_out_bytes,
    }


def progress_document(progress: Progress | None, now: float) -> Document | None:
    """Return the public JSON document of a fetch or transfer under way, ``None`` when none is.

    ``done`` and ``total`` count what ``unit`` says.  One that nobody told of for a while,
    because nothing arrives or its worker is gone, is ``stale`` and has neither rate nor
    remaining time; after a quarter of an hour it is none any more.
    """
    if progress is None or now - progress.at > FORGOTTEN_SECONDS:
        return None
    stale = progress.is_stale(now)
    remaining = None if stale else progress.remaining_seconds
    return {
        "kind": progress.kind.value,
        "way": progress.way.value,
        "unit": "bytes" if progress.kind is Kind.LFS else "commits",
        "done": progress.done,
        "total": progress.total,
        "percent": _percent(progress),
        "objects": progress.items,
        "objects_total": progress.items_total,
        "received_bytes": progress.received,
        "rate_bytes_per_second": None if stale else int(progress.rate),
        "remaining_seconds": None if remaining is None else math.ceil(remaining),
        "connections": progress.connections,
        "cuts": progress.cuts,
        "sources": [printable(source) for source in progress.sources],
        "began_at": rfc3339(progress.began_at),
        "at": rfc3339(progress.at),
        "stale": stale,
    }


def _percent(progress: Progress) -> int | None:
    """Return how much is done, rounded down; ``None`` while nobody knows of how much."""
    return max(0, min(100, progress.done * 100 // progress.total)) if progress.total else None


def last_run_document(run: LastRun) -> Document:
    """Return the public JSON document of the latest finished run."""
    return {
        "outcome": run.outcome.value,
        "code": run.code,
        "message": printable(run.message),
        "started_at": rfc3339(run.started_at),
        "finished_at": rfc3339(run.finished_at),
        "trigger": run.trigger.value,
    }


def run_document(run: RunRecord) -> Document:
    """Return the public JSON document of one stored run."""
    return {
        "id": run.id,
        "trigger": run.trigger.value,
        "started_at": rfc3339(run.started_at),
        "finished_at": rfc3339(run.finished_at),
        "outcome": run.outcome.value if run.outcome else None,
        "code": run.code,
        "message": printable(run.message),
        "ref_updates": run.ref_updates,
        "fetched_bytes": run.fetched_bytes,
        "lfs_bytes": run.lfs_bytes,
    }


def listing(
    state: StateStore, clock: Clock, which: MirrorFilter, *, cursor: str, limit: int, rules: Visibilities = EVERYBODY
) -> Document:
    """Return one page of mirrors: ``items`` and ``next_cursor`` (``None`` on the last), which names none that is not in a page."""
    now, audience = clock.now(), which.audience
    while True:
        page = state.mirrors(which, cursor=cursor, limit=limit)
        named = [mirror for mirror in page.items if audience is None or audience.may_see(mirror)]
        cursor = page.next_cursor
        if named or not cursor:
            break
    return {
        "items": [mirror_document(mirror, now, rules) for mirror in named],
        "next_cursor": named[-1].name if cursor else None,
    }


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page: the verdict's figures, and the mirrors that need somebody."""

    totals: Totals
    attention: tuple[Document, ...]
    running: tuple[Document, ...]
    workers: Mapping[str, float]
    now: float


def overview(
    state: StateStore, clock: Clock, *, rules: Visibilities = EVERYBODY, audience: Audience | None = None
) -> Overview:
    """Return the figures of the first page: of all mirrors, and those of them that may be named to ``audience``."""
    now = clock.now()

    def documents(which: MirrorFilter, room: int) -> list[Document]:
        page = state.mirrors(replace(which, audience=audience), limit=room)
        seen = [mirror for mirror in page.items if audience is None or audience.may_see(mirror)]
        return [mirror_document(mirror, now, rules) for mirror in seen]

    attention: dict[str, Document] = {}
    for which in (MirrorFilter(closed_by=rules), *ATTENTION):
        room = ATTENTION_LIMIT - len(attention)
        if room <= 0:
            break
        attention.update({document["name"]: document for document in documents(which, room)})
    running: dict[str, Document] = {}
    for which in RUNNING:
        some = documents(which, ATTENTION_LIMIT)
        running |= {one["name"]: one for one in some if one["progress"] or one["run"]}
    return Overview(
        totals=state.totals(),
        attention=tuple(attention.values()),
        running=tuple(running.values())[:ATTENTION_LIMIT],
        workers=state.workers(),
        now=now,
    )


@dataclass(frozen=True, slots=True)
class Why:
    """Why a mirror is behind, or that it is not: verdict, evidence, cause, effect on clients, remedies."""

    name: MirrorName
    verdict: Health
    lag_seconds: int
    objective_seconds: int
    since: str | None
    cause_code: str
    cause: str
    tried: int
    last_at: str | None
    next_at: str | None
    clients: str
    remedies: tuple[str, ...]

    def document(self) -> Document:
        """Return it as a JSON document."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "lag_seconds": self.lag_seconds,
            "objective_seconds": self.objective_seconds,
            "known_behind_since": self.since,
            "cause": {"code": self.cause_code, "message": self.cause},
            "tried": self.tried,
            "last_at": self.last_at,
            "next_at": self.next_at,
            "clients": self.clients,
            "remedies": list(self.remedies),
        }


def why(state: StateStore, clock: Clock, name: MirrorName, rules: Visibilities = EVERYBODY) -> Why:
    """Explain one mirror; raises :class:`mirror_sync.errors.NotFound`."""
    mirror = state.mirror(name)
    now = clock.now()
    verdict = health(mirror, now)
    code, cause = _cause(mirror, verdict, state)
    closed = rules.closes(mirror)
    if closed and mirror.paused_at is None:
        code, cause = (
            CLOSED_CODE,
            "upstream does not show this repository to everybody" + (f"; {code} {cause}" if code else ""),
        )
    return Why(
        name=mirror.name,
        verdict=verdict,
        lag_seconds=int(lag_seconds(mirror, now)),
        objective_seconds=int(mirror.objective_seconds),
        since=rfc3339(mirror.known_behind_since),
        cause_code=code,
        cause=printable(cause),
        tried=mirror.failures,
        last_at=rfc3339(mirror.last_run.finished_at) if mirror.last_run else None,
        next_at=rfc3339(mirror.due_at) if mirror.paused_at is None and mirror.removing_at is None else None,
        clients=_clients(mirror, rules),
        remedies=(_opening(mirror) if closed else ()) + _remedies(mirror, verdict),
    )


def _cause(mirror: Mirror, verdict: Health, state: StateStore) -> tuple[str, str]:
    last = mirror.last_run
    if mirror.paused_at is not None:
        return "", f"paused by a person: {mirror.paused_reason or 'no reason given'}"
    if mirror.holds:
        return mirror.holds[0].code, mirror.holds[0].reason
    if last is not None and last.outcome is Outcome.FAILED:
        return last.code, last.message
    if verdict is Health.STALE:
        return "", "no observation was confirmed within the objective"
    if verdict is Health.NEW:
        return "", "the first fill is not complete yet"
    if mirror.lfs.known_missing:
        lost = [
            pointer.oid for pointer, code, _ in state.lfs_missing(mirror.id, limit=100) if code in KNOWN_MISSING_CODES
        ]
        named = ", ".join(oid[:12] for oid in lost[:3]) + (", ..." if mirror.lfs.known_missing > 3 else "")
        noun = "LFS object" if mirror.lfs.known_missing == 1 else "LFS objects"
        return "MS-L404", f"upstream itself lacks {mirror.lfs.known_missing} {noun} ({named})"
    return "", "nothing is wrong"


def _opening(mirror: Mirror) -> tuple[str, ...]:
    """Return what lets a closed mirror be read: by some, or by everybody whatever upstream says."""
    return (
        f"mirror-sync set {mirror.name} --visibility token",
        f"mirror-sync set {mirror.name} --visibility open",
    )


def _clients(mirror: Mirror, rules: Visibilities) -> str:
    if mirror.removing_at is not None:
        return "not served any more"
    if rules.closes(mirror) or rules.of(mirror) is Visibility.NONE:
        return "answered as if it were not mirrored"
    if mirror.published_at is None:
        return "git clone is refused with a reason until the first publish"
    if mirror.held_refs:
        stay = "1 ref stays" if mirror.held_refs == 1 else f"{mirror.held_refs} refs stay"
        return f"clone works; {stay} as served before, or absent if never served"
    if mirror.lfs.missing:
        noun = "1 LFS object is" if mirror.lfs.missing == 1 else f"{mirror.lfs.missing} LFS objects are"
        return f"clone works; {noun} not here, and git-lfs names one when a commit that is checked out needs it"
    if mirror.lfs.left_out:
        noun = "1 LFS object is" if mirror.lfs.left_out == 1 else f"{mirror.lfs.left_out} LFS objects are"
        return f"clone works; {noun} left out by choice, and git-lfs stops at one when a commit that is checked out needs it"
    return "clone works and gets what was confirmed"


def _remedies(mirror: Mirror, verdict: Health) -> tuple[str, ...]:
    name = mirror.name
    if mirror.removing_at is not None:
        return (f"mirror-sync add {mirror.upstream}",)
    if verdict is Health.PAUSED:
        return (f"mirror-sync resume {name}",)
    last = mirror.last_run
    code = mirror.holds[0].code if mirror.holds else (last.code if last else "")
    if last is not None and last.outcome is Outcome.FAILED and last.code == AddressRefused.code:
        code = last.code  # what is held waits for this
    specific: dict[str, tuple[str, ...]] = {
        "MS-H001": (f"mirror-sync refs release {name}",),
        "MS-H003": (
            "add the fault to relaxed = [...] of the mirror in the configuration, if it is known to be harmless",
        ),
        "MS-H004": (
            'known_missing = "publish" for this mirror in the configuration serves the refs without the objects',
        ),
        "MS-H009": (
            "name a nearer source of the repository (accelerators) or a place of its single files (raw_url), or use a better link",
        ),
        "MS-A401": (
            'give a token that may read it: token_file under [upstream."HOST"]; changing that file needs no restart',
            "mirror-sync doctor",
        ),
        "MS-U404": ("check the address, and whether it takes a token to see it; nothing is deleted here",),
        AddressRefused.code: (
            'if that host is meant: allow_http = true or allow_private = true under [upstream."HOST"], then reload',
        ),
        "MS-S507": ("free space on the volume, or lower storage.reserve",),
    }
    settled = (verdict is Health.FRESH and not mirror.holds) or code in ASKING_AGAIN_IS_NO_USE
    general = () if settled else (f"mirror-sync sync {name} --wait",)
    return specific.get(code, ()) + general
