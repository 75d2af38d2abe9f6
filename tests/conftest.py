"""What every test stands on: its own HOME, no git configuration but its own, loopback only, no silent skips.

The environment is made safe once, before anything is imported or any session fixture
runs git, and each test gets an empty HOME of its own on top.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

IMPOSSIBLE_HERE: tuple[str, ...] = (
    "impossible here: ",
    # a test that needs what a platform cannot have (another kernel, a real systemd as
    # PID 1) skips with this prefix and says why; any other skip fails in CI
)

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "Ada Author",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_AUTHOR_DATE": "1700000000 +0000",
    "GIT_COMMITTER_NAME": "Carl Committer",
    "GIT_COMMITTER_EMAIL": "carl@example.org",
    "GIT_COMMITTER_DATE": "1700000100 +0000",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}

FOREIGN_PREFIXES = ("GIT_", "MIRROR_SYNC__", "XDG_", "LISTEN_")
FOREIGN = {
    "ALL_PROXY", "CREDENTIALS_DIRECTORY", "EMAIL", "HTTP_PROXY", "HTTPS_PROXY", "INVOCATION_ID", "JOURNAL_STREAM",
    "LANGUAGE", "NETRC", "NOTIFY_SOCKET", "NO_COLOR", "NO_PROXY", "SSH_ASKPASS", "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY", "WATCHDOG_PID", "WATCHDOG_USEC", "all_proxy", "http_proxy", "https_proxy", "no_proxy",
}  # fmt: skip


def _make_environment_safe() -> str:
    """Forget whatever the caller's shell says about git, proxies and us; return the session's HOME."""
    for name in list(os.environ):
        if name in FOREIGN or name.startswith(FOREIGN_PREFIXES):
            del os.environ[name]
    os.environ.update(GIT_ENVIRONMENT)
    home = tempfile.mkdtemp(prefix="mirror-sync-tests-home-")
    os.environ["HOME"] = home
    return home


_SESSION_HOME = _make_environment_safe()


def _refuse_the_world(event: str, args: tuple[Any, ...]) -> None:
    """Let this process connect to loopback and unix sockets only."""
    if event != "socket.connect":
        return
    address = args[1]
    if not isinstance(address, tuple) or not isinstance(address[0], str):
        return
    host = address[0].split("%", 1)[0]
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host in {"localhost", ""}
    if not loopback:
        raise PermissionError(f"tests talk to loopback only, not to {address!r}")


sys.addaudithook(_refuse_the_world)


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(_SESSION_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty HOME; also undoes what a test does to the git environment."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(path))
    for name, value in GIT_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return path


# ---------------------------------------------------------------- skips


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    longrepr = report.longrepr
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped: ")


def _fail_if_forbidden(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not _in_ci() or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = _reason(report)
    if reason.startswith(IMPOSSIBLE_HERE):
        return
    report.outcome = "failed"
    report.longrepr = f"a skip is a failure in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = yield
    _fail_if_forbidden(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report: pytest.CollectReport = yield
    _fail_if_forbidden(report)
    return report


# ---------------------------------------------------------------- proofs


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the longer proofs to ``make prove``, unless a marker or a file was asked for."""
    if config.getoption("markexpr"):
        return
    proofs = [item for item in items if item.get_closest_marker("prove")]
    if not proofs or all(item in proofs for item in items):
        return
    config.hook.pytest_deselected(items=proofs)
    items[:] = [item for item in items if item not in set(proofs)]
