"""Every request to an upstream, whatever it is for: kept-alive, limited, measured, and its failures translated."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import requests
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError
from urllib3.response import BaseHTTPResponse

from mirror_sync.domain.budget import LARGEST, LinkRules, Urgency
from mirror_sync.domain.names import printable
from mirror_sync.errors import ConfigError, MirrorSyncError, UpstreamInvalid, UpstreamStalled, UpstreamUnavailable
from mirror_sync.ports import Clock, Telemetry
from mirror_sync.upstream.access import Access
from mirror_sync.upstream.addresses import Lookup, Resolver, Target, check_target, system_lookup
from mirror_sync.upstream.answers import clean
from mirror_sync.upstream.budget import LinkBudget, Purse
from mirror_sync.upstream.deadlines import Deadlines, Watch
from mirror_sync.upstream.memory import Memory
from mirror_sync.upstream.pinned import PinnedAdapter, StaleConnectionError

PIECE = LARGEST
MAX_LANES = 4096
STOPPING = "what waited for it is being stopped"
LOWEST_RATE = 1000.0
"""Bytes per second; slower than this over a whole stall time-out counts as stalled, as curl's lowSpeedLimit has it."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request: ``operation`` is the word that metrics know it by.

    ``bulk`` marks transfers, which have their own places beside the short questions.
    ``fresh`` asks on a connection of its own, which is dropped afterwards: what cuts a
    connection after so many bytes counts what it carried before, too.  What a transfer
    reads is paid from the accounts of the host asked and of ``payer``, the one that led to it.
    """

    method: str
    url: str
    operation: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    bulk: bool = False
    fresh: bool = False
    urgency: Urgency = Urgency.UPDATE
    payer: str = ""
    patience: float = 1.0
    """Times the stall time-out over which the lowest rate is measured."""


class Answer:
    """Status, headers and the body as it arrives; close it, or leave its ``with`` block, in every case."""

    def __init__(
        self,
        raw: BaseHTTPResponse,
        *,
        target: Target,
        access: Access,
        question: Question,
        owner: Exchange,
        purse: Purse | None = None,
    ) -> None:
        self.status = raw.status
        self.headers: Mapping[str, str] = raw.headers
        self.target = target
        self.watch: Watch | None = None
        """What breaks it off when its owner is to stop."""
        self._raw = raw
        self._window = access.stall_timeout * question.patience
        self._owner = owner
        self._purse = purse
        self._whole = False
        self._closed = False
        self._closing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives, a transfer's no faster than the link budget allows.

        Raises :class:`UpstreamStalled` when nothing, or next to nothing, comes for the stall
        time-out (of waiting for upstream, not of our own), and :class:`UpstreamUnavailable`
        when the connection breaks before the end.
        """
        if self.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise UpstreamInvalid(
                f"{self.target.netloc} compressed an answer that was asked for as it is",
                why=f"Content-Encoding {printable(self.headers['content-encoding'][:40])}",
            )
        clock, purse = self._owner.clock, self._purse
        waited, got = 0.0, 0
        while True:
            asked = clock.monotonic()
            try:
                piece = self._raw.read1(PIECE if purse is None else purse.room())
            except (HTTPError, OSError, ValueError) as error:
                # ValueError: a chunk length that is no number.
                raise translate(error, self.target, self._owner.access) from error
            if not piece:
                self._whole = True
                return
            waited += clock.monotonic() - asked
            got += len(piece)
            if purse is not None:
                purse.pay(len(piece))
            yield piece
            if waited >= self._window:
                if got < LOWEST_RATE * self._window:
                    raise UpstreamStalled(
                        f"{self.target.netloc} sends too slowly", why=f"{got} bytes in {waited:.0f} s"
                    )
                waited, got = 0.0, 0

    def body(self, limit: int) -> bytes:
        """Return the whole body; raises :class:`UpstreamInvalid` when it is longer than ``limit`` bytes."""
        out = bytearray()
        for piece in self.pieces():
            out += piece
            if len(out) > limit:
                raise UpstreamInvalid(f"{self.target.netloc} sent more than {limit:,} bytes where less belongs")
        return bytes(out)

    def head_of_body(self, limit: int = 4096) -> bytes:
        """Return up to ``limit`` bytes of an error's body; empty when even that cannot be had."""
        out = b""
        try:
            for piece in self.pieces():
                out += piece
                if len(out) >= limit:
                    break
        except MirrorSyncError:
            # The status was the message; its prose is a courtesy.
            return out[:limit]
        return out[:limit]

    def close(self) -> None:
        """Give the connection back when the body was read to its end, else drop it."""
        if self.watch is not None:
            self.watch.done = True
        with self._closing:
            self._closed = True
            if self._whole:
                self._raw.release_conn()
            else:
                self._raw.close()
        self._owner.ended(self.status)

    def abandon(self) -> None:
        """Break the connection off; any thread may, while another waits for what comes."""
        with self._closing, contextlib.suppress(OSError, ValueError, AttributeError):
            # ValueError, AttributeError: everything was read, and there is no descriptor any more.
            if not self._closed:
                # A twin: the TLS layer's own object belongs to the thread that reads from it.
                with socket.socket(fileno=os.dup(self._raw.fileno())) as twin:
                    twin.shutdown(socket.SHUT_RDWR)


