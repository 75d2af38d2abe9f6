"""Commands against a real state in a directory of their own, in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror_sync.bootstrap import App, build
from mirror_sync.cli.entry import run
from mirror_sync.config import default_config_text, load, write_secret
from mirror_sync.domain.runs import Lease, Outcome, RunReport


class Bench:
    """Runs commands on one directory and plays the worker where a test needs one."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys
        self.out = ""
        self.err = ""

    def __call__(self, *arguments: str) -> int:
        self._capsys.readouterr()
        status = run([*arguments, "--dir", str(self.directory)])
        told = self._capsys.readouterr()
        self.out, self.err = told.out, told.err
        return status

    def json(self, *arguments: str, status: int = 0) -> Any:
        assert self(*arguments, "--json") == status, self.out + self.err
        return json.loads(self.out)

    def app(self) -> App:
        return build(load(directory=self.directory, environ={}), role="worker")

    def beat(self) -> None:
        with self.app() as app:
            app.state.beat("tests")

    def play(self, count: int = 1, **report: Any) -> int:
        """Claim and finish ``count`` due mirrors; return how many there were."""
        done = 0
        with self.app() as app:
            while done < count and (lease := app.claim("tests")) is not None:
                finish(app, lease, **report)
                done += 1
        return done


def finish(app: App, lease: Lease, *, outcome: Outcome = Outcome.UNCHANGED, **rest: Any) -> None:
    now = app.clock.now()
    app.state.finish(
        lease,
        RunReport(
            outcome, now, now, now + 3600, observed_at=now, complete=outcome is Outcome.UNCHANGED, digest="d", **rest
        ),
    )


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    directory = tmp_path / "mirror"
    directory.mkdir()
    write_secret(directory / "webhook-secret", "s3cret-webhook")
    (directory / "config.toml").write_text(default_config_text(listen="127.0.0.1:1"))
    made = Bench(directory, capsys)
    assert made("db", "upgrade") == 0, made.err
    return made


@pytest.fixture
def worker(bench: Bench) -> Iterator[Callable[..., None]]:
    """Play a worker in a thread until the test ends: ``worker(outcome=..., code=...)``."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def work(report: dict[str, Any]) -> None:
        with bench.app() as app:
            while not stop.wait(0.02):
                app.state.beat("tests")
                lease = app.claim("tests")
                if lease is not None:
                    finish(app, lease, **report)

    def start(**report: Any) -> None:
        thread = threading.Thread(target=work, args=(report,))
        thread.start()
        threads.append(thread)

    yield start
    stop.set()
    for thread in threads:
        thread.join()
