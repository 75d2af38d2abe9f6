"""What is answered for repositories that are not mirrored here, by the rule of their host."""

from __future__ import annotations

import re

from flask import Response, request

from mirror_sync.config import UpstreamRule
from mirror_sync.domain.names import MirrorName, printable
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import MirrorSyncError, NotFound, Overloaded
from mirror_sync.web.backend import backend, limits
from mirror_sync.web.bodies import gone
from mirror_sync.web.limits import client_of
from mirror_sync.web.paths import Service, Target
from mirror_sync.web.replies import NO_CACHE, Refused

LOOK_EVERY_SECONDS = 0.5
"""How often it is looked whether a first publish that a client waits for has happened."""

_ADDRESS = re.compile(r"[!-~]*\Z")


def rule_of(name: MirrorName) -> UpstreamRule | None:
    """Return the rule that the operator wrote for the host of a name; ``None`` when there is none."""
    return backend().settings.upstreams.get(name.partition("/")[0])


def is_unknown(name: MirrorName) -> bool:
    """Tell whether there is no mirror of this name, shown to whoever asks or not."""
    try:
        backend().state.mirror(name)
    except NotFound:
        return True
    return False


def answer_unknown(target: Target, refusal: Refused) -> Response | None:
    """Return what is answered instead of ``refusal``, ``None`` when a mirror of that name is being made now.

    Raises ``refusal``, or another one that says more.
    """
    rule = rule_of(target.name)
    if rule is None:
        raise refusal
    if rule.unknown == "redirect":
        # a mirror that is not shown to whoever asks is answered the same, so that nothing tells that it is here
        return _redirected(target, rule, refusal)
    if rule.unknown == "add-on-demand" and _asks_for_refs(target) and is_unknown(target.name):
        _add(target.name, refusal)
        return None
    raise refusal


def _asks_for_refs(target: Target) -> bool:
    return (
        target.service is Service.INFO_REFS
        and request.method == "GET"
        and request.args.get("service") == "git-upload-pack"
    )


def _redirected(target: Target, rule: UpstreamRule, refusal: Refused) -> Response:
    """Return the way to upstream: the same address without us in front.

    git follows it for its first request and goes on there; git-lfs and pushes likewise.
    """
    raw = str(request.environ.get("RAW_URI", ""))
    if "://" in raw.partition("?")[0]:
        raw = "/" + raw.partition("://")[2].partition("/")[2]
    rest = raw.lstrip("/").partition("/")[2]
    if not rest or not _ADDRESS.match(rest):
        raise refusal
    scheme = "http" if rule.allow_http else "https"
    where = f"{scheme}://{target.name.partition('/')[0]}/{rest}"
    response = Response(
        f"{printable(target.name)} is not mirrored here; its upstream is asked instead.\n",
        status=302 if request.method in ("GET", "HEAD") else 307,
        content_type="text/plain; charset=utf-8",
    )
    response.headers.update(NO_CACHE)
    response.headers["Location"] = where
    return response


def _add(name: MirrorName, refusal: Refused) -> None:
    """Begin to keep a mirror; raises :class:`Refused` with the reason when that may not be."""
    app, client = backend(), client_of(request)
    if not app.may_add_on_demand(name):
        raise refusal
    if limits().strangers.exhausted(client):
        raise Refused(429, "Too many unknown repositories were asked for from this address.", retry_after=60)
    asking = limits().asking.take(client=client)
    if asking is None:
        raise Refused(429, "Upstream is being asked for other new repositories. Please try again.", retry_after=10)
    try:
        app.add_on_demand(name)
    except Overloaded as error:
        raise Refused(
            429, f"{printable(name)} is not mirrored here.\n{error.message}", retry_after=error.retry_after
        ) from error
    except MirrorSyncError as error:
        limits().strangers.failed(client)
        raise Refused(
            404,
            f"{printable(name)} is not mirrored here, and cannot be added because it was asked for:\n"
            f"{error.code}: {printable(error.message)}",
        ) from error
    finally:
        asking.release()
    app.telemetry.event("mirror_added_on_demand", mirror=name, client=request.remote_addr or "")


def await_first_publish(mirror: Mirror) -> bool:
    """Wait for the first publish of a mirror whose host's mirrors are added on demand; ``False`` when it is late."""
    rule = rule_of(mirror.name)
    if rule is None or rule.unknown != "add-on-demand":
        return False
    app, left = backend(), gone(request.environ)
    ends = app.clock.monotonic() + rule.on_demand_wait
    place = limits().awaiting.take(client=client_of(request))
    if place is None:
        return False
    try:
        while app.clock.monotonic() < ends and not left():
            if app.state.mirror(mirror.name).published_at is not None:
                return True
            app.clock.sleep(LOOK_EVERY_SECONDS)
    finally:
        place.release()
    return False
