"""The installed daemon as processes: quickstart in a directory, commands against it, clones from it.

::

    with Daemon(tmp_path / "mirror") as daemon:
        daemon.start(repo.url)                 # quickstart URL... --dir --port, until the web answers
        name = daemon.name(repo.url)
        daemon.sync(name)                      # mirror-sync sync NAME --wait; returns the exit status
        daemon.show(name)["health"]
        daemon.clone(name, tmp_path / "work")  # git clone with LFS by the real git-lfs
        daemon.kill(); daemon.start()          # kill -9 of the whole group, then again
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mirror_sync.domain.names import parse_upstream_url

START_SECONDS = 60.0
WITH_LFS = (
    "-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.smudge=git-lfs smudge -- %f",
    "-c", "filter.lfs.clean=git-lfs clean -- %f", "-c", "filter.lfs.required=true",
)  # fmt: skip
"""What ``git lfs install`` configures, as options of git."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    """One daemon on one directory, started and killed as often as a test likes."""

    def __init__(self, directory: Path, *, command: list[str] | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self.command = command or [sys.executable, "-m", "mirror_sync", "quickstart"]
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory.parent / f"{directory.name}.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(self.output()[-6000:])

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @staticmethod
    def name(url: str) -> str:
        return parse_upstream_url(url).name

    def url(self, name: str) -> str:
        return f"{self.origin}/{name}"

    # ------------------------------------------------------------ life

    def start(self, *urls: str, wait: bool = True) -> None:
        """Start quickstart on the directory; returns when the web answers."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *urls, "--dir", str(self.directory), "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_until(lambda: self.get("/healthz")[0] == 200, "the web answers", seconds=START_SECONDS)

    def kill(self) -> None:
        """kill -9 everything the daemon started."""
        if self.process is None:
            return
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=30)
        self.process = None

    def terminate(self, *, timeout: float = 60.0) -> int:
        """Send SIGTERM and return the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=timeout)
        self.process = None
        return status

    def family(self) -> list[int]:
        """Return the daemon's process ids, children first."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found.extend(int(child) for child in (task / "children").read_text().split())
        return list(reversed(found))

    def wait_until(self, check: Any, what: str, *, seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        last: BaseException | None = None
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}\n{self.output()[-4000:]}")
            try:
                value = check()
            except (OSError, AssertionError, json.JSONDecodeError) as error:
                last = error
                value = None
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds}s: {what} ({last})\n{self.output()[-6000:]}")

    # ------------------------------------------------------------ asking

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
        return self._request("GET", path, None, headers or {})

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return self._request("POST", path, body, headers)

    def _request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        request = urllib.request.Request(self.origin + path, data=body, headers=headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def json(self, path: str) -> Any:
        status, body, _ = self.get(path)
        assert status == 200, (status, body)
        return json.loads(body)

    def cli(self, *arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mirror_sync", *arguments, "--dir", str(self.directory)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def show(self, name: str) -> dict[str, Any]:
        document = self.json(f"/api/v1/mirrors/by-name/{name}")
        assert isinstance(document, dict)
        return document

    def sync(self, name: str, *, timeout: float = 120.0) -> int:
        done = self.cli("sync", name, "--wait", timeout=timeout)
        return done.returncode

    def published(self, name: str, *, seconds: float = 60.0) -> dict[str, Any]:
        """Wait until everything first observed is served."""
        return self.wait_until(
            lambda: (document := self.show(name))["confirmed_at"] and document, f"{name} confirmed", seconds=seconds
        )

    def tells(self, text: str, *, seconds: float = 60.0) -> None:
        """Wait until the terminal says ``text``; it follows what is served, a moment behind."""
        self.wait_until(lambda: text in self.output(), f"the terminal says {text!r}", seconds=seconds)

    def ended(self, name: str, *, trigger: str, outcome: str = "published", seconds: float = 60.0) -> dict[str, Any]:
        """Wait until the last run is recorded as this; refs are served before their run is recorded."""

        def last_run() -> dict[str, Any] | None:
            run = self.show(name)["last_run"]
            return run if run and (run["trigger"], run["outcome"]) == (trigger, outcome) else None

        run = self.wait_until(last_run, f"the run of {name} is recorded", seconds=seconds)
        assert isinstance(run, dict)
        return run

    def hook(self, event: str, payload: dict[str, Any], *, delivery: str = "", secret: bytes | None = None) -> int:
        """Send one signed GitHub delivery and return the status."""
        body = json.dumps(payload).encode()
        key = secret if secret is not None else (self.directory / "webhook-secret").read_bytes().strip()
        signature = hmac.new(key, body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": delivery or str(uuid.uuid4()),
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        return self.post("/hooks/github", body, headers)[0]

    # ------------------------------------------------------------ clients

    def git(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done

    def refs(self, name: str) -> dict[str, str]:
        """What a client lists, HEAD left out."""
        return listed(self.git("ls-remote", self.url(name)).stdout)

    def clone(self, name: str, into: Path, *options: str) -> Path:
        """Clone with the real git-lfs as its filter, so that a missing LFS object fails."""
        self.git("clone", "-q", *WITH_LFS, *options, self.url(name), str(into))
        return into


def listed(text: str) -> dict[str, str]:
    """Return ``ls-remote`` output as a mapping, without HEAD and peeled lines."""
    rows = (line.split("\t") for line in text.splitlines() if re.match(r"[0-9a-f]{40}", line))
    return {name: oid for oid, name in rows if name != "HEAD" and not name.endswith("^{}")}
