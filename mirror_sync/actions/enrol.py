"""Begin to keep a mirror, change how it is kept, or begin to forget it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from mirror_sync.domain.names import MirrorName, UpstreamUrl, parse_upstream_url
from mirror_sync.domain.runs import Mirror, NewMirror, Trigger, Visibility
from mirror_sync.errors import AddressRefused, Conflict, MirrorSyncError, UsageError
from mirror_sync.ports import Clock, StateStore, Telemetry

PAGES: Mapping[str, frozenset[str]] = {
    "github.com": frozenset({"tree", "blob", "commits", "releases", "issues", "pulls"}),
    "huggingface.co": frozenset({"tree", "blob", "resolve", "commits", "discussions"}),
}
"""Third or fourth path segments of pages, by host; no repository of these hosts has them there."""


def enrol(
    state: StateStore,
    url: str,
    *,
    allow_http: bool,
    interval: float,
    objective: float,
    class_name: str = "",
    visibility: Visibility | None = None,
) -> tuple[Mirror, bool]:
    """Return the mirror of ``url`` and whether it was made now.  Times are seconds.

    Raises :class:`AddressRefused` or :class:`UsageError` when the URL may not be mirrored.
    """
    upstream = parse_upstream_url(url)
    _check_no_page(upstream)
    if upstream.scheme == "http" and not allow_http:
        raise AddressRefused(
            f"{upstream.origin} is plain http",
            why="what arrives over it can be changed on the way",
            remedy=f'use https://, or write allow_http = true under [upstream."{upstream.netloc}"]',
        )
    check_schedule(interval, objective)
    new = NewMirror(upstream.name, str(upstream), interval, objective, Trigger.OPERATOR, class_name, visibility)
    return state.enrol(new)


def _check_no_page(upstream: UpstreamUrl) -> None:
    """Raise when the address was copied from a page inside a repository, on hosts whose addresses we know."""
    segments = upstream.path.split("/")[1:]
    page = next((at for at, segment in enumerate(segments) if at and segment in PAGES.get(upstream.host, ())), 0)
    if page > 1:
        raise UsageError(
            f"{upstream} is a page of a repository",
            remedy=f"give the repository itself: {upstream.with_path('/' + '/'.join(segments[:page]))}",
        )


def check_class(class_name: str, known: Iterable[str]) -> None:
    """Raise :class:`UsageError` for a class that the configuration does not have; the empty name is none."""
    there = list(known)
    if class_name and class_name not in there:
        raise UsageError(
            f"there is no class {class_name!r}",
            why=f"the configuration has {', '.join(there) or 'none'}",
            remedy=f'write [class."{class_name}"] into it, or name one that is there',
        )


def lost_classes(state: StateStore, known: Iterable[str]) -> Mapping[str, int]:
    """Return the classes that mirrors are of and the configuration does not have, with how many mirrors each."""
    there = set(known)
    return {name: count for name, count in state.classes().items() if name not in there}


def tell_of_lost_classes(state: StateStore, known: Iterable[str], telemetry: Telemetry) -> None:
    """Log each class that mirrors are of and the configuration does not have; nothing where the database does not answer."""
    with contextlib.suppress(MirrorSyncError):  # whoever needs the database says so
        for class_name, count in lost_classes(state, known).items():
            telemetry.event(
                "class_not_configured", class_name=class_name, mirrors=count, level="warning",
                why="the general settings are in force for them",
            )  # fmt: skip


def check_not_declared(names: Iterable[MirrorName], declared: Iterable[MirrorName], *, where: str) -> None:
    """Raise :class:`Conflict` when one of ``names`` would come back, because the configuration ``where`` declares it."""
    lasting = set(declared)
    kept = [name for name in names if name in lasting]
    if kept:
        one = len(kept) == 1
        told = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
        raise Conflict(
            f"{told} {'stands' if one else 'stand'} in the configuration",
            why=f"{where} declares {'it' if one else 'them'} in [[mirror]], so the daemon would add "
            f"{'it' if one else 'them'} again at its next start or reload; nothing was removed",
            remedy=f"take {'its table' if one else 'their tables'} out of the configuration, reload the daemon, "
            f"then run this again; to stop syncing alone: mirror-sync pause {kept[0]}",
        )


def check_visibility(name: MirrorName, declared: Visibility | None) -> None:
    """Raise :class:`UsageError` when the configuration itself says who may read a mirror."""
    if declared is not None:
        raise UsageError(
            f"who may read {name} is declared in the configuration: {declared.value}",
            remedy="change visibility in its [[mirror]] table there, then reload",
        )


def check_schedule(interval: float, objective: float) -> None:
    """Raise :class:`UsageError` unless the objective leaves room for two polls."""
    if interval < 1:
        raise UsageError("an interval is at least one second")
    if objective < 2 * interval:
        raise UsageError(
            "the objective is too near to the interval",
            why=f"a lag of {objective:.0f}s cannot be promised when upstream is asked every {interval:.0f}s",
            remedy="make the objective at least twice the interval",
        )


def remove(state: StateStore, clock: Clock, name: MirrorName, *, keep_seconds: float) -> Mirror:
    """Stop syncing and serving a mirror; its data goes after ``keep_seconds``.  Adding it again before takes it back."""
    mirror = state.mirror(name)
    state.set_removing(mirror.id, at=clock.now() + keep_seconds)
    return state.mirror(name)
