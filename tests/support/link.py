"""A failing link on loopback: a TCP proxy in a process of its own that does what a :class:`Weather` says.

::

    with Link(upstream.port, Weather(seed=7, cut_bytes=(100_000, 800_000))) as link:
        clone(f"{link.origin}/acme/model")
        link.count().cuts             # what happened so far
        link.turn(Weather())          # new connections get a good link
        link.cut()                    # every open connection breaks now

What becomes of a connection depends on the seed and on how many were made before it, on
nothing else.  A failure inside the ``with`` carries the weather and what happened.

``python -m tests.support.link PORT '{"seed": 7, "cut_bytes": [100000, 800000]}'`` prints
the port it listens on, obeys the same orders on its standard input, and ends with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Any, Never, Self

ROOT = Path(__file__).resolve().parents[2]
PIECE = 1 << 18
WINDOW = 8 << 20
"""Bytes of one connection that may be under way on a line with latency."""
SLACK = 0.05
"""Seconds of a rate that an idle line may make up for."""
LINGER = 10.0
"""Seconds after which a connection that was ended towards the client is closed altogether."""

CAUGHT_UP = 0.1
"""Seconds in which a client reads what arrived before a reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What a link does to connections; fields left at their default do nothing.

    Cuts, stalls, rates and flipped bits are those of the way down, from the server to
    the client; latency is that of both.
    """

    seed: int = 0
    cut_bytes: tuple[int, int] | None = None
    """Breaks a connection after a number of bytes between these."""
    cut_seconds: tuple[float, float] | None = None
    """Breaks a connection after a time between these."""
    resets: float = 0.0
    """The share of breaks that are a reset; the others look like an orderly end."""
    stalls: float = 0.0
    """The share of breaks that are silence for ever: the connection stays and carries nothing more."""
    connection_rate: float | None = None
    """Bytes a second that one connection gets."""
    link_rate: float | None = None
    """Bytes a second that all connections share."""
    round_trip: float = 0.0
    """Seconds there and back; the first bytes of a connection wait for another round trip, as a handshake would."""
    flip_every: int | None = None
    """Flips one bit about every so many bytes."""
    flip_after: int = 0
    """Bytes at the beginning of each answer that stay as they are."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Weather:
        """Return the weather that ``asdict`` wrote."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}
        return cls(**fields)

    def __str__(self) -> str:
        """Return what differs from a good link, the seed first."""
        usual = asdict(Weather())
        told = {key: value for key, value in asdict(self).items() if key == "seed" or value != usual[key]}
        return f"Weather({', '.join(f'{key}={value!r}' for key, value in told.items())})"


@dataclass(slots=True)
class Count:
    """What happened on a link."""

    connections: int = 0
    open: int = 0
    peak: int = 0
    """The most connections open at one time."""
    cuts: int = 0
    """Connections broken, resets and stalls included."""
    resets: int = 0
    stalls: int = 0
    flips: int = 0
    down: int = 0
    """Bytes delivered to clients."""
    up: int = 0


class Link:
    """One failing link to a port of this machine; see the module's docstring."""

    def __init__(self, to: int, weather: Weather | None = None) -> None:
        self.to = to
        self.weather = weather or Weather()
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self._guard = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.link", str(self.to), json.dumps(asdict(self.weather))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._said())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with contextlib.suppress(OSError, ValueError):
                error.add_note(f"over a link with {self.weather}: {self.count()}")
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def count(self) -> Count:
        """Return what happened so far."""
        return Count(**self._order("count"))

    def turn(self, weather: Weather) -> None:
        """Change the weather for connections yet to be made, and the link's whole rate at once."""
        self.weather = weather
        self._order("turn", asdict(weather))

    def cut(self) -> None:
        """Break every open connection."""
        self._order("cut")

    def _order(self, verb: str, what: object = None) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        with self._guard:
            self._process.stdin.write(json.dumps([verb, what]) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._said())
        assert isinstance(answer, dict)
        return answer

    def _said(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline()


# ---------------------------------------------------------------- the process


class _Rate:
    """A line that carries so many bytes a second; those who share it take turns."""

    def __init__(self, bytes_a_second: float) -> None:
        self.bytes_a_second = bytes_a_second
        self._free_at = 0.0

    @classmethod
    def of(cls, bytes_a_second: float | None) -> _Rate | None:
        return cls(bytes_a_second) if bytes_a_second else None

    def book(self, size: int, now: float) -> float:
        """Put ``size`` bytes on the line and return the seconds until they are through."""
        self._free_at = max(self._free_at, now - SLACK) + size / self.bytes_a_second
        return self._free_at - now


class _Proxy:
    def __init__(self, to: int, weather: Weather) -> None:
        self.to = to
        self.count = Count()
        self.open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.turn(weather)

    def turn(self, weather: Weather) -> None:
        self.weather = weather
        self.rate = _Rate.of(weather.link_rate)

    async def serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(_Connection(self, client, self.count.connections).run())
            self.count.connections += 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def obey(self, line: str) -> str:
        verb, what = json.loads(line)
        if verb == "turn":
            self.turn(Weather.of(what))
        elif verb == "cut":
            for connection in self.open:
                connection.doom(_Fate.CUT)
        return json.dumps(asdict(self.count) if verb == "count" else {})


class _Fate(Enum):
    """What ended a connection before its server did."""

    CUT = auto()
    LOST = auto()
    """The client or the server dropped it."""


class _Connection:
    def __init__(self, proxy: _Proxy, client: socket.socket, index: int) -> None:
        weather = proxy.weather
        chance = random.Random(f"{weather.seed}/{index}")
        self.proxy = proxy
        self.weather = weather
        self.client = client
        self.server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.fate: asyncio.Future[_Fate] = asyncio.get_running_loop().create_future()
        self.rates = [rate for rate in (_Rate.of(weather.connection_rate), proxy.rate) if rate is not None]
        self.left = chance.randint(*weather.cut_bytes) if weather.cut_bytes else None
        self.seconds = chance.uniform(*weather.cut_seconds) if weather.cut_seconds else None
        draw = chance.random()
        self.stalls = draw < weather.stalls
        self.resets = not self.stalls and draw < weather.stalls + weather.resets
        self.answered = 0
        """Bytes of the present answer that went down already."""
        self.chance = chance
        self.to_flip = self._next_flip()

    def _next_flip(self) -> int:
        """Draw how many bytes stay as they are before the next flipped bit."""
        return int(self.chance.expovariate(1 / self.weather.flip_every)) if self.weather.flip_every else -1

    def doom(self, fate: _Fate) -> None:
        """End the connection so, unless something ended it already."""
        if not self.fate.done():
            self.fate.set_result(fate)

    async def run(self) -> None:
        count = self.proxy.count
        count.open += 1
        count.peak = max(count.peak, count.open)
        self.proxy.open.add(self)
        try:
            for end in (self.client, self.server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._carry()
        except OSError:
            self._reset()  # the server does not listen, or the client left while it was being told
        finally:
            self.client.close()
            self.server.close()
            self.proxy.open.discard(self)
            count.open -= 1

    async def _carry(self) -> None:
        await asyncio.get_running_loop().sock_connect(self.server, ("127.0.0.1", self.proxy.to))
        up, down = asyncio.create_task(self._upward()), asyncio.create_task(self._downward())
        try:
            ends: set[asyncio.Future[Any]] = {down, self.fate}
            await asyncio.wait(ends, timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED)
            if down.done() and not self.fate.done():
                down.result()
                await self._end(up)
            elif self.fate.done() and self.fate.result() is _Fate.LOST:
                self._reset()
            else:
                await _cancelled(up, down)
                await self._break()
        finally:
            await _cancelled(up, down)

    async def _end(self, up: asyncio.Task[None]) -> None:
        """End in order: the client hears the server's end and may take its time."""
        self.client.shutdown(socket.SHUT_WR)
        await asyncio.wait({up}, timeout=LINGER)

    async def _break(self) -> None:
        """Break the connection as the weather has it; the server learns at once."""
        count = self.proxy.count
        count.cuts += 1
        count.stalls += self.stalls
        count.resets += self.resets
        self.server.close()
        if self.resets:
            # a reset drops what the client has not read; on a link slower than its ends that is next to nothing
            await asyncio.sleep(CAUGHT_UP)
            self._reset()
            return
        if not self.stalls:
            self.client.shutdown(socket.SHUT_WR)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            # what the client says now is heard by nobody; closing before it is read would be a reset
            async with asyncio.timeout(None if self.stalls else LINGER):
                while await loop.sock_recv(self.client, PIECE):
                    pass

    def _reset(self) -> None:
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    # ---- one way and the other

    async def _upward(self) -> None:
        trip = self.weather.round_trip
        async with _line(self._deliver_up, trip / 2, shake=trip) as put:
            buffer = memoryview(bytearray(PIECE))
            while got := await self._read(self.client, buffer):
                await put(buffer[:got])
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)

    async def _downward(self) -> None:
        loop = asyncio.get_running_loop()
        slowest = min((rate.bytes_a_second for rate in self.rates), default=0.0)
        buffer = memoryview(bytearray(max(1460, min(PIECE, int(slowest * 0.01))) if slowest else PIECE))
        async with _line(self._deliver_down, self.weather.round_trip / 2) as put:
            while got := await self._read(self.server, buffer):
                now = loop.time()
                wait = max((rate.book(got, now) for rate in self.rates), default=0.0)
                if wait > 0:
                    await asyncio.sleep(wait)
                await put(buffer[:got])

    async def _read(self, end: socket.socket, buffer: memoryview) -> int:
        try:
            return await asyncio.get_running_loop().sock_recv_into(end, buffer)
        except OSError:
            return await self._lost()

    async def _send(self, end: socket.socket, piece: memoryview) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(end, piece)
        except OSError:
            await self._lost()

    async def _lost(self) -> Never:
        self.doom(_Fate.LOST)
        await _for_ever()
        raise AssertionError

    async def _deliver_up(self, piece: memoryview) -> None:
        self.answered = 0
        self.proxy.count.up += len(piece)
        await self._send(self.server, piece)

    async def _deliver_down(self, piece: memoryview) -> None:
        breaks = self.left is not None and len(piece) >= self.left
        if self.left is not None:
            piece = piece[: self.left]
            self.left -= len(piece)
        if self.to_flip >= 0:
            self._flip(piece)
        self.answered += len(piece)
        self.proxy.count.down += len(piece)
        await self._send(self.client, piece)
        if breaks:
            self.doom(_Fate.CUT)
            await _for_ever()

    def _flip(self, piece: memoryview) -> None:
        at = max(0, self.weather.flip_after - self.answered)
        while at + self.to_flip < len(piece):
            at += self.to_flip
            piece[at] ^= 1 << self.chance.randrange(8)
            self.proxy.count.flips += 1
            at += 1
            self.to_flip = self._next_flip()
        self.to_flip -= max(0, len(piece) - at)


async def _for_ever() -> None:
    """Wait to be cancelled."""
    await asyncio.get_running_loop().create_future()


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Deliver = Callable[[memoryview], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def _line(deliver: Deliver, delay: float, *, shake: float = 0.0) -> AsyncIterator[Deliver]:
    """Yield what puts a piece on a line that takes ``delay`` seconds, whatever is under way; all has arrived after it.

    Nothing leaves within the first ``shake`` seconds.  Pieces may be used again once they were put.
    """
    if not delay:
        yield deliver
        return
    loop = asyncio.get_running_loop()
    opens_at = loop.time() + shake
    pieces: asyncio.Queue[tuple[float, bytearray]] = asyncio.Queue()
    room = asyncio.Condition()
    under_way = 0

    async def put(piece: memoryview) -> None:
        nonlocal under_way
        async with room:
            await room.wait_for(lambda: under_way < WINDOW)
        under_way += len(piece)
        pieces.put_nowait((max(loop.time(), opens_at) + delay, bytearray(piece)))

    async def carry() -> None:
        nonlocal under_way
        while True:
            due, piece = await pieces.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            await deliver(memoryview(piece))
            under_way -= len(piece)
            pieces.task_done()
            async with room:
                room.notify()

    carrier = asyncio.create_task(carry())
    try:
        yield put
        await pieces.join()
    finally:
        await _cancelled(carrier)


async def _main(to: int, weather: Weather) -> None:
    loop = asyncio.get_running_loop()
    proxy = _Proxy(to, weather)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    serving = asyncio.create_task(proxy.serve(listener))

    def obey(line: str) -> None:
        print(proxy.obey(line), flush=True)

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(obey, line)
        loop.call_soon_threadsafe(serving.cancel)

    threading.Thread(target=listen, daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("to", type=int, metavar="PORT", help="where the server listens")
    parser.add_argument("weather", nargs="?", default="{}", help="a JSON object with fields of Weather")
    told = parser.parse_args()
    asyncio.run(_main(told.to, Weather.of(json.loads(told.weather))))


if __name__ == "__main__":
    main()