class Exchange:
    """One question under way: its place in the lane, its start, its measurement."""

    def __init__(
        self, *, clock: Clock, telemetry: Telemetry, access: Access, host: str, operation: str, lane: Lane
    ) -> None:
        self.clock = clock
        self.access = access
        self._telemetry = telemetry
        self._host = host
        self._operation = operation
        self._lane = lane
        self._ended = False
        lane.enter(access.concurrency)
        self._started = clock.monotonic()

    def ended(self, status: int) -> None:
        """Free the place and report, once."""
        if self._ended:
            return
        self._ended = True
        self._lane.leave()
        self._telemetry.upstream_request(
            host=self._host, operation=self._operation, status=status, seconds=self._clock_seconds()
        )

    def _clock_seconds(self) -> float:
        return max(0.0, self.clock.monotonic() - self._started)


class Lane:
    """Places for requests to one host; each who enters says how many there may be."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._busy = 0
        self.expected = 0
        """Requests under way or about to be; a lane nobody expects may be forgotten."""

    def announce(self) -> None:
        """Say that somebody will enter."""
        with self._free:
            self.expected += 1

    def enter(self, limit: int) -> None:
        """Wait for a place and take it, after :meth:`announce`."""
        with self._free:
            while self._busy >= max(1, limit):
                self._free.wait()
            self._busy += 1

    def leave(self) -> None:
        """Give a place back."""
        with self._free:
            self._busy -= 1
            self.expected -= 1
            self._free.notify()


class Connections:
    """All connections of this process to all upstreams, and what was learnt of them.

    Share one among every :class:`HttpUpstream`: connections stay open between polls,
    and the number of requests per host is limited across mirrors.  ``link`` says how
    fast transfers may be; it is asked again while they run.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        telemetry: Telemetry,
        lookup: Lookup = system_lookup,
        link: Callable[[], LinkRules] = LinkRules,
    ) -> None:
        self.clock = clock
        self.budget = LinkBudget(clock=clock, rules=link)
        self.memory = Memory(clock=clock)
        self.resolver = Resolver(clock=clock, lookup=lookup)
        self._telemetry = telemetry
        self._deadlines = Deadlines(clock=clock)
        self._adapters: dict[tuple[bool, str, int, str, bool], PinnedAdapter] = {}
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._guard = threading.Lock()

    def ask(self, question: Question, access: Access) -> Answer:
        """Ask and return the answer, whatever its status; nothing is followed.

        Raises :class:`AddressRefused`, :class:`UpstreamUnavailable` or :class:`UpstreamStalled`.
        """
        target = check_target(question.url, access)
        if access.stop is not None and access.stop.is_set():
            raise UpstreamUnavailable(f"{target.netloc} is not asked", why=STOPPING)
        adapter = self._adapter(access, fresh=question.fresh)
        headers = {"User-Agent": access.user_agent, "Accept-Encoding": "identity", **question.headers}
        exchange = Exchange(
            clock=self.clock,
            telemetry=self._telemetry,
            access=access,
            host=target.netloc,
            operation=question.operation,
            lane=self._lane(target.netloc, bulk=question.bulk),
        )
        try:
            with self._deadlines.stopped_by(access.stop):
                raw = self._send(adapter, question, headers, stall=access.stall_timeout)
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            exchange.ended(0)
            if access.stop is not None and access.stop.is_set():
                raise UpstreamUnavailable(f"the question to {target.netloc} was broken off", why=STOPPING) from error
            raise translate(error, target, access) from error
        except BaseException:
            exchange.ended(0)
            raise
        purse = self.budget.purse((question.payer, target.netloc), question.urgency) if question.bulk else None
        answer = Answer(raw, target=target, access=access, question=question, owner=exchange, purse=purse)
        if access.stop is not None:
            answer.watch = self._deadlines.watch(access.stop, answer.abandon)
        return answer

    def make_ready(self, question: Question, access: Access) -> None:
        """Open a connection for the next question like this one, behind the caller's back.

        One that cannot be opened is no loss: the question itself says why.
        """

        def connect() -> None:
            with contextlib.suppress(requests.RequestException, HTTPError, OSError, ValueError, MirrorSyncError):
                self._adapter(access, fresh=question.fresh).make_ready(question.url)

        threading.Thread(target=connect, name="connect-ahead", daemon=True).start()

    @staticmethod
    def _send(
        adapter: PinnedAdapter, question: Question, headers: Mapping[str, str], *, stall: float
    ) -> BaseHTTPResponse:
        for _ in range(8):
            try:
                return adapter.ask(question.method, question.url, headers, question.body, stall=stall)
            except (requests.RequestException, OSError) as error:
                # Everything asked here only reads, and no answer had begun: ask again on another connection.
                if _find(error, StaleConnectionError) is None:
                    raise
        return adapter.ask(question.method, question.url, headers, question.body, stall=stall)

    def _adapter(self, access: Access, *, fresh: bool) -> PinnedAdapter:
        try:
            changed = Path(access.ca_file).stat().st_mtime_ns if access.ca_file else 0
        except OSError as error:
            raise ConfigError(
                "the file of certificate authorities cannot be read",
                why=f"{access.ca_file}: {error.strerror}",
                remedy="name a readable PEM file in ca_file",
            ) from error
        key = (access.allow_private, access.ca_file, changed, access.proxy, fresh)
        with self._guard:
            adapter = self._adapters.get(key)
            if adapter is None:
                adapter = self._adapters[key] = PinnedAdapter(
                    self.resolver,
                    self._deadlines,
                    allow_private=access.allow_private,
                    ca_file=access.ca_file,
                    proxy=access.proxy,
                    keep=not fresh,
                )
        return adapter

    def _lane(self, host: str, *, bulk: bool) -> Lane:
        with self._guard:
            if len(self._lanes) >= MAX_LANES:
                # Hosts come from upstreams' answers too, so there is no end to them.
                self._lanes = {key: lane for key, lane in self._lanes.items() if lane.expected}
            lane = self._lanes.setdefault((host, bulk), Lane())
            lane.announce()
        return lane

    def close(self) -> None:
        """Drop kept-alive connections."""
        with self._guard:
            adapters = list(self._adapters.values())
            self._adapters.clear()
        for adapter in adapters:
            adapter.close()
        self._deadlines.close()


