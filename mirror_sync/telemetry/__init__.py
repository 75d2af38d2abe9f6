"""You live here if you know a metric or a log field.

The names are loaded on first use: the supervisor logs, but counts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror_sync.telemetry.logs import bound, configure_logging, logger
    from mirror_sync.telemetry.metrics import Metrics
    from mirror_sync.telemetry.scrub import Scrubber
    from mirror_sync.telemetry.telemetry import LoggingTelemetry

__all__ = ["LoggingTelemetry", "Metrics", "Scrubber", "bound", "configure_logging", "logger"]


def __getattr__(name: str) -> object:
    if name in ("bound", "configure_logging", "logger"):
        from mirror_sync.telemetry import logs as module
    elif name == "Metrics":
        from mirror_sync.telemetry import metrics as module  # type: ignore[no-redef]
    elif name == "Scrubber":
        from mirror_sync.telemetry import scrub as module  # type: ignore[no-redef]
    elif name == "LoggingTelemetry":
        from mirror_sync.telemetry import telemetry as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
