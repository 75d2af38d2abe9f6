"""Bulk downloads: wherever redirects lead, through the same gate, credentials left behind at each border."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urljoin

from mirror_sync.errors import AddressRefused, UpstreamInvalid
from mirror_sync.upstream.addresses import Target, parse_target
from mirror_sync.upstream.connections import Answer, Question
from mirror_sync.upstream.place import Place

MAX_REDIRECTS = 5

CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z")


def follow(
    place: Place, url: str, headers: Mapping[str, str], *, operation: str, what: str, fresh: bool = False
) -> Answer:
    """Ask for ``url`` and return the first answer that is no redirect, whatever its status.

    Follows up to five redirects; every header but Range stays behind when one leads to
    another origin.  ``fresh`` is as in :class:`Question`; ``what`` names what is asked for.
    """
    target, sent = parse_target(url), dict(headers)
    for _ in range(MAX_REDIRECTS + 1):
        question = Question(
            "GET", url, operation, sent, bulk=True, fresh=fresh, urgency=place.urgency, payer=place.url.netloc
        )
        answer = place.connections.ask(question, place.rule(target.netloc))
        if answer.status not in (301, 302, 303, 307, 308):
            return answer
        with answer:
            url = urljoin(url, answer.headers.get("location", ""))
            target, sent = _next_hop(place, target, url, sent)
    raise UpstreamInvalid(
        f"the download of {what} is redirected more than {MAX_REDIRECTS} times",
        why=f"last to {target.netloc}",
        code="MS-U302",
    )


def _next_hop(place: Place, old: Target, url: str, headers: Mapping[str, str]) -> tuple[Target, dict[str, str]]:
    new = parse_target(url)
    if old.scheme == "https" and new.scheme == "http" and not place.rule(new.netloc).allow_http:
        raise AddressRefused(
            f"{old.netloc} redirects a download to plain http at {new.netloc}", why="it began over https"
        )
    if new.origin == old.origin:
        return new, dict(headers)
    return new, {name: value for name, value in headers.items() if name == "Range"}
