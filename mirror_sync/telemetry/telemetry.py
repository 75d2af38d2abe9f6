"""Log lines and counts for everything that happens; implements :class:`mirror_sync.ports.Telemetry`."""

from __future__ import annotations

import threading

import structlog

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.runs import Lease, Outcome, RunReport, Step
from mirror_sync.ports import Clock
from mirror_sync.telemetry.logs import logger
from mirror_sync.telemetry.metrics import Metrics

PROGRESS_EVERY_SECONDS = 30.0

DEMOTIONS = {
    "git_source_lied": ("git", "lied"),
    "git_source_left": ("git", "left"),
    "lfs_source_lied": ("lfs", "lied"),
    "lfs_source_left": ("lfs", "left"),
}
"""Events that tell of a source given up: what it gave, and why it gives no more."""


class LoggingTelemetry:
    """Writes one line per thing worth knowing and feeds the metrics.

    An unchanged poll is a debug line: ten thousand mirrors make ten thousand of them
    every half hour.  Progress is one line per mirror and kind every thirty seconds.
    """

    def __init__(self, metrics: Metrics, *, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = logger("mirror_sync")
        self._said: dict[tuple[MirrorName, str], float] = {}
        self._lock = threading.Lock()

    def run_started(self, lease: Lease) -> None:
        """A sync run began; later lines of this thread carry its mirror."""
        structlog.contextvars.bind_contextvars(mirror=lease.mirror.name)
        self._log.debug("run_started", trigger=lease.trigger.value, fence=lease.token, worker=lease.worker)

    def step_finished(self, lease: Lease, step: Step, seconds: float) -> None:
        """One of the nine steps ended well."""
        self._metrics.step_finished(step.value, seconds=seconds)
        self._log.debug("step_finished", mirror=lease.mirror.name, step=step.value, seconds=round(seconds, 3))

    def run_finished(self, lease: Lease, report: RunReport) -> None:
        """A sync run ended and was recorded."""
        seconds = report.finished_at - report.started_at
        self._metrics.run_finished(kind=lease.purpose, seconds=seconds)
        if report.outcome in (Outcome.FAILED, Outcome.HELD):
            self._metrics.run_error(report.code or "MS-X000")
        self._forget_progress(lease.mirror.name)
        fields: dict[str, object] = {
            "mirror": lease.mirror.name,
            "outcome": report.outcome.value,
            "trigger": lease.trigger.value,
            "seconds": round(seconds, 3),
        }
        if report.code:
            fields |= {"code": report.code, "why": report.message}
        if report.ref_updates:
            fields["ref_updates"] = report.ref_updates
        if report.fetched_bytes or report.lfs_bytes:
            fields |= {"fetched_bytes": report.fetched_bytes, "lfs_bytes": report.lfs_bytes}
        write = {
            Outcome.UNCHANGED: self._log.debug,
            Outcome.PUBLISHED: self._log.info,
        }.get(report.outcome, self._log.warning)
        write("run_finished", **fields)
        structlog.contextvars.unbind_contextvars("mirror")
        self._metrics.publish()

    def event(self, name: str, **fields: object) -> None:
        """Something worth a log line happened; a field ``level`` of ``warning`` or ``error`` raises its weight."""
        if name in DEMOTIONS:
            kind, reason = DEMOTIONS[name]
            self._metrics.source_demoted(kind=kind, reason=reason, host=str(fields.get("host", "")))
        elif name == "pack_salvaged":
            self._metrics.salvaged(objects=_count(fields.get("objects")), size=_count(fields.get("bytes")))
        level = fields.pop("level", "info")
        if "event" in fields:
            fields["what"] = fields.pop("event")  # the name itself is the line's event
        getattr(self._log, str(level))(name, **fields)

    def progress(self, mirror: MirrorName, progress: Progress) -> None:
        """How far it is; logged every thirty seconds."""
        kind = progress.kind.value
        now = self._clock.monotonic()
        with self._lock:
            said_at = self._said.setdefault((mirror, kind), now)
            tell = now - said_at >= PROGRESS_EVERY_SECONDS
            if tell:
                self._said[(mirror, kind)] = now
        self._metrics.progressed(mirror, progress)
        self._metrics.publish()
        if tell:
            self._log.info(
                "progress",
                mirror=mirror,
                kind=kind,
                way=progress.way.value,
                done=progress.done,
                total=progress.total,
                received_bytes=progress.received,
                rate_bytes_per_second=int(progress.rate),
                connections=progress.connections,
                cuts=progress.cuts,
            )

    def propagated(self, *, evidence: str, seconds: float) -> None:
        """A change was served ``seconds`` after its first evidence."""
        self._metrics.propagated(evidence=evidence, seconds=seconds)
        self._log.debug("propagated", evidence=evidence, seconds=round(seconds, 3))

    def upstream_request(self, *, host: str, operation: str, status: int, seconds: float) -> None:
        """One request to an upstream host ended."""
        self._metrics.upstream_request(host=host, operation=operation, status=status, seconds=seconds)
        self._log.debug("upstream_request", host=host, operation=operation, status=status, seconds=round(seconds, 3))

    def _forget_progress(self, mirror: MirrorName) -> None:
        with self._lock:
            for key in [key for key in self._said if key[0] == mirror]:
                del self._said[key]


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
