"""The daemon as systemd runs it: readiness, reload, watchdog, sockets, credentials, the end."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.daemon import Daemon, free_port
from tests.support.manager import Manager
from tests.support.tools import require
from tests.support.upstream import GitUpstream

ROOT = Path(__file__).resolve().parents[2]
EXEC_WITH_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Service:
    """One unit's main process on a configuration of its own."""

    def __init__(self, directory: Path, manager: Manager) -> None:
        self.directory = directory
        self.manager = manager
        self.port = free_port()
        self.config = directory / "config.toml"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "log"
        directory.mkdir()
        self.write()

    def write(self, extra: str = "") -> None:
        self.config.write_text(
            f"""
[server]
listen = "127.0.0.1:{self.port}"
[database]
url = "{self.directory}/state.db"
[storage]
git_dir = "{self.directory}/git"
lfs_dir = "{self.directory}/lfs"
run_dir = "{self.directory}/run"
{extra}"""
        )

    def __enter__(self) -> Self:
        subprocess.run(
            [sys.executable, "-m", "mirror_sync", "-c", str(self.config), "db", "upgrade"], cwd=ROOT, check=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None:
            for pid in reversed(self.family()):
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        if error is not None:
            print(self.log.read_text(errors="replace")[-6000:])

    def start(self, role: str, *, listening: socket.socket | None = None, **environment: str) -> None:
        arguments = ["-m", "mirror_sync", "-c", str(self.config), "serve", "--role", role]
        passed: tuple[int, ...] = ()
        if listening is not None:
            passed = (listening.fileno(),)
            arguments = ["-c", EXEC_WITH_SOCKET, str(listening.fileno()), *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, "NOTIFY_SOCKET": self.manager.address, **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=passed,
            )

    def family(self) -> list[int]:
        """The main process and everything below it."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(int(child) for child in task.read_text().split())
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ends(self, *, seconds: float = 30.0) -> int:
        assert self.process is not None
        status = self.process.wait(seconds)
        self.process = None
        return status

    def events(self, name: str) -> list[dict[str, object]]:
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def wait_for(self, name: str, *, seconds: float = 20.0) -> dict[str, object]:
        deadline = time.monotonic() + seconds
        while not (found := self.events(name)):
            assert time.monotonic() < deadline, f"{name} was not logged"
            time.sleep(0.05)
        return found[-1]

    def request(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as manager:
        yield manager


@pytest.fixture
def service(tmp_path: Path, manager: Manager) -> Iterator[Service]:
    with Service(tmp_path / "service", manager) as service:
        yield service


@pytest.mark.parametrize("role", ["all", "web", "worker"])
def test_ready_is_told_and_the_end_is_clean(service: Service, manager: Manager, role: str) -> None:
    service.start(role)
    manager.wait_for("READY=1")
    if role != "worker":
        assert service.request("GET", "/healthz") == 200
    family = service.family()
    service.signal(signal.SIGTERM)
    assert service.ends() == 0
    wait_gone(family)


def wait_gone(pids: list[int], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_all_in_one_pings_the_watchdog(service: Service, manager: Manager) -> None:
    service.start("all", WATCHDOG_USEC="4000000")
    manager.wait_for("READY=1")
    for _ in range(3):
        manager.wait_for("WATCHDOG=1", seconds=4)


def test_a_killed_main_process_takes_all_with_it_and_the_next_start_works(service: Service, manager: Manager) -> None:
    service.start("all")
    manager.wait_for("READY=1")
    family = service.family()
    assert len(family) >= 3
    service.signal(signal.SIGKILL)
    assert service.ends() == -signal.SIGKILL
    wait_gone(family)
    service.start("all")
    manager.wait_for("READY=1")
    assert service.request("GET", "/readyz") == 200


def command_line(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def test_a_killed_worker_is_replaced(service: Service, manager: Manager) -> None:
    service.start("all")
    manager.wait_for("READY=1")
    (worker,) = [pid for pid in service.family() if b"worker" in command_line(pid)]
    os.kill(worker, signal.SIGKILL)
    manager.wait_for("READY=1")
    assert service.wait_for("child_died")["role"] == "worker"
    assert service.request("GET", "/readyz") == 200


def test_reload_puts_in_force_what_it_may_and_says_what_not(service: Service, manager: Manager) -> None:
    service.start("worker")
    manager.wait_for("READY=1")
    service.write('[workers]\ngit = 3\n[schedule]\ninterval = "5m"\n')
    service.signal(signal.SIGHUP)
    manager.wait_for("RELOADING=1")
    manager.wait_for("READY=1")
    told = service.wait_for("configuration_reloaded")
    assert (told["applied"], told["needs_restart"]) == (["schedule.interval"], ["workers.git"])


def test_a_wrong_configuration_is_refused_by_a_running_daemon(service: Service, manager: Manager) -> None:
    service.start("worker")
    manager.wait_for("READY=1")
    service.write('[schedule]\nintervall = "5m"\n')
    service.signal(signal.SIGHUP)
    assert "refused" in manager.wait_for("READY=1")
    problems = service.wait_for("configuration_refused")["problems"]
    assert "intervall" in str(problems)
    service.signal(signal.SIGTERM)
    assert service.ends() == 0


def test_a_wrong_configuration_at_start_is_not_worth_a_restart(service: Service) -> None:
    service.write('[schedule]\nintervall = "5m"\n')
    service.start("all")
    assert service.ends() == 8


def test_a_port_that_is_taken_ends_everything(service: Service) -> None:
    with socket.create_server(("127.0.0.1", service.port)):
        service.start("all")
        assert service.ends(seconds=60) not in {0, 8}


def test_the_web_takes_the_socket_of_systemd(service: Service, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        configured, service.port = service.port, listening.getsockname()[1]
        service.start("web", listening=listening)
        manager.wait_for("READY=1")
        assert service.request("GET", "/healthz") == 200
        service.port = configured
        with pytest.raises(ConnectionRefusedError):
            service.request("GET", "/healthz")


def test_connections_wait_in_the_socket_while_the_web_restarts(service: Service, manager: Manager) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service.port = listening.getsockname()[1]
        service.start("web", listening=listening)
        manager.wait_for("READY=1")
        service.signal(signal.SIGTERM)
        assert service.ends() == 0
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as early:
            early.sendall(b"GET /healthz HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n")
            service.start("web", listening=listening)
            assert early.recv(100).startswith(b"HTTP/1.1 200 ")


def test_secrets_come_from_systemd_and_are_read_anew(service: Service, manager: Manager, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    service.write('[webhooks]\nsecret_file = "credential:webhook"\n')

    def deliver(secret: bytes) -> int:
        body = json.dumps({"zen": "Keep it logically awesome.", "repository": {"id": 1}}).encode()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "ping",
            "X-GitHub-Delivery": str(uuid.uuid4()),
            "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
        }
        return service.request("POST", "/hooks/github", body, headers)

    def store(secret: bytes) -> None:
        draft = tmp_path / "draft"
        draft.write_bytes(secret)
        draft.chmod(0o400)
        draft.replace(credentials / "webhook")

    store(b"first-secret-of-many-bytes")
    service.start("web", CREDENTIALS_DIRECTORY=str(credentials))
    manager.wait_for("READY=1")
    assert deliver(b"first-secret-of-many-bytes") < 300
    assert deliver(b"another") in {401, 403}
    store(b"second-secret-of-many-bytes")
    assert deliver(b"second-secret-of-many-bytes") < 300
    assert deliver(b"first-secret-of-many-bytes") in {401, 403}


FORBIDDEN_FOR_ROOT_ONLY = {"fchown"}
"""SQLite gives new files their database's owner, but only when it runs as root."""


def system_calls(group: str) -> set[str]:
    listing = subprocess.run(
        [require("systemd-analyze"), "syscall-filter", group], capture_output=True, text=True, check=True
    )
    found: set[str] = set()
    for line in map(str.strip, listing.stdout.splitlines()[1:]):
        if line.startswith("@"):
            found |= system_calls(line)
        elif line and not line.startswith("#"):
            found.add(line)
    return found


def test_what_the_units_forbid_is_never_called(tmp_path: Path) -> None:
    """A sync with LFS and a clone, under the eyes of strace: nothing outside SystemCallFilter=."""
    unit = (ROOT / "systemd" / "mirror-sync.service").read_text()
    assert "SystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\n" in unit
    allowed = system_calls("@system-service") - system_calls("@privileged") - system_calls("@resources")
    forbidden = sorted(system_calls("@known") - allowed - FORBIDDEN_FOR_ROOT_ONLY)
    seen = tmp_path / "seen"
    watch = [require("strace"), "-f", "-qq", "--seccomp-bpf", "-e", "signal=none", "-o", str(seen)]
    command = [*watch, "-e", "trace=" + ",".join(f"?{name}" for name in forbidden), sys.executable, "-m", "mirror_sync"]
    with (
        GitUpstream(tmp_path / "upstream") as upstream,
        Daemon(tmp_path / "mirror", command=[*command, "quickstart"]) as daemon,
    ):
        repo = upstream.create("acme/model")
        repo.commit({"README": "hello"}, lfs={"weights.bin": os.urandom(200_000)})
        daemon.start(repo.url)
        name = daemon.name(repo.url)
        daemon.published(name)
        daemon.clone(name, tmp_path / "work")
        strace, quickstart = daemon.family()[:-3:-1]
        os.kill(quickstart, signal.SIGTERM)  # strace itself blocks signals and ends with it
        assert daemon.process is not None
        assert (daemon.process.pid, daemon.process.wait(timeout=60)) == (strace, 0)
        daemon.process = None
    assert {
        line.split(maxsplit=1)[1].partition("(")[0] for line in seen.read_text().splitlines() if "(" in line
    } == set()
