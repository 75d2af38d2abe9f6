"""TOML keys and environment variables, read once into frozen values."""

from __future__ import annotations

from mirror_sync.config.defaults import TrustedHost, default_config_text, host_rules, host_rules_text
from mirror_sync.config.environment import data_home, process_environment, scrub
from mirror_sync.config.load import CONFIG_NAME, find, load, load_text
from mirror_sync.config.reload import Changes, diff
from mirror_sync.config.secrets import SecretFile, secret_fault
from mirror_sync.config.telling import toml_text
from mirror_sync.config.units import Unfit, duration_text, parse_duration, parse_size, size_text
from mirror_sync.config.values import (
    DatabaseSettings,
    GitSettings,
    HuggingFaceSettings,
    LfsSettings,
    LogSettings,
    MetricsSettings,
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
from mirror_sync.config.writing import replace_secret, write_secret, write_text

__all__ = [
    "CONFIG_NAME", "Changes", "DatabaseSettings", "GitSettings", "HuggingFaceSettings", "LfsSettings", "LogSettings", "MetricsSettings", "MirrorDeclaration",
    "ScheduleSettings", "SecretFile", "ServeSettings", "ServerSettings", "Settings", "StorageSettings", "TrustedHost",
    "UiSettings", "Unfit", "UpstreamRule", "WebhookSettings", "WorkerSettings", "data_home", "default_config_text",
    "diff", "duration_text", "find", "host_rules", "host_rules_text", "load", "load_text", "parse_duration",
    "parse_size", "process_environment", "replace_secret", "scrub", "secret_fault", "size_text", "toml_text", "write_secret", "write_text",
]  # fmt: skip
