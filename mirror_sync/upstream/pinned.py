"""requests' transport, made to connect to checked addresses only."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.poolmanager import PoolManager
from urllib3.response import BaseHTTPResponse

from mirror_sync.errors import ConfigError
from mirror_sync.upstream.addresses import Resolver
from mirror_sync.upstream.deadlines import Deadlines, Limit

CONNECT_SECONDS = 15.0
HANDSHAKE_SECONDS = 45.0
KEPT_HOSTS = 256
KEPT_PER_HOST = 64
SPARE_SECONDS = 20.0
"""A connection opened ahead that nothing used for so long is closed."""


class StaleConnectionError(ConnectionResetError):
    """A kept-alive connection had been closed by the other side before it answered."""


def trust(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts ``ca_file`` alone, or without one the public authorities and the system's."""
    try:
        context = ssl.create_default_context(cafile=ca_file or DEFAULT_CA_BUNDLE_PATH)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "the file of certificate authorities cannot be used",
            why=f"{ca_file}: {error}",
            remedy="name a readable PEM file",
        ) from error
    if not ca_file:
        context.load_default_certs()
    return context


@dataclass(frozen=True, slots=True)
class Gate:
    """What every connection of one adapter asks before it connects."""

    resolver: Resolver
    deadlines: Deadlines
    allow_private: bool
    through_proxy: bool

    def dial(self, connection: HTTPConnection) -> socket.socket:
        """Connect to the first checked address that answers."""
        host, port = connection.host, connection.port
        assert port is not None
        last: OSError | None = None
        for address in self.resolver.addresses(host, port, allow_private=self.allow_private):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            try:
                sock.settimeout(CONNECT_SECONDS)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.connect((address, port))
            except OSError as error:
                sock.close()
                last = error
                continue
            return sock
        if isinstance(last, TimeoutError):
            raise ConnectTimeoutError(connection, f"connecting to {host} took longer than {CONNECT_SECONDS:.0f} s")
        raise NewConnectionError(connection, str(last)) from last


class WatchedConnection(HTTPConnection):
    """Resolves, checks and pins by itself, so that no way leads around the check.

    Also limits the time of the handshake and of the answer's head, and knows whether
    it is being used again.
    """

    gate: Gate
    answered = 0
    waited = False
    """Opened ahead, so that the other side may have lost patience meanwhile."""
    _handshake: tuple[Limit, socket.socket] | None = None

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn() if self.gate.through_proxy else self.gate.dial(self)
        # The TLS layer takes the descriptor over, so the limit holds one of its own.
        twin = sock.dup()
        self._handshake = (self.gate.deadlines.begin(twin, HANDSHAKE_SECONDS), twin)
        self.answered = 0
        return sock

    def connect(self) -> None:
        """Connect within a time that a trickle of bytes cannot stretch."""
        try:
            super().connect()
        finally:
            if self._handshake is not None:
                limit, twin = self._handshake
                self._handshake = None
                limit.done = True
                twin.close()

    def getresponse(self) -> Any:
        """Return the answer once its head is here, within twice the stall time-out."""
        assert self.sock is not None
        wait = self.timeout
        limit = self.gate.deadlines.begin(self.sock, 2 * wait) if isinstance(wait, int | float) else None
        try:
            answer = super().getresponse()
        except ConnectionError as error:
            if (self.answered or self.waited) and not (limit is not None and limit.passed):
                raise StaleConnectionError(str(error)) from error
            raise
        finally:
            if limit is not None:
                limit.done = True
                if limit.passed:
                    # A head cut by the limit reads as a short but complete one.
                    raise TimeoutError("the head of the answer came too slowly")
        self.answered += 1
        return answer


class WatchedTlsConnection(WatchedConnection, HTTPSConnection):
    """The same over TLS: certificate and SNI are those of the name, the address is the checked one."""


