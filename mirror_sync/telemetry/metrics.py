"""What a scrape sees: facts from the database, counts from the processes.

Every name begins ``mirror_sync_``; times are exported as timestamps, never as ages, and
what is not known is left out rather than shown as zero.  The number of series does not
grow with the number of mirrors, except on the page made for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.domain.readers import Audience
from mirror_sync.domain.runs import Health, health
from mirror_sync.errors import MirrorSyncError, StateUnavailable
from mirror_sync.ports import Clock, MirrorFilter, StateStore
from mirror_sync.telemetry.logs import logger
from mirror_sync.telemetry.series import merged, read_snapshots, remove_snapshot, write_snapshot

PREFIX = "mirror_sync"
OTHER_HOST = "other"
PUBLISH_EVERY_SECONDS = 5.0
MOST_JOBS = 256
JOB_FORGOTTEN_SECONDS = 3600.0
"""Jobs that told nothing for this long are forgotten once there are more than :data:`MOST_JOBS`."""

COUNTER_LABELS: Mapping[str, tuple[str, str]] = {
    "runs": ("result", "Sync runs by outcome."),
    "ref_updates": ("change", "Published ref updates by kind."),
    "fetched_bytes": ("kind", "Bytes fetched from upstreams."),
    "deliveries": ("event", "Webhook deliveries stored, by event."),
}
"""Counts that the database keeps (:meth:`StateStore.counters`): label and help of each."""

WAYS: Mapping[Kind, tuple[Way, ...]] = {
    Kind.GIT: tuple(way for way in Way if way is not Way.PARTS),
    Kind.LFS: (Way.PARTS,),
}
"""The ways each kind of bytes comes by."""

PROPAGATION_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300, 900, 3600, 14400, 86400)
DURATION_BUCKETS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800, 7200, 43200)
REQUEST_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300)
FIRST_BYTE_BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 10, 30)


class Metrics:
    """Counts of this process, and the scrape over all of them.

    ``hosts`` are the upstream hosts that get a label of their own.  ``shared`` is the
    directory where processes of this machine leave their counts for the one that
    answers scrapes; ``None`` keeps them apart.  ``volumes`` names each data volume and
    how to ask for its free bytes.
    """

    def __init__(
        self,
        state: StateStore,
        *,
        clock: Clock,
        version: str,
        hosts: frozenset[str] = frozenset(),
        shared: Path | None = None,
        volumes: Mapping[str, Callable[[], int]] | None = None,
        cache_seconds: float = 5.0,
    ) -> None:
        self._clock = clock
        self._state = state
        self._hosts = hosts
        self._shared = shared
        self._published_at = float("-inf")
        self._publishing = threading.Lock()
        self._own = CollectorRegistry()
        self._runs = _histogram(self._own, "run_duration_seconds", "Duration of sync runs.", ["kind"], DURATION_BUCKETS)
        self._steps = _histogram(
            self._own, "step_duration_seconds", "Duration of the steps of a sync.", ["step"], DURATION_BUCKETS
        )
        self._run_errors = _counter(self._own, "run_errors", "Runs that failed or held something, by code.", ["reason"])
        self._propagation = _histogram(
            self._own, "propagation_seconds", "From first evidence of a change until it was served.",
            ["evidence"], PROPAGATION_BUCKETS,
        )  # fmt: skip
        self._upstream = _counter(self._own, "upstream_requests", "Requests to upstream hosts.", ["host", "op", "code"])
        self._upstream_seconds = _histogram(
            self._own, "upstream_request_duration_seconds", "Duration of requests to upstream hosts.",
            ["host", "op"], REQUEST_BUCKETS,
        )  # fmt: skip
        self._served = _counter(self._own, "served_requests", "Client requests answered.", ["protocol", "code"])
        self._served_bytes = _counter(self._own, "served_bytes", "Bytes sent to clients.", ["protocol"])
        self._first_byte = _histogram(
            self._own, "served_first_byte_seconds", "Until the first byte of an answer.",
            ["protocol"], FIRST_BYTE_BUCKETS,
        )  # fmt: skip
        self._streams = _gauge(self._own, "served_streams", "Answers being streamed to clients now.", ["protocol"])
        self._deliveries = _counter(
            self._own, "webhook_deliveries", "Webhook requests by what became of them.", ["provider", "result"]
        )
        self._delivered_at = _gauge(
            self._own, "webhook_last_timestamp_seconds", "When the last genuine delivery came.", ["provider"]
        )
        self._received = _counter(
            self._own, "transfer_received_bytes", "Bytes that came over links, by what and which way.", ["kind", "way"]
        )
        self._cuts = _counter(self._own, "transfer_cuts", "Connections that broke and were survived.", ["kind"])
        self._salvaged = _counter(
            self._own, "salvaged_bytes", "Bytes of broken packs from which objects were kept.", []
        )
        self._salvaged_objects = _counter(self._own, "salvaged_objects", "Git objects kept of broken packs.", [])
        self._demoted = _counter(
            self._own, "sources_demoted", "Times a source of bytes was given up.", ["kind", "reason", "host"]
        )
        self._jobs: dict[tuple[MirrorName, Kind, float], Progress] = {}
        self._jobs_lock = threading.Lock()
        self._reloads = _counter(self._own, "config_reloads", "Reloads of the configuration, by result.", ["result"])
        self._facts = _Facts(state, clock=clock, version=version, volumes=volumes or {}, cache_seconds=cache_seconds)
        self._whole = CollectorRegistry()
        self._whole.register(_Whole(self))
        ProcessCollector(registry=self._whole)

    # -- what happened
    def run_finished(self, *, kind: str, seconds: float) -> None:
        """Count one finished run."""
        self._runs.labels(kind).observe(max(0.0, seconds))

    def run_error(self, code: str) -> None:
        """Count a run that failed or held something under its stable code."""
        self._run_errors.labels(code).inc()

    def step_finished(self, step: str, *, seconds: float) -> None:
        """Count one step of a sync."""
        self._steps.labels(step).observe(max(0.0, seconds))

    def propagated(self, *, evidence: str, seconds: float) -> None:
        """Count a change that is served now."""
        self._propagation.labels(evidence).observe(max(0.0, seconds))

    def upstream_request(self, *, host: str, operation: str, status: int, seconds: float) -> None:
        """Count one request to an upstream; hosts that nobody configured share one label."""
        label = host if host in self._hosts else OTHER_HOST
        self._upstream.labels(label, operation, f"{status // 100}xx" if status else "none").inc()
        self._upstream_seconds.labels(label, operation).observe(max(0.0, seconds))

    def progressed(self, mirror: MirrorName, progress: Progress) -> None:
        """Count what came, and what broke, since the job told of its progress before."""
        job = (mirror, progress.kind, progress.began_at)
        with self._jobs_lock:
            before = self._jobs.get(job)
            self._jobs[job] = progress
            if len(self._jobs) > MOST_JOBS:
                horizon = progress.at - JOB_FORGOTTEN_SECONDS
                self._jobs = {job: last for job, last in self._jobs.items() if last.at >= horizon}
        if before is None or progress.received < before.received:
            received, cuts = progress.received, progress.cuts
        else:
            received, cuts = progress.received - before.received, progress.cuts - before.cuts
        self._received.labels(progress.kind.value, progress.way.value).inc(max(0, received))
        self._cuts.labels(progress.kind.value).inc(max(0, cuts))

    def salvaged(self, *, objects: int, size: int) -> None:
        """Count what was kept of a pack that broke off."""
        self._salvaged_objects.inc(max(0, objects))
        self._salvaged.inc(max(0, size))

    def source_demoted(self, *, kind: str, reason: str, host: str) -> None:
        """Count a source that ``lied`` or was ``left`` for another; hosts that nobody configured share one label."""
        self._demoted.labels(kind, reason, host if host in self._hosts else OTHER_HOST).inc()

    def config_reloaded(self, *, result: str) -> None:
        """Count one reload of the configuration: ``applied``, ``unchanged`` or ``refused``."""
        self._reloads.labels(result).inc()

    def served(self, *, protocol: str, code: int) -> None:
        """Count one answered client request."""
        self._served.labels(protocol, str(code)).inc()

    def served_bytes(self, *, protocol: str, count: int) -> None:
        """Count bytes sent to a client."""
        self._served_bytes.labels(protocol).inc(max(0, count))

    def first_byte(self, *, protocol: str, seconds: float) -> None:
        """Count how long a client waited for the first byte."""
        self._first_byte.labels(protocol).observe(max(0.0, seconds))

    def stream_began(self, protocol: str) -> None:
        """Count a stream that began."""
        self._streams.labels(protocol).inc()

    def stream_ended(self, protocol: str) -> None:
        """Count a stream that ended."""
        self._streams.labels(protocol).dec()

    def webhook(self, *, provider: str, result: str) -> None:
        """Count one webhook request; ``accepted`` and ``duplicate`` ones are genuine."""
        self._deliveries.labels(provider, result).inc()
        if result in ("accepted", "duplicate", "ping"):
            self._delivered_at.labels(provider).set(self._clock.now())

    # -- between processes
    def publish(self, *, at_once: bool = False) -> None:
        """Leave this process's counts where the web finds them; at most every five seconds."""
        if self._shared is None:
            return
        now = self._clock.monotonic()
        with self._publishing:
            if not at_once and now - self._published_at < PUBLISH_EVERY_SECONDS:
                return
            self._published_at = now
            try:
                write_snapshot(self._shared, self._own.collect())
            except OSError as error:
                # Counting never stops the work; the next attempt is five seconds away.
                logger().warning("metrics_not_shared", why=error.strerror, directory=str(self._shared))

    def close(self) -> None:
        """Take this process's counts away from the others."""
        if self._shared is not None:
            remove_snapshot(self._shared)

    # -- scrapes
    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the scrape and its content type: OpenMetrics when ``accept`` prefers it, else the text format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._whole), content_type

    def render_mirrors(self, audience: Audience | None = None) -> Iterator[bytes]:
        """Yield one block of text format per page of mirrors: the series that grow with their number.

        With an audience, only mirrors that may be named to it.
        """
        yield b"".join(
            f"# HELP {PREFIX}_{name} {text}\n# TYPE {PREFIX}_{name} gauge\n".encode() for name, text in _PER_MIRROR
        )
        cursor = ""
        while True:
            page = self._state.mirrors(MirrorFilter(audience=audience), cursor=cursor, limit=500)
            now = self._clock.now()
            lines: list[str] = []
            for mirror in page.items:
                if audience is not None and not audience.may_see(mirror):
                    continue
                label = f'mirror="{_escape(mirror.name)}"'
                if mirror.confirmed_at is not None:
                    lines.append(f"{PREFIX}_mirror_confirmed_timestamp_seconds{{{label}}} {mirror.confirmed_at:.3f}")
                if mirror.known_behind_since is not None:
                    lines.append(
                        f"{PREFIX}_mirror_known_behind_since_timestamp_seconds{{{label}}} {mirror.known_behind_since:.3f}"
                    )
                lines.append(f'{PREFIX}_mirror_health{{{label},health="{health(mirror, now).value}"}} 1')
                lines.append(f'{PREFIX}_mirror_size_bytes{{{label},kind="git"}} {mirror.git_bytes}')
                lines.append(f'{PREFIX}_mirror_size_bytes{{{label},kind="lfs"}} {mirror.lfs.present_bytes}')
                lines.append(f"{PREFIX}_mirror_consecutive_failures{{{label}}} {mirror.failures}")
            yield "".join(line + "\n" for line in lines).encode()
            cursor = page.next_cursor
            if not cursor:
                return

    def _families(self) -> list[Metric]:
        families = list(self._own.collect())
        if self._shared is not None:
            families += read_snapshots(self._shared)
        return [*self._facts.collect(), *merged(families)]


