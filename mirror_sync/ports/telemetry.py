"""Who hears what happens."""

from __future__ import annotations

from typing import Protocol

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Progress
from mirror_sync.domain.runs import (
    Lease,
    RunReport,
    Step,
)


class Telemetry(Protocol):
    """Hears what happens."""

    def run_started(self, lease: Lease) -> None:
        """A sync run began."""

    def step_finished(self, lease: Lease, step: Step, seconds: float) -> None:
        """One of the nine steps ended well."""

    def run_finished(self, lease: Lease, report: RunReport) -> None:
        """A sync run ended and was recorded."""

    def event(self, name: str, **fields: object) -> None:
        """Something worth a log line happened: past-tense name, fields without secrets."""

    def progress(self, mirror: MirrorName, progress: Progress) -> None:
        """A fetch or transfer of this mirror is so far; told at most about once a second."""

    def propagated(self, *, evidence: str, seconds: float) -> None:
        """A change was served ``seconds`` after its first evidence (``webhook`` or ``poll``)."""

    def upstream_request(self, *, host: str, operation: str, status: int, seconds: float) -> None:
        """One request to an upstream host ended; status 0 means no answer."""
