"""What was learnt of upstreams and need not be asked again at each poll; lost without harm."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from mirror_sync.domain.names import UpstreamUrl
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.ports import Clock

CAPABILITIES_SECONDS = 86_400.0
MAX_KEPT = 200_000
DEFAULT_BATCH = 100


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one repository's server said it can do, and where it was found.

    ``base`` is the repository's address after a followed rename; ``moved`` tells
    whether it differs from the one asked.
    """

    base: UpstreamUrl
    moved: bool
    protocol: int
    object_format: ObjectFormat = ObjectFormat.SHA1
    names_format: bool = False
    """Whether the server knows the ``object-format`` capability and so wants to be told."""
    names_agent: bool = False
    unborn: bool = False
    filters: bool = False
    shallow: bool = False


class Memory:
    """Capabilities per repository for a day; the batch size per LFS host."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._capabilities: OrderedDict[str, tuple[float, Capabilities]] = OrderedDict()
        self._batches: dict[str, int] = {}

    def capabilities(self, url: str) -> Capabilities | None:
        """Return what is known of a repository, less than a day old."""
        with self._guard:
            kept = self._capabilities.get(url)
        if kept is None or not 0 <= self._clock.monotonic() - kept[0] < CAPABILITIES_SECONDS:
            return None
        return kept[1]

    def remember(self, url: str, capabilities: Capabilities) -> None:
        """Keep what a repository's server said."""
        with self._guard:
            self._capabilities[url] = (self._clock.monotonic(), capabilities)
            self._capabilities.move_to_end(url)
            if len(self._capabilities) > MAX_KEPT:
                self._capabilities.popitem(last=False)

    def forget(self, url: str) -> None:
        """Ask again next time."""
        with self._guard:
            self._capabilities.pop(url, None)

    def batch_size(self, host: str) -> int:
        """Return how many LFS objects this host takes in one batch."""
        with self._guard:
            return self._batches.get(host, DEFAULT_BATCH)

    def shrink_batch(self, host: str, refused: int) -> None:
        """Remember that ``refused`` objects were too many: half as many from now on."""
        with self._guard:
            self._batches[host] = max(1, min(self._batches.get(host, DEFAULT_BATCH), refused // 2))
