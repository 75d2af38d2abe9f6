"""gunicorn's threaded worker, changed so that no slow client holds up the others.

As gunicorn has it, each new connection takes a thread for up to five seconds, one whose
head or body drips in takes it for much longer, and one that does not close its end after
the answer stops the whole poller for two seconds.  A few hundred such sockets stop
everything else.  Here the poller looks into each connection without reading
(``MSG_PEEK``), a thread gets it when the whole head and a small body are there, and
closing waits in the poller too.  Bound to the inner names of gunicorn 27, which
``pyproject.toml`` pins.
"""

from __future__ import annotations

import re
import select
import socket
import time
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from mirror_sync.web.limits import SMALL_BODY_BYTES

HEAD_SECONDS = 20.0
"""How long a client may take for the head of its request, with a small body."""

LOOKED_AT_BYTES = 128 * 1024
"""More than the largest head that is taken; whoever sent so much gets a thread."""

CLOSE_SECONDS = 2.0
"""How long a client may take to close its end after the answer; closing at once could cut the answer's tail."""

LOOK_AGAIN_SECONDS = 0.1
STOP_SECONDS = 2.0


class PatientWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn publishes no types
    """Waits for heads in the poller."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._silent: dict[Any, float] = {}
        """Connections that sent nothing yet, in the poller, with the moment their time is over."""
        self._partial: dict[Any, float] = {}
        """Connections whose head is incomplete; readable, so they cannot wait in the poller."""
        self._closing: dict[socket.socket, float] = {}
        """Answered connections that wait for the client to close its end."""
        self._looked_at = 0.0
        self._stopping_at = 0.0

    def enqueue_req(self, conn: Any) -> None:
        """Give the connection a thread once its request is here; called on the poller's thread only."""
        conn.close = partial(self._close, conn)
        self._look(conn, time.monotonic() + HEAD_SECONDS)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, and look again at incomplete heads."""
        super().wait_for_and_dispatch_events(LOOK_AGAIN_SECONDS if self._partial else timeout)
        now = time.monotonic()
        if now - self._looked_at < LOOK_AGAIN_SECONDS:
            return
        self._looked_at = now
        for conn, deadline in list(self._partial.items()):
            del self._partial[conn]
            self._look(conn, deadline)

    def murder_pending(self) -> None:
        """Close connections whose time for a head is over; when stopping, soon all that sent none."""
        super().murder_pending()
        now = time.monotonic()
        if not self.alive and not self._stopping_at:
            self._stopping_at = now + STOP_SECONDS
        for waiting in (self._silent, self._partial):
            for conn, deadline in list(waiting.items()):
                if now < (min(deadline, self._stopping_at) if self._stopping_at else deadline):
                    continue
                del waiting[conn]
                if waiting is self._silent:
                    self.poller.unregister(conn.sock)
                self.nr_conns -= 1
                conn.close()
        for client, deadline in list(self._closing.items()):
            if now >= deadline:
                self._closed(client)

    def _look(self, conn: Any, deadline: float) -> None:
        head = _peek(conn)
        if head is None:
            self._silent[conn] = deadline
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._readable, conn))
        elif request_is_here(head) or _went_away(conn.sock):
            conn.data_ready = True
            super().enqueue_req(conn)
        else:
            self._partial[conn] = deadline

    def _readable(self, conn: Any, _client: Any) -> None:
        self.poller.unregister(conn.sock)
        self._look(conn, self._silent.pop(conn))

    def _close(self, conn: Any, graceful: bool = False) -> None:
        """Close a connection; gracefully means half at first, and the rest when the client has closed its half."""
        client = conn.sock
        try:
            if not graceful:
                raise OSError
            client.shutdown(socket.SHUT_WR)
            client.setblocking(False)
            self.poller.register(client, EVENT_READ, self._drain)
        except (OSError, KeyError, ValueError):
            with suppress(OSError):
                client.close()
        else:
            self._closing[client] = time.monotonic() + CLOSE_SECONDS

    def _drain(self, client: socket.socket) -> None:
        try:
            more = client.recv(LOOKED_AT_BYTES)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        if not more:
            self._closed(client)

    def _closed(self, client: socket.socket) -> None:
        del self._closing[client]
        self.poller.unregister(client)
        with suppress(OSError):
            client.close()


_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,6})[ \t]*\r?\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\nexpect:", re.IGNORECASE)


def request_is_here(sent: bytes) -> bool:
    """Tell whether a thread can work on what a client sent: the whole head, and the whole body if it is small.

    Empty means that the client went away, which a thread finds out at once.
    """
    if not sent or len(sent) >= LOOKED_AT_BYTES:
        return True
    head, end, body = sent.partition(b"\r\n\r\n")
    if not end:
        return b"\n\n" in sent
    length = _LENGTH.search(head + b"\r\n")
    if length is None or _EXPECT.search(head):
        return True
    wanted = int(length[1])
    return wanted > SMALL_BODY_BYTES or len(body) >= wanted


def _went_away(client: socket.socket) -> bool:
    """Tell whether the client has closed its half: nothing more will come."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    return bool(poll.poll(0))


def _peek(conn: Any) -> bytes | None:
    """Return what the client sent so far without taking it: ``None`` when nothing, empty when it went away."""
    if conn.parser is not None and conn.parser.unreader.buf.getvalue():
        return b"\r\n\r\n"  # the parser has read ahead into this request: only it can tell
    try:
        head: bytes = conn.sock.recv(LOOKED_AT_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""
    return head
