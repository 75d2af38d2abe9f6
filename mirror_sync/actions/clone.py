"""A person's own clone, from any git host or from a mirror: one call, repeated until it comes to its end.

It reads top to bottom: look at the place, ask upstream for its refs, bring Git objects,
let git make the clone, bring the LFS objects that its checkout needs, check out.  A
process killed anywhere leaves what arrived, and the next call goes on with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from mirror_sync.actions.fill import FillLimits, fill
from mirror_sync.actions.transfer import TransferLimits, TransferReport, transfer
from mirror_sync.domain.names import GitOid, MirrorName, RefName, printable
from mirror_sync.domain.pointers import Pointer, TipNeed
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.refs import Observation, RefSnapshot, choose_head
from mirror_sync.errors import (
    AddressRefused,
    Interrupted,
    MirrorSyncError,
    RateLimited,
    UpstreamInvalid,
    UpstreamLacks,
    UpstreamRefused,
    UpstreamUnavailable,
    UsageError,
)
from mirror_sync.ports import (
    Clock,
    CloneOrder,
    ClonePlace,
    CloneReport,
    Credential,
    Credentials,
    Goal,
    ObjectStore,
    Parallel,
    PublishRequest,
    Standing,
    Telemetry,
    Upstream,
)

PATTERNS: Final = ("refs/heads/*", "refs/tags/*")
"""What a clone fetches."""

PATIENCE: Final = 6
"""Tries in a row that bring nothing before the command ends; running it again goes on."""

FIRST_PATIENCE: Final = 3
"""The same while nothing is here yet and the address may be a mistake."""

WRONG_ANSWERS: Final = 2
NEVER_PASSES: Final = frozenset({"MS-U407", "MS-U495", "MS-L501", "MS-L509"})
"""A proxy that does not lead there, a certificate that is not trusted, no LFS, no budget left for it."""

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0
WORTH_WAITING: Final = 3600.0
"""Seconds that upstream may ask a person to wait before the command ends instead."""

NAMED: Final = 10
"""So many files or refs are named; of the others the number is told."""

SETTLED: Final = frozenset({"MS-L501"})
"""No LFS here at all: nothing to wait for."""

FINAL: Final = frozenset({"MS-L400", "MS-L422"})
"""What becomes of an LFS object that trying again does not mend: refused, or wrong bytes each time."""

RUN_AGAIN: Final = "run the same command again: it goes on where it stopped"
CHECK_ADDRESS: Final = "check the address and the network, then run the same command again"

REMEDIES: Final = {
    "MS-S507": f"free some space, then {RUN_AGAIN}; --no-lfs goes without LFS files",
    "MS-U495": "check this machine's date; an authority of your own: git config --global http.sslCAInfo FILE",
    "MS-U301": "clone it from its present address",
    "MS-U302": "clone it from its present address; a login page or a portal may stand in between",
    "MS-U512": "clone the repository that it was made from",
    "MS-L401": "give a token that may read LFS: --token-file FILE; --no-lfs goes without LFS files",
    "MS-L509": "its owner can raise the budget; --no-lfs goes without LFS files",
    "MS-U530": f"check the address and this machine's resolver, then {RUN_AGAIN}",
    "MS-U407": "check --proxy, git's http.proxy and HTTPS_PROXY",
}
"""What the person can do where another remedy would speak of a daemon's configuration."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Waiting:
    """One try to get something from ``host``, which is broken off after ``silence`` seconds without a sign of it."""

    host: str
    attempt: int
    attempts: int
    silence: float


def _nobody_waits(_: Waiting | None) -> None:
    """Nobody is told of waiting."""


@dataclass(frozen=True, slots=True)
class CloneWorld:
    """What a clone needs of the world.

    ``open_upstream`` leads to the repository with a credential or without;
    ``open_lfs`` to an LFS server that is named by its address, ``None`` where that is not
    spoken here.
    """

    place: ClonePlace
    open_upstream: Callable[[Credential | None], Upstream]
    open_lfs: Callable[[str, Credential | None], Upstream | None]
    open_objects: Callable[[], ObjectStore]
    credentials: Credentials | None
    clock: Clock
    parallel: Parallel
    telemetry: Telemetry
    relaxed: tuple[str, ...] = ()
    connections: int = 8
    silence: float = 60.0
    """Seconds without a byte after which an upstream gives a connection up."""


