"""A whole upstream on loopback for tests: git http-backend and an LFS server, with faults on order.

Use it as a context manager; everything lives under the directory given::

    with GitUpstream(tmp_path / "up") as up:
        repo = up.create("acme/model")                       # bare; object_format="sha256" if wanted
        first = repo.commit({"README": "hello"})             # on main; returns the commit id
        repo.commit({}, lfs={"weights.bin": b"x" * 1000})    # pointer + .gitattributes + stored LFS object
        repo.commit({"a": None}, branch="dev", start="main") # None deletes; start names where the branch begins
        repo.tag("v1", message="annotated"); repo.tag("light")
        repo.update("refs/heads/dev", first); repo.delete("refs/heads/dev")
        repo.force({"README": "other"})                      # a new root commit on main
        repo.set_head("refs/heads/dev"); repo.refs(); repo.head(); repo.git("fsck")
        repo.url                                             # http://127.0.0.1:PORT/acme/model (also with .git)

LFS: ``repo.lfs`` is an :class:`LfsShelf`: ``put(bytes) -> (oid, size)``, ``remove(oid)``,
``replace(oid, wrong bytes)``, ``errors[oid] = (404, "gone")``, and knobs ``expires_in``,
``expires_at``, ``lifetime`` (hrefs answer 403 afterwards), ``max_batch`` (413 above), ``status``
(whole batch), ``href_origin`` (another origin), ``headers`` (action headers), ``authenticated``.

Faults: ``up.fault(pattern, times=1, ...)`` where ``pattern`` is a regular expression searched in
``"METHOD /path?query"``; see :class:`Fault` for what can be done.  The first fault that matches
and is not used up applies.  ``fault.hits`` counts.

Log: ``up.requests`` lists :class:`Recorded`; ``up.seen(pattern)`` filters it; ``up.forget()`` empties it.

Other knobs: ``up.protocol = 0`` (ignore Git-Protocol; or ``repo.protocol``), ``repo.preamble = True``
(GitHub's ``# service`` line before v2 too), ``repo.token = "secret"`` (401 unless Basic password or
Bearer says so), ``repo.absent = 404`` (any status for every request to it), ``repo.moved_to = "acme/new"``
(301 for everything), ``repo.filters = False`` (offers and takes no filters), ``repo.any_object = False``
(gives nothing but its refs, as protocol v0 does), ``GitUpstream(dir, tls=make_authority(dir).server(...))`` for https,
``GitUpstream(dir, address="127.0.0.2")`` for another host, ``port=`` for a fixed port, ``name="git.test"``
for the host name that its URLs carry.  ``repo.lfs.edit`` changes a batch answer before it is sent.

Single files: ``repo.raw_url`` is the template under which a file of a commit can be had, ranges and all.

``python -m tests.support.upstream DIR [--port N]`` serves what is in DIR from its own process (for
measurements) and prints its origin.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import hashlib
import http.client
import itertools
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LFS_TYPE = "application/vnd.git-lfs+json"
FIRST_DATE = 1_700_000_000
PIECE = 1 << 16


def isolated_git_environment(home: Path) -> dict[str, str]:
    """An environment in which git reads no configuration of the machine or its user."""
    home.mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Up Stream",
        "GIT_AUTHOR_EMAIL": "up@example.org",
        "GIT_COMMITTER_NAME": "Up Stream",
        "GIT_COMMITTER_EMAIL": "up@example.org",
        "GIT_AUTHOR_DATE": f"{FIRST_DATE} +0000",
        "GIT_COMMITTER_DATE": f"{FIRST_DATE} +0000",
    }


def pointer_text(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


@dataclass
class Fault:
    """What to do with matching requests; fields left at their default do nothing."""

    pattern: str
    times: int | None = 1
    """How many matching requests it applies to; ``None``: all."""
    after: int = 0
    """How many matching requests pass first."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the answer; replaces those of the same name."""
    body: bytes | None = None
    """The whole answer's body (status 200 unless ``status`` says else)."""
    redirect: str = ""
    """Answers ``status`` (302 by default) with this Location."""
    cut_after: int | None = None
    """Resets the connection after that many bytes of the body."""
    drip: tuple[int, float] | None = None
    """Sends that many bytes, waits that many seconds, and so on."""
    pause_after: tuple[int, float] | None = None
    """Sends that many bytes of the body, then nothing for that many seconds, then the rest."""
    hang: float = 0.0
    """Waits that many seconds before anything is answered."""
    rewrite: Callable[[bytes], bytes] | None = None
    """Changes the body of the real answer (Content-Length follows)."""
    ignore_range: bool = False
    drop: bool = False
    """Resets the connection without an answer."""
    hits: int = 0
    """How many requests matched, those let pass by ``after`` included."""


