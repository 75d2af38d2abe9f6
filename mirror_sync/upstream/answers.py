"""What an upstream's HTTP status means, said the same way for git and LFS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from mirror_sync.domain.names import printable
from mirror_sync.errors import (
    MirrorSyncError,
    RateLimited,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)

MAX_WAIT_SECONDS = 6 * 3600.0
DEFAULT_WAIT_SECONDS = 60.0
MAX_TEXT = 400

_LIMIT_LEFT = re.compile(r"(?:^|[;,\s])r=(\d+)")
_LIMIT_SECONDS = re.compile(r"(?:^|[;,\s])t=(\d+)")


def clean(raw: bytes | str) -> str:
    """Return upstream's own words fit for a message: one line, no control characters, at most 400 characters."""
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    return printable(" ".join(text[: 4 * MAX_TEXT].split()))[:MAX_TEXT]


def media_type(headers: Mapping[str, str]) -> str:
    """Return the Content-Type without its parameters, in lower case."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def wait_until(headers: Mapping[str, str], now: float) -> float | None:
    """Return the Unix time until which these headers ask us to wait, or ``None`` when they do not.

    Reads Retry-After (seconds or a date), GitHub's x-ratelimit headers and the IETF
    draft's RateLimit (Hugging Face); never more than six hours from ``now``.
    """
    asked = _asked_until(headers, now)
    return None if asked is None else min(max(asked, now + 1.0), now + MAX_WAIT_SECONDS)


def _asked_until(headers: Mapping[str, str], now: float) -> float | None:
    retry = headers.get("retry-after", "").strip()
    if retry.isascii() and retry.isdigit():
        return now + float(retry[:9])
    if retry and (moment := http_date(retry)) is not None:
        return moment
    reset = headers.get("x-ratelimit-reset", "").strip()
    if headers.get("x-ratelimit-remaining", "").strip() == "0" and reset.isascii() and reset.isdigit():
        return float(reset[:12])
    limit = headers.get("ratelimit", "")
    left, seconds = _LIMIT_LEFT.search(limit), _LIMIT_SECONDS.search(limit)
    if left and seconds and int(left[1]) == 0:
        return now + float(seconds[1][:9])
    return None


def http_date(text: str) -> float | None:
    """Return the Unix time of an HTTP date, or ``None`` when it is none."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def rfc3339(text: str) -> float | None:
    """Return the Unix time of an RFC 3339 moment; ``None`` for none, and for Go's zero time that means none."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.year <= 1970:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def failure(
    status: int, headers: Mapping[str, str], body: bytes, *, host: str, what: str, now: float, credential: bool
) -> MirrorSyncError:
    """Return the error for an answer whose status is not success.

    ``what`` names what was asked, such as ``the ref list``; ``credential`` tells
    whether we sent one.
    """
    said = clean(body) if media_type(headers) in ("text/plain", "application/json", LFS_JSON) else ""
    until = wait_until(headers, now)
    if status == 429 or (status == 403 and until is not None):
        return RateLimited(
            f"{host} asks us to wait",
            until=until or now + DEFAULT_WAIT_SECONDS,
            why=f"HTTP {status} for {what}. {said}".rstrip(),
        )
    if status in (401, 403):
        if credential:
            return UpstreamRefused(
                f"{host} refuses our credential for {what}",
                why=f"HTTP {status}. {said}".rstrip(),
                remedy="check that the token is valid, not expired and may read this repository",
            )
        return UpstreamRefused(
            f"{host} does not show {what}: it is private, gone or needs a credential",
            why=f"HTTP {status}. {said}".rstrip(),
            remedy=f'give a token that may read it: [upstream."{host}"] token_file = "..."',
        )
    if status in (404, 410, 451):
        return UpstreamGone(
            f"{host} answers that {what} is not there",
            for_everybody=status != 404,
            why=f"HTTP {status}. {said}".rstrip(),
            remedy="check the address; a private repository may need a token to be seen",
        )
    if status >= 500 or status == 408:
        return UpstreamUnavailable(f"{host} failed to answer for {what}", why=f"HTTP {status}. {said}".rstrip())
    if 300 <= status < 400:
        return UpstreamInvalid(
            f"{host} redirects {what}, which is not followed",
            why=f"HTTP {status} to {printable(headers.get('location', 'nowhere').partition('?')[0][:200])}",
            remedy="enrol the repository under its present address",
            code="MS-U302",
        )
    return UpstreamInvalid(f"{host} gave an unexpected answer for {what}", why=f"HTTP {status}. {said}".rstrip())


LFS_JSON = "application/vnd.git-lfs+json"
