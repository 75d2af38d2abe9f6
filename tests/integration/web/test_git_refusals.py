"""What git clients are told without a pack being computed."""

from __future__ import annotations

import socket
import threading

import pytest
from flask.testing import FlaskClient

from mirror_sync.domain.names import MirrorName
from mirror_sync.web import create_app
from mirror_sync.web.backend import LIMITS
from mirror_sync.web.door import TOKEN
from mirror_sync.web.git_http import sharer
from tests.support.web_world import World

NAME = "git.example/acme/model"
REQUEST = "application/x-git-upload-pack-request"
LS_REFS = b"0014command=ls-refs\n00010000"


@pytest.mark.parametrize("suffix", ["", ".git"])
@pytest.mark.parametrize("protocol", ["", "version=2", "version=1", "version=9", "version=2; rm -rf /", "x\u00e9"])
def test_refs_are_advertised(client: FlaskClient, suffix: str, protocol: str) -> None:
    headers = {"Git-Protocol": protocol} if protocol else {}
    answer = client.get(f"/{NAME}{suffix}/info/refs?service=git-upload-pack", headers=headers)
    assert answer.status_code == 200
    assert answer.content_type == "application/x-git-upload-pack-advertisement"
    assert "no-cache" in answer.headers["Cache-Control"]
    if protocol == "version=2":
        assert b"version 2" in answer.data
        assert b"refs/heads/main" not in answer.data
    else:
        assert answer.data.startswith(b"001e# service=git-upload-pack\n0000")
        assert b"refs/heads/main" in answer.data