_PER_MIRROR = (
    ("mirror_confirmed_timestamp_seconds", "Content older than this is served."),
    ("mirror_known_behind_since_timestamp_seconds", "First evidence of a change not served yet."),
    ("mirror_health", "The present health, value 1."),
    ("mirror_size_bytes", "Bytes kept for the mirror."),
    ("mirror_consecutive_failures", "Failed runs in a row."),
)


class _Whole(Collector):
    """Everything of one scrape; registering it asks nothing."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics._families()  # noqa: SLF001 - the other half of one class


class _Facts:
    """Families read from the database, kept for a few seconds so that scrapes cost it nothing."""

    def __init__(
        self,
        state: StateStore,
        *,
        clock: Clock,
        version: str,
        volumes: Mapping[str, Callable[[], int]],
        cache_seconds: float,
    ) -> None:
        self._state = state
        self._clock = clock
        self._version = version
        self._volumes = volumes
        self._cache_seconds = cache_seconds
        self._read_at = float("-inf")
        self._families: list[Metric] = []
        self._lock = threading.Lock()

    def collect(self) -> list[Metric]:
        now = self._clock.monotonic()
        with self._lock:
            if now - self._read_at >= self._cache_seconds:
                self._families = self._read()
                self._read_at = now
            return list(self._families)

    def _read(self) -> list[Metric]:
        build = GaugeMetricFamily(f"{PREFIX}_build_info", "The running version.", labels=["version"])
        build.add_metric([self._version], 1)
        up = GaugeMetricFamily(f"{PREFIX}_state_up", "Whether the database answered this scrape.")
        families: list[Metric] = [build, up]
        try:
            families += self._from_state()
        except StateUnavailable:
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
        free = GaugeMetricFamily(f"{PREFIX}_storage_free_bytes", "Free bytes of a data volume.", labels=["volume"])
        for volume, ask in self._volumes.items():
            try:
                free.add_metric([volume], ask())
            except (OSError, MirrorSyncError):
                continue  # unknown is left out, and /readyz says what is wrong with the volume
        families.append(free)
        return families

    def _from_state(self) -> list[Metric]:
        totals = self._state.totals()
        by_health = GaugeMetricFamily(f"{PREFIX}_mirrors", "Mirrors by health.", labels=["health"])
        for word in Health:
            by_health.add_metric([word.value], totals.by_health.get(word.value, 0))
        by_activity = GaugeMetricFamily(f"{PREFIX}_mirrors_active", "Mirrors by activity.", labels=["activity"])
        for activity, count in totals.by_activity.items():
            by_activity.add_metric([activity], count)
        lag = GaugeMetricFamily(
            f"{PREFIX}_lag_mirrors", "Mirrors whose sync lag is at most this many seconds.", labels=["lag_le"]
        )
        for bound, count in totals.lag_within.items():
            lag.add_metric([bound], count)
        queue = GaugeMetricFamily(f"{PREFIX}_queue_jobs", "Mirrors that are due and wait.", labels=["queue"])
        queue.add_metric(["sync"], totals.due)
        objects = GaugeMetricFamily(f"{PREFIX}_lfs_objects", "LFS objects by state.", labels=["state"])
        objects.add_metric(["ok"], totals.lfs.present)
        objects.add_metric(["missing"], totals.lfs.missing - totals.lfs.known_missing)
        objects.add_metric(["known_missing"], totals.lfs.known_missing)
        size = GaugeMetricFamily(f"{PREFIX}_lfs_bytes", "Bytes of LFS objects by state.", labels=["state"])
        size.add_metric(["ok"], totals.lfs.present_bytes)
        size.add_metric(["missing"], totals.lfs.wanted_bytes - totals.lfs.present_bytes)
        objects.add_metric(["left_out"], totals.lfs.left_out)
        size.add_metric(["left_out"], totals.lfs.left_out_bytes)
        families: list[Metric] = [by_health, by_activity, lag, queue, objects, size, *self._moving()]
        if totals.oldest_confirmed_at is not None:
            oldest = GaugeMetricFamily(
                f"{PREFIX}_oldest_confirmed_timestamp_seconds", "The oldest confirmed time of any mirror in service."
            )
            oldest.add_metric([], totals.oldest_confirmed_at)
            families.append(oldest)
        beats = self._state.workers()
        workers = GaugeMetricFamily(f"{PREFIX}_workers", "Workers that gave a sign of life within a minute.")
        workers.add_metric([], sum(1 for beat in beats.values() if self._clock.now() - beat < 60.0))
        families.append(workers)
        if beats:
            tick = GaugeMetricFamily(
                f"{PREFIX}_scheduler_tick_timestamp_seconds", "When a worker last looked for due mirrors."
            )
            tick.add_metric([], max(beats.values()))
            families.append(tick)
        return families + self._counters()

    def _moving(self) -> list[Metric]:
        """Return how many fetches and transfers are under way, by kind and way, with their connections."""
        now = self._clock.now()
        under_way = dict.fromkeys([(kind, way) for kind in Kind for way in WAYS[kind]], 0)
        links = dict.fromkeys(Kind, 0)
        cursor = ""
        while True:
            page = self._state.mirrors(MirrorFilter(moving=True), cursor=cursor, limit=500)
            for mirror in page.items:
                progress = mirror.progress
                if progress is not None and not progress.is_stale(now):
                    under_way[progress.kind, progress.way] = under_way.get((progress.kind, progress.way), 0) + 1
                    links[progress.kind] += progress.connections
            cursor = page.next_cursor
            if not cursor:
                break
        transfers = GaugeMetricFamily(
            f"{PREFIX}_transfers", "Fetches and transfers under way, by the way in use.", labels=["kind", "way"]
        )
        for (kind, way), count in under_way.items():
            transfers.add_metric([kind.value, way.value], count)
        connections = GaugeMetricFamily(
            f"{PREFIX}_transfer_connections", "Connections that bring bytes now.", labels=["kind"]
        )
        for kind, count in links.items():
            connections.add_metric([kind.value], count)
        return [transfers, connections]

    def _counters(self) -> list[Metric]:
        found: dict[str, CounterMetricFamily] = {}
        for (metric, value), count in sorted(self._state.counters().items()):
            if metric not in COUNTER_LABELS:
                continue
            label, text = COUNTER_LABELS[metric]
            family = found.get(metric)
            if family is None:
                family = found[metric] = CounterMetricFamily(f"{PREFIX}_{metric}", text, labels=[label])
            family.add_metric([value], count)
        return list(found.values())


def _counter(registry: CollectorRegistry, name: str, text: str, labels: list[str]) -> Counter:
    return Counter(f"{PREFIX}_{name}", text, labels, registry=registry)


def _gauge(registry: CollectorRegistry, name: str, text: str, labels: list[str]) -> Gauge:
    return Gauge(f"{PREFIX}_{name}", text, labels, registry=registry)


def _histogram(
    registry: CollectorRegistry, name: str, text: str, labels: list[str], buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(f"{PREFIX}_{name}", text, labels, registry=registry, buckets=buckets)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
