"""One event for each request, and no secret in it."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from mirror_sync.web import create_app, server
from mirror_sync.web.door import LOGGED
from tests.support.upstream import GitUpstream
from tests.support.web_world import TOKEN, MirrorSpec, Served, make_world, oid_of

NAME = "git.example/acme/secret"
WEIGHTS = "W" * 5000
CANARY = "canary-3f9a"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    with GitUpstream(root / "source") as upstream:
        repo = upstream.create("acme/secret")
        repo.commit({"README.md": "hello\n"}, lfs={"weights.bin": WEIGHTS.encode()})
        spec = MirrorSpec(repository=str(repo.path), objects=[WEIGHTS], visibility="token")
        with Served(root, {NAME: spec}) as made:
            yield made


def ask(served: Served, method: str, target: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True)
        connection.putheader("Host", "mirror.example")
        for key, value in headers.items():
            connection.putheader(key.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def events(served: Served, path: str, count: int) -> list[dict[str, Any]]:
    """Return the events of a path once there are so many: each is written after its answer."""
    deadline = time.monotonic() + 30
    while True:
        lines = [json.loads(line) for line in served.text().split("\n")[:-1] if line.startswith("{")]
        found = [line for line in lines if line.get("event") == "request_served" and line["path"] == path]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"{CANARY}-user:{password}".encode()).decode()


def test_a_request_is_one_event_with_mirror_and_token(served: Served) -> None:
    path = f"/{NAME}.git/info/refs"
    target = f"{path}?service=git-upload-pack&secret={CANARY}"
    agent = f"git/2.39 {'x' * 300}"
    assert ask(served, "GET", target)[0] == 401
    assert ask(served, "GET", target, Authorization=basic(CANARY), User_Agent=agent)[0] == 401
    status, body = ask(served, "GET", target, Authorization=basic(TOKEN), User_Agent=agent)
    assert status == 200
    nobody, wrong, good = events(served, path, 3)
    assert (nobody["status"], nobody["mirror"], "reader" in nobody) == (401, NAME, False)
    assert (wrong["status"], "reader" in wrong) == (401, False)
    assert (good["status"], good["mirror"], good["reader"], good["bytes"]) == (200, NAME, 1, len(body))
    assert (good["client"], good["method"], good["agent"]) == ("127.0.0.1", "GET", agent[:200])
    assert good["seconds"] >= 0
    assert good["at"]


def test_no_secret_is_in_the_log(served: Served) -> None:
    oid = oid_of(WEIGHTS)
    link = f"/{NAME}.git/info/lfs/objects/{oid}"
    ask(served, "GET", f"{link}?expires=99999999999&signature={CANARY}")
    ask(served, "GET", f"http://{CANARY}:{CANARY}@mirror.example/{NAME}.git/info/refs?service=git-upload-pack")
    ask(served, "GET", f"/api/v1/mirrors?q={CANARY}", Authorization=f"Bearer {CANARY}")
    ask(served, "GET", "/mirrors", Authorization=f"Bearer {TOKEN}", Cookie=CANARY, Referer=f"https://x/{CANARY}")
    assert len(events(served, link, 1)) == 1
    assert len(events(served, "/api/v1/mirrors", 1)) == 1
    assert len(events(served, "/mirrors", 1)) == 1
    # the whole URL with a user in it is logged as its path
    assert len(events(served, f"/{NAME}.git/info/refs", 1)) >= 1
    for secret in (CANARY, TOKEN, base64.b64encode(CANARY.encode()).decode()[:10]):
        assert secret not in served.text()


def test_it_can_be_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Kept:
        def info(self, event: str, **_fields: object) -> None:
            told.append(event)

    class Answer:
        status, sent = "200 OK", 3

    class Took:
        @staticmethod
        def total_seconds() -> float:
            return 0.1

    monkeypatch.setattr(server, "logger", lambda _name: Kept())
    log = server._Log.__new__(server._Log)
    with make_world(tmp_path, {}) as world:
        for wanted in (True, False):
            logs = replace(world.settings.log, access=wanted)
            monkeypatch.setattr(world, "settings", replace(world.settings, log=logs))
            environ = EnvironBuilder("/mirrors").get_environ()
            list(create_app(world)(environ, lambda *_: None))
            assert environ[LOGGED] is wanted
            log.access(Answer(), None, environ | {"RAW_URI": "/mirrors"}, Took())
    assert told == ["request_served"]