@dataclass(frozen=True)
class Recorded:
    """One request as it arrived; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    at: float
    peer: int = 0
    """The client's port: the same for requests over one connection."""

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}" + (f"?{self.query}" if self.query else "")


class LfsShelf:
    """The LFS objects of one repository and what its LFS server says of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.errors: dict[str, tuple[int, str]] = {}
        self.expires_in: int | None = None
        self.expires_at: str | None = None
        self.lifetime: float | None = None
        self.max_batch: int | None = None
        self.status: int | None = None
        self.href_origin = ""
        self.headers: dict[str, str] = {}
        self.authenticated: bool | None = None
        self.edit: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        """Changes the batch answer before it is sent."""

    def put(self, data: bytes) -> tuple[str, int]:
        oid = hashlib.sha256(data).hexdigest()
        path = self.directory / oid
        if not path.exists():
            part = path.with_name(f"{oid}.{threading.get_ident()}.part")
            part.write_bytes(data)
            part.rename(path)
        return oid, len(data)

    def replace(self, oid: str, data: bytes) -> None:
        (self.directory / oid).write_bytes(data)

    def remove(self, oid: str) -> None:
        (self.directory / oid).unlink()

    def oids(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


class UpstreamRepo:
    """One bare repository of a :class:`GitUpstream`; changed by git's own plumbing."""

    def __init__(self, upstream: GitUpstream, name: str) -> None:
        self.upstream = upstream
        self.name = name
        self.path = upstream.repositories / f"{name}.git"
        self.lfs = LfsShelf(upstream.shelves / name)
        self.token = ""
        self.absent: int | None = None
        self.moved_to = ""
        self.protocol: int | None = None
        self.preamble = False
        self.filters = True
        self.any_object = True
        self._lfs_patterns: list[str] = []

    @property
    def url(self) -> str:
        return self.upstream.url(self.name)

    @property
    def raw_url(self) -> str:
        """Where single files are: a template with ``{path}``, ``{commit}`` and ``{file}``."""
        return f"{self.upstream.origin}/{{path}}/-/raw/{{commit}}/{{file}}"

    def git(self, *arguments: str, data: bytes | str | None = None) -> str:
        """Run git in the repository and return its output without the last newline."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=self.upstream.environment,
            input=data.encode() if isinstance(data, str) else data,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"git {arguments} exited {done.returncode}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")

    def commit(
        self,
        files: Mapping[str, bytes | str | None],
        *,
        branch: str = "main",
        lfs: Mapping[str, bytes] | None = None,
        message: str = "change",
        start: str = "",
        root: bool = False,
        merge: str = "",
    ) -> str:
        """Commit on ``branch`` and return the commit id; ``start`` names where a new branch begins."""
        ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        changes: dict[str, bytes | None] = {
            path: content.encode() if isinstance(content, str) else content for path, content in files.items()
        }
        for path, content in (lfs or {}).items():
            oid, size = self.lfs.put(content)
            changes[path] = pointer_text(oid, size)
            pattern = "*" + Path(path).suffix if Path(path).suffix else path
            if pattern not in self._lfs_patterns:
                self._lfs_patterns.append(pattern)
        if lfs and ".gitattributes" not in changes:
            lines = [f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in self._lfs_patterns]
            changes[".gitattributes"] = "".join(lines).encode()
        who = f"Up Stream <up@example.org> {FIRST_DATE + 60 * next(self.upstream.ticks)} +0000"
        out = [b"feature done\n", f"commit {ref}\nmark :1\nauthor {who}\ncommitter {who}\n".encode(), _data(message)]
        if not root:
            begin = start or (ref if self._exists(ref) else "")
            if begin:
                out.append(f"from {self.git('rev-parse', begin + '^{commit}')}\n".encode())
            if merge:
                out.append(f"merge {self.git('rev-parse', merge + '^{commit}')}\n".encode())
        for path, data in changes.items():
            out.append(f"D {path}\n".encode() if data is None else f"M 100644 inline {path}\n".encode() + _data(data))
        out.append(b"\nget-mark :1\ndone\n")
        return self.git("fast-import", "--quiet", "--force", "--date-format=raw", data=b"".join(out)).strip()

    def force(self, files: Mapping[str, bytes | str | None], *, branch: str = "main") -> str:
        """Replace a branch's history by a new root commit."""
        return self.commit(files, branch=branch, root=True, message="rewritten")

    def _exists(self, ref: str) -> bool:
        done = subprocess.run(
            ["git", "rev-parse", "-q", "--verify", ref],
            cwd=self.path,
            env=self.upstream.environment,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def tag(self, name: str, *, target: str = "main", message: str = "") -> str:
        """Make a light tag, or an annotated one when ``message`` is given; returns the ref's id."""
        oid = self.git("rev-parse", target)
        if message:
            kind = self.git("cat-file", "-t", oid)
            who = f"Up Stream <up@example.org> {FIRST_DATE + 60 * next(self.upstream.ticks)} +0000"
            oid = self.git("mktag", data=f"object {oid}\ntype {kind}\ntag {name}\ntagger {who}\n\n{message}\n")
        self.update(f"refs/tags/{name}", oid)
        return oid

    def update(self, ref: str, oid: str) -> None:
        """Set a ref to an object, whatever it was."""
        self.git("update-ref", ref, oid)

    def update_many(self, tips: Mapping[str, str]) -> None:
        """Set many refs in one packed step."""
        orders = "".join(f"update {ref} {oid}\n" for ref, oid in tips.items())
        self.git("update-ref", "--stdin", data=orders.encode("utf-8", "surrogateescape"))
        self.git("pack-refs", "--all")

    def pack_new(self, tips: Mapping[str, str]) -> None:
        """Write refs that are not there yet into ``packed-refs``, past git's checks and its cost of a file each."""
        packed = self.path / "packed-refs"
        self.git("pack-refs", "--all", "--prune")
        kinds = self.git(
            "cat-file",
            "--batch-check=%(objectname) %(objecttype)",
            data="".join(f"{oid}\n" for oid in set(tips.values())),
        )
        tags = [line.split()[0] for line in kinds.splitlines() if line.endswith(" tag")]
        peeled = {oid: self.git("rev-parse", oid + "^{}") for oid in tags}
        entries: list[bytes] = []
        if packed.exists():
            for line in packed.read_bytes().splitlines():
                if line.startswith(b"^"):
                    entries[-1] += b"\n" + line
                elif not line.startswith(b"#"):
                    entries.append(line)
        for ref, oid in tips.items():
            entry = f"{oid} {ref}" + (f"\n^{peeled[oid]}" if oid in peeled else "")
            entries.append(entry.encode("utf-8", "surrogateescape"))
        entries.sort(key=lambda entry: entry.split(b"\n")[0].split(b" ", 1)[1])
        packed.write_bytes(b"# pack-refs with: peeled fully-peeled sorted \n" + b"\n".join(entries) + b"\n")

    def delete(self, ref: str) -> None:
        self.git("update-ref", "-d", ref)

    def set_head(self, ref: str) -> None:
        self.git("symbolic-ref", "HEAD", ref)

    def head(self) -> str:
        return self.git("symbolic-ref", "HEAD")

    def refs(self) -> dict[str, str]:
        """Every ref with its object id."""
        lines = self.git("for-each-ref", "--format=%(objectname) %(refname)").splitlines()
        return {name: oid for oid, name in (line.split(" ", 1) for line in lines)}


def _data(content: bytes | str) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return f"data {len(raw)}\n".encode() + raw + b"\n"


@dataclass(frozen=True)
class TlsFiles:
    """A server's certificate and key, and the authority that signed it."""

    certificate: Path
    key: Path
    authority: Path


class Authority:
    """A throw-away certificate authority made with openssl."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.certificate = directory / "ca.pem"
        self.key = directory / "ca.key"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-subj", "/CN=Test authority", "-keyout", str(self.key), "-out", str(self.certificate),
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def server(self, *names: str) -> TlsFiles:
        """Return a certificate for these DNS names and addresses."""
        stem = re.sub(r"[^a-z0-9]+", "-", names[0])
        key, request, certificate = (self.directory / f"{stem}.{end}" for end in ("key", "csr", "pem"))
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={names[0]}", "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        extensions = self.directory / f"{stem}.ext"
        kinds = [("IP" if re.fullmatch(r"[0-9.]+|.*:.*", name) else "DNS", name) for name in names]
        extensions.write_text("subjectAltName=" + ",".join(f"{kind}:{name}" for kind, name in kinds) + "\n")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self.key),
            "-CAcreateserial", "-days", "30", "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return TlsFiles(certificate, key, self.certificate)


def make_authority(directory: Path) -> Authority:
    return Authority(directory)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class GitUpstream:
    """A threaded HTTP server over real repositories; see the module's docstring."""

    def __init__(
        self, directory: Path, *, address: str = "127.0.0.1", port: int = 0, tls: TlsFiles | None = None, name: str = ""
    ) -> None:
        self.directory = directory
        self.repositories = directory / "repositories"
        self.shelves = directory / "lfs"
        self.repositories.mkdir(parents=True, exist_ok=True)
        self.shelves.mkdir(parents=True, exist_ok=True)
        self.environment = isolated_git_environment(directory / "home")
        self.ticks = itertools.count()
        self.repos: dict[str, UpstreamRepo] = {}
        self.protocol = 2
        self.requests: list[Recorded] = []
        self.faults: list[Fault] = []
        self.lfs_server: tuple[str, int] | None = None
        """Where requests under ``.git/info/lfs/`` are relayed, instead of being answered here."""
        self.follow_host = False
        """Whether LFS objects are where the client believes that it is: behind whatever lies between."""
        self.liar: Callable[[str], Fault | None] | None = None
        """Asked for each request that no ordered fault meets, by its line; see :mod:`tests.support.lies`."""
        self.guard = threading.Lock()
        self._address = address
        self._name = name or address
        self._tls = tls
        self._wanted_port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.stopping = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; after :meth:`stop` again on the same port."""
        self.stopping.clear()
        server = _Server((self._address, self._wanted_port), _Handler)
        server.upstream = self
        if self._tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._tls.certificate, self._tls.key)
            server.tls = context
        self._wanted_port = server.server_address[1]
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="upstream", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and drop every connection."""
        self.stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.drop_connections()
            self._server = None
        if self._thread is not None:
            self._thread.join(10)

    @property
    def port(self) -> int:
        return self._wanted_port

    @property
    def origin(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._name}:{self.port}"

    def url(self, name: str) -> str:
        return f"{self.origin}/{name}"

    def create(self, name: str, *, object_format: str = "sha1", branch: str = "main") -> UpstreamRepo:
        """Make an empty bare repository."""
        repo = UpstreamRepo(self, name)
        repo.path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["git", "init", "-q", "--bare", "--template=", f"--object-format={object_format}", "-b", branch, repo.path],
            env=self.environment,
            check=True,
            capture_output=True,
        )
        with (repo.path / "config").open("a") as config:
            config.write(
                "[uploadpack]\n\tallowFilter = true\n\tallowAnySHA1InWant = true\n"
                "[http]\n\treceivepack = true\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
            )
        self.repos[name] = repo
        return repo

    def adopt(self, name: str) -> UpstreamRepo:
        """Serve a bare repository that is already at ``repositories/NAME.git``."""
        repo = UpstreamRepo(self, name)
        assert repo.path.is_dir(), repo.path
        self.repos[name] = repo
        return repo

    def fault(self, pattern: str, *, times: int | None = 1, **what: Any) -> Fault:
        """Order a fault; see :class:`Fault`."""
        fault = Fault(pattern, times, **what)
        with self.guard:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget every fault."""
        with self.guard:
            self.faults.clear()

    def seen(self, pattern: str = "") -> list[Recorded]:
        """Requests whose ``METHOD /path?query`` matches, oldest first."""
        with self.guard:
            return [item for item in self.requests if re.search(pattern, item.line)]

    def forget(self) -> None:
        with self.guard:
            self.requests.clear()

    def take_fault(self, line: str) -> Fault | None:
        with self.guard:
            for fault in self.faults:
                used = max(0, fault.hits - fault.after)
                if (fault.times is not None and used >= fault.times) or not re.search(fault.pattern, line):
                    continue
                fault.hits += 1
                if fault.hits > fault.after:
                    return fault
            return self.liar(line) if self.liar is not None else None

    def find(self, path: str) -> tuple[UpstreamRepo | None, str]:
        """Return the repository a path belongs to and what follows its name."""
        for name in sorted(self.repos, key=len, reverse=True):
            for prefix in (f"/{name}.git", f"/{name}"):
                if path == prefix or path.startswith(prefix + "/"):
                    return self.repos[name], path[len(prefix) :]
        return None, ""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    upstream: GitUpstream
    tls: ssl.SSLContext | None = None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        self._open_guard = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # HTTPServer's own would ask the resolver for this machine's name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            try:
                request.settimeout(10)
                request = self.tls.wrap_socket(request, server_side=True)
                request.settimeout(None)
            except OSError:
                request.close()
                return
        with self._open_guard:
            self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._open_guard:
                self._open.discard(request)

    def drop_connections(self) -> None:
        with self._open_guard:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError, ssl.SSLError, ValueError)):
            super().handle_error(request, client_address)


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: Iterable[bytes]
    length: int | None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Say nothing: tests read the recorded requests."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _serve(self) -> None:
        upstream = self.server.upstream
        parts = urlsplit(self.path)
        body = self._read_body()
        recorded = Recorded(
            self.command,
            unquote(parts.path, errors="surrogateescape"),
            parts.query,
            {name.lower(): value for name, value in self.headers.items()},
            body,
            time.monotonic(),
            self.client_address[1],
        )
        with upstream.guard:
            upstream.requests.append(recorded)
        fault = upstream.take_fault(recorded.line)
        if fault is not None and fault.hang:
            upstream.stopping.wait(fault.hang)
        if fault is not None and fault.drop:
            self._reset()
            return
        self._send(self._canned(fault) or self._answer(recorded, fault), fault)

    def _read_body(self) -> bytes:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @staticmethod
    def _canned(fault: Fault | None) -> _Answer | None:
        if fault is None:
            return None
        if fault.redirect:
            return _plain(fault.status or 302, b"moved\n", {"Location": fault.redirect})
        if fault.body is not None or (fault.status is not None and fault.rewrite is None):
            return _plain(fault.status or 200, fault.body if fault.body is not None else b"ordered fault\n", {})
        return None

    def _answer(self, request: Recorded, fault: Fault | None) -> _Answer:
        upstream = self.server.upstream
        if request.path.startswith("/-/lfs/"):
            return self._lfs_object(request, fault)
        repo, rest = upstream.find(request.path)
        if repo is None:
            return _plain(404, b"no such repository\n", {})
        if repo.absent is not None:
            return _plain(repo.absent, b"not here\n", {})
        if repo.moved_to:
            query = f"?{request.query}" if request.query else ""
            return _plain(301, b"moved\n", {"Location": f"{upstream.origin}/{repo.moved_to}{rest}{query}"})
        if repo.token and not _token_given(request.headers.get("authorization", ""), repo.token):
            scheme = "LFS-Authenticate" if rest.startswith("/info/lfs") else "WWW-Authenticate"
            return _plain(401, b"who are you?\n", {scheme: 'Basic realm="upstream"'})
        if upstream.lfs_server is not None and rest.startswith("/info/lfs/"):
            return self._relayed(upstream.lfs_server, request)
        if rest == "/info/lfs/objects/batch" and request.method == "POST":
            return self._lfs_batch(repo, request)
        if rest.startswith("/info/lfs/locks"):
            return _json(404, {"message": "no locks here"})
        if rest.startswith("/-/raw/"):
            return self._raw_file(repo, rest.removeprefix("/-/raw/"), request, fault)
        if not repo.any_object and (oid := _wants_more_than_tips(repo, request)):
            said = f"ERR upload-pack: not our ref {oid}\n".encode()
            body = b"%04x%b" % (len(said) + 4, said)
            return _Answer(200, {"Content-Type": "application/x-git-upload-pack-result"}, iter([body]), len(body))
        return self._git(repo, rest, request)

    # ---- git

    @staticmethod
    def _raw_file(repo: UpstreamRepo, rest: str, request: Recorded, fault: Fault | None) -> _Answer:
        commit, _, path = rest.partition("/")
        done = subprocess.run(
            ["git", "cat-file", "blob", os.fsencode(f"{commit}:{path}")],
            cwd=repo.path,
            env=repo.upstream.environment,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            return _plain(404, b"404: Not Found\n", {})
        return _ranged(
            done.stdout, "" if fault is not None and fault.ignore_range else request.headers.get("range", "")
        )

    def _git(self, repo: UpstreamRepo, rest: str, request: Recorded) -> _Answer:
        upstream = self.server.upstream
        environment = dict(upstream.environment)
        environment.update(
            GIT_PROJECT_ROOT=str(upstream.repositories),
            GIT_HTTP_EXPORT_ALL="1",
            REQUEST_METHOD=request.method,
            PATH_INFO=f"/{repo.name}.git{rest}",
            QUERY_STRING=request.query,
            CONTENT_TYPE=request.headers.get("content-type", ""),
            CONTENT_LENGTH=str(len(request.body)),
            REMOTE_ADDR="127.0.0.1",
        )
        if "content-encoding" in request.headers:
            environment["HTTP_CONTENT_ENCODING"] = request.headers["content-encoding"]
        if not repo.filters:
            environment |= {
                "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "uploadpack.allowFilter", "GIT_CONFIG_VALUE_0": "false",
            }  # fmt: skip
        protocol = upstream.protocol if repo.protocol is None else repo.protocol
        if protocol and "git-protocol" in request.headers:
            environment["GIT_PROTOCOL"] = request.headers["git-protocol"]
        child = subprocess.Popen(
            ["git", "http-backend"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        feeder = threading.Thread(target=_feed, args=(child, request.body), daemon=True)
        if len(request.body) > 32768:
            feeder.start()
        else:
            _feed(child, request.body)
        status, headers = 200, {}
        while line := child.stdout.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "status":
                status = int(value.split()[0])
            else:
                headers[name] = value.strip()
        first = child.stdout.read(PIECE)
        if len(first) < PIECE:
            child.stdout.close()
            child.wait()
            if repo.preamble and rest == "/info/refs" and not first.startswith(b"001e# service"):
                first = b"001e# service=git-upload-pack\n0000" + first
            return _Answer(status, headers, iter([first]), len(first))
        return _Answer(status, headers, _child_output(child, first), None)

    # ---- LFS

    def _lfs_batch(self, repo: UpstreamRepo, request: Recorded) -> _Answer:
        shelf = repo.lfs
        if shelf.status is not None:
            return _json(shelf.status, {"message": f"ordered status {shelf.status}"})
        if not request.headers.get("accept", "").startswith(LFS_TYPE):
            return _json(406, {"message": "Accept is not the LFS media type"})
        asked = json.loads(request.body)
        if shelf.max_batch is not None and len(asked["objects"]) > shelf.max_batch:
            return _json(413, {"message": f"at most {shelf.max_batch} objects"})
        origin = shelf.href_origin or self.server.upstream.origin
        if self.server.upstream.follow_host and "host" in request.headers:
            origin = f"http://{request.headers['host']}"
        objects = [self._lfs_entry(repo, asked["operation"], item, origin) for item in asked["objects"]]
        answer: dict[str, Any] = {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}
        return _json(200, shelf.edit(answer) if shelf.edit is not None else answer)

    def _lfs_entry(self, repo: UpstreamRepo, operation: str, item: dict[str, Any], origin: str) -> dict[str, Any]:
        shelf, oid = repo.lfs, item["oid"]
        entry: dict[str, Any] = {"oid": oid, "size": item["size"]}
        if shelf.authenticated is not None:
            entry["authenticated"] = shelf.authenticated
        path = shelf.directory / oid
        if oid in shelf.errors:
            code, message = shelf.errors[oid]
            return {**entry, "error": {"code": code, "message": message}}
        if operation == "download" and not path.exists():
            return {**entry, "error": {"code": 404, "message": "Object does not exist"}}
        until = "" if shelf.lifetime is None else f"?until={time.monotonic() + shelf.lifetime:.3f}"
        action: dict[str, Any] = {"href": f"{origin}/-/lfs/{repo.name}/{oid}{until}", "header": dict(shelf.headers)}
        if shelf.expires_in is not None:
            action["expires_in"] = shelf.expires_in
        if shelf.expires_at is not None:
            action["expires_at"] = shelf.expires_at
        if operation == "upload":
            return entry if path.exists() else {**entry, "actions": {"upload": action}}
        return {**entry, "actions": {"download": action}}

    def _lfs_object(self, request: Recorded, fault: Fault | None) -> _Answer:
        name, _, oid = request.path.removeprefix("/-/lfs/").rpartition("/")
        repo = self.server.upstream.repos.get(name)
        if repo is None or not re.fullmatch(r"[0-9a-f]{64}", oid):
            return _json(404, {"message": "no such object"})
        until = parse_qs(request.query).get("until")
        if until and time.monotonic() > float(until[0]):
            return _plain(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", {})
        for header, value in repo.lfs.headers.items():
            if request.headers.get(header.lower()) != value:
                return _plain(403, f"{header} is missing or differs\n".encode(), {})
        if request.method == "PUT":
            stored, _ = repo.lfs.put(request.body)
            return _plain(200 if stored == oid else 422, b"", {})
        path = repo.lfs.directory / oid
        if not path.exists():
            return _json(404, {"message": "no such object"})
        return _file(path, "" if fault is not None and fault.ignore_range else request.headers.get("range", ""))

    def _relayed(self, server: tuple[str, int], request: Recorded) -> _Answer:
        """Pass a request to another LFS server, which sees our Host and so names our origin in its hrefs."""
        connection = http.client.HTTPConnection(*server, timeout=60)
        hop = {"connection", "content-length", "transfer-encoding", "keep-alive"}
        headers = {name: value for name, value in request.headers.items() if name not in hop}
        connection.request(request.method, self.path, body=request.body or None, headers=headers)
        answer = connection.getresponse()
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in hop}
        length = int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        return _Answer(answer.status, kept, _relay_output(connection, answer), length)

    # ---- sending

    def _send(self, answer: _Answer, fault: Fault | None) -> None:
        if fault is not None:
            if fault.rewrite is not None:
                body = fault.rewrite(b"".join(answer.body))
                answer.body, answer.length = iter([body]), len(body)
                answer.status = fault.status or answer.status
            lowered = {name.lower() for name in fault.headers}
            answer.headers = {k: v for k, v in answer.headers.items() if k.lower() not in lowered} | dict(fault.headers)
        self.send_response_only(answer.status)
        chunked = answer.length is None
        for name, value in answer.headers.items():
            if value:
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in answer.headers):
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(answer.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(answer.body, _Slice) and fault is None and not isinstance(self.connection, ssl.SSLSocket):
            self.wfile.flush()
            answer.body.send(self.connection)
            return
        sent = 0
        for piece in _shaped(answer.body, fault, self.server.upstream.stopping):
            if piece is None:
                self._reset()
                return
            sent += len(piece)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if fault is not None:
                self.wfile.flush()
        if chunked:
            self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()
        if not chunked and sent != int(answer.headers.get("Content-Length", answer.length or 0)):
            self.close_connection = True

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError, ValueError):
            self.wfile.flush()
        with contextlib.suppress(OSError):
            if not isinstance(self.connection, ssl.SSLSocket):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _shaped(body: Iterable[bytes], fault: Fault | None, stopping: threading.Event) -> Iterator[bytes | None]:
    """Yield the body as the fault wants it; ``None`` stands for a reset."""
    left = fault.cut_after if fault is not None else None
    pause = fault.pause_after if fault is not None else None
    for whole in body:
        piece = whole
        while piece:
            size = len(piece)
            if fault is not None and fault.drip is not None:
                size = min(size, fault.drip[0])
            if left is not None:
                size = min(size, left)
                if size == 0:
                    yield None
                    return
                left -= size
            if pause is not None:
                size = min(size, pause[0]) if pause[0] else size
                pause = (pause[0] - size, pause[1])
            yield piece[:size]
            piece = piece[size:]
            if fault is not None and fault.drip is not None and stopping.wait(fault.drip[1]):
                return
            if pause is not None and pause[0] <= 0:
                stopping.wait(pause[1])
                pause = None
    if left == 0 or (fault is not None and fault.cut_after == 0):
        yield None


def _feed(child: subprocess.Popen[bytes], body: bytes) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(body)
    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()


def _child_output(child: subprocess.Popen[bytes], first: bytes) -> Iterator[bytes]:
    assert child.stdout is not None
    try:
        yield first
        while piece := child.stdout.read(PIECE):
            yield piece
    finally:
        child.stdout.close()
        child.kill()
        child.wait()


def _relay_output(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    with contextlib.closing(connection):
        while piece := answer.read(PIECE):
            yield piece


def _plain(status: int, body: bytes, headers: Mapping[str, str]) -> _Answer:
    return _Answer(status, {"Content-Type": "text/plain", **headers}, iter([body]), len(body))


def _json(status: int, document: Mapping[str, Any]) -> _Answer:
    body = json.dumps(document).encode()
    return _Answer(status, {"Content-Type": LFS_TYPE}, iter([body]), len(body))


def _file(path: Path, wanted: str) -> _Answer:
    size = path.stat().st_size
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
    if not match:
        return _Answer(200, headers, _Slice(path, 0, size), size)
    start = int(match[1])
    end = min(size, int(match[2]) + 1) if match[2] else size
    if start >= size or end <= start:
        return _plain(416, b"no such range\n", {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return _Answer(206, headers, _Slice(path, start, end), end - start)


def _ranged(data: bytes, wanted: str) -> _Answer:
    headers = {"Content-Type": "text/plain", "Accept-Ranges": "bytes"}
    match = re.fullmatch(r"bytes=(\d+)-", wanted)
    if not match:
        return _Answer(200, headers, iter([data]), len(data))
    start = int(match[1])
    if start >= len(data):
        return _plain(416, b"no such range\n", {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return _Answer(206, headers, iter([data[start:]]), len(data) - start)


def _wants_more_than_tips(repo: UpstreamRepo, request: Recorded) -> str:
    """Return the first object that a protocol v2 fetch wants and that no ref points at, if any."""
    zipped = request.headers.get("content-encoding") == "gzip"
    body = gzip.decompress(request.body) if zipped else request.body
    if request.method != "POST" or b"command=fetch" not in body[:64]:
        return ""
    tips = set(repo.refs().values())
    return next(
        (oid for oid in re.findall(r"^....want ([0-9a-f]+)$", body.decode("ascii"), re.MULTILINE) if oid not in tips),
        "",
    )


@dataclass(frozen=True)
class _Slice:
    """Some bytes of a file, as pieces or straight from the kernel."""

    path: Path
    start: int
    end: int

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.end - self.start
            while left > 0 and (piece := file.read(min(left, 1 << 20))):
                left -= len(piece)
                yield piece

    def send(self, connection: socket.socket) -> None:
        if self.end > self.start:
            with self.path.open("rb") as file:
                connection.sendfile(file, self.start, self.end - self.start)


def _token_given(authorization: str, token: str) -> bool:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value == token
    if scheme.lower() == "basic":
        return base64.b64decode(value).decode().partition(":")[2] == token
    return False


def request_json(recorded: Recorded) -> Any:
    """The JSON document a recorded request carried."""
    raw = gzip.decompress(recorded.body) if recorded.headers.get("content-encoding") == "gzip" else recorded.body
    return json.loads(raw)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the bare repositories under DIR/repositories.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with GitUpstream(options.directory, port=options.port) as upstream:
        upstream.follow_host = True
        for path in sorted(upstream.repositories.rglob("*.git")):
            upstream.adopt(str(path.relative_to(upstream.repositories)).removesuffix(".git"))
        print(upstream.origin, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
