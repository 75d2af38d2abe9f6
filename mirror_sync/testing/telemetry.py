"""A list of everything that was told."""

from __future__ import annotations

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.runs import Lease, RunReport, Step


class ListedTelemetry:
    """Keeps what it hears, in order, as tuples; implements :class:`mirror_sync.ports.Telemetry`."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []

    def named(self, name: str) -> list[tuple[object, ...]]:
        """Return what was heard under one name."""
        return [entry for entry in self.heard if entry[0] == name]

    def run_started(self, lease: Lease) -> None:
        self.heard.append(("run_started", lease))

    def step_finished(self, lease: Lease, step: Step, seconds: float) -> None:
        self.heard.append(("step_finished", lease, step, seconds))

    def run_finished(self, lease: Lease, report: RunReport) -> None:
        self.heard.append(("run_finished", lease, report))

    def event(self, name: str, **fields: object) -> None:
        self.heard.append((name, fields))

    def progress(self, mirror: MirrorName, progress: Progress) -> None:
        self.heard.append(("progress", mirror, progress))

    def propagated(self, *, evidence: str, seconds: float) -> None:
        self.heard.append(("propagated", evidence, seconds))

    def upstream_request(self, *, host: str, operation: str, status: int, seconds: float) -> None:
        self.heard.append(("upstream_request", host, operation, status, seconds))