class Once:
    """Makes a pool one that keeps nothing: every request has a connection of its own, closed behind it.

    One may be opened ahead for the next request.
    """

    _new_conn: Callable[[], Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._spare: tuple[Any, threading.Timer] | None = None
        self._sparing = threading.Lock()
        super().__init__(*args, **kwargs)

    def make_ready(self) -> None:
        """Open a connection for the next request; raises what a request would."""
        conn = self._new_conn()
        try:
            conn.connect()
        except BaseException:
            conn.close()
            raise
        conn.waited = True
        timer = threading.Timer(SPARE_SECONDS, self._drop, (conn,))
        timer.daemon = True
        with self._sparing:
            before, self._spare = self._spare, (conn, timer)
            timer.start()
        if before is not None:
            before[1].cancel()
            before[0].close()

    def _drop(self, conn: Any) -> None:
        """Close the spare connection if it is still this one."""
        with self._sparing:
            if self._spare is None or self._spare[0] is not conn:
                return
            self._spare = None
        conn.close()

    def _get_conn(self, timeout: float | None = None) -> Any:
        del timeout
        with self._sparing:
            spare, self._spare = self._spare, None
        if spare is None:
            return self._new_conn()
        spare[1].cancel()
        return spare[0]

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.close()


def pool_classes(gate: Gate, *, keep: bool) -> dict[str, type[HTTPConnectionPool]]:
    """Return pools whose connections all pass ``gate``; ``keep`` says whether they are used again."""
    plain = type("PinnedHTTPConnection", (WatchedConnection,), {"gate": gate})
    secure = type("PinnedHTTPSConnection", (WatchedTlsConnection,), {"gate": gate})
    once: tuple[type, ...] = () if keep else (Once,)
    return {
        "http": type("PinnedHTTPPool", (*once, HTTPConnectionPool), {"ConnectionCls": plain}),
        "https": type("PinnedHTTPSPool", (*once, HTTPSConnectionPool), {"ConnectionCls": secure}),
    }


class PinnedAdapter(HTTPAdapter):
    """Kept-alive connections under one set of trust, address rule and way out."""

    def __init__(
        self,
        resolver: Resolver,
        deadlines: Deadlines,
        *,
        allow_private: bool,
        ca_file: str,
        proxy: str,
        keep: bool = True,
    ) -> None:
        self._pools = pool_classes(Gate(resolver, deadlines, allow_private, bool(proxy)), keep=keep)
        self._ca_file = ca_file
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        super().__init__(pool_connections=KEPT_HOSTS, pool_maxsize=KEPT_PER_HOST)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        # Reading the authorities takes 50 ms, which plain http need not pay.
        return trust(self._ca_file)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(connections, maxsize, block=block, **pool_kwargs)
        self._use_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Return the pools of connections through the proxy."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(
            proxy, proxy_ssl_context=self._trust if proxy.lower().startswith("https") else None, **proxy_kwargs
        )
        if not known:
            self._use_pools(manager)
        return manager

    def _use_pools(self, manager: PoolManager) -> None:
        # An own dictionary: the library's is one for the whole process.
        manager.pool_classes_by_scheme = self._pools

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Return what tells pools apart: where to, and our one TLS context, which always verifies."""
        host, attributes = super().build_connection_pool_key_attributes(request, verify, cert)
        if host["scheme"] == "https":
            attributes["ssl_context"] = self._trust
        return host, attributes

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the context given to each pool already holds the authorities and always verifies."""

    def make_ready(self, url: str) -> None:
        """Open a connection for the next request to ``url``, where each has its own and no proxy stands between."""
        if self._proxies:
            return
        request = requests.PreparedRequest()
        request.url = url
        pool = self.get_connection_with_tls_context(request, verify=True, proxies={})
        if isinstance(pool, Once):
            pool.make_ready()

    def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, stall: float
    ) -> BaseHTTPResponse:
        """Send one request and return the answer with its body unread; a redirect is an answer like any other."""
        request = requests.PreparedRequest()
        request.method = method
        request.url = url
        request.headers = requests.structures.CaseInsensitiveDict(headers)
        if body is not None:
            request.body = body
            request.headers["Content-Length"] = str(len(body))
        answer = self.send(request, stream=True, timeout=(CONNECT_SECONDS, stall), proxies=self._proxies)
        raw = answer.raw
        assert isinstance(raw, BaseHTTPResponse)
        return raw
