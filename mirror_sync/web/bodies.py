"""Request bodies: bounded, inflated with a limit, complete or refused."""

from __future__ import annotations

import select
import socket
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from flask import Request
from werkzeug.exceptions import BadRequest, ClientDisconnected

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_RATIO = 100
RATIO_SLACK_BYTES = 64 * 1024
BLOCK_BYTES = 64 * 1024
GZIP_WINDOW = 31
BODY_STALL_SECONDS = 60.0
BODY_SECONDS = 600.0


class BodyRefused(Exception):
    """A body that is not taken: the HTTP status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


@contextmanager
def patience(environ: Mapping[str, Any], seconds: float) -> Iterator[None]:
    """Give the client ``seconds`` of silence at most while its body is read or its answer sent.

    The limit stays on the connection for this request; the server sets it anew for the next.
    """
    client = environ.get("gunicorn.socket")
    if isinstance(client, socket.socket):
        client.settimeout(seconds)
    try:
        yield
    except TimeoutError as error:
        raise BodyRefused(408, f"nothing arrived for {seconds:.0f} seconds") from error
    except ClientDisconnected as error:
        raise BodyRefused(400, "the body ended before its stated length") from error
    except BadRequest:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise BodyRefused(400, "the body is broken") from error


@contextmanager
def deadline(environ: Mapping[str, Any], seconds: float) -> Iterator[threading.Event]:
    """Stop reading from the client after ``seconds`` altogether; the event tells whether that happened.

    A body that drips one byte at a time never stalls, so a limit on silence alone
    would let it hold its thread for ever.
    """
    late = threading.Event()
    client = environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):
        yield late
        return

    def stop() -> None:
        late.set()
        with suppress(OSError):  # the client closed meanwhile: that is what was wanted
            client.shutdown(socket.SHUT_RD)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def gone(environ: Mapping[str, Any]) -> Callable[[], bool]:
    """Return what tells whether the client of this request has closed its end of the connection.

    Nobody who still wants an answer does: git, curl and proxies close it only when they give up.
    """
    client = environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):
        return lambda: False
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)

    def left() -> bool:
        return bool(poll.poll(0))

    return left


def leave_body(environ: Mapping[str, Any]) -> None:
    """Read no more of a body that is refused, so that the server does not spend a thread on taking the rest."""
    client = environ.get("gunicorn.socket")
    if isinstance(client, socket.socket):
        with suppress(OSError):  # the client has gone: nothing is left to read
            client.shutdown(socket.SHUT_RD)


def raw_pieces(request: Request, *, limit: int, seconds: float) -> Iterator[bytes]:
    """Yield the body as it came, refusing more than ``limit`` bytes, fewer than stated, and longer than ``seconds``."""
    declared = request.content_length
    if declared is not None and declared > limit:
        raise BodyRefused(413, f"the body has {declared} bytes, at most {limit} are taken")
    taken = 0
    with deadline(request.environ, seconds) as late:
        while True:
            try:
                with patience(request.environ, min(BODY_STALL_SECONDS, seconds)):
                    piece = request.stream.read(BLOCK_BYTES)
            except BodyRefused:
                if late.is_set():
                    break
                raise
            if not piece:
                break
            taken += len(piece)
            if taken > limit:
                raise BodyRefused(413, f"the body has more than {limit} bytes")
            yield piece
    if late.is_set():
        raise BodyRefused(408, f"the body did not arrive within {seconds:.0f} seconds")
    if declared is not None and taken != declared:
        raise BodyRefused(400, f"the body ended after {taken} of {declared} bytes")


def inflated(pieces: Iterator[bytes], *, limit: int) -> Iterator[bytes]:
    """Yield what a gzip body holds; a bomb is refused before it costs anything."""
    inflater = zlib.decompressobj(GZIP_WINDOW)
    came = gave = 0
    for piece in pieces:
        came += len(piece)
        while piece:
            if inflater.eof:
                raise BodyRefused(400, "bytes follow the end of the compressed body")
            try:
                data = inflater.decompress(piece, BLOCK_BYTES)
            except zlib.error as error:
                raise BodyRefused(400, "the body is not valid gzip") from error
            piece = inflater.unconsumed_tail or inflater.unused_data  # noqa: PLW2901 - what is left of it
            gave += len(data)
            if gave > limit or gave > came * MAX_RATIO + RATIO_SLACK_BYTES:
                raise BodyRefused(413, "the compressed body grows too large")
            if data:
                yield data
    if not inflater.eof:
        raise BodyRefused(400, "the compressed body ends early")


def spooled_body(request: Request, *, limit: int = MAX_BODY_BYTES) -> BinaryIO:
    """Return the whole, plain body as a real file at its beginning; the caller closes it.

    Raises :class:`BodyRefused` and leaves nothing behind.
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        raise BodyRefused(415, "only gzip is understood as Content-Encoding")
    pieces = raw_pieces(request, limit=limit, seconds=BODY_SECONDS)
    if encoding in ("gzip", "x-gzip"):
        pieces = inflated(pieces, limit=limit)
    spool: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        spool.writelines(pieces)
        spool.flush()
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return spool


def small_body(request: Request, *, limit: int, seconds: float = BODY_STALL_SECONDS) -> bytes:
    """Return the whole body as it came; raises :class:`BodyRefused`."""
    return b"".join(raw_pieces(request, limit=limit, seconds=seconds))
