from __future__ import annotations

import json

import pytest
from flask.testing import FlaskClient

from mirror_sync.errors import StateUnavailable
from mirror_sync.web import create_app
from tests.support.web_world import MirrorSpec, World, make_world

NAME = "git.example/acme/model"
BY_NAME = f"/api/v1/mirrors/by-name/{NAME}"


def test_one_mirror_is_the_published_document(client: FlaskClient) -> None:
    answer = client.get(BY_NAME)
    assert answer.status_code == 200
    assert answer.content_type == "application/json"
    document = answer.json
    assert document is not None
    wanted = {
        "name", "upstream", "health", "activity", "created_at", "observed_at", "confirmed_at", "lag_seconds",
        "objective_seconds", "known_behind_since", "published_at", "next_due_at", "refs", "lfs", "last_run", "holds",
        "notes", "paused", "removing_at", "run", "git_bytes",
    }  # fmt: skip
    assert wanted <= set(document)
    assert document["name"] == NAME
    assert document["lfs"]["wanted"] == 4
    assert document["lfs"]["present"] == 2
    assert document["lfs"]["missing"] == 2
    assert document["last_run"]["outcome"] == "published"
    assert document["published_at"].endswith("Z")
    assert client.get(f"{BY_NAME}.git").json == document


def test_parts_of_a_mirror(client: FlaskClient) -> None:
    why = client.get(f"{BY_NAME}/why").json
    assert why is not None
    assert why["cause"]["code"] == "MS-H004"
    assert why["remedies"]
    runs = client.get(f"{BY_NAME}/runs").json
    assert runs is not None
    assert [run["outcome"] for run in runs["items"]] == ["published"]
    refs = client.get(f"{BY_NAME}/refs").json
    assert refs is not None
    assert refs["head"] == "refs/heads/main"
    names = [ref["name"] for ref in refs["items"]]
    assert names == sorted(names)
    assert "refs/heads/main" in names
    assert "refs/tags/v1" in names


def test_refs_come_in_pages_and_by_prefix(client: FlaskClient) -> None:
    whole = client.get(f"{BY_NAME}/refs").json
    assert whole is not None
    seen: list[str] = []
    cursor = ""
    for _ in range(len(whole["items"]) + 1):
        page = client.get(f"{BY_NAME}/refs?limit=1&cursor={cursor}").json
        assert page is not None
        seen += [ref["name"] for ref in page["items"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert seen == [ref["name"] for ref in whole["items"]]
    tags = client.get(f"{BY_NAME}/refs?prefix=refs/tags/").json
    assert tags is not None
    assert [ref["name"] for ref in tags["items"]] == ["refs/tags/v1"]
    never = client.get("/api/v1/mirrors/by-name/git.example/acme/new/refs").json
    assert never == {"head": None, "items": [], "next_cursor": None}


def test_the_list_has_pages_with_a_relative_next_link(client: FlaskClient) -> None:
    names: list[str] = []
    path = "/api/v1/mirrors?limit=2&q=acme"
    while True:
        answer = client.get(path)
        assert answer.json is not None
        names += [item["name"] for item in answer.json["items"]]
        if answer.json["next_cursor"] is None:
            assert "Link" not in answer.headers
            break
        link = answer.headers["Link"]
        assert link.endswith('>; rel="next"')
        path = link[1:].partition(">")[0]
        assert path.startswith("/api/v1/mirrors?")
    assert names == sorted(names)
    assert len(names) == 9


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("health=paused", ["asleep", "going"]),
        ("glob=*/acme/n*", ["new"]),
        ("q=MODEL", ["model"]),
        ("health=gone", []),
    ],
)
def test_filters(client: FlaskClient, query: str, names: list[str]) -> None:
    answer = client.get(f"/api/v1/mirrors?{query}")
    assert answer.json is not None
    assert [item["name"].rpartition("/")[2] for item in answer.json["items"]] == names


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/mirrors?limit=0", 400, "MS-C001"),
        ("/api/v1/mirrors?limit=501", 400, "MS-C001"),
        ("/api/v1/mirrors?limit=1e3", 400, "MS-C001"),
        ("/api/v1/mirrors?limit=%D9%A3", 400, "MS-C001"),
        ("/api/v1/mirrors?health=rosy", 400, "MS-C001"),
        (f"{BY_NAME}/runs?cursor=-1", 400, "MS-C001"),
        ("/api/v1/mirrors/by-name/git.example/acme/absent", 404, "MS-N404"),
        ("/api/v1/mirrors/by-name/git.example/acme/absent/why", 404, "MS-N404"),
        ("/api/v1/mirrors/by-name/nonsense", 404, "MS-N404"),
        ("/api/v1/mirrors/by-name/git.example/%2e%2e/x", 404, "MS-N404"),
        ("/api/v1/nowhere", 404, None),
    ],
)
def test_errors_are_problems(client: FlaskClient, path: str, status: int, code: str | None) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    document = json.loads(answer.data)
    assert document["status"] == status
    assert document["title"]
    assert document.get("code") == code
    if code:
        assert client.get(document["type"]).status_code == 200


