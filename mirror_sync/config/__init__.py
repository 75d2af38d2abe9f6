"""TOML keys and environment variables, read once into frozen values."""

from __future__ import annotations

from mirror_sync.config.secrets import SecretFile
from mirror_sync.config.values import (
    DatabaseSettings,
    GitSettings,
    LfsSettings,
    LogSettings,
    MirrorDeclaration,
    ScheduleSettings,
    ServerSettings,
    ServeSettings,
    Settings,
    StorageSettings,
    UiSettings,
    UpstreamRule,
    WebhookSettings,
    WorkerSettings,
)

__all__ = [
    "DatabaseSettings", "GitSettings", "LfsSettings", "LogSettings", "MirrorDeclaration", "ScheduleSettings",
    "SecretFile", "ServeSettings", "ServerSettings", "Settings", "StorageSettings", "UiSettings", "UpstreamRule",
    "WebhookSettings", "WorkerSettings",
]  # fmt: skip
