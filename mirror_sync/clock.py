"""What time it is."""

from __future__ import annotations

import random
import threading
import time


class SystemClock:
    """The machine's clock; implements :class:`mirror_sync.ports.Clock`."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only grow, from an arbitrary start."""
        return time.monotonic()

    def sleep(self, seconds: float, *, stop: threading.Event | None = None) -> bool:
        """Wait; return ``True`` when ``stop`` was set meanwhile."""
        if stop is None:
            time.sleep(seconds)
            return False
        return stop.wait(seconds)

    def chance(self) -> float:
        """Return a uniform number in [0, 1)."""
        return random.random()  # noqa: S311 - jitter, not a secret
