"""A server that lies now and then, by a seed: what HTTP allows to go wrong while every byte arrives.

::

    up.liar = Liar(seed=7, pattern="/-/lfs/", share=0.3)
    ...
    up.liar.told        # which lies, how often
"""

from __future__ import annotations

import gzip
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tests.support.upstream import Fault

PAGE = b"<!doctype html><html><head><title>Sign in</title></head><body>Please sign in to go on.</body></html>"


def _page(_: random.Random) -> Fault:
    return Fault("", body=PAGE, headers={"Content-Type": "text/html; charset=utf-8"})


def _nothing(_: random.Random) -> Fault:
    return Fault("", body=b"")


def _busy(_: random.Random) -> Fault:
    return Fault("", status=503)


def _limited(_: random.Random) -> Fault:
    return Fault("", status=429, headers={"Retry-After": "1"})


def _whole(_: random.Random) -> Fault:
    return Fault("", ignore_range=True)


def _elsewhere(chance: random.Random) -> Fault:
    start = chance.randrange(1, 1 << 20)
    return Fault("", headers={"Content-Range": f"bytes {start}-{start + 99}/{start + 100}"})


def _short(chance: random.Random) -> Fault:
    share = chance.random()
    return Fault("", rewrite=lambda body: body[: int(len(body) * share)])


def _long(chance: random.Random) -> Fault:
    more = chance.randbytes(chance.randrange(1, 4096))
    return Fault("", rewrite=lambda body: body + more)


def _compressed(_: random.Random) -> Fault:
    return Fault("", headers={"Content-Encoding": "gzip"}, rewrite=lambda body: gzip.compress(body, 1, mtime=0))


def _wrong(chance: random.Random) -> Fault:
    where, bit = chance.random(), 1 << chance.randrange(8)

    def flip(body: bytes) -> bytes:
        at = int(len(body) * where)
        return body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :] if body else body

    return Fault("", rewrite=flip)


def _dropped(_: random.Random) -> Fault:
    return Fault("", drop=True)


LIES: Mapping[str, Callable[[random.Random], Fault]] = {
    "page": _page, "nothing": _nothing, "busy": _busy, "limited": _limited, "short": _short, "long": _long,
    "compressed": _compressed, "wrong": _wrong, "dropped": _dropped, "whole": _whole, "elsewhere": _elsewhere,
}  # fmt: skip
RANGED = ("whole", "elsewhere")
"""Lies about ranges, for requests that name one."""


class Liar:
    """Lies about ``share`` of the requests that match, in the order in which they come."""

    def __init__(self, seed: int, *, pattern: str = "", share: float = 0.3, kinds: Sequence[str] = tuple(LIES)) -> None:
        self.seed = seed
        self.pattern = pattern
        self.share = share
        self.kinds = kinds
        self.told: Counter[str] = Counter()
        self._chance = random.Random(seed)

    def __call__(self, line: str) -> Fault | None:
        """Return the lie about the request with this line, if any."""
        if not re.search(self.pattern, line) or self._chance.random() >= self.share:
            return None
        kind = self._chance.choice(self.kinds)
        self.told[kind] += 1
        return LIES[kind](self._chance)

    def __str__(self) -> str:
        return f"Liar(seed={self.seed}, share={self.share}, told={dict(self.told)})"