def test_a_mirror_whose_name_ends_like_a_part_is_found_first(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = make_world(tmp_path_factory.mktemp("w"), {"git.example/a": MirrorSpec(), "git.example/a/why": MirrorSpec()})
    client = create_app(world).test_client()
    first = client.get("/api/v1/mirrors/by-name/git.example/a/why").json
    second = client.get("/api/v1/mirrors/by-name/git.example/a/why/why").json
    third = client.get("/api/v1/mirrors/by-name/git.example/a/runs").json
    assert first is not None
    assert second is not None
    assert first["name"] == "git.example/a/why"
    assert "upstream" in first
    assert second["name"] == "git.example/a/why"
    assert "verdict" in second
    assert third == {"items": third and third["items"], "next_cursor": None}


def test_what_did_not_change_is_not_sent_again(client: FlaskClient) -> None:
    path = f"{BY_NAME}/runs"
    first = client.get(path)
    assert client.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304


def test_status_counts(client: FlaskClient) -> None:
    document = client.get("/api/v1/status").json
    assert document is not None
    assert document["mirrors"] == 9
    assert sum(document["by_health"].values()) == 9
    assert document["lag_within"]["+Inf"] == 9


def test_a_document_says_how_far_a_fetch_is_and_what_is_left_out(client: FlaskClient) -> None:
    moving = client.get("/api/v1/mirrors/by-name/git.example/acme/moving").json
    assert moving is not None
    told = moving["progress"]
    assert (told["kind"], told["way"], told["unit"], told["percent"]) == ("git", "ladder", "commits", 25)
    assert (told["done"], told["total"], told["objects"], told["objects_total"]) == (1000, 4000, 0, None)
    assert (told["received_bytes"], told["rate_bytes_per_second"]) == (412_000_000, 2_500_000)
    assert (told["remaining_seconds"], told["connections"], told["cuts"]) == (180, 1, 3)
    assert told["sources"] == ["git.example", "<b>near</b>.example"]
    assert told["stale"] is False
    silent = client.get("/api/v1/mirrors/by-name/git.example/acme/silent").json
    assert silent is not None
    assert silent["progress"]["stale"] is True
    assert silent["progress"]["rate_bytes_per_second"] is None
    filling = client.get("/api/v1/mirrors/by-name/git.example/acme/filling").json
    assert filling is not None
    assert filling["progress"]["objects_total"] == 120
    assert filling["lfs"]["missing"] == 1
    assert (filling["lfs"]["left_out"], filling["lfs"]["left_out_bytes"]) == (1, 4000)
    still = client.get(BY_NAME).json
    assert still is not None
    assert still["progress"] is None
    totals = client.get("/api/v1/status").json
    assert totals is not None
    assert totals["lfs"]["left_out"] == 1


def test_a_clone_that_is_too_early_is_told_how_far_it_is(client: FlaskClient) -> None:
    answer = client.get("/git.example/acme/moving/info/refs?service=git-upload-pack")
    assert answer.status_code == 503
    assert "Git: 1000 of 4000 commits (25 %), about 3 minutes left.\n" in answer.text
    silent = client.get("/git.example/acme/silent/info/refs?service=git-upload-pack")
    assert "Git: 1000 of 4000 commits (25 %).\n" in silent.text


def test_nothing_can_be_changed(client: FlaskClient) -> None:
    for method in ("post", "put", "patch", "delete"):
        assert getattr(client, method)(BY_NAME).status_code in (404, 405)


def test_ready_needs_database_storage_and_a_living_worker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = create_app(world).test_client()

    def checks() -> tuple[int, dict[str, str]]:
        answer = client.get("/readyz")
        assert answer.json is not None
        return answer.status_code, answer.json["checks"]

    assert checks() == (200, {"database": "ok", "storage": "ok", "worker": "ok"})

    def down() -> None:
        raise StateUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(world.memory, "check", down)
        status, found = checks()
        assert status == 503
        assert "MS-D003" in found["database"]
    with monkeypatch.context() as patch:
        patch.setattr(world.memory, "workers", lambda: {"w1": world.clock.now() - 61})
        status, found = checks()
        assert status == 503
        assert "no worker" in found["worker"]
    with monkeypatch.context() as patch:
        patch.setattr(world.memory, "workers", dict)
        assert checks()[0] == 503
    moved = world.settings.storage.git_dir.rename(world.settings.storage.git_dir.with_name("elsewhere"))
    try:
        status, found = checks()
        assert status == 503
        assert "No such file" in found["storage"]
        assert client.get("/healthz").status_code == 200
    finally:
        moved.rename(world.settings.storage.git_dir)


def test_metrics_are_scraped_in_both_formats(client: FlaskClient) -> None:
    plain = client.get("/metrics")
    assert plain.content_type.startswith("text/plain")
    assert b'mirror_sync_mirrors{health="paused"} 2.0' in plain.data
    modern = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert modern.content_type.startswith("application/openmetrics-text")
    assert b'mirror_sync_served_requests_total{code="200",protocol="metrics"}' in modern.data


def test_metrics_of_each_mirror_are_a_choice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from mirror_sync.config import MetricsSettings

    assert create_app(world).test_client().get("/metrics/mirrors").status_code == 404
    monkeypatch.setattr(world, "settings", replace(world.settings, metrics=MetricsSettings(per_mirror=True)))
    answer = create_app(world).test_client().get("/metrics/mirrors")
    assert answer.status_code == 200
    assert f'mirror_sync_mirror_health{{mirror="{NAME}"'.encode() in answer.data
