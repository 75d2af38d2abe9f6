"""Webhook deliveries, proved against payloads and signatures that this project did not write."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror_sync.config import SecretFile, WebhookSettings
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import NewMirror, Trigger
from mirror_sync.errors import StateUnavailable
from mirror_sync.web import create_app
from tests.support.tools import require
from tests.support.web_world import SECRET, World, make_world

OCTOKIT = Path(__file__).parents[2] / "support" / "octokit"
EVENTS = {"push", "create", "delete", "ping", "repository"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path, {})
    for url in ("https://github.com/Codertocat/Hello-World", "https://github.com/acme/untouched"):
        world.memory.enrol(NewMirror(MirrorName(url.removeprefix("https://")), url, 600, 3600))
        lease = world.memory.claim("w", lease_seconds=60)
        assert lease is not None
        world.memory.release(lease)
    for row in world.memory._rows.values():
        row.mirror = replace(row.mirror, due_at=world.clock.now() + 500)
    return world


@pytest.fixture
def client(world: World) -> FlaskClient:
    return create_app(world).test_client()


def signed(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def deliver(client: FlaskClient, body: bytes, **changes: str | None) -> TestResponse:
    headers: dict[str, str | None] = {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": signed(body),
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/abcdef0",
    }
    headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return client.post("/hooks/github", data=body, headers={k: v for k, v in headers.items() if v is not None})


def push_body(**fields: Any) -> bytes:
    repository = {"id": 186853002, "clone_url": "https://github.com/Codertocat/Hello-World.git"}
    return json.dumps({"ref": "refs/heads/main", "repository": repository} | fields).encode()


def test_a_delivery_is_stored_makes_its_mirror_due_and_wakes_the_worker(world: World, client: FlaskClient) -> None:
    answer = deliver(client, push_body())
    assert (answer.status_code, answer.text) == (202, "accepted\n")
    (stored,) = world.memory.deliveries()
    assert stored.event == "push"
    assert stored.refs == ("refs/heads/main",)
    mirror = world.memory.mirror(MirrorName("github.com/Codertocat/Hello-World"))
    assert mirror.due_at <= world.clock.now()
    assert mirror.trigger is Trigger.WEBHOOK
    assert mirror.known_behind_since is not None
    assert world.no_waker.pokes == 1
    other = world.memory.mirror(MirrorName("github.com/acme/untouched"))
    assert other.due_at > world.clock.now()


def test_a_replay_is_one_row(world: World, client: FlaskClient) -> None:
    body = push_body()
    answers = [deliver(client, body, X_GitHub_Delivery="one-guid") for _ in range(50)]
    assert [answer.text.strip() for answer in answers] == ["accepted"] + ["duplicate"] * 49
    assert {answer.status_code for answer in answers} == {202}
    assert len(world.memory.deliveries(limit=100)) == 1


def test_a_burst_of_good_deliveries_loses_none(world: World, client: FlaskClient) -> None:
    statuses = [deliver(client, push_body()).status_code for _ in range(500)]
    assert statuses == [202] * 500
    assert len(world.memory.deliveries(limit=1000)) == 500


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"X_Hub_Signature_256": None}, 401),
        ({"X_Hub_Signature_256": "sha256=" + "0" * 64}, 401),
        ({"X_Hub_Signature_256": "sha256=\u00e9"}, 401),
        ({"X_Hub_Signature_256": None, "X_Hub_Signature": "sha1=" + "0" * 40}, 401),
        ({"X_GitHub_Event": None}, 400),
        ({"X_GitHub_Event": "../push"}, 400),
        ({"X_GitHub_Delivery": None}, 400),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Encoding": "gzip"}, 415),
    ],
)
def test_what_is_not_genuine_changes_nothing(
    world: World, client: FlaskClient, changes: dict[str, str | None], status: int
) -> None:
    answer = deliver(client, push_body(), **changes)
    assert answer.status_code == status
    assert answer.content_type.startswith("text/plain")
    assert world.memory.deliveries() == []
    assert world.no_waker.pokes == 0


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[" * 200_000, b'"text"', b"[]", b"{}", b'{"repository": 5}', b"\xff\xfe"]
)
def test_genuine_nonsense_is_refused(world: World, client: FlaskClient, body: bytes) -> None:
    assert deliver(client, body).status_code == 400
    assert world.memory.deliveries() == []


def test_one_flipped_bit_is_noticed(world: World, client: FlaskClient) -> None:
    body = push_body()
    changed = bytes([body[0] ^ 1]) + body[1:]
    assert deliver(client, changed, X_Hub_Signature_256=signed(body)).status_code == 401


def test_a_body_above_the_cap_is_not_read(world: World, client: FlaskClient) -> None:
    body = b" " * (world.settings.webhooks.max_body + 1)
    assert deliver(client, body, X_Hub_Signature_256="sha256=0").status_code == 413


def test_unknown_events_are_thanked_for_and_ignored(world: World, client: FlaskClient) -> None:
    answer = deliver(client, push_body(), X_GitHub_Event="star")
    assert (answer.status_code, answer.text) == (202, "ignored\n")
    assert world.memory.deliveries() == []


def test_guessing_is_slowed_down_but_a_good_neighbour_is_not(world: World) -> None:
    app = create_app(world)
    attacker, github = app.test_client(), app.test_client()
    attacker.environ_base["REMOTE_ADDR"] = "203.0.113.9"
    github.environ_base["REMOTE_ADDR"] = "192.0.2.1"
    statuses = [deliver(attacker, push_body(), X_Hub_Signature_256="sha256=0").status_code for _ in range(60)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert deliver(github, push_body()).status_code == 202


def test_without_a_secret_every_delivery_is_refused(world: World, client: FlaskClient) -> None:
    world.settings = _with_hooks(world, WebhookSettings(()))
    answer = deliver(create_app(world).test_client(), push_body())
    assert answer.status_code == 403
    assert "secret" in answer.text


def test_a_secret_that_cannot_be_read_asks_to_send_again(world: World, tmp_path: Path) -> None:
    world.settings = _with_hooks(world, WebhookSettings((SecretFile("webhooks.secret_file", tmp_path / "nobody"),)))
    answer = deliver(create_app(world).test_client(), push_body())
    assert answer.status_code == 503
    assert "nobody" not in answer.text


def test_both_secrets_hold_during_a_rotation(world: World, tmp_path: Path) -> None:
    fresh = tmp_path / "new.secret"
    fresh.write_text("the-new-secret\n")
    fresh.chmod(0o600)
    old = world.settings.webhooks.secret_files[0]
    world.settings = _with_hooks(world, WebhookSettings((SecretFile("webhooks.secret_file", fresh), old)))
    client = create_app(world).test_client()
    body = push_body()
    assert deliver(client, body).status_code == 202
    assert deliver(client, body, X_Hub_Signature_256=signed(body, "the-new-secret")).status_code == 202
    assert deliver(client, body, X_Hub_Signature_256=signed(body, "a-third")).status_code == 401


def _with_hooks(world: World, hooks: WebhookSettings) -> Any:
    return replace(world.settings, webhooks=hooks)


def test_a_database_that_is_down_shows_the_delivery_as_failed(
    world: World, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(_delivery: object) -> bool:
        raise StateUnavailable("no answer")

    body = push_body()
    monkeypatch.setattr(world.memory, "accept_delivery", down)
    answer = deliver(client, body, X_GitHub_Delivery="again")
    assert answer.status_code == 503
    monkeypatch.undo()
    assert deliver(client, body, X_GitHub_Delivery="again").text == "accepted\n"


def test_only_posts_are_taken(client: FlaskClient) -> None:
    answer = client.get("/hooks/github")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST"
    assert client.post("/hooks/gitlab", data=b"{}").status_code == 404


# ---------------------------------------------------------------- GitHub's own payloads, octokit's signatures


@dataclass(frozen=True)
class Example:
    event: str
    origin: str
    body: bytes
    signature: str


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Every example payload of the events in use, signed by octokit's own code."""
    node = require("node")
    packages = OCTOKIT / "node_modules" / "@octokit"
    if not packages.is_dir():
        pytest.skip("octokit's packages are not installed: npm ci --prefix tests/support/octokit")
    found: list[tuple[str, str, str]] = []
    for index in sorted((packages / "webhooks-examples").glob("*/index.json")):
        for event in json.loads(index.read_text(encoding="utf-8")):
            if event["name"] in EVENTS:
                found += [
                    (event["name"], index.parent.name, json.dumps(item, ensure_ascii=False))
                    for item in event["examples"]
                ]
    request = json.dumps({"secret": SECRET, "bodies": [body for _, _, body in found]})
    done = subprocess.run([node, str(OCTOKIT / "sign.js")], input=request, capture_output=True, text=True, check=True)
    signatures = json.loads(done.stdout)
    return [
        Example(event, origin, body.encode(), signature)
        for (event, origin, body), signature in zip(found, signatures, strict=True)
    ]


