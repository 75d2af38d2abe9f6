from __future__ import annotations

import pytest

from mirror_sync.errors import (
    RateLimited,
    UpstreamGone,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror_sync.upstream.answers import clean, failure, http_date, rfc3339, wait_until

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "30"}, 30),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "999999999999"}, 6 * 3600),
        ({"retry-after": "Tue, 14 Nov 2023 22:15:20 GMT"}, 120),
        ({"retry-after": "Tue, 14 Nov 2000 22:15:20 GMT"}, 1),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "²"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000090"}, 90),
        ({"x-ratelimit-remaining": "7", "x-ratelimit-reset": "1700000090"}, None),
        ({"ratelimit": '"resolvers";r=0;t=55'}, 55),
        ({"ratelimit": '"resolvers";r=3;t=55'}, None),
    ],
)
def test_how_long_to_wait(headers, seconds):
    assert wait_until(headers, NOW) == (None if seconds is None else NOW + seconds)


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (401, {}, UpstreamRefused),
        (403, {}, UpstreamRefused),
        (403, {"retry-after": "5"}, RateLimited),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1700000090"}, RateLimited),
        (429, {}, RateLimited),
        (404, {}, UpstreamGone),
        (410, {}, UpstreamGone),
        (451, {}, UpstreamGone),
        (408, {}, UpstreamUnavailable),
        (500, {}, UpstreamUnavailable),
        (502, {}, UpstreamUnavailable),
        (503, {"retry-after": "5"}, UpstreamUnavailable),
        (302, {"location": "https://evil.test/login?token=canary"}, UpstreamInvalid),
        (204, {}, UpstreamInvalid),
        (418, {}, UpstreamInvalid),
    ],
)
def test_each_status_has_its_error(status, headers, kind):
    error = failure(status, headers, b"", host="h.test", what="the ref list", now=NOW, credential=False)
    assert type(error) is kind
    assert str(status) in error.why
    assert "canary" not in str(error)


def test_without_a_credential_401_may_mean_that_nothing_is_there():
    error = failure(401, {}, b"", host="github.com", what="the ref list", now=NOW, credential=False)
    assert "private, gone or needs a credential" in error.message
    assert "token_file" in error.remedy
    assert "our credential" in failure(401, {}, b"", host="h", what="x", now=NOW, credential=True).message


def test_upstreams_words_are_cleaned_and_capped():
    text = clean(b"\x1b[31mred\x1b[0m\r\n\tand\x00 \xff\xe2\x80\xae" + b"x" * 5000)
    assert "\x1b" not in text
    assert "\n" not in text
    assert "\u202e" not in text
    assert len(text) <= 400
    html = failure(500, {"content-type": "text/html"}, b"<html>canary", host="h", what="x", now=NOW, credential=False)
    assert "canary" not in str(html)


def test_dates():
    assert http_date("Tue, 14 Nov 2023 22:13:20 GMT") == NOW
    assert http_date("yesterday") is None
    assert rfc3339("2023-11-14T22:13:20Z") == NOW
    assert rfc3339("2023-11-14T23:13:20+01:00") == NOW
    assert rfc3339("2023-11-14T22:13:20") == NOW
    assert rfc3339("0001-01-01T00:00:00Z") is None
    assert rfc3339("soon") is None
