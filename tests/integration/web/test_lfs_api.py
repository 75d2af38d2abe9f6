from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror_sync.domain.names import GitOid, LfsOid, MirrorName
from mirror_sync.domain.pointers import Pointer, PointerBlob
from mirror_sync.domain.runs import Trigger
from mirror_sync.web import create_app
from mirror_sync.web.backend import LIMITS
from tests.support.web_world import MirrorSpec, World, oid_of

NAME = "git.example/acme/model"
LFS = "application/vnd.git-lfs+json"
WEIGHTS = "W" * 5000
OID = oid_of(WEIGHTS)


@pytest.fixture
def waits_its_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched because somebody asks for it."""
    lfs = replace(world.settings.lfs, pull_through=False)
    monkeypatch.setattr(world, "settings", replace(world.settings, lfs=lfs))


def batch(client: FlaskClient, objects: list[Any], *, name: str = NAME, **fields: Any) -> TestResponse:
    document = {"operation": "download", "transfers": ["basic"], "objects": objects} | fields
    return client.post(
        f"/{name}.git/info/lfs/objects/batch",
        data=json.dumps(document),
        headers={"Accept": LFS, "Content-Type": f"{LFS}; charset=utf-8"},
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ref": {"name": "refs/heads/main"}},
        {"ref": None},
        {"ref": {}},
        {"hash_algo": "sha256"},
        {"transfers": ["ssh", "lfs-standalone-file", "basic"]},
        {"transfers": None},
    ],
)
def test_an_object_that_is_here_has_an_action(client: FlaskClient, fields: dict[str, Any]) -> None:
    answer = batch(client, [{"oid": OID, "size": 5000}], **fields)
    assert answer.status_code == 200
    assert answer.content_type == LFS
    assert answer.json is not None
    assert answer.json["transfer"] == "basic"
    assert answer.json["hash_algo"] == "sha256"
    assert answer.json["objects"] == [
        {
            "oid": OID,
            "size": 5000,
            "authenticated": True,
            "actions": {"download": {"href": f"http://localhost/{NAME}.git/info/lfs/objects/{OID}"}},
        }
    ]


@pytest.mark.usefixtures("waits_its_turn")
@pytest.mark.parametrize(
    ("item", "code", "says"),
    [
        ({"oid": oid_of("still on its way"), "size": 16}, 404, "queued"),
        ({"oid": oid_of("lost for good"), "size": 13}, 404, "upstream itself lacks"),
        ({"oid": oid_of("never heard of"), "size": 3}, 404, "does not refer"),
        ({"oid": oid_of("foreign bytes"), "size": 13}, 404, "does not refer"),
        ({"oid": OID, "size": 4999}, 422, "5000 bytes"),
        ({"oid": OID.upper(), "size": 5000}, 422, "64 hex"),
        ({"oid": "../../etc/passwd", "size": 1}, 422, "64 hex"),
        ({"oid": OID, "size": -1}, 422, "size"),
        ({"oid": OID, "size": True}, 422, "size"),
        ({"oid": OID, "size": 2**63}, 422, "size"),
        ({"oid": OID, "size": "5000"}, 422, "size"),
        ({"oid": 7, "size": 1}, 422, "64 hex"),
        ("junk", 422, "64 hex"),
    ],
)
def test_what_cannot_be_had_is_said_per_object(client: FlaskClient, item: Any, code: int, says: str) -> None:
    answer = batch(client, [item, {"oid": OID, "size": 5000}])
    assert answer.status_code == 200
    assert answer.json is not None
    first, second = answer.json["objects"]
    assert first["error"]["code"] == code
    assert says in first["error"]["message"]
    assert "actions" not in first
    assert "actions" in second


@pytest.mark.usefixtures("waits_its_turn")
def test_what_the_mirror_leaves_out_is_said_per_object_and_is_not_looked_for(
    world: World, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.memory, "lfs_lost", lambda oids: pytest.fail(f"counted as lost: {oids}"))
    oid = oid_of("L" * 4000)
    url = "/git.example/acme/filling.git/info/lfs/objects"
    asked = {"operation": "download", "objects": [{"oid": oid, "size": 4000}, {"oid": oid_of("q1"), "size": 2}]}
    answer = client.post(f"{url}/batch", json=asked)
    assert answer.status_code == 200
    assert answer.json is not None
    left_out, queued = (item["error"] for item in answer.json["objects"])
    assert left_out["code"] == 404
    assert "this mirror leaves the object out: larger than 1 KiB" in left_out["message"]
    assert "https://git.example/acme/filling" in left_out["message"]
    assert "queued" in queued["message"]
    single = client.get(f"{url}/{oid}")
    assert single.status_code == 404
    assert "leaves the object out" in single.get_data(as_text=True)


@pytest.mark.usefixtures("waits_its_turn")
def test_a_second_pointer_with_a_wrong_size_keeps_nobody_from_the_object(world: World, client: FlaskClient) -> None:
    raw = b"two pointers name these bytes"
    oid = LfsOid(hashlib.sha256(raw).hexdigest())
    mirror = world.memory.mirror(MirrorName(NAME))
    world.memory.mark_due(mirror.id, Trigger.OPERATOR)
    lease = world.memory.claim("w2", lease_seconds=60.0)
    assert lease is not None
    assert lease.mirror.id == mirror.id
    for number, size in enumerate((len(raw) + 7, len(raw))):
        world.memory.add_scan(lease, [PointerBlob(GitOid(f"{number + 900:040x}"), Pointer(oid, size))], scanned=None)
    lie, truth = ({"oid": oid, "size": size} for size in (len(raw) + 7, len(raw)))

    def codes() -> list[int]:
        answer = batch(client, [lie, truth])
        assert answer.json is not None
        return [item.get("error", {"code": 200})["code"] for item in answer.json["objects"]]

    assert codes() == [404, 404]
    with world.objects.incomplete(Pointer(oid, len(raw))) as part:
        part.write(0, raw)
        part.promote()
    assert codes() == [422, 200]


def test_an_object_is_served_only_through_a_mirror_that_refers_to_it(client: FlaskClient) -> None:
    foreign = oid_of("foreign bytes")
    assert client.get(f"/{NAME}.git/info/lfs/objects/{foreign}").status_code == 404
    assert client.get(f"/git.example/acme/other.git/info/lfs/objects/{foreign}").status_code == 200
    assert client.get(f"/git.example/acme/other.git/info/lfs/objects/{OID}").status_code == 404
    assert client.get(f"/git.example/acme/going.git/info/lfs/objects/{OID}").status_code == 410


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not json", 422),
        (b"[]", 422),
        (b"{}", 422),
        (b"[" * 100_000, 422),
        (json.dumps({"operation": "download"}).encode(), 422),
        (json.dumps({"operation": "verify", "objects": []}).encode(), 422),
        (json.dumps({"operation": "download", "transfers": ["tus"], "objects": []}).encode(), 422),
        (json.dumps({"operation": "download", "hash_algo": "sha512", "objects": []}).encode(), 409),
        (json.dumps({"operation": "download", "objects": [{}] * 1001}).encode(), 413),
        (b" " * (1024 * 1024 + 1), 413),
    ],
)
def test_requests_that_are_no_batch(client: FlaskClient, body: bytes, status: int) -> None:
    answer = client.post(f"/{NAME}.git/info/lfs/objects/batch", data=body, content_type=LFS)
    assert answer.status_code == status
    assert answer.content_type == LFS
    assert answer.json is not None
    assert answer.json["message"]


def test_a_thousand_objects_are_one_batch(client: FlaskClient) -> None:
    objects = [{"oid": oid_of(str(index)), "size": 1} for index in range(999)] + [{"oid": OID, "size": 5000}]
    answer = batch(client, objects)
    assert answer.json is not None
    assert len(answer.json["objects"]) == 1000
    assert "actions" in answer.json["objects"][-1]


def test_uploads_are_refused_with_the_upstream(client: FlaskClient) -> None:
    for answer in (
        batch(client, [{"oid": OID, "size": 5000}], operation="upload"),
        client.put(f"/{NAME}.git/info/lfs/objects/{OID}", data=b"x"),
    ):
        assert answer.status_code == 403
        assert answer.json is not None
        assert f"https://{NAME}" in answer.json["message"]


def test_locks_are_those_of_a_read_only_server(client: FlaskClient) -> None:
    base = f"/{NAME}.git/info/lfs/locks"
    listing = client.get(base)
    assert (listing.status_code, listing.json) == (200, {"locks": []})
    assert client.post(f"{base}/verify", json={}).status_code == 404
    assert client.post(base, json={"path": "x"}).status_code == 403
    assert client.post(f"{base}/7/unlock", json={}).status_code == 403
    assert client.get(f"/{NAME}.git/info/lfs/elsewhere").status_code == 404


@pytest.mark.parametrize(
    ("host", "scheme_host"),
    [
        ("mirror.example:8443", "http://mirror.example:8443"),
        ("[::1]:80", "http://[::1]"),
        ('e"v<il', "http://127.0.0.1:"),
    ],
)
def test_links_lead_to_the_host_that_was_asked(client: FlaskClient, host: str, scheme_host: str) -> None:
    document = {"operation": "download", "objects": [{"oid": OID, "size": 5000}]}
    answer = client.post(f"/{NAME}.git/info/lfs/objects/batch", json=document, headers={"Host": host})
    assert answer.json is not None
    href = answer.json["objects"][0]["actions"]["download"]["href"]
    assert href.startswith(scheme_host)


def test_links_lead_to_the_public_url_when_there_is_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = replace(world.settings.server, public_url="https://m.example/x", trusted_proxies=1)
    monkeypatch.setattr(world, "settings", replace(world.settings, server=server))
    client = create_app(world).test_client()
    answer = batch(client, [{"oid": OID, "size": 5000}])
    assert answer.json is not None
    href = answer.json["objects"][0]["actions"]["download"]["href"]
    assert href == f"https://m.example/x/{NAME}.git/info/lfs/objects/{OID}"


def test_proxies_are_believed_only_as_far_as_they_are_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "m.example"}
    document = {"operation": "download", "objects": [{"oid": OID, "size": 5000}]}
    path = f"/{NAME}.git/info/lfs/objects/batch"

    def href() -> str:
        answer = create_app(world).test_client().post(path, json=document, headers=forwarded)
        assert answer.json is not None
        return str(answer.json["objects"][0]["actions"]["download"]["href"])

    assert href().startswith("http://localhost/")
    server = replace(world.settings.server, trusted_proxies=1)
    monkeypatch.setattr(world, "settings", replace(world.settings, server=server))
    assert href().startswith("https://m.example/")


# ---------------------------------------------------------------- one object


def test_a_whole_object(client: FlaskClient) -> None:
    answer = client.get(f"/{NAME}.git/info/lfs/objects/{OID}")
    assert answer.status_code == 200
    assert answer.data == WEIGHTS.encode()
    assert answer.headers["ETag"] == f'"{OID}"'
    assert answer.headers["Content-Length"] == "5000"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "immutable" in answer.headers["Cache-Control"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("headers", "status", "start", "end"),
    [
        ({"Range": "bytes=0-9"}, 206, 0, 10),
        ({"Range": "bytes=4990-"}, 206, 4990, 5000),
        ({"Range": "bytes=-3"}, 206, 4997, 5000),
        ({"Range": "bytes=10-20", "If-Range": f'"{OID}"'}, 206, 10, 21),
        ({"Range": "bytes=10-20", "If-Range": '"other"'}, 200, 0, 5000),
        ({"Range": "bytes=0-1,4-5"}, 200, 0, 5000),
        ({"Range": "bytes=5000-"}, 416, 0, 0),
        ({"If-None-Match": f'"{OID}"'}, 304, 0, 0),
        ({"If-Match": '"other"'}, 412, 0, 0),
    ],
)
def test_parts_and_conditions(client: FlaskClient, headers: dict[str, str], status: int, start: int, end: int) -> None:
    answer = client.get(f"/{NAME}.git/info/lfs/objects/{OID}", headers=headers)
    assert answer.status_code == status
    assert answer.data == WEIGHTS.encode()[start:end]
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/5000"
        assert answer.headers["Content-Length"] == str(end - start)
    if status == 416:
        assert answer.headers["Content-Range"] == "bytes */5000"


def test_only_a_configured_nginx_is_told_which_file_to_send(
    world: World, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/{NAME}.git/info/lfs/objects/{OID}"
    forged = {"X-Accel-Redirect": "/_lfs/x", "X-Sendfile": "/etc/passwd", "X-Accel-Mapping": "/=/_lfs/"}
    plain = client.get(path, headers=forged)
    assert plain.data == WEIGHTS.encode()
    assert not [name for name, _ in plain.headers if name.lower().startswith(("x-accel", "x-sendfile"))]
    server = replace(world.settings.server, trusted_proxies=1, accel_redirect="/_lfs/")
    monkeypatch.setattr(world, "settings", replace(world.settings, server=server))
    for headers in ({}, {"Range": "bytes=0-9"}, forged):
        told = client.get(path, headers=headers)
        assert (told.status_code, told.data) == (200, b"")
        assert told.headers["X-Accel-Redirect"] == f"/_lfs/{OID[:2]}/{OID[2:4]}/{OID}"
        assert "immutable" in told.headers["Cache-Control"]
    for answer in (
        client.get(path, headers={"If-None-Match": f'"{OID}"'}),
        client.get(path, headers={"Range": "bytes=9999-"}),
        client.head(path),
        client.get(f"/{NAME}.git/info/lfs/objects/{oid_of('foreign bytes')}"),
        client.get(f"/{NAME}.git/info/lfs/objects/{oid_of('lost for good')}"),
    ):
        assert "X-Accel-Redirect" not in answer.headers


def test_head_says_the_same_without_the_bytes(client: FlaskClient) -> None:
    answer = client.head(f"/{NAME}.git/info/lfs/objects/{OID}", headers={"Range": "bytes=0-9"})
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == "5000"
    assert answer.headers["ETag"] == f'"{OID}"'
    assert answer.data == b""


def test_the_empty_object(client: FlaskClient) -> None:
    answer = client.get(f"/{NAME}.git/info/lfs/objects/{oid_of('')}")
    assert (answer.status_code, answer.data, answer.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize("oid", ["x" * 64, OID.upper(), OID[:-1], "..", OID + "0"])
def test_names_that_are_no_oid(client: FlaskClient, oid: str) -> None:
    assert client.get(f"/{NAME}.git/info/lfs/objects/{oid}").status_code == 404


def test_an_object_that_is_not_here_says_why(client: FlaskClient) -> None:
    answer = client.get(f"/{NAME}.git/info/lfs/objects/{oid_of('lost for good')}")
    assert answer.status_code == 404
    assert answer.json is not None
    assert "upstream itself lacks" in answer.json["message"]


@pytest.mark.usefixtures("waits_its_turn")
@pytest.mark.parametrize("by", ["batch", "object"])
def test_an_object_lost_behind_our_back_is_wanted_again(world: World, client: FlaskClient, by: str) -> None:
    text = f"lost, and missed by {by}"
    pointer = Pointer(LfsOid(oid_of(text)), len(text))
    name = f"git.example/lost/{by}"
    world.add(name, MirrorSpec(objects=[text]))
    mirror = world.memory.mirror(MirrorName(name))
    assert mirror.lfs.present == 1
    world.objects.evict(pointer.oid, quarantine=True)
    for _ in range(2):
        if by == "batch":
            answer = batch(client, [{"oid": pointer.oid, "size": pointer.size}], name=name)
            assert answer.json is not None
            assert answer.json["objects"][0]["error"]["code"] == 404
        else:
            assert client.get(f"/{name}.git/info/lfs/objects/{pointer.oid}").status_code == 404
    assert world.memory.mirror(MirrorName(name)).lfs.present == 0
    assert [found for found, _, _ in world.memory.lfs_missing(mirror.id)] == [pointer]


def test_a_full_house_asks_to_come_again_and_slots_come_back(world: World) -> None:
    app = create_app(world)
    client = app.test_client()
    path = f"/{NAME}.git/info/lfs/objects/{OID}"
    for _ in range(world.settings.serve.max_streams * 2):
        for method, headers in (
            ("GET", {}),
            ("HEAD", {}),
            ("GET", {"Range": "bytes=1-2"}),
            ("GET", {"Range": "bytes=9-1"}),
        ):
            client.open(path, method=method, headers=headers, buffered=True)
    held = []
    while (slot := app.extensions[LIMITS].streams.take()) is not None:
        held.append(slot)
    assert len(held) == world.settings.serve.max_streams
    busy = client.get(path)
    assert busy.status_code == 429
    assert int(busy.headers["Retry-After"]) > 0
    assert batch(client, [{"oid": OID, "size": 5000}]).status_code == 200


def test_a_database_that_does_not_answer_never_kills_an_lfs_client(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirror_sync.errors import StateUnavailable

    def down(*_arguments: object) -> None:
        raise StateUnavailable("no answer")

    client = create_app(world).test_client()
    monkeypatch.setattr(world.memory, "lfs_refers", down)
    answer = batch(client, [{"oid": OID, "size": 5000}])
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json is not None
    assert "MS-D003" in answer.json["message"]
