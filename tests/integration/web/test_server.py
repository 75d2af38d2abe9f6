"""The real server in a process of its own, with real clients and bad ones."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.tools import require
from tests.support.upstream import GitUpstream, UpstreamRepo
from tests.support.web_world import SECRET, MirrorSpec, Served, oid_of

NAME = "git.example/acme/model"
BIG = "git.example/acme/big"
MIB = 1024 * 1024
REQUEST = "application/x-git-upload-pack-request"
WEIGHTS = "W" * 5000
LARGE = "0123456789abcdef" * (4 * MIB // 16)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamRepo]:
    with GitUpstream(tmp_path_factory.mktemp("source")) as upstream:
        repo = upstream.create("acme/model")
        repo.commit({"README.md": "hello\n"}, lfs={"weights.bin": WEIGHTS.encode(), "large.bin": LARGE.encode()})
        repo.commit({"b.txt": "two\n"})
        repo.tag("v1", message="one")
        yield repo


@pytest.fixture(scope="module")
def big(source: UpstreamRepo) -> UpstreamRepo:
    repo = source.upstream.create("acme/big")
    for index in range(4):
        repo.commit({f"{index}.bin": os.urandom(4 * MIB)})
    return repo


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, source: UpstreamRepo, big: UpstreamRepo) -> Iterator[Served]:
    mirrors = {
        NAME: MirrorSpec(repository=str(source.path), objects=[WEIGHTS, LARGE]),
        BIG: MirrorSpec(repository=str(big.path)),
        "git.example/acme/new": MirrorSpec(),
    }
    with Served(tmp_path_factory.mktemp("served"), mirrors) as served:
        yield served


def git(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# ---------------------------------------------------------------- git and git-lfs


@pytest.mark.parametrize("protocol", ["0", "1", "2"])
@pytest.mark.parametrize("extra", [[], ["--depth=1"], ["--filter=blob:none", "--bare"], ["--mirror"]])
def test_git_clones(served: Served, source: UpstreamRepo, tmp_path: Path, protocol: str, extra: list[str]) -> None:
    target = tmp_path / "clone"
    done = git(
        "-c",
        f"protocol.version={protocol}",
        "clone",
        "-q",
        *extra,
        f"{served.url}/{NAME}",
        str(target),
        GIT_LFS_SKIP_SMUDGE="1",
    )
    assert done.returncode == 0, done.stderr
    assert git("rev-parse", "HEAD", cwd=target).stdout.strip() == source.refs()["refs/heads/main"]
    assert git("fsck", "--connectivity-only", cwd=target).returncode == 0


def test_a_fetch_brings_only_what_is_new_and_gzips_its_request(
    served: Served, source: UpstreamRepo, tmp_path: Path
) -> None:
    target = tmp_path / "clone"
    assert git("clone", "-q", "--bare", f"{served.url}/{NAME}.git", str(target)).returncode == 0
    for index in range(60):  # haves enough for a request that git compresses
        tree = git("rev-parse", "HEAD^{tree}", cwd=target).stdout.strip()
        commit = git("commit-tree", tree, "-m", str(index), "-p", "HEAD", cwd=target).stdout.strip()
        git("update-ref", "HEAD", commit, cwd=target)
    done = git("fetch", f"{served.url}/{NAME}.git", "refs/tags/v1", cwd=target, GIT_CURL_VERBOSE="1")
    assert done.returncode == 0, done.stderr


def test_git_lfs_gets_every_byte(served: Served, tmp_path: Path) -> None:
    require("git-lfs")
    target = tmp_path / "clone"
    filters = [
        "-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.process=git-lfs filter-process",
        "-c", "filter.lfs.required=true",
    ]  # fmt: skip
    done = git(*filters, "clone", "-q", f"{served.url}/{NAME}", str(target))
    assert done.returncode == 0, done.stderr
    assert (target / "weights.bin").read_bytes() == WEIGHTS.encode()
    assert (target / "large.bin").read_bytes() == LARGE.encode()


def test_git_shows_why_a_push_is_refused(served: Served, tmp_path: Path) -> None:
    target = tmp_path / "clone"
    git("clone", "-q", "--bare", f"{served.url}/{NAME}", str(target))
    done = git("push", f"{served.url}/{NAME}", "HEAD:refs/heads/mine", cwd=target)
    assert done.returncode == 128
    assert "read-only mirror" in done.stderr
    assert f"https://{NAME}" in done.stderr


def test_git_lfs_shows_why_an_upload_is_refused(served: Served, tmp_path: Path) -> None:
    require("git-lfs")
    target = tmp_path / "work"
    git("init", "-q", "-b", "main", str(target))
    (target / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (target / "x.bin").write_bytes(b"mine")
    for command in (["lfs", "install", "--local"], ["add", "."], ["commit", "-qm", "x"]):
        assert git(*command, cwd=target).returncode == 0
    done = git("lfs", "push", f"{served.url}/{NAME}", "main", cwd=target)
    assert done.returncode != 0
    assert "read-only mirror" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [("git.example/acme/absent", "not mirrored here"), ("git.example/acme/new", "for the first time")],
)
def test_git_shows_why_there_is_no_clone(served: Served, tmp_path: Path, name: str, says: str) -> None:
    done = git("clone", f"{served.url}/{name}", str(tmp_path / "clone"))
    assert done.returncode == 128
    assert says in done.stderr


def test_other_clients_clone(served: Served, source: UpstreamRepo, tmp_path: Path) -> None:
    from dulwich import porcelain

    head = source.refs()["refs/heads/main"]
    repo = porcelain.clone(f"{served.url}/{NAME}", str(tmp_path / "dulwich"), checkout=False)
    assert repo.head().decode() == head
    repo.close()
    import pygit2

    assert str(pygit2.clone_repository(f"{served.url}/{NAME}", str(tmp_path / "pygit2"), bare=True).head.target) == head


def test_jgit_clones_by_protocol_zero(served: Served, source: UpstreamRepo, tmp_path: Path) -> None:
    jgit = require("jgit")
    target = tmp_path / "jgit"
    done = subprocess.run(
        [jgit, "clone", "--bare", f"{served.url}/{NAME}", str(target)],
        cwd=tmp_path,
        # Debian's start script leaves out the LFS part that the program asks for
        env={**os.environ, "JGIT_CLASSPATH": "/usr/share/java/*"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert git("rev-parse", "refs/heads/main", cwd=target).stdout.strip() == source.refs()["refs/heads/main"]


# ---------------------------------------------------------------- LFS bytes


def get(served: Served, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        ("", 200, 0, len(LARGE)),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=1048576-2097151", 206, MIB, 2 * MIB),
        ("bytes=-7", 206, len(LARGE) - 7, len(LARGE)),
        ("bytes=4000000-", 206, 4_000_000, len(LARGE)),
    ],
)
def test_ranges_over_the_wire(served: Served, wanted: str, status: int, start: int, end: int) -> None:
    found, headers, body = get(
        served, f"/{NAME}.git/info/lfs/objects/{oid_of(LARGE)}", **({"Range": wanted} if wanted else {})
    )
    assert found == status
    assert body == LARGE[start:end].encode()
    assert headers["content-length"] == str(end - start)


def test_one_connection_takes_parts_and_heads_in_turn(served: Served) -> None:
    path = f"/{NAME}.git/info/lfs/objects/{oid_of(LARGE)}"
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    for step in range(5):
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert answer.read() == b""
        assert answer.headers["Content-Length"] == str(len(LARGE))
        connection.request("GET", path, headers={"Range": f"bytes={step}-{step + 99}"})
        assert connection.getresponse().read() == LARGE[step : step + 100].encode()
    connection.close()


def test_an_object_leaves_by_sendfile(served: Served, tmp_path: Path) -> None:
    strace = require("strace")
    trace = tmp_path / "trace"
    tracer = subprocess.Popen(
        [strace, "-f", "-e", "trace=sendfile,read", "-o", str(trace), "-p", str(served.worker_pid())],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    status, _headers, body = get(served, f"/{NAME}.git/info/lfs/objects/{oid_of(LARGE)}", Range="bytes=65536-")
    tracer.send_signal(signal.SIGINT)
    tracer.wait()
    tracer.stderr.close()
    assert (status, len(body)) == (206, len(LARGE) - 65536)
    assert "sendfile(" in trace.read_text()


# ---------------------------------------------------------------- bad clients


def _want(served: Served, name: str) -> bytes:
    tip = git("ls-remote", f"{served.url}/{name}", "HEAD").stdout.split()[0]
    want = f"want {tip} side-band-64k ofs-delta\n".encode()
    return b"%04x" % (len(want) + 4) + want + b"0000" + b"0009done\n"


def _head(name: str, *lines: str) -> bytes:
    text = f"POST /{name}/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Type: {REQUEST}\r\n"
    return (text + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def _until(check: object, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_a_vanished_client_leaves_no_child(served: Served) -> None:
    body = _want(served, BIG)
    connection = served.connect()
    connection.sendall(_head(BIG, f"Content-Length: {len(body)}") + body)
    assert connection.recv(65536)
    assert _until(lambda: served.git_children())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert _until(lambda: not served.git_children(), 5.0), "upload-pack outlived its client"
    assert _until(lambda: b'mirror_sync_served_streams{protocol="git"} 0.0' in get(served, "/metrics")[2])


def test_a_client_that_leaves_while_git_computes_leaves_no_child(served: Served) -> None:
    body = _want(served, BIG)
    connection = served.connect()
    connection.sendall(_head(BIG, f"Content-Length: {len(body)}") + body)
    assert connection.recv(65536)
    assert _until(lambda: served.git_children())
    for child in served.git_children():
        os.killpg(child, signal.SIGSTOP)  # it has nothing to say for as long as anybody waits
    connection.settimeout(1.0)
    with suppress(TimeoutError):
        while connection.recv(1 << 20):
            pass
    connection.close()
    assert _until(lambda: not served.git_children(), 30.0), "upload-pack outlived its client"


def test_a_client_that_stops_reading_for_ever_is_let_go(tmp_path: Path, big: UpstreamRepo) -> None:
    constants = {"mirror_sync.web.git_http.SEND_STALL_SECONDS": 1.0}
    with Served(tmp_path, {BIG: MirrorSpec(repository=str(big.path))}, constants=constants) as served:
        body = _want(served, BIG)
        with served.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(_head(BIG, f"Content-Length: {len(body)}") + body)
            assert connection.recv(100)
            assert _until(lambda: served.git_children())
            assert _until(lambda: not served.git_children(), 60.0), "upload-pack waits for ever"
            assert _until(lambda: b'mirror_sync_served_streams{protocol="git"} 0.0' in get(served, "/metrics")[2])


def test_one_address_leaves_room_for_others(served: Served, tmp_path: Path) -> None:
    body = _want(served, BIG)
    crowd = []
    try:
        for _ in range(10):  # more than the eight streams there are
            connection = socket.create_connection(
                ("127.0.0.1", served.port), timeout=30, source_address=("127.0.0.2", 0)
            )
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(_head(BIG, f"Content-Length: {len(body)}") + body)
            crowd.append(connection)
        listing = f"GET /{NAME}/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

        def refused() -> bool:
            with socket.create_connection(("127.0.0.1", served.port), source_address=("127.0.0.2", 0)) as one:
                one.sendall(listing.encode())
                return one.recv(100).startswith(b"HTTP/1.1 429")

        assert _until(refused)
        for protocol in ("0", "2"):
            done = git(
                "-c", f"protocol.version={protocol}",
                "clone", "-q", "--bare", f"{served.url}/{NAME}", str(tmp_path / f"clone{protocol}"),
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    finally:
        for connection in crowd:
            connection.close()
    assert _until(lambda: not served.git_children())


def test_slow_readers_leave_room_for_everything_else(served: Served) -> None:
    body = _want(served, BIG)
    slow: list[socket.socket] = []
    try:
        for _ in range(12):  # more than the eight streams there are
            connection = served.connect()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(_head(BIG, f"Content-Length: {len(body)}") + body)
            slow.append(connection)
        answers = []
        for connection in slow:
            connection.settimeout(20)
            answers.append(connection.recv(2000))
        refused = [answer for answer in answers if b"ERR " in answer]
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        assert len(refused) >= 4
        began = time.monotonic()
        assert get(served, "/healthz")[0] == 200
        assert get(served, "/metrics")[0] == 200
        assert get(served, "/")[0] == 200
        payload = json.dumps({"repository": {"id": 1, "clone_url": f"https://{NAME}.git"}, "ref": "refs/heads/main"})
        assert _deliver(served, payload.encode()) == 202
        assert time.monotonic() - began < 5.0
        assert get(served, f"/{NAME}/info/refs?service=git-upload-pack")[0] == 429
    finally:
        for connection in slow:
            connection.close()
    assert _until(lambda: get(served, f"/{NAME}/info/refs?service=git-upload-pack")[0] == 200)


def test_stuck_readers_do_not_keep_others_from_cloning(tmp_path: Path, source: UpstreamRepo, big: UpstreamRepo) -> None:
    mirrors = {BIG: MirrorSpec(repository=str(big.path)), NAME: MirrorSpec(repository=str(source.path))}
    with Served(tmp_path, mirrors, serve={"max_packs": 2}) as served:
        body = _want(served, BIG)
        stuck = []
        for _ in range(3):  # one more than may compute at once
            connection = served.connect()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(_head(BIG, f"Content-Length: {len(body)}") + body)
            stuck.append(connection)
        assert stuck[0].recv(100)
        assert stuck[1].recv(100)
        began = time.monotonic()
        done = git("clone", "-q", "--bare", f"{served.url}/{NAME}", str(tmp_path / "clone"))
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 40.0
        for connection in stuck:
            connection.close()


def _deliver(served: Served, body: bytes) -> int:
    import hmac
    import uuid

    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json", "X-GitHub-Event": "push", "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": signature,
    }  # fmt: skip
    request = urllib.request.Request(f"{served.url}/hooks/github", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_bomb_costs_nothing(served: Served) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(500)) + packer.flush()
    before = served.rss_bytes()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    began = time.monotonic()
    connection.request("POST", f"/{NAME}/git-upload-pack", bomb, {"Content-Type": REQUEST, "Content-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.status == 413
    assert "too large" in answer.read().decode()
    connection.close()
    assert time.monotonic() - began < 5.0
    assert served.rss_bytes() - before < 50 * MIB


def test_a_chunked_bomb_costs_nothing_either(served: Served) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(100)) + packer.flush()
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    headers = {"Content-Type": REQUEST, "Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}
    pieces = (bomb[index : index + 4096] for index in range(0, len(bomb), 4096))
    try:
        connection.request("POST", f"/{NAME}/git-upload-pack", pieces, headers, encode_chunked=True)
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # refused while it was still being sent
    assert status == 413
    connection.close()


def _raw(served: Served, request: bytes, *, shut: bool = True) -> bytes:
    connection = served.connect()
    connection.sendall(request)
    if shut:
        connection.shutdown(socket.SHUT_WR)
    answer = b""
    try:
        while piece := connection.recv(65536):
            answer += piece
            if shut is False and b"\r\n\r\n" in answer:
                break
    except ConnectionResetError:
        pass
    connection.close()
    return answer


def test_a_body_cut_short_is_noticed(served: Served) -> None:
    body = _want(served, NAME)
    answer = _raw(served, _head(NAME, f"Content-Length: {len(body) + 50}") + body)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"PACK" not in answer


def test_a_broken_chunk_is_noticed(served: Served) -> None:
    answer = _raw(served, _head(NAME, "Transfer-Encoding: chunked") + b"4\r\n0032\r\nzz\r\njunk\r\n")
    assert not answer.startswith(b"HTTP/1.1 200")
    assert b"PACK" not in answer


def test_two_lengths_are_smuggling(served: Served) -> None:
    both = (
        _head(NAME, "Content-Length: 4", "Transfer-Encoding: chunked")
        + b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    answer = _raw(served, both)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1


LS_REFS = b"0014command=ls-refs\n00010000"
HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (("Content-Length: 4", "Content-Length: 40"), b"0000" + HIDDEN),
        (("Content-Length: 4, 40",), b"0000" + HIDDEN),
        (("Content-Length: +4",), b"0000" + HIDDEN),
        (("Content-Length: -4",), b"0000" + HIDDEN),
        (("Content-Length: 0x4",), b"0000" + HIDDEN),
        (("Content-Length: 4_0",), b"0000" + HIDDEN),
        (("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), b"0\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding: xchunked",), b"0\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding: chunked, chunked",), b"0\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding : chunked",), b"0\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding: chunked",), b"-1\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding: chunked",), b"0x4\r\n0000\r\n0\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding: chunked",), b"4_0\r\n0000\r\n0\r\n\r\n" + HIDDEN),
        (("Transfer-Encoding: chunked",), b"ffffffffffffffffff\r\n0000\r\n" + HIDDEN),
        (("Transfer-Encoding: chunked",), b"4\n0000\n0\n\n" + HIDDEN),
        (("Transfer-Encoding: chunked",), b"4 \r\n0000XX0\r\n\r\n" + HIDDEN),
        ((" Content-Length: 4",), b"0000" + HIDDEN),
    ],
)
def test_what_may_be_read_in_two_ways_is_read_in_none(served: Served, lines: tuple[str, ...], body: bytes) -> None:
    answer = _raw(served, _head(NAME, *lines) + body)
    assert not answer.startswith(b"HTTP/1.1 200"), answer
    assert b"ok\n" not in answer
    assert answer.count(b"HTTP/1.1") <= 1


def test_requests_of_git_sent_at_once_are_answered_in_turn(served: Served) -> None:
    listing = _head(NAME, "Git-Protocol: version=2", f"Content-Length: {len(LS_REFS)}") + LS_REFS
    refs = f"GET /{NAME}/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n".encode()
    head = f"HEAD /{NAME}/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    connection = served.connect()
    connection.sendall(listing + refs + b"\r\n" + head + listing + refs + b"Connection: close\r\n\r\n")
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    connection.close()
    assert answer.count(b"HTTP/1.1 200") == 5
    assert answer.count(b"refs/heads/main") == 4 + answer.count(b"symref=HEAD:refs/heads/main")


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-Proto: https",
        "X-Forwarded-Ssl: on",
        "X-Forwarded-Host: elsewhere.example",
        "SCRIPT_NAME: /git.example",
    ],
)
def test_no_header_of_a_proxy_is_believed_when_none_is_counted(served: Served, header: str) -> None:
    """From loopback either: whoever is in front may pass on what clients wrote."""
    body = json.dumps({"operation": "download", "objects": [{"oid": oid_of(WEIGHTS), "size": len(WEIGHTS)}]})
    request = (
        f"POST /{NAME}.git/info/lfs/objects/batch HTTP/1.1\r\nHost: mirror.example\r\n{header}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    answer = _raw(served, request.encode())
    assert f'"href":"http://mirror.example/{NAME}.git/info/lfs/objects/'.encode() in answer


def test_expect_is_answered_before_the_body(served: Served) -> None:
    body = _want(served, NAME)
    connection = served.connect()
    connection.sendall(_head(NAME, f"Content-Length: {len(body)}", "Expect: 100-continue", "Connection: close"))
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    connection.sendall(body)
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    connection.close()
    assert b"HTTP/1.1 200" in answer
    assert b"PACK" in answer


def test_a_dripping_delivery_gives_its_thread_back(served: Served) -> None:
    signature = "X-Hub-Signature-256: sha256=0"
    head = f"POST /hooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{signature}\r\nContent-Length: 100000\r\n\r\n"
    connection = served.connect()
    connection.sendall(head.encode())
    ended = threading.Event()

    def drip() -> None:
        try:
            while not ended.wait(0.5):
                connection.sendall(b" ")
        except OSError:
            return

    dripper = threading.Thread(target=drip)
    dripper.start()
    began = time.monotonic()
    connection.settimeout(60)
    try:
        answer = connection.recv(1000)
    except ConnectionResetError:
        answer = b""
    ended.set()
    dripper.join()
    connection.close()
    assert time.monotonic() - began < 40.0
    assert not answer or answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("silent", b""),
        ("half a head", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "),
        ("half a small body", b"POST /hooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{"),
        ("half a large body", b"POST /hooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n{"),
        ("half a batch", f"POST /{NAME}/info/lfs/objects/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n".encode()),
        ("an answer nobody takes", b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    ],
)  # fmt: skip
def test_hundreds_of_slow_sockets_hold_up_nobody(served: Served, kind: str, sent: bytes) -> None:
    slow: list[socket.socket] = []
    try:
        for _ in range(400):
            connection = served.connect()
            connection.sendall(sent)
            slow.append(connection)
        get(served, "/healthz")  # the flood itself is behind us
        began = time.monotonic()
        for _ in range(5):
            assert get(served, "/healthz")[0] == 200
        assert time.monotonic() - began < 3.0, kind
    finally:
        for connection in slow:
            connection.close()


def test_a_head_in_two_pieces_is_one_request(served: Served) -> None:
    connection = served.connect()
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConn")
    time.sleep(0.3)
    connection.sendall(b"ection: close\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()


def test_requests_sent_at_once_are_all_answered(served: Served) -> None:
    connection = served.connect()
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    connection.sendall(one * 3 + last)
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    connection.close()
    assert answer.count(b"HTTP/1.1 200") == 4


# ---------------------------------------------------------------- the process


def test_the_access_log_has_no_queries(served: Served) -> None:
    get(served, "/mirrors?q=query-canary-77")
    assert _until(lambda: '"path": "/mirrors"' in served.text())
    assert "query-canary-77" not in served.text()
    lines = [json.loads(line) for line in served.text().splitlines()]
    assert {"event", "at", "level"} <= set(lines[-1])


def test_memory_stays_small(served: Served) -> None:
    assert served.rss_bytes() < 120 * MIB


def test_a_stop_lets_running_answers_finish_and_a_reload_cuts_nothing(
    tmp_path: Path, source: UpstreamRepo, big: UpstreamRepo
) -> None:
    with Served(
        tmp_path, {BIG: MirrorSpec(repository=str(big.path)), NAME: MirrorSpec(repository=str(source.path))}
    ) as served:
        body = _want(served, BIG)

        def begin() -> tuple[socket.socket, bytes]:
            connection = served.connect()
            connection.sendall(_head(BIG, f"Content-Length: {len(body)}", "Connection: close") + body)
            return connection, connection.recv(65536)

        def finish(connection: socket.socket, first: bytes) -> bytes:
            answer = first
            while piece := connection.recv(1 << 20):
                answer += piece
            connection.close()
            return answer

        first_child = served.worker_pid()
        running = begin()
        served.process.send_signal(signal.SIGHUP)
        assert _until(lambda: served.worker_pid() != first_child)
        assert _until(lambda: get(served, "/healthz")[0] == 200)
        assert finish(*running).endswith(b"0000\r\n0\r\n\r\n")
        running = begin()
        os.kill(served.process.pid, signal.SIGTERM)
        time.sleep(0.5)
        assert finish(*running).endswith(b"0000\r\n0\r\n\r\n")
        assert served.process.wait(30) == 0


def test_a_socket_from_systemd_is_taken_and_readiness_is_told(tmp_path: Path, source: UpstreamRepo) -> None:
    notify = tmp_path / "notify"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(notify))
    receiver.settimeout(30)
    with Served(tmp_path, {NAME: MirrorSpec(repository=str(source.path))}, environment={"NOTIFY_SOCKET": str(notify)}):
        assert b"READY=1" in receiver.recv(4096)
    receiver.close()