@dataclass(slots=True)
class _Job:
    order: CloneOrder
    name: MirrorName
    world: CloneWorld
    stop: threading.Event
    report: Callable[[Progress], None]
    say: Callable[[str], None]
    waits: Callable[[Waiting | None], None] = _nobody_waits
    upstream: Upstream | None = None
    credential: Credential | None = None
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    received: int = 0
    fresh: bool = False
    """Whether this is the first run on this place."""
    began: bool = True
    """Whether there is something to go on with."""

    def tell(self, progress: Progress) -> None:
        """Pass progress on and remember that something moves."""
        self.received = max(self.received, progress.received)
        self.report(progress)

    @property
    def source(self) -> Upstream:
        """The way to upstream, opened when first asked for."""
        if self.upstream is None:
            self.upstream = self.world.open_upstream(self.credential)
        return self.upstream


def clone(
    order: CloneOrder,
    *,
    name: MirrorName,
    world: CloneWorld,
    stop: threading.Event,
    report: Callable[[Progress], None],
    say: Callable[[str], None],
    waits: Callable[[Waiting | None], None] = _nobody_waits,
) -> CloneReport:
    """Make the clone that ``order`` names, or go on with it, and tell what is not as upstream has it.

    ``report`` hears of progress about once a second, ``say`` of each step, ``waits`` of
    each try to get something from a host and, by ``None``, of its end.  Raises
    :class:`Conflict` when something else is in the place, what upstream says when it goes
    on saying it, and :class:`Interrupted` once ``stop`` is set.
    """
    job = _Job(order, name, world, stop, report, say, waits)
    place = world.place
    try:
        job.fresh = place.standing() is Standing.FRESH
        job.began = not job.fresh
        observation = _observe(job, patience=FIRST_PATIENCE) if job.fresh else None
        job.began = True
        with place.held():
            if place.standing() is not Standing.MADE:
                place.begin()
                _bring(job, observation)
            say("checking out" if order.checkout and not order.bare else "putting it in its place")
            return place.finish(stop=stop)
    except MirrorSyncError as error:
        error.remedy = REMEDIES.get(error.code, error.remedy)
        raise
    finally:
        if job.upstream is not None:
            job.upstream.close()


def _bring(job: _Job, observation: Observation | None) -> None:
    """Bring everything; refs that were rewritten meanwhile are asked for again."""
    for _ in range(PATIENCE):
        try:
            _bring_git(job, observation or _observe(job))
            break
        except UpstreamLacks as error:
            job.world.telemetry.event("refs_moved_meanwhile", why=str(error))
            observation = None
            job.missing.clear()
            job.notes.clear()
    else:
        raise UpstreamUnavailable("upstream's refs move faster than they can be fetched", remedy=RUN_AGAIN)
    _bring_rest(job)


# ---------------------------------------------------------------- upstream


def _observe(job: _Job, *, patience: int = PATIENCE) -> Observation:
    """Take upstream's refs, with a credential where it wants one that somebody knows."""
    job.say(f"asking {job.source.host} for its refs")
    observation = _identified(job, _ask_refs, patience=patience)
    branch = job.order.branch
    if branch and not {f"refs/heads/{branch}", f"refs/tags/{branch}"} & observation.snapshot.tips.keys():
        raise UsageError(
            f"upstream has no branch or tag {printable(branch)}", remedy=f"git ls-remote {job.order.url} lists them"
        )
    return observation


