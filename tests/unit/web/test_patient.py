from __future__ import annotations

import pytest

from mirror_sync.web.patient import request_is_here

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "here"),
    [
        (b"", True),
        (b"G", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"GET / HTTP/1.1\nHost: a\n\n", True),
        (HEAD, False),
        (HEAD + b"1234", False),
        (HEAD + b"12345", True),
        (HEAD + b"12345GET", True),
        (HEAD.replace(b"Content-Length: 5", b"content-length:\t5"), False),
        (HEAD.replace(b"Content-Length: 5", b"X-Content-Length: 5"), True),
        (HEAD.replace(b"5", b"65537"), True),
        (HEAD.replace(b"5", b"99999999999"), True),
        (HEAD.replace(b"Host: a", b"Expect: 100-continue"), True),
        (HEAD.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), True),
        (b"x" * 128 * 1024, True),
    ],
)
def test_a_thread_begins_when_the_request_is_there(sent: bytes, here: bool) -> None:
    assert request_is_here(sent) is here
