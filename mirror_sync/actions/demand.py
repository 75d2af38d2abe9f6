"""Begin to keep a mirror because somebody asked for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from mirror_sync.domain.names import MirrorName, UpstreamUrl, parse_upstream_url
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import NotFound, Overloaded
from mirror_sync.ports import Clock

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What one host's rule says of repositories that nobody has added yet."""

    patterns: Sequence[str]
    """Paths that may be added, as globs whose ``*`` crosses slashes."""
    hourly: int
    scheme: str = "https"
    class_name: str = ""


class OnDemand:
    """Adds mirrors that are asked for: of allowed names only, that upstream shows to everybody, and not too many.

    ``shown`` raises what observing the repository without credentials does when it
    cannot be seen; so nobody comes by a private repository that this machine may read,
    and mistyped names leave nothing behind.  The count of the last hour is kept in
    memory, for each host.
    """

    def __init__(
        self, *, shown: Callable[[UpstreamUrl], None], enrol: Callable[[UpstreamUrl, str], Mirror], clock: Clock
    ) -> None:
        self._shown = shown
        self._enrol = enrol
        self._clock = clock
        self._added: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def allows(self, name: MirrorName, demand: Demand) -> bool:
        """Tell whether a repository of this name may be added because somebody asks for it."""
        path = name.partition("/")[2]
        return any(fnmatchcase(path, pattern) for pattern in demand.patterns)

    def add(self, name: MirrorName, demand: Demand) -> Mirror:
        """Begin to keep the mirror ``name``.

        Raises :class:`NotFound` when it is not among those allowed, :class:`Overloaded`
        when enough were added within the hour, and what asking upstream raises.
        """
        url = parse_upstream_url(f"{demand.scheme}://{name}")
        if url.name != name or not self.allows(name, demand):
            raise NotFound(f"{name} is not among the repositories that are added on demand")
        host = url.netloc
        at = self._reserve(host, demand.hourly)
        try:
            self._shown(url)
            return self._enrol(url, demand.class_name)
        except BaseException:
            self._give_back(host, at)
            raise

    def _reserve(self, host: str, hourly: int) -> float:
        now = self._clock.monotonic()
        with self._lock:
            times = self._added.setdefault(host, deque())
            while times and now - times[0] > HOUR:
                times.popleft()
            if len(times) >= hourly:
                raise Overloaded(
                    f"{hourly} repositories of {host} were added within the hour",
                    retry_after=max(1.0, HOUR - (now - times[0])),
                )
            times.append(now)
        return now

    def _give_back(self, host: str, at: float) -> None:
        with self._lock:
            times = self._added.get(host)
            if times is not None and at in times:
                times.remove(at)
