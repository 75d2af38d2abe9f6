"""You live here if you know a metric or a log field."""

from __future__ import annotations

from mirror_sync.telemetry.logs import bound, configure_logging, logger
from mirror_sync.telemetry.metrics import Metrics
from mirror_sync.telemetry.scrub import Scrubber
from mirror_sync.telemetry.telemetry import LoggingTelemetry

__all__ = ["LoggingTelemetry", "Metrics", "Scrubber", "bound", "configure_logging", "logger"]
