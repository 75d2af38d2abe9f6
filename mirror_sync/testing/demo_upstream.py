"""A small upstream with LFS objects on loopback, for ``quickstart`` without a URL.

Run as a program it serves a directory until its standard input closes::

    python -m mirror_sync.testing.demo_upstream DIR

The first line it writes is ``ready PORT``; the port is kept in the directory, so that
the same directory is the same upstream again at the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from mirror_sync.errors import Conflict, MirrorSyncError
from mirror_sync.testing.demo_repositories import GIT_ENVIRONMENT, DemoRepository, Shelf, make_repositories

ADDRESS = "127.0.0.1"
LFS_TYPE = "application/vnd.git-lfs+json"
PIECE = 1 << 16
PUSH_EVERY_SECONDS = 20.0
PUSHES_AT_THAT_PACE = 45
SLOW_PUSH_EVERY_SECONDS = 300.0
"""After a quarter of an hour nobody watches any more, and disks are finite."""

START_SECONDS = 30.0


# ---------------------------------------------------------------- the side of whoever starts it


class DemoUpstream:
    """The demo upstream of one directory as a child process; it ends with the ``with``, or with this process."""

    def __init__(self, directory: Path, *, push_every: float = PUSH_EVERY_SECONDS) -> None:
        self._directory = directory
        self._push_every = push_every
        self._process: subprocess.Popen[bytes] | None = None
        self.urls: tuple[str, ...] = ()
        """The repositories, once it has started."""

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        package_home = str(Path(__file__).resolve().parents[2])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, str(self._directory), str(self._push_every)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**GIT_ENVIRONMENT, "PYTHONPATH": package_home},
            process_group=0,  # a Ctrl-C at the terminal is not for it: syncs may still be fetching from it
        )
        answer = self._first_line(self._process)
        word, _, rest = answer.partition(" ")
        if word != "ready":
            self.close()
            raise self._refused(word, rest)
        self.urls = tuple(f"http://{ADDRESS}:{int(rest)}/{name}" for name in ("demo/model", "demo/data"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, hook_url: str, secret_file: Path) -> None:
        """Let it tell ``hook_url`` of every push, signed with the secret in ``secret_file``."""
        draft = self._directory / ".hook.json"
        draft.write_text(json.dumps({"url": hook_url, "secret_file": str(secret_file)}), encoding="utf-8")
        draft.replace(self._directory / "hook.json")

    def close(self) -> None:
        """End it; returns when it has ended."""
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _first_line(self, process: subprocess.Popen[bytes]) -> str:
        impatience = threading.Timer(START_SECONDS, process.kill)
        impatience.start()
        try:
            return process.stdout.readline().decode().strip() if process.stdout else ""
        finally:
            impatience.cancel()

    def _refused(self, word: str, rest: str) -> MirrorSyncError:
        if word == "in-use":
            return Conflict(
                f"port {rest} on {ADDRESS} is in use",
                why=f"the demo upstream in {self._directory} had it before, and its mirrors are named after it",
                remedy=f"end what listens there, or name another directory with --dir; lsof -i :{rest} says what it is",
                code="MS-C005",
            )
        return MirrorSyncError(
            "the demo upstream did not start",
            why=f"its own message is above (directory {self._directory})",
            remedy="name a repository instead: mirror-sync quickstart https://github.com/OWNER/NAME",
        )


# ---------------------------------------------------------------- the side of the child


@dataclass(frozen=True, slots=True)
class _Served:
    """What the request handlers share."""

    projects: Path
    shelf: Shelf


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int, served: _Served) -> None:
        self.served = served
        super().__init__((ADDRESS, port), _Handler)

    @property
    def origin(self) -> str:
        """The URL that everything here begins with."""
        return f"http://{ADDRESS}:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has it so
        """Say nothing: the terminal belongs to the mirror."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if "/lfs-objects/" in path:
            self._send_object(path.rpartition("/")[2])
        else:
            self._git()

    def do_POST(self) -> None:
        if urlsplit(self.path).path.endswith("/info/lfs/objects/batch"):
            self._batch()
        else:
            self._git()

    # -- LFS
    def _batch(self) -> None:
        asked = json.loads(self._body())
        if asked.get("operation") != "download":
            self._answer(HTTPStatus.FORBIDDEN, LFS_TYPE, b'{"message": "this demo upstream takes no uploads"}')
            return
        objects = [self._object(wanted["oid"], wanted["size"]) for wanted in asked["objects"]]
        body = json.dumps({"transfer": "basic", "hash_algo": "sha256", "objects": objects}).encode()
        self._answer(HTTPStatus.OK, LFS_TYPE, body)

    def _object(self, oid: str, size: int) -> dict[str, object]:
        found = self.server.served.shelf.path(oid)
        if found is None or found.stat().st_size != size:
            return {"oid": oid, "size": size, "error": {"code": 404, "message": "no such object"}}
        href = f"{self.server.origin}/lfs-objects/{oid}"
        return {"oid": oid, "size": size, "authenticated": True, "actions": {"download": {"href": href}}}

    def _send_object(self, oid: str) -> None:
        found = self.server.served.shelf.path(oid)
        if found is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"no such object\n")
            return
        size = found.stat().st_size
        start, end, status = self._range(size)
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if status is HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        with found.open("rb") as file:
            file.seek(start)
            left = end - start
            while left and (piece := file.read(min(PIECE, left))):
                self.wfile.write(piece)
                left -= len(piece)

    def _range(self, size: int) -> tuple[int, int, HTTPStatus]:
        """Return the half-open range asked for; the whole object unless it is one plain range inside it."""
        unit, _, spec = self.headers.get("Range", "").partition("=")
        first, _, last = spec.partition("-")
        if unit != "bytes" or not first.isdigit() or not (last == "" or last.isdigit()):
            return 0, size, HTTPStatus.OK
        start, end = int(first), min(int(last) + 1 if last else size, size)
        if start >= end:
            return 0, size, HTTPStatus.OK
        return start, end, HTTPStatus.PARTIAL_CONTENT

    # -- git
    def _git(self) -> None:
        """Let git http-backend answer."""
        parts = urlsplit(self.path)
        path = _with_suffix(parts.path)
        if path is None:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"no such repository\n")
            return
        environment = {
            **GIT_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.server.served.projects),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": parts.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        body = self._body() if self.command == "POST" else b""
        environment["CONTENT_LENGTH"] = str(len(body))
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0])
        self._answer(status, headers.pop("Content-Type", "text/plain"), content, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(_chunks(self.rfile))
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _with_suffix(path: str) -> str | None:
    """Return the path with ``.git`` after the repository's name; ``None`` when it names none."""
    parts = path.split("/")
    if len(parts) < 4 or ".." in parts:
        return None
    parts[2] = parts[2].removesuffix(".git") + ".git"
    return "/".join(parts)


def _chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    while size := int(stream.readline().split(b";")[0], 16):
        yield stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass


class _Pusher:
    """Adds a commit now and then, and tells the mirror by a webhook if it was told whom."""

    def __init__(self, directory: Path, repositories: Sequence[DemoRepository], *, origin: str, every: float) -> None:
        self._directory = directory
        self._repositories = repositories
        self._origin = origin
        self._every = every

    def run(self, stop: threading.Event) -> None:
        """Push until told to stop, to one repository after another."""
        pushes = 0
        while not stop.wait(self._every if pushes < PUSHES_AT_THAT_PACE else max(self._every, SLOW_PUSH_EVERY_SECONDS)):
            repository = self._repositories[pushes % len(self._repositories)]
            pushes += 1
            before = repository.tip()
            repository.push_next()
            # a mirror that does not listen finds the commit at its next poll
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._tell(repository, before)

    def _tell(self, repository: DemoRepository, before: str) -> None:
        wanted = self._directory / "hook.json"
        if not wanted.exists():
            return
        hook = json.loads(wanted.read_text(encoding="utf-8"))
        body = json.dumps({
            "ref": "refs/heads/main",
            "before": before,
            "after": repository.tip(),
            "repository": {"full_name": repository.name, "clone_url": f"{self._origin}/{repository.name}.git"},
        }).encode()  # fmt: skip
        secret = Path(hook["secret_file"]).read_bytes().strip()
        url = urlsplit(hook["url"])
        connection = http.client.HTTPConnection(url.hostname or "", url.port or 80, timeout=5)
        try:
            connection.request("POST", url.path, body, {
                "Content-Type": "application/json",
                "X-GitHub-Event": "push",
                "X-GitHub-Delivery": secrets.token_hex(16),
                "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
            })  # fmt: skip
            connection.getresponse().read()
        finally:
            connection.close()


def _known_port(directory: Path) -> int:
    try:
        return int((directory / "port").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def main(arguments: Sequence[str]) -> int:
    """Serve ``arguments[0]`` until standard input closes; push every ``arguments[1]`` seconds."""
    directory = Path(arguments[0])
    every = float(arguments[1]) if len(arguments) > 1 else PUSH_EVERY_SECONDS
    repositories = make_repositories(directory)
    port = _known_port(directory)
    try:
        server = _Server(port, _Served(directory / "git", repositories[0].shelf))
    except OSError:
        os.write(1, f"in-use {port}\n".encode())
        return 1
    draft = directory / ".port"
    draft.write_text(str(server.server_port), encoding="ascii")
    draft.replace(directory / "port")
    stop = threading.Event()
    threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
    pusher = _Pusher(directory, repositories, origin=server.origin, every=every)
    pushing = threading.Thread(target=pusher.run, args=(stop,), name="push")
    pushing.start()
    os.write(1, f"ready {server.server_port}\n".encode())
    while sys.stdin.buffer.read(1):
        pass
    stop.set()
    pushing.join()
    server.shutdown()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