def test_every_example_of_github_is_taken(world: World, client: FlaskClient, examples: list[Example]) -> None:
    assert {example.event for example in examples} == EVENTS
    assert len(examples) >= 50
    for example in examples:
        answer = deliver(client, example.body, X_GitHub_Event=example.event, X_Hub_Signature_256=example.signature)
        wanted = (200, "pong\n") if example.event == "ping" else (202, "accepted\n")
        assert (answer.status_code, answer.text) == wanted, (example.event, example.origin)
    stored = world.memory.deliveries(limit=1000)
    assert len(stored) == sum(example.event != "ping" for example in examples)
    for delivery in stored:
        assert delivery.repository_id
        assert delivery.clone_url.startswith(("https://", "http://"))
        if delivery.event in ("push", "create"):
            assert delivery.refs or delivery.event == "create"
        if delivery.event == "delete":
            assert delivery.deleted_refs == delivery.refs != ()
    mirror = world.memory.mirror(MirrorName("github.com/Codertocat/Hello-World"))
    assert mirror.due_at <= world.clock.now()
    assert mirror.repository_id == "186853002"


def test_a_foreign_signature_over_another_body_is_forged(client: FlaskClient, examples: list[Example]) -> None:
    first, second = examples[:2]
    answer = deliver(client, first.body, X_GitHub_Event=first.event, X_Hub_Signature_256=second.signature)
    assert answer.status_code == 401
