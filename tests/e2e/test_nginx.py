"""The shipped nginx configuration before a running daemon, with real clients."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import LfsOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import ObjectCorrupt
from mirror_sync.lfs_store import FileObjectStore
from tests.support.daemon import WITH_LFS, Daemon, free_port
from tests.support.tools import require
from tests.support.upstream import GitUpstream, TlsFiles, UpstreamRepo, make_authority
from tests.support.web_world import MirrorSpec, Served, oid_of

SHIPPED = Path(__file__).resolve().parents[2] / "nginx" / "mirror-sync.conf"
HOST = "localhost"
LARGE = 3 << 20
LFS = "application/vnd.git-lfs+json"


@dataclass
class Site:
    repo: UpstreamRepo
    daemon: Daemon
    name: str
    port: int
    authority: Path
    large: bytes

    @property
    def oid(self) -> str:
        return hashlib.sha256(self.large).hexdigest()

    @property
    def path(self) -> str:
        return f"/{self.name}.git/info/lfs/objects/{self.oid}"

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        trusted = ssl.create_default_context(cafile=str(self.authority))
        return http.client.HTTPSConnection(HOST, self.port, timeout=30, context=trusted, source_address=(source, 0))

    def get(self, path: str = "", method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = self.connect()
        try:
            connection.request(
                method, path or self.path, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def arranged(site: Path, *, port: int, plain: int, behind: int, lfs: Path, tls: TlsFiles) -> str:
    """Return the shipped configuration with what its comments say is to be changed."""
    text = SHIPPED.read_text()
    for shipped, ours in (
        ("mirror.example.edu", HOST),
        ("127.0.0.1:8080", f"127.0.0.1:{behind}"),
        ("listen 443 ssl http2", f"listen 127.0.0.1:{port} ssl http2"),
        ("listen 80", f"listen 127.0.0.1:{plain}"),
        ("listen [::]:443 ssl http2;", ""),
        ("listen [::]:80;", ""),
        ("/etc/ssl/mirror-sync/fullchain.pem", str(tls.certificate)),
        ("/etc/ssl/mirror-sync/privkey.pem", str(tls.key)),
        ("/var/lib/mirror-sync/lfs/objects", str(lfs / "objects")),
    ):
        assert shipped in text, shipped
        text = text.replace(shipped, ours)
    (site / "mirror-sync.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    whole = site / "nginx.conf"
    whole.write_text(
        f"{user} daemon off; pid {site}/pid; error_log {site}/error.log; events {{ }}\n"
        f"http {{ access_log {site}/access.log;\n"
        + "".join(f"{kind}_temp_path {site}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        + f"include {site}/mirror-sync.conf; }}\n"
    )
    return str(whole)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require("nginx")
    require("openssl")
    base = tmp_path_factory.mktemp("nginx")
    large = os.urandom(LARGE)
    tls = make_authority(base / "ca").server(HOST, "127.0.0.1")
    port = free_port()
    with pytest.MonkeyPatch.context() as patch, GitUpstream(base / "upstream") as upstream:
        patch.setenv("MIRROR_SYNC__SERVER__TRUSTED_PROXIES", "1")
        patch.setenv("MIRROR_SYNC__SERVER__ACCEL_REDIRECT", "/_lfs/")
        patch.setenv("MIRROR_SYNC__LOG__LEVEL", "info")
        with Daemon(base / "mirror") as daemon:
            repo = upstream.create("acme/model")
            repo.commit({"README.md": "hello\n"}, lfs={"large.bin": large, "small.bin": b"small"})
            daemon.start(repo.url)
            name = daemon.name(repo.url)
            daemon.published(name)
            with in_front(base / "front", tls, port=port, behind=daemon.port, lfs=daemon.directory / "lfs") as front:
                site = Site(repo, daemon, name, port, tls.authority, large)
                daemon.wait_until(lambda: front.poll() is None and site.get("/healthz")[0] == 200, "nginx answers")
                yield site


@contextlib.contextmanager
def in_front(place: Path, tls: TlsFiles, *, port: int, behind: int, lfs: Path) -> Iterator[subprocess.Popen[str]]:
    """Run nginx as it is shipped before what listens on the port ``behind``."""
    place.mkdir()
    whole = arranged(place, port=port, plain=free_port(), behind=behind, lfs=lfs, tls=tls)
    front = subprocess.Popen([require("nginx"), "-c", whole, "-p", str(place)], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not _listens(port) and front.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        yield front
    finally:
        front.terminate()
        _, said = front.communicate(timeout=30)
        log = place / "error.log"
        print(said, log.read_text() if log.exists() else "")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_git_and_git_lfs_clone_over_tls(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("git-lfs")
    monkeypatch.setenv("GIT_SSL_CAINFO", str(site.authority))
    work = tmp_path / "work"
    url = f"https://{HOST}:{site.port}/{site.name}"
    site.daemon.git("clone", "-q", *WITH_LFS, url, str(work))
    assert (work / "large.bin").read_bytes() == site.large
    assert (work / "small.bin").read_bytes() == b"small"
    batch = json.dumps({"operation": "download", "objects": [{"oid": site.oid, "size": LARGE}]}).encode()
    connection = site.connect()
    connection.request("POST", f"/{site.name}.git/info/lfs/objects/batch", batch, {"Accept": LFS, "Content-Type": LFS})
    answer = json.load(connection.getresponse())
    connection.close()
    assert answer["objects"][0]["actions"]["download"]["href"] == f"https://{HOST}:{site.port}{site.path}"


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ({}, 200, 0, LARGE),
        ({"Range": "bytes=0-0"}, 206, 0, 1),
        ({"Range": "bytes=1048576-2097151"}, 206, 1 << 20, 2 << 20),
        ({"Range": "bytes=-7"}, 206, LARGE - 7, LARGE),
        ({"Range": "bytes=3000000-"}, 206, 3_000_000, LARGE),
        ({"Range": "bytes=5-9", "If_Range": '"{oid}"'}, 206, 5, 10),
        ({"Range": "bytes=5-9", "If_Range": '"other"'}, 200, 0, LARGE),
        ({"Range": "bytes=5-9", "If_Match": '"{oid}"'}, 206, 5, 10),
        ({"Range": "bytes=0-1,7-9"}, 200, 0, LARGE),
        ({"If_None_Match": '"other"'}, 200, 0, LARGE),
        ({"X_Accel_Redirect": "/_lfs/../../../etc/passwd"}, 200, 0, LARGE),
    ],
)
def test_nginx_sends_objects_whole_and_in_parts(
    site: Site, wanted: dict[str, str], status: int, start: int, end: int
) -> None:
    found, headers, body = site.get(**{name: value.replace("{oid}", site.oid) for name, value in wanted.items()})
    assert found == status
    assert body == site.large[start:end]
    assert headers["Content-Length"] == str(end - start)
    assert headers["ETag"] == f'"{site.oid}"'
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert status != 200 or headers["Accept-Ranges"] == "bytes"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Type"] == "application/octet-stream"
    assert "X-Accel-Redirect" not in headers


def test_files_keep_what_the_daemon_says_of_them(site: Site) -> None:
    commit = site.repo.git("rev-parse", "main").strip()
    for revision, cached in (("main", "public, max-age=60"), (commit, "public, max-age=31536000, immutable")):
        for asked, start, end in ({}, 0, LARGE), ({"Range": "bytes=5-9"}, 5, 10):
            _, headers, body = site.get(f"/{site.name}/resolve/{revision}/large.bin", **asked)
            assert body == site.large[start:end]
            assert (headers["X-Repo-Commit"], headers["Cache-Control"]) == (commit, cached)
            assert (headers["ETag"], headers["X-Linked-Etag"]) == (f'"{site.oid}"', f'"{site.oid}"')
            assert headers.get_all("Content-Security-Policy") == ["default-src 'none'; sandbox"]
            assert headers["Content-Disposition"].startswith('attachment; filename="large.bin"')
    assert "X-Repo-Commit" not in site.get()[1]


def test_conditions_and_heads_are_the_daemons(site: Site) -> None:
    assert site.get(If_None_Match=f'"{site.oid}"')[0] == 304
    assert site.get(If_Match='"other"')[0] == 412
    status, headers, _ = site.get(Range=f"bytes={LARGE}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{LARGE}")
    status, headers, body = site.get(method="HEAD")
    assert (status, headers["Content-Length"], headers["ETag"], body) == (200, str(LARGE), f'"{site.oid}"', b"")


def test_the_bytes_are_nginxs_and_its_location_is_nobodys(site: Site) -> None:
    status, body, headers = site.daemon.get(site.path)
    assert (status, body) == (200, b"")
    inner = headers["X-Accel-Redirect"]
    assert inner.endswith(site.oid)
    for path in (inner, inner + "?x", "/_lfs/", f"/_lfs/..{inner}"):
        assert site.get(path)[0] == 404


def test_one_connection_serves_many_requests(site: Site) -> None:
    connection = site.connect()
    connection.connect()
    kept = connection.sock
    for step in range(5):
        connection.request("GET", site.path, headers={"Range": f"bytes={step}-{step + 99}"})
        assert connection.getresponse().read() == site.large[step : step + 100]
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    assert connection.sock is kept
    connection.close()


def test_webhooks_pass_and_clients_are_known_by_their_own_address(site: Site) -> None:
    body = json.dumps({"repository": {"clone_url": site.repo.url}, "ref": "refs/heads/main", "pad": "x" * 300_000})
    key = (site.daemon.directory / "webhook-secret").read_bytes().strip()
    connection = site.connect("127.0.0.77")
    connection.request(
        "POST",
        "/hooks/github",
        body,
        {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": "through-nginx",
            "X-Hub-Signature-256": "sha256=" + hmac.new(key, body.encode(), hashlib.sha256).hexdigest(),
            "X-Forwarded-For": "203.0.113.9",
        },
    )
    assert connection.getresponse().status == 202
    connection.close()
    site.daemon.wait_until(lambda: "/hooks/github" in site.daemon.output(), "the request is in the log")
    line = next(line for line in site.daemon.output().splitlines() if "/hooks/github" in line)
    assert "127.0.0.77" in line
    assert "203.0.113.9" not in line


def test_what_is_on_its_way_passes_as_it_comes_and_breaks_off_when_it_was_wrong(tmp_path: Path) -> None:
    require("nginx")
    require("openssl")
    name, content = "git.example/acme/model", "0123456789abcdef" * (1 << 15)
    raw = bytearray(content.encode())
    pointer = Pointer(LfsOid(oid_of(content)), len(raw))
    raw[5] ^= 1
    tls = make_authority(tmp_path / "ca").server(HOST)
    port = free_port()
    served = tmp_path / "served"
    served.mkdir()
    with (
        Served(served, {name: MirrorSpec(queued=[content])}) as daemon,
        in_front(tmp_path / "front", tls, port=port, behind=daemon.port, lfs=served / "lfs"),
    ):
        store = FileObjectStore(served / "lfs", reserve_bytes=0, clock=SystemClock())
        trusted = ssl.create_default_context(cafile=str(tls.authority))
        connection = http.client.HTTPSConnection(HOST, port, timeout=30, context=trusted)
        with store.incomplete(pointer) as incomplete:
            incomplete.write(0, bytes(raw[:200_000]))
            incomplete.missing()
            connection.request("GET", f"/{name}.git/info/lfs/objects/{pointer.oid}")
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(pointer.size))
            assert answer.read(200_000) == raw[:200_000]  # while the rest is nowhere yet
            incomplete.write(200_000, bytes(raw[200_000:]))
            with pytest.raises(ObjectCorrupt):
                incomplete.promote()
            incomplete.write(5, content[5].encode())
            incomplete.promote()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
        connection.close()