def _identified(job: _Job, step: Callable[[_Job], T], *, patience: int = PATIENCE) -> T:
    """Do a step, and where upstream wants to know who asks, do it again with a credential that somebody knows."""
    credentials = job.world.credentials
    try:
        return _persist(job, step, host=job.source.host, patience=patience)
    except UpstreamRefused as error:
        known = credentials.fill() if credentials is not None and job.credential is None else None
        if credentials is None or known is None:
            raise _refused(
                error, "give a token that may read it: --token-file FILE, or set up git's credential helper"
            ) from error
    job.credential = known
    job.source.close()
    job.upstream = None
    try:
        done = _persist(job, step, host=job.source.host)
    except UpstreamRefused as error:
        credentials.reject(known)
        raise _refused(
            error, "check user name and token; git's credential helper was told that they do not work"
        ) from error
    credentials.approve(known)
    return done


def _refused(error: UpstreamRefused, remedy: str) -> UpstreamRefused:
    return UpstreamRefused(error.message, why=error.why, remedy=remedy, code=error.code)


def _ask_refs(job: _Job) -> Observation:
    observation = job.source.observe(PATTERNS)
    assert observation is not None  # no digest was named
    return observation


def _persist(job: _Job, step: Callable[[_Job], T], *, host: str, patience: int = PATIENCE) -> T:
    """Do a step again while ``host`` fails, as long as bytes keep coming now and then."""
    failures, had = 0, job.received
    while True:
        job.waits(Waiting(host, failures + 1, patience, job.world.silence))
        try:
            return step(job)
        except UpstreamLacks:
            raise
        except RateLimited as error:
            seconds = error.until - job.world.clock.now()
            if seconds > WORTH_WAITING:
                raise
            job.say(f"{error.message}; waiting {max(0.0, seconds):.0f} s")
        except (UpstreamUnavailable, UpstreamInvalid) as error:
            failures = 0 if job.received > had else failures + 1
            tries = _tries(error, patience)
            if failures >= tries:
                error.remedy = error.remedy or (RUN_AGAIN if job.began else CHECK_ADDRESS)
                raise
            had = job.received
            seconds = min(LONGEST_WAIT, FIRST_WAIT * 2.0**failures) * (0.5 + 0.5 * job.world.clock.chance())
            job.world.telemetry.event("clone_step_failed", why=str(error), failures=failures)
            if failures:
                job.say(f"{error.message}; trying again in {max(1.0, seconds):.0f} s (try {failures + 1} of {tries})")
        finally:
            job.waits(None)
        if job.world.clock.sleep(max(0.0, seconds), stop=job.stop):
            raise Interrupted


def _tries(error: MirrorSyncError, patience: int) -> int:
    """Return how often in a row this is worth asking again: a link that fails more often than an answer that is wrong."""
    if error.code in NEVER_PASSES or (isinstance(error, UpstreamInvalid) and error.code != UpstreamInvalid.code):
        return 1
    return patience if isinstance(error, UpstreamUnavailable) else min(patience, WRONG_ANSWERS)


# ---------------------------------------------------------------- git


def _bring_git(job: _Job, observation: Observation) -> None:
    """Bring every object of every ref, check it, and let what is sound look like upstream."""
    repository = job.world.place.repository
    repository.create(observation.object_format)
    repository.recover()
    published = repository.published()
    tips = dict(observation.snapshot.tips)
    detached = observation.head_tip if not observation.snapshot.head else None
    wanted = sorted({*tips.values(), *([detached] if detached is not None else [])})
    for ref, reason in observation.refused.items():
        job.missing.append(f"{printable(ref)}: {reason}")
    boundary = sorted(set(published.snapshot.tips.values()))
    fresh = [tip for tip in wanted if tip not in set(boundary)]
    if fresh:
        job.say("bringing Git objects")
        _fetch(job, observation, fresh, boundary)
    bad = _inspect(job, wanted, tips)
    _check_chosen(job.order, observation, bad)
    sound = {ref: oid for ref, oid in tips.items() if oid not in bad}
    head = choose_head(observation.snapshot, published.snapshot.head, sound)
    snapshot = RefSnapshot(sound, head)
    if published.number == 0 or published.snapshot != snapshot:
        repository.promote(sorted({oid for oid in wanted if oid not in bad}))
        request = PublishRequest(repository.next_view(), published.number, snapshot, kept=())
        repository.publish(request, confirm=_nobody_objects)
    elif detached is not None:
        repository.promote([detached])
    job.world.place.show_head(observation.snapshot.head or head, detached)


