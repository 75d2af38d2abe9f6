from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib

import pytest
from flask import Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from mirror_sync.web.bodies import BodyRefused, inflated, small_body, spooled_body

MIB = 1024 * 1024


def request(body: bytes, *, length: int | None = None, **headers: str) -> Request:
    builder = EnvironBuilder(method="POST", input_stream=io.BytesIO(body), headers=list(headers.items()))
    environ = builder.get_environ()
    environ["CONTENT_LENGTH"] = str(len(body) if length is None else length)
    environ["wsgi.input_terminated"] = True
    return Request(environ)


def test_a_plain_body_comes_whole() -> None:
    with spooled_body(request(b"0032want")) as spool:
        assert spool.read() == b"0032want"
        assert spool.fileno() > 0


def test_a_gzip_body_is_inflated() -> None:
    raw = b"0032want " * 5000
    with spooled_body(request(gzip.compress(raw, mtime=0), **{"Content-Encoding": "gzip"})) as spool:
        assert spool.read() == raw


@given(st.binary(max_size=60_000))
def test_inflating_is_exact(raw: bytes) -> None:
    packed = gzip.compress(raw, 6, mtime=0)
    pieces = iter([packed[index : index + 777] for index in range(0, len(packed), 777)])
    assert b"".join(inflated(pieces, limit=MIB)) == raw


def test_a_bomb_is_refused_before_it_costs_anything() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(500)) + packer.flush()
    assert len(bomb) < MIB
    tracemalloc.start()
    with pytest.raises(BodyRefused) as caught:
        spooled_body(request(bomb, **{"Content-Encoding": "gzip"}))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < 4 * MIB


@pytest.mark.parametrize(
    ("body", "headers", "length", "status"),
    [
        (b"abc", {}, 10, 400),
        (b"not gzip at all", {"Content-Encoding": "gzip"}, None, 400),
        (gzip.compress(b"hello" * 100, mtime=0)[:-9], {"Content-Encoding": "gzip"}, None, 400),
        (gzip.compress(b"a", mtime=0) + b"more", {"Content-Encoding": "gzip"}, None, 400),
        (gzip.compress(b"a", mtime=0) + gzip.compress(b"b", mtime=0), {"Content-Encoding": "x-gzip"}, None, 400),
        (b"x", {"Content-Encoding": "br"}, None, 415),
        (b"x", {"Content-Encoding": "gzip, gzip"}, None, 415),
        (b"x", {}, 10**12, 413),
    ],
)
def test_broken_bodies_are_refused(body: bytes, headers: dict[str, str], length: int | None, status: int) -> None:
    with pytest.raises(BodyRefused) as caught:
        spooled_body(request(body, length=length, **headers))
    assert caught.value.status == status


def test_a_body_without_length_is_bounded_too() -> None:
    asked = request(b"x" * 2000)
    asked.environ.pop("CONTENT_LENGTH", None)
    with pytest.raises(BodyRefused) as caught:
        small_body(asked, limit=1000)
    assert caught.value.status == 413
