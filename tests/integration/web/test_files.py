"""Single files and checksum lists over HTTP, request by request."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mirror_sync.config import ServeSettings
from mirror_sync.web import create_app, files
from tests.support.pointers import pointer_text
from tests.support.upstream import GitUpstream, UpstreamRepo
from tests.support.web_world import MirrorSpec, World, make_world, oid_of

NAME = "git.example/acme/model"
WEIGHTS = "W" * 5000
OID = oid_of(WEIGHTS)
GONE = b"lost for good"
TEXT = os.urandom(300_000)
PAGE = b"<script>alert(document.domain)</script>"
ODD = "a b%20\u00e9#?&+.txt"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamRepo]:
    with GitUpstream(tmp_path_factory.mktemp("source")) as upstream:
        repo = upstream.create("acme/model")
        first = repo.commit({"README.md": "hello\n", "page.html": PAGE}, lfs={"weights.bin": WEIGHTS.encode()})
        repo.tag("v1", message="one")
        repo.update("refs/heads/feature/x", first)
        repo.commit(
            {
                "data/part": TEXT,
                "empty": b"",
                ODD: b"odd\n",
                "resolve/main/info/refs": b"a file called like a service\n",
                "here.ptr": pointer_text(OID, 5000),
                "absent.ptr": pointer_text("ab" * 32, 7),
            },
            lfs={"gone.bin": GONE, "nothing.bin": b""},
        )
        yield repo


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, source: UpstreamRepo) -> Iterator[World]:
    spec = MirrorSpec(repository=str(source.path), objects=[WEIGHTS], known_missing=[GONE.decode()])
    mirrors = {
        NAME: spec,
        "git.example/acme/resolve/other": MirrorSpec(repository=str(source.path)),
        "git.example/acme/new": MirrorSpec(queued=["x1"]),
        "git.example/acme/going": MirrorSpec(repository=str(source.path), removing=True),
    }
    with make_world(tmp_path_factory.mktemp("mirror"), mirrors) as world:
        yield world


@pytest.fixture
def client(world: World) -> FlaskClient:
    return create_app(world).test_client()


@pytest.fixture
def tip(source: UpstreamRepo) -> str:
    return source.git("rev-parse", "main").strip()


def get(client: FlaskClient, path: str, *, name: str = NAME, method: str = "GET", **headers: str) -> TestResponse:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return client.open(f"/{name}/resolve/{path}", method=method, headers=named, buffered=True)


def test_a_file_is_given_by_branch_tag_and_commit(client: FlaskClient, source: UpstreamRepo, tip: str) -> None:
    first = source.git("rev-parse", "v1^{commit}").strip()
    for revision, commit in [("main", tip), ("v1", first), ("feature/x", first), ("feature%2Fx", first), ("HEAD", tip),
                             ("refs/heads/main", tip), (tip, tip), (first, first), (tip[:10], tip)]:  # fmt: skip
        answer = get(client, f"{revision}/README.md")
        assert (answer.status_code, answer.data) == (200, b"hello\n")
        assert answer.headers["X-Repo-Commit"] == commit
        assert answer.headers["ETag"] == f'"{source.git("rev-parse", f"{commit}:README.md").strip()}"'
        fixed = commit.startswith(revision)
        assert answer.headers["Cache-Control"] == (
            "public, max-age=31536000, immutable" if fixed else "public, max-age=60"
        )
    assert get(client, "main/README.md", name=f"{NAME}.git").data == b"hello\n"


def test_nobodys_page_runs_here(client: FlaskClient) -> None:
    answer = get(client, "main/page.html", Accept="text/html")
    assert answer.data == PAGE
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["Content-Disposition"] == "attachment; filename=\"page.html\"; filename*=UTF-8''page.html"
    assert "Content-Encoding" not in get(client, "main/page.html", Accept_Encoding="gzip, br").headers


def test_odd_names_are_found_and_named(client: FlaskClient) -> None:
    answer = get(client, f"main/{quote(ODD)}")
    assert answer.data == b"odd\n"
    assert answer.headers["Content-Disposition"].endswith(f"filename*=UTF-8''{quote(ODD, safe='')}")


def test_an_lfs_file_is_its_object(client: FlaskClient) -> None:
    answer = get(client, "main/weights.bin")
    assert answer.data == WEIGHTS.encode()
    digest = base64.b64encode(hashlib.sha256(answer.data).digest()).decode()
    wanted = {
        "ETag": f'"{OID}"', "X-Linked-Etag": f'"{OID}"', "X-Linked-Size": "5000", "Content-Length": "5000",
        "Repr-Digest": f"sha-256=:{digest}:", "Accept-Ranges": "bytes", "Cache-Control": "public, max-age=60",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }  # fmt: skip
    assert {key: answer.headers[key] for key in wanted} == wanted
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="weights.bin"')
    assert get(client, "main/nothing.bin").data == b""


def test_a_pointer_without_attributes_is_its_object_when_that_is_here(client: FlaskClient, tip: str) -> None:
    here = get(client, f"{tip}/here.ptr")
    assert (here.data, here.headers["Cache-Control"]) == (WEIGHTS.encode(), "public, max-age=60")
    assert get(client, f"{tip}/absent.ptr").data == pointer_text("ab" * 32, 7)


def test_an_lfs_file_that_is_not_here_says_why(client: FlaskClient) -> None:
    answer = get(client, "main/gone.bin")
    assert answer.status_code == 404
    assert answer.text.startswith("upstream itself lacks this object")
    assert "immutable" not in answer.headers["Cache-Control"]


def test_what_is_passed_on_while_it_arrives_is_not_to_be_kept(
    client: FlaskClient, tip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving = Response(b"abc", headers={"Cache-Control": "no-store"})
    monkeypatch.setattr(files, "answer_lfs", lambda _target: arriving)
    answer = get(client, f"{tip}/weights.bin")
    assert (answer.data, answer.headers["Cache-Control"]) == (b"abc", "no-store")
    assert answer.headers["X-Repo-Commit"] == tip


@pytest.mark.parametrize(
    ("path", "content"), [("data/part", TEXT), ("weights.bin", WEIGHTS.encode()), ("README.md", b"hello\n")]
)
def test_head_and_ranges_agree_with_the_whole(client: FlaskClient, path: str, content: bytes) -> None:
    size = len(content)
    head = get(client, f"main/{path}", method="HEAD")
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(size))
    etag = head.headers["ETag"]
    for asked, start, end in [("bytes=0-0", 0, 1), ("bytes=3-", 3, size), ("bytes=-2", size - 2, size),
                              (f"bytes=1-{size * 9}", 1, size), (f"bytes=-{size * 9}", 0, size)]:  # fmt: skip
        part = get(client, f"main/{path}", Range=asked)
        assert (part.status_code, part.data) == (206, content[start:end])
        assert part.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert part.headers["Content-Length"] == str(end - start)
        assert part.headers["ETag"] == etag
    past = get(client, f"main/{path}", Range=f"bytes={size}-")
    assert (past.status_code, past.headers["Content-Range"]) == (416, f"bytes */{size}")
    assert "immutable" not in past.headers.get("Cache-Control", "")
    assert get(client, f"main/{path}", Range="bytes=1-2", If_Range=etag).status_code == 206
    assert get(client, f"main/{path}", Range="bytes=1-2", If_Range='"other"').data == content
    unchanged = get(client, f"main/{path}", If_None_Match=etag)
    assert (unchanged.status_code, unchanged.data) == (304, b"")


def test_an_empty_file_is_empty(client: FlaskClient) -> None:
    answer = get(client, "main/empty")
    assert (answer.status_code, answer.data, answer.headers["Content-Length"]) == (200, b"", "0")
    assert get(client, "main/empty", Range="bytes=0-").status_code == 416


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("main/nothing", "nothing is not in"),
        ("main/data", "data is a directory in"),
        ("main", "the top directory is a directory in"),
        ("main/../../../../etc/passwd", "is not in"),
        ("main/%2e%2e/%2e%2e/etc/passwd", "is not in"),
        ("main/data%00/part", "is not in"),
        ("main//README.md", "is not in"),
        ("nowhere/README.md", "has no branch, tag or published commit"),
        ("main~1/README.md", "has no branch, tag or published commit"),
        ("0000000000000000000000000000000000000000/README.md", "has no branch, tag or published commit"),
        ("%ff/README.md", "has no branch, tag or published commit"),
        ("", "has no branch, tag or published commit"),
    ],
)
def test_what_is_not_there_is_told(client: FlaskClient, path: str, says: str) -> None:
    answer = get(client, path)
    assert answer.status_code == 404
    assert says in answer.text


def test_other_mirrors_are_told_of_as_everywhere(client: FlaskClient) -> None:
    assert get(client, "main/README.md", name="git.example/acme/unknown").status_code == 404
    assert "not mirrored here" in get(client, "main/README.md", name="git.example/acme/unknown").text
    assert get(client, "main/README.md", name="git.example/acme/new").status_code == 503
    assert get(client, "main/README.md", name="git.example/acme/going").status_code == 410


def test_files_are_only_read(client: FlaskClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert get(client, "main/README.md", method=method).status_code == 405


def test_files_and_mirrors_called_like_services_are_told_apart(client: FlaskClient) -> None:
    assert get(client, "main/resolve/main/info/refs").data == b"a file called like a service\n"
    assert get(client, "main/README.md", name="git.example/acme/resolve/other").data == b"hello\n"
    listed = client.get("/git.example/acme/resolve/other/info/refs?service=git-upload-pack")
    assert listed.content_type == "application/x-git-upload-pack-advertisement"
    assert client.get("/git.example/acme/resolve/other").status_code == 302


def test_a_full_house_asks_to_come_again_and_places_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "settings", replace(world.settings, serve=ServeSettings(max_streams=1)))
    client = create_app(world).test_client()
    first = client.get(f"/{NAME}/resolve/main/data/part", buffered=False)
    for path in ("main/data/part", "main/weights.bin", "main/README.md", "main/nothing", "nowhere/at/all"):
        busy = get(client, path)
        assert (busy.status_code, busy.headers["Retry-After"]) == (429, "30")
        assert "as many clients as it can" in busy.text
    assert client.get(f"/hf/api/models/{NAME}").status_code == client.get(f"/{NAME}/checksums/main").status_code == 429
    assert client.get("/healthz").status_code == 200
    first.close()
    for path, content in (
        ("main/README.md", b"hello\n"),
        ("main/weights.bin", WEIGHTS.encode()),
        ("main/data/part", TEXT),
    ):
        assert get(client, path).data == content
    assert client.get(f"/hf/api/models/{NAME}").status_code == client.head(f"/{NAME}/checksums/main").status_code == 200


# ---------------------------------------------------------------- checksums


def test_a_checksum_list_checks_what_resolve_gives(client: FlaskClient, tip: str, tmp_path: Path) -> None:
    answer = client.get(f"/{NAME}/checksums/main", buffered=True)
    assert answer.status_code == 200
    assert answer.headers["X-Repo-Commit"] == tip
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    paths = [line.split("  ", 1)[1] for line in answer.text.splitlines()]
    assert {"weights.bin", "gone.bin", ODD, "data/part", "here.ptr", "absent.ptr"} < set(paths)
    for path in paths:
        if path != "gone.bin":
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(get(client, f"{tip}/{quote(path)}").data)
    (tmp_path / "gone.bin").write_bytes(GONE)
    ran = subprocess.run(
        ["sha256sum", "--strict", "-c"], input=answer.data, cwd=tmp_path, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran


def test_a_checksum_list_is_known_by_its_commit(client: FlaskClient, tip: str) -> None:
    for path in ("checksums/main", f"checksums/{tip}", "checksums/refs/heads/main", "checksums", "checksums/"):
        assert client.head(f"/{NAME}/{path}").headers["ETag"] == f'"{tip}.sha256"'
    assert client.get(f"/{NAME}/checksums/main", headers={"If-None-Match": f'"{tip}.sha256"'}).status_code == 304
    assert client.get(f"/{NAME}/checksums/nowhere").status_code == 404
    assert client.get(f"/{NAME}/checksums/main/README.md").status_code == 404
    assert client.post(f"/{NAME}/checksums/main").status_code == 405