def translate(error: BaseException, target: Target, access: Access) -> MirrorSyncError:
    """Return our error for whatever the HTTP library or the system raised."""
    if (ours := _find(error, MirrorSyncError)) is not None:
        return ours
    host = target.netloc
    if (untrusted := _find(error, ssl.SSLCertVerificationError)) is not None:
        return UpstreamUnavailable(
            f"the certificate of {host} is not trusted",
            why=clean(untrusted.verify_message or str(untrusted)),
            remedy=f'check this machine\'s date; for an authority of your own: [upstream."{host}"] ca_file = "..."',
            code="MS-U495",
        )
    if (tls := _find(error, ssl.SSLError)) is not None:
        return UpstreamUnavailable(f"the TLS connection to {host} failed", why=_said(tls, access), code="MS-U495")
    if _find(error, requests.exceptions.ProxyError) is not None:
        return UpstreamUnavailable(
            f"the proxy does not lead to {host}", why=_said(_innermost(error), access), code="MS-U407"
        )
    if _find(error, NameResolutionError) is not None:
        return UpstreamUnavailable("the proxy's name does not resolve", why=f"on the way to {host}", code="MS-U530")
    if _find(error, requests.exceptions.ConnectTimeout) is not None:
        return UpstreamUnavailable(f"{host} does not take a connection", why="time-out")
    if _find(error, ReadTimeoutError, requests.exceptions.ReadTimeout, TimeoutError) is not None:
        return UpstreamStalled(f"{host} sent nothing for {access.stall_timeout:.0f} s")
    return UpstreamUnavailable(f"the connection to {host} failed", why=_said(_innermost(error), access))


_E = TypeVar("_E", bound=BaseException)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything it was raised from; urllib3 hides causes in ``reason`` and ``args``."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo:
        item = todo.pop(0)
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        # An error of ours in the context is one that the caller was dealing with when he asked.
        context = None if isinstance(item.__context__, MirrorSyncError) else item.__context__
        todo += [getattr(item, "reason", None), *item.args, item.__cause__, context]


def _find(error: BaseException, *kinds: type[_E]) -> _E | None:
    return next((item for item in _chain(error) if isinstance(item, kinds)), None)


def _innermost(error: BaseException) -> BaseException:
    *_, last = _chain(error)
    return last


def _said(error: BaseException, access: Access) -> str:
    """Return an error's words without the proxy's address, which may hold a password."""
    text = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    if access.proxy and (access.proxy in text or "@" in text):
        return type(error).__name__
    return clean(text)