def _check_chosen(order: CloneOrder, observation: Observation, bad: Mapping[GitOid, str]) -> None:
    """Raise :class:`UpstreamInvalid` when what would be checked out is what cannot be had: such a clone is of no use."""
    tips, head = observation.snapshot.tips, observation.snapshot.head
    chosen = [RefName(f"refs/heads/{order.branch}"), RefName(f"refs/tags/{order.branch}")] if order.branch else [head]
    ref = next((name for name in chosen if name in tips), None)
    tip = tips[ref] if ref is not None else observation.head_tip if not order.branch and not head else None
    if tip is not None and tip in bad:
        raise UpstreamInvalid(
            f"{printable(ref or 'HEAD')} cannot be had, and it is what would be checked out",
            why=bad[tip],
            remedy="run the same command again to try once more, or take another branch: --branch NAME",
            code="MS-H003",
        )


def _nobody_objects() -> None:
    """No lease to be confirmed: the place is locked."""


def _fetch(job: _Job, observation: Observation, tips: Sequence[GitOid], boundary: Sequence[GitOid]) -> None:
    """Bring ``tips`` by the engine that mirrors use."""
    repository = job.world.place.repository
    goal = Goal(observation.object_format, tips, boundary, observation.peeled)

    def step(job: _Job) -> Mapping[GitOid, str]:
        filling = repository.filling()
        return fill(
            goal,
            filling=filling,
            sources=[job.source],
            protocol=observation.protocol,
            clock=job.world.clock,
            telemetry=job.world.telemetry,
            report=job.tell,
            stop=job.stop,
            limits=FillLimits(),
            here=() if filling.begun() else _whole(job, tips),
        ).given_up

    for reason in _persist(job, step, host=job.source.host).values():
        job.missing.append(reason)


def _whole(job: _Job, tips: Sequence[GitOid]) -> Sequence[GitOid]:
    """Return those of ``tips`` that a run before this one staged with everything they need."""
    repository = job.world.place.repository
    if repository.stage_is_empty():
        return ()
    staged = sorted(set(tips) - repository.missing(tips))
    bad = repository.inspect(staged, relaxed=job.world.relaxed).bad if staged else {}
    return [tip for tip in staged if tip not in bad]


def _inspect(job: _Job, wanted: Sequence[GitOid], tips: Mapping[RefName, GitOid]) -> Mapping[GitOid, str]:
    """Return the tips that cannot be had, with reasons."""
    if not wanted:
        return {}
    job.say("checking what came")
    inspection = job.world.place.repository.inspect(wanted, relaxed=job.world.relaxed)
    job.notes += inspection.notes
    bad = inspection.bad
    refs = [f"{printable(ref)}: {bad[oid]}" for ref, oid in sorted(tips.items()) if oid in bad]
    job.missing += _some(refs, "refs")
    return bad


# ---------------------------------------------------------------- files


def _bring_rest(job: _Job) -> None:
    """Let git make the clone, and bring the LFS objects that its checkout needs."""
    place = job.world.place
    draft = place.draft(stop=job.stop)
    job.notes += draft.notes
    if draft.tip is None and job.order.checkout and not job.order.bare and not draft.notes:
        job.notes.append("upstream's HEAD names a branch that is not there; nothing is checked out")
    needs: list[TipNeed] = []
    if draft.tip is not None and job.order.wants_lfs:
        known = {found.blob: found.pointer for found in place.pointers(draft.tip)}
        needs = place.repository.tip_needs([draft.tip], known).get(draft.tip, []) if known else []
    uses_lfs, lacking = bool(needs), set[Pointer]()
    if draft.tip is not None and needs:
        if place.lfs_program():
            lacking = _bring_lfs(job, draft.tip, needs)
        else:
            uses_lfs = False
            job.missing.append(
                f"{len(needs)} LFS files are left as pointers: git-lfs is not installed; "
                "install it (apt install git-lfs), then: git lfs install --local && git lfs pull"
            )
    place.settle(CloneReport(tuple(job.missing), tuple(job.notes)), uses_lfs=uses_lfs, partial=bool(lacking))


