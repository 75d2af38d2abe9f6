"""What the server API test program of git-lfs asserts, as far as a read-only server can answer it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.web_world import MirrorSpec, Served, oid_of

NAME = "git.example/acme/model"
LFS = "application/vnd.git-lfs+json"
MANY = [f"object {number}" * 20 for number in range(150)]
LARGE = "0123456789abcdef" * (1 << 16)
HERE = [*MANY, LARGE]
MISSING = [oid_of(f"nobody has this {number}") for number in range(100)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), {NAME: MirrorSpec(objects=HERE)}) as served:
        yield served


def post(served: Served, path: str, document: Any, **headers: str) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request(
        "POST", f"/{NAME}.git/info/lfs/{path}", json.dumps(document), {"Accept": LFS, "Content-Type": LFS} | headers
    )
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(body)


def batch(served: Served, operation: str, objects: list[dict[str, Any]]) -> tuple[int, dict[str, str], Any]:
    # what the program sends: one adapter, and a ref without a name
    document = {"operation": operation, "transfers": ["basic"], "ref": {}, "objects": objects}
    return post(served, "objects/batch", document)


def here(contents: list[str]) -> list[dict[str, Any]]:
    return [{"oid": oid_of(content), "size": len(content)} for content in contents]


def absent(oids: list[str]) -> list[dict[str, Any]]:
    return [{"oid": oid, "size": 7} for oid in oids]


def test_download_of_objects_that_exist(served: Served) -> None:
    status, headers, body = batch(served, "download", here(MANY))
    assert status == 200
    assert headers["content-type"] == LFS
    assert "no-cache" in headers["cache-control"]
    assert [(item["oid"], item["size"]) for item in body["objects"]] == [(oid_of(one), len(one)) for one in MANY]
    for item in body["objects"]:
        assert item["actions"].keys() == {"download"}
        assert item["actions"]["download"]["href"].endswith(item["oid"])
        assert "error" not in item


def test_download_of_objects_that_are_missing(served: Served) -> None:
    status, _, body = batch(served, "download", absent(MISSING))
    assert status == 200
    assert [item["oid"] for item in body["objects"]] == MISSING
    for item in body["objects"]:
        assert "actions" not in item
        assert item["error"]["code"] == 404
        assert item["error"]["message"]


def test_download_of_some_of_each(served: Served) -> None:
    mixed = [one for pair in zip(here(MANY[:100]), absent(MISSING), strict=True) for one in pair]
    status, _, body = batch(served, "download", mixed)
    assert status == 200
    assert [item["oid"] for item in body["objects"]] == [item["oid"] for item in mixed]
    for item, asked in zip(body["objects"], mixed, strict=True):
        missing = asked["oid"] in MISSING
        assert ("error" in item, "actions" in item) == (missing, not missing)


@pytest.mark.parametrize(
    "malformed",
    [
        {"oid": "BAD-SHA", "size": 1},
        {"oid": "BAD-SHA" * 20, "size": 1},
        {"oid": "b" * 63, "size": 1},
        {"oid": "b" * 65, "size": 1},
        {"oid": "B" * 64, "size": 1},
        {"oid": "z" * 64, "size": 1},
        {"oid": "", "size": 1},
        {"oid": "b" * 64, "size": -1},
        {"oid": "b" * 64, "size": 1.5},
        {"oid": "b" * 64},
        {"size": 1},
    ],
)
def test_malformed_oids_and_sizes_are_told_per_object(served: Served, malformed: dict[str, Any]) -> None:
    status, _, body = batch(served, "download", [malformed, *here(MANY[:2])])
    assert status == 200
    first, *others = body["objects"]
    assert first["error"]["code"] == 422
    assert all("actions" in item for item in others)


@pytest.mark.parametrize("objects", [here(MANY[:3]), absent(MISSING[:3]), [{"oid": "BAD-SHA", "size": -1}], []])
def test_uploads_of_anything_are_refused_with_the_upstream(served: Served, objects: list[dict[str, Any]]) -> None:
    status, headers, body = batch(served, "upload", objects)
    assert status == 403
    assert headers["content-type"] == LFS
    assert f"https://{NAME}" in body["message"]


def test_locks_are_listed_as_none_and_made_by_nobody(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    for query in ("", "?path=a.bin", "?refspec=refs/heads/main&limit=1", "?cursor=x"):
        connection.request("GET", f"/{NAME}.git/info/lfs/locks{query}", headers={"Accept": LFS})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"locks": []})
        assert "no-cache" in answer.headers["Cache-Control"]
    connection.close()
    status, _, body = post(served, "locks", {"path": "a.bin"})
    assert status == 403
    assert f"https://{NAME}" in body["message"]
    assert post(served, "locks/7/unlock", {"force": True})[0] == 403
    status, _, body = post(served, "locks/verify", {"cursor": "", "limit": 0})
    assert status == 404  # so that git-lfs asks no more, and pushes to the upstream are not in its way
    assert body["message"]


def test_several_connections_bring_one_object_in_ranges(served: Served) -> None:
    size, parts = len(LARGE), 8
    step = size // parts
    got: dict[int, bytes] = {}

    def take(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        start, end = number * step, size if number == parts - 1 else (number + 1) * step
        headers = {"Range": f"bytes={start}-{end - 1}", "If-Range": f'"{oid_of(LARGE)}"'}
        connection.request("GET", f"/{NAME}.git/info/lfs/objects/{oid_of(LARGE)}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 206
        got[number] = answer.read()
        connection.close()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert b"".join(got[number] for number in range(parts)) == LARGE.encode()