def test_head_has_no_body(client: FlaskClient) -> None:
    answer = client.head(f"/{NAME}/info/refs?service=git-upload-pack")
    assert answer.status_code == 200
    assert answer.data == b""


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        (f"/{NAME}/info/refs?service=git-receive-pack", 403, f"https://{NAME}"),
        (f"/{NAME}/info/refs", 403, "smart HTTP"),
        (f"/{NAME}/info/refs?service=git-upload-archive", 403, "smart HTTP"),
        (f"/{NAME}.git/HEAD", 403, "smart HTTP"),
        (f"/{NAME}.git/objects/info/packs", 403, "smart HTTP"),
        ("/git.example/acme/absent/info/refs?service=git-upload-pack", 404, "not mirrored here"),
        ("/git.example/acme/going/info/refs?service=git-upload-pack", 410, "https://git.example/acme/going"),
        ("/git.example/acme/new/info/refs?service=git-upload-pack", 503, "for the first time"),
        ("/git.example/acme/new/info/refs?service=git-upload-pack", 503, "0 of 2"),
        ("/git.example/acme/broken/info/refs?service=git-upload-pack", 503, "MS-U503"),
        ("/git.example/%2e%2e/x/info/refs?service=git-upload-pack", 404, "No such"),
        ("/git.example/a%2fb/info/refs?service=git-upload-pack", 404, "No such"),
        ("/git.example/a%00b/info/refs?service=git-upload-pack", 404, "No such"),
        ("/api/acme/model/info/refs?service=git-upload-pack", 404, "No such"),
    ],
)
def test_refusals_are_text_with_the_reason(client: FlaskClient, path: str, status: int, says: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.content_type.startswith(("text/plain", "application/problem+json"))
    assert says in answer.text
    if status == 503:
        assert int(answer.headers["Retry-After"]) > 0


def test_a_paused_mirror_is_served(client: FlaskClient) -> None:
    assert client.get("/git.example/acme/asleep/info/refs?service=git-upload-pack").status_code == 200


@pytest.mark.parametrize("method", ["put", "delete", "patch", "post"])
def test_other_methods_are_refused(client: FlaskClient, method: str) -> None:
    assert getattr(client, method)(f"/{NAME}/info/refs?service=git-upload-pack").status_code == 405
    assert getattr(client, method)(f"/{NAME}").status_code == 405


def test_a_push_is_refused_by_post_too(client: FlaskClient) -> None:
    answer = client.post(
        f"/{NAME}.git/git-receive-pack", data=b"0000", content_type="application/x-git-receive-pack-request"
    )
    assert answer.status_code == 403
    assert f"https://{NAME}" in answer.text


def test_the_probe_of_four_bytes_is_answered(client: FlaskClient) -> None:
    answer = client.post(f"/{NAME}/git-upload-pack", data=b"0000", content_type=REQUEST)
    assert answer.status_code == 200
    assert answer.content_type == "application/x-git-upload-pack-result"
    assert answer.data == b""


def test_refs_are_listed_by_protocol_two(client: FlaskClient) -> None:
    answer = client.post(
        f"/{NAME}/git-upload-pack", data=LS_REFS, content_type=REQUEST, headers={"Git-Protocol": "version=2"}
    )
    assert b"refs/heads/main" in answer.data
    assert answer.data.endswith(b"0000")


@pytest.mark.parametrize(
    ("content_type", "body", "headers", "status"),
    [
        ("text/plain", b"0000", {}, 415),
        (REQUEST, b"x" * 100, {"Content-Encoding": "gzip"}, 400),
        (REQUEST, b"x" * 100, {"Content-Encoding": "zstd"}, 415),
    ],
)
def test_bodies_that_are_not_taken(
    client: FlaskClient, content_type: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.post(f"/{NAME}/git-upload-pack", data=body, content_type=content_type, headers=headers)
    assert answer.status_code == status


def test_what_git_would_not_show_comes_as_an_error_packet(client: FlaskClient) -> None:
    answer = client.post("/git.example/acme/new/git-upload-pack", data=LS_REFS, content_type=REQUEST)
    assert answer.status_code == 200
    assert answer.data[4:8] == b"ERR "
    assert int(answer.data[:4], 16) == len(answer.data)
    assert b"first time" in answer.data


def fetch_of(client: FlaskClient, name: str) -> bytes:
    listing = client.get(f"/{name}/info/refs?service=git-upload-pack", buffered=True).data
    tip = listing.partition(b"0000")[2][4:44]
    return b"0011command=fetch0001" + b"0032want " + tip + b"\n0009done\n0000"


def test_only_a_pack_of_a_stale_mirror_comes_with_a_notice(world: World, client: FlaskClient) -> None:
    stale = "git.example/acme/asleep"
    world.memory.set_schedule(world.memory.mirror(MirrorName(stale)).id, interval_seconds=0.0, objective_seconds=0.0)

    def post(name: str, body: bytes) -> bytes:
        headers = {"Git-Protocol": "version=2"}
        return client.post(f"/{name}/git-upload-pack", data=body, content_type=REQUEST, headers=headers).data

    told = post(stale, fetch_of(client, stale))
    assert b"000dpackfile\n" in told
    assert f"\x02{stale} may lack what its upstream got in the last 1 min: syncing is paused".encode() in told
    assert b"may lack" not in post(stale, LS_REFS)
    fresh = post(NAME, fetch_of(client, NAME))
    assert b"packfile" in fresh
    assert b"may lack" not in fresh


def test_a_client_that_leaves_the_line_leaves_nothing_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror_sync.repos.turns.LOOK_EVERY_SECONDS", 0.02)
    app = create_app(world)
    client = app.test_client()
    turns = world.serving._turns  # type: ignore[attr-defined]
    held = [turns.take(client=f"c{number}", mirror=f"m{number}") for number in range(world.settings.serve.max_packs)]
    body = fetch_of(client, NAME)
    ours, theirs = socket.socketpair()
    answers: list[bytes] = []

    def ask() -> None:
        answer = app.test_client().post(
            f"/{NAME}/git-upload-pack", data=body, content_type=REQUEST, headers={"Git-Protocol": "version=2"},
            environ_overrides={"gunicorn.socket": ours},
        )  # fmt: skip
        answers.append(answer.data)

    asking = threading.Thread(target=ask)
    asking.start()
    while world.serving.load()[1] == 0:
        assert asking.is_alive()
        threading.Event().wait(0.01)
    theirs.close()
    asking.join(30)
    ours.close()
    assert answers == [b""]
    assert world.serving.load() == (len(held), 0)
    for turn in held:
        turn.end()
    assert [app.extensions[LIMITS].streams.take() is not None for _ in range(world.settings.serve.max_streams)] == [
        True
    ] * world.settings.serve.max_streams


def test_a_share_is_that_of_a_clone_token_or_of_an_address(world: World) -> None:
    app = create_app(world)
    with app.test_request_context(environ_overrides={"REMOTE_ADDR": "192.0.2.1"}):
        assert sharer() == "192.0.2.1"
    with app.test_request_context(environ_overrides={"REMOTE_ADDR": "192.0.2.1", TOKEN: 7}):
        assert sharer() == "token 7"


def test_overload_is_told_in_the_way_each_request_shows(world: World) -> None:
    app = create_app(world)
    client = app.test_client()
    held = []
    while (slot := app.extensions[LIMITS].streams.take()) is not None:
        held.append(slot)
    assert len(held) == world.settings.serve.max_streams
    listing = client.get(f"/{NAME}/info/refs?service=git-upload-pack")
    assert listing.status_code == 429
    assert int(listing.headers["Retry-After"]) > 0
    pack = client.post(f"/{NAME}/git-upload-pack", data=LS_REFS, content_type=REQUEST)
    assert pack.status_code == 200
    assert pack.data[4:8] == b"ERR "
    assert client.get("/healthz").status_code == 200
    assert client.get("/metrics").status_code == 200
    for slot in held:
        slot.release()
    assert client.get(f"/{NAME}/info/refs?service=git-upload-pack").status_code == 200


def test_every_slot_comes_back(world: World) -> None:
    app = create_app(world)
    client = app.test_client()

    def post(body: bytes, *, name: str = NAME, **headers: str) -> None:
        path = f"/{name}/git-upload-pack"
        client.post(path, data=body, content_type=REQUEST, headers=headers, buffered=True)

    for _ in range(world.settings.serve.max_streams + 3):
        client.get(f"/{NAME}/info/refs?service=git-upload-pack", buffered=True)
        client.head(f"/{NAME}/info/refs?service=git-upload-pack", buffered=True)
        post(LS_REFS, **{"Git-Protocol": "version=2"})
        post(b"0000")
        post(b"junk")
        post(b"x", **{"Content-Encoding": "gzip"})
        post(LS_REFS, name="git.example/acme/new")
    held = 0
    while app.extensions[LIMITS].streams.take() is not None:
        held += 1
    assert held == world.settings.serve.max_streams