def _bring_lfs(job: _Job, tip: GitOid, needs: Sequence[TipNeed]) -> set[Pointer]:
    """Bring what ``needs`` names and return what cannot be had."""
    place = job.world.place
    here = place.lfs_present(need.pointer for need in needs)
    wanted = {need.pointer: need.path for need in needs if need.pointer not in here}
    if not wanted:
        return set()
    server = place.lfs_url(tip)
    elsewhere = job.world.open_lfs(server, job.credential) if server else None
    if server and elsewhere is None:
        job.missing.append(
            f"{len(wanted)} LFS files are left as pointers: their server {printable(server)} is not spoken to here; "
            "run: git lfs pull"
        )
        return set(wanted)
    job.say(f"bringing {len(wanted)} LFS objects")
    objects = job.world.open_objects()
    if job.fresh:
        # Refused with figures before the first byte; of what was begun, space is set aside already.
        objects.reserve(sum(pointer.size for pointer in wanted))
    reasons: dict[Pointer, str] = {}

    def step(job: _Job) -> None:
        left = [pointer for pointer in wanted if pointer not in reasons and not objects.has(pointer)]
        if not left:
            return
        # opened anew, since meanwhile somebody may have said who asks
        upstream = job.world.open_lfs(server, job.credential) if server else None
        try:
            done = _transfer(job, upstream or job.source, left, objects)
        finally:
            if upstream is not None:
                upstream.close()
        reasons.update(_given_up(done, left, host=(upstream or job.source).host))

    try:
        if elsewhere is None or elsewhere.host == job.source.host:
            _identified(job, step)
        else:
            _persist(
                job, step, host=elsewhere.host
            )  # what a server that the repository names says of a credential is no judgement of ours
    except (UpstreamRefused, AddressRefused, UpstreamUnavailable) as error:
        if not server and error.code not in SETTLED:
            raise
        reasons.update((pointer, str(error)) for pointer in wanted if not objects.has(pointer))
    finally:
        if elsewhere is not None:
            elsewhere.close()
    lines = [f"{printable(wanted[pointer])}: left as a pointer: {reason}" for pointer, reason in reasons.items()]
    job.missing += _some(sorted(lines), "LFS files")
    return set(reasons)


def _transfer(job: _Job, upstream: Upstream, wanted: Sequence[Pointer], objects: ObjectStore) -> TransferReport:
    done = transfer(
        wanted,
        mirror=job.name,
        sources=[upstream],
        objects=objects,
        parallel=job.world.parallel,
        clock=job.world.clock,
        telemetry=job.world.telemetry,
        limits=TransferLimits(connections=job.world.connections),
        stop=job.stop,
        report=job.tell,
    )
    job.received += done.bytes_fetched
    if done.error is not None:
        raise done.error
    for oid, (code, message) in done.failed.items():
        if code not in FINAL:
            raise UpstreamUnavailable(f"LFS object {oid} did not come", why=message, code=code)
    return done


def _given_up(done: TransferReport, wanted: Sequence[Pointer], *, host: str) -> dict[Pointer, str]:
    """Return what trying again does not bring, with reasons: ``host`` does not give it, refuses it, or sends wrong bytes.

    Whether a host that does not give an object lacks it, or leaves it out as a mirror
    may, is in its own words.
    """
    refused = {oid: message for oid, (_, message) in done.failed.items()}
    absent = {
        oid: f"{host} does not give it: {message.partition(': ')[2] or 'no reason given'}"
        for oid, (_, message) in done.known_missing.items()
    }
    reasons = {**absent, **refused}
    return {pointer: reasons[pointer.oid] for pointer in wanted if pointer.oid in reasons}


def _some(lines: Sequence[str], noun: str) -> list[str]:
    """Return the first of ``lines`` and how many more there are."""
    rest = len(lines) - NAMED
    return [*lines[:NAMED], *([f"and {rest} more {noun}"] if rest > 0 else [])]
