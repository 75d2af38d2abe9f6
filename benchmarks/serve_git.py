"""Clones of one repository, many at a time: our web, nginx with fcgiwrap and ``git http-backend``, ``git daemon``.

python -m benchmarks.serve_git REPOSITORY [--clients 1,8,64] [--rounds 1] [--slow 200] [--as-is]

All serve the same packs, with the bitmap that a published mirror has (``--as-is`` leaves
the repository's own shape).  The client throws away what it gets, so that it is servers
that differ; it runs on the same machine and takes its part of it.  A server whose programs are not
installed is left out and named.  ``--slow N`` lets N readers take a little of an answer
each and stop, and times the status page meanwhile.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from benchmarks.figures import Figure, conclude, options, percentile
from benchmarks.processes import cpu, family, memory
from tests.support.daemon import free_port

NAME = "git.example/bench/repository"
REQUEST = "application/x-git-upload-pack-request"
THROUGHPUT_TIMES = 1.2
CPU_TIMES = 1.3
FIRST_BYTE_SECONDS = 0.2
PAGE_SECONDS = 0.05
WEB_MEGABYTES = 150.0
BLOCK = 1 << 20

NGINX = """
daemon off; worker_processes 2; pid {work}/nginx.pid; error_log {work}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      fastcgi_pass unix:{work}/fcgi.sock;
      fastcgi_buffering off;
      fastcgi_read_timeout 600;
      fastcgi_param SCRIPT_FILENAME {backend};
      fastcgi_param GIT_PROJECT_ROOT {root};
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
    }}
  }}
}}
"""

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
[database]
url = "{work}/state.db"
[storage]
git_dir = "{work}/git"
lfs_dir = "{work}/lfs"
run_dir = "{work}/run"
reserve = "none"
[log]
level = "warning"
format = "json"
"""


@dataclass
class Server:
    """Something that serves the repository; ``pids`` are its processes, whose children count."""

    label: str
    url: str
    pids: list[int]

    def cpu(self) -> float:
        """Return the processor seconds it has used."""
        return cpu({pid for leader in self.pids for pid in family(leader)})


@dataclass
class Taken:
    """What clones of one server at the same time took."""

    megabytes: float = 0.0
    seconds: float = 0.0
    cpu: float = 0.0
    first_bytes: list[float] = field(default_factory=list)
    most_memory: float = 0.0

    @property
    def throughput(self) -> float:
        """Megabytes a second, of all clients together."""
        return self.megabytes / self.seconds

    @property
    def cpu_per_gigabyte(self) -> float:
        """Processor seconds of the server for each gigabyte."""
        return self.cpu / self.megabytes * 1000


def packet(text: bytes) -> bytes:
    return b"%04x" % (len(text) + 4) + text


def fetch_body(tips: Sequence[str]) -> bytes:
    """Return the request of a whole clone."""
    wants = b"".join(packet(b"want %s\n" % tip.encode()) for tip in tips)
    head = packet(b"command=fetch\n") + packet(b"object-format=sha1\n") + b"0001"
    return head + packet(b"no-progress\n") + packet(b"ofs-delta\n") + wants + packet(b"done\n") + b"0000"


def git(*arguments: str, cwd: Path) -> str:
    return subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True).stdout


# ---------------------------------------------------------------- servers


@contextlib.contextmanager
def running(*command: str, log: Path, **environment: str) -> Iterator[int]:
    """Run a program in a session of its own while the block lasts."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, **environment},
        )  # fmt: skip
    try:
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(port: int, log: Path) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def our_web(repository: Path, work: Path) -> Iterator[Server]:
    """Serve by our own web process, over a mirror published from the same packs."""
    from mirror_sync.bootstrap import build, upgrade_database
    from mirror_sync.config import load

    work.mkdir()
    port = free_port()
    (work / "config.toml").write_text(CONFIG.format(port=port, work=work))
    settings = load(work / "config.toml", environ={})
    upgrade_database(settings)
    with build(settings, role="worker") as app:
        app.recover_all()
        _publish(app, repository)
    log = work / "web.log"
    command = (sys.executable, "-m", "mirror_sync", "--dir", str(work), "serve", "--role", "web")
    with running(*command, log=log) as pid:
        wait_for(port, log)
        yield Server("mirror-sync", f"http://127.0.0.1:{port}/{NAME}", [pid])


def _publish(app: object, repository: Path) -> None:
    from mirror_sync.bootstrap import App
    from mirror_sync.domain.names import GitOid, MirrorName, RefName
    from mirror_sync.domain.refs import Change, ObjectFormat, RefSnapshot
    from mirror_sync.domain.runs import NewMirror, Outcome, PublishIntent, RefJournalEntry, RunReport
    from mirror_sync.ports import PublishRequest
    from mirror_sync.repos.layout import layout_of

    assert isinstance(app, App)
    name = MirrorName(NAME)
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", cwd=repository).splitlines()
    tips = {RefName(ref): GitOid(oid) for oid, _, ref in (line.partition(" ") for line in listed)}
    snapshot = RefSnapshot(tips, RefName(git("symbolic-ref", "HEAD", cwd=repository).strip()))
    mirror = app.repositories.open(name)
    with mirror.lock():
        mirror.create(ObjectFormat.SHA1)
        packs = layout_of(app.settings.storage.git_dir, name).store / "objects/pack"
        packs.mkdir(parents=True, exist_ok=True)
        for file in (repository / "objects/pack").iterdir():
            os.link(file, packs / file.name)
        mirror.publish(PublishRequest(mirror.next_view(), 0, snapshot, []), confirm=lambda: None)
    now = app.clock.now()
    app.state.enrol(NewMirror(name, f"https://{NAME}", 1e6, 1e7))
    lease = app.state.claim("bench", lease_seconds=60.0)
    assert lease is not None
    entries = tuple(RefJournalEntry(ref, None, oid, Change.CREATE) for ref, oid in tips.items())
    intent = PublishIntent(1, "digest", now, entries, snapshot.head, len(entries), complete=True)
    app.state.settle_intent(lease, app.state.intend(lease, intent, kept=[]), published=True)
    app.state.finish(lease, RunReport(Outcome.PUBLISHED, now, now, now + 1e6, observed_at=now, complete=True))


@contextlib.contextmanager
def nginx(repository: Path, work: Path) -> Iterator[Server]:
    """Serve by nginx, fcgiwrap and git's own CGI program."""
    work.mkdir()
    port = free_port()
    backend = Path(git("--exec-path", cwd=repository).strip()) / "git-http-backend"
    (work / "nginx.conf").write_text(NGINX.format(work=work, port=port, backend=backend, root=repository.parent))
    log, pool = work / "log", "16"
    wrapper = ("fcgiwrap", "-c", pool, "-s", f"unix:{work}/fcgi.sock")
    own = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    with running(*wrapper, log=log, **own) as wraps:
        while not (work / "fcgi.sock").exists():
            time.sleep(0.05)
        (work / "fcgi.sock").chmod(0o666)
        with running("nginx", "-c", f"{work}/nginx.conf", "-p", str(work), log=log) as front:
            wait_for(port, log)
            yield Server("nginx + fcgiwrap", f"http://127.0.0.1:{port}/{repository.name}", [wraps, front])


@contextlib.contextmanager
def git_daemon(repository: Path, work: Path) -> Iterator[Server]:
    """Serve by ``git daemon``."""
    work.mkdir()
    port = free_port()
    log = work / "log"
    command = (
        "git", "daemon", "--export-all", f"--base-path={repository.parent}", "--listen=127.0.0.1", f"--port={port}",
        "--max-connections=0", "--reuseaddr", str(repository.parent),
    )  # fmt: skip
    with running(*command, log=log) as pid:
        wait_for(port, log)
        yield Server("git daemon", f"git://127.0.0.1:{port}/{repository.name}", [pid])


def upload_pack_alone(repository: Path, body: bytes) -> Taken:
    """Return what ``git upload-pack`` takes by itself into a pipe."""
    with tempfile.TemporaryFile() as request:
        request.write(body)
        request.seek(0)
        began, taken = time.perf_counter(), Taken()
        child = subprocess.Popen(
            ["git", "upload-pack", "--stateless-rpc", str(repository)],
            stdin=request, stdout=subprocess.PIPE, env={**os.environ, "GIT_PROTOCOL": "version=2"},
        )  # fmt: skip
        assert child.stdout is not None
        while piece := os.read(child.stdout.fileno(), BLOCK):
            if not taken.first_bytes:
                taken.first_bytes.append(time.perf_counter() - began)
            taken.megabytes += len(piece) / 1e6
        child.stdout.close()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"git upload-pack exited with {child.returncode}")
        taken.seconds = time.perf_counter() - began
        taken.cpu = used.ru_utime + used.ru_stime
    return taken


# ---------------------------------------------------------------- clients


def take_http(url: SplitResult, body: bytes, taken: Taken, lock: threading.Lock) -> None:
    """Clone by smart HTTP and throw it away."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(url.netloc, timeout=900)
    headers = {"Git-Protocol": "version=2", "Content-Type": REQUEST}
    connection.request("POST", url.path + "/git-upload-pack", body, headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{url.geturl()} answers {answer.status}: {answer.read(1000)!r}")
    _drain(answer.readinto, began, taken, lock)
    connection.close()


def take_git(url: SplitResult, body: bytes, taken: Taken, lock: threading.Lock) -> None:
    """Clone by git's own protocol and throw it away."""
    began = time.perf_counter()
    with socket.create_connection((str(url.hostname), int(url.port or 9418)), timeout=900) as connection:
        connection.sendall(packet(b"git-upload-pack " + url.path.encode() + b"\0host=x\0\0version=2\0"))
        told = b""
        while not told.endswith(b"0000"):
            told += connection.recv(65536)
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)  # after this answer there is nothing more to ask
        _drain(connection.recv_into, began, taken, lock)


def _drain(read: Callable[[memoryview], int], began: float, taken: Taken, lock: threading.Lock) -> None:
    block = memoryview(bytearray(BLOCK))
    first, size, end = 0.0, 0, b""
    while count := read(block):
        first = first or time.perf_counter() - began
        size += count
        end = (end + bytes(block[max(0, count - 8) : count]))[-8:]
    if not end.endswith(b"0000"):
        raise SystemExit(f"an answer of {size} bytes was cut short, or is none: {bytes(block[:200])!r}")
    with lock:
        taken.megabytes += size / 1e6
        taken.first_bytes.append(first)


def clones(server: Server, body: bytes, count: int) -> Taken:
    """Let ``count`` clients clone at the same time."""
    url, taken, lock = urlsplit(server.url), Taken(), threading.Lock()
    take = take_git if url.scheme == "git" else take_http
    failed: list[BaseException] = []

    def one() -> None:
        try:
            take(url, body, taken, lock)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failed.append(error)

    before, began = server.cpu(), time.perf_counter()
    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.most_memory = max(taken.most_memory, web_memory(server))
        time.sleep(0.2)
    taken.seconds = time.perf_counter() - began
    if failed:
        raise SystemExit(f"{server.label}: {failed[0]}")
    time.sleep(0.5)  # children are reaped
    taken.cpu = server.cpu() - before
    return taken


def web_memory(server: Server) -> float:
    """Return the megabytes of the server's largest Python process, without git's children."""
    found = [pid for leader in server.pids for pid in family(leader) if _is_python(pid)]
    return max((memory([pid])["rss"] for pid in found), default=0.0)


def _is_python(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "python" in Path(f"/proc/{pid}/exe").resolve().name
    return False


def slow_readers(server: Server, body: bytes, count: int) -> tuple[list[float], int, float]:
    """Return how long the status page took while ``count`` readers stand still, how many were served, and the memory."""
    url = urlsplit(server.url)
    head = (
        f"POST {url.path}/git-upload-pack HTTP/1.1\r\nHost: {url.netloc}\r\nGit-Protocol: version=2\r\n"
        f"Content-Type: {REQUEST}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    readers: list[socket.socket] = []
    try:
        for number in range(count):
            # two addresses, so that none has more than one client may have
            where = f"127.0.0.{2 + number % 2}"
            reader = socket.create_connection((str(url.hostname), int(url.port or 80)), source_address=(where, 0))
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.sendall(head.encode() + body)
            readers.append(reader)
        times = []
        for _ in range(100):
            began = time.perf_counter()
            with urllib.request.urlopen(f"{url.scheme}://{url.netloc}/", timeout=60) as answer:
                answer.read()
            times.append(time.perf_counter() - began)
            time.sleep(0.1)
        served = 0
        for reader in readers:
            reader.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                served += b" 200 " in reader.recv(64)
        return times, served, web_memory(server)
    finally:
        for reader in readers:
            reader.close()


def main() -> int:
    told = options(
        __doc__,
        (("repository",), {"type": Path, "help": "a bare repository, 300 MB or more"}),
        (("--clients",), {"default": "1,8", "help": "how many clone at the same time, one figure after another"}),
        (("--rounds",), {"type": int, "default": 1, "help": "each server's best of so many"}),
        (("--slow",), {"type": int, "default": 0, "help": "readers that stand still while the status page is timed"}),
        (("--as-is",), {"action": "store_true", "help": "leave the packs as they are"}),
        (("--work",), {"type": Path, "help": "where copies are made; best on the repository's file system"}),
    ).parse_args()
    counts = [int(word) for word in told.clients.split(",")]
    with tempfile.TemporaryDirectory(prefix="serve-git-", dir=told.work) as made:
        work = Path(made)
        work.chmod(0o755)
        repository = work / "repository.git"
        subprocess.run(["git", "clone", "-q", "--mirror", str(told.repository), str(repository)], check=True)
        if not told.as_is:
            git("repack", "-adbq", cwd=repository)
        tips = sorted(set(git("for-each-ref", "--format=%(objectname)", cwd=repository).split()))
        body = fetch_body(tips)
        alone = upload_pack_alone(repository, body)
        with contextlib.ExitStack() as stack:
            ours = stack.enter_context(our_web(repository, work / "ours"))
            peers = [stack.enter_context(git_daemon(repository, work / "daemon"))]
            lacking = [program for program in ("nginx", "fcgiwrap") if shutil.which(program) is None]
            if lacking:
                print(f"left out: nginx + fcgiwrap; not installed: {', '.join(lacking)}", flush=True)
            else:
                peers.append(stack.enter_context(nginx(repository, work / "nginx")))
            figures = compare(ours, peers, body, counts, rounds=told.rounds, alone=alone)
            if told.slow:
                times, served, rss = slow_readers(ours, body, told.slow)
                figures += [
                    Figure(f"status page beside {told.slow} slow readers, p50", percentile(times, 0.5), "s", PAGE_SECONDS),
                    Figure("  p95", percentile(times, 0.95), "s"),
                    Figure("  readers that have an answer", served, "readers"),
                    Figure("  memory of the web", rss, "MB", WEB_MEGABYTES),
                ]  # fmt: skip
    return conclude("serve_git", figures, told, clients=counts, megabytes=round(alone.megabytes))


def compare(
    ours: Server, peers: Sequence[Server], body: bytes, counts: Sequence[int], *, rounds: int, alone: Taken
) -> list[Figure]:
    """Measure every server with every number of clients, in turn."""
    figures = [
        Figure("git upload-pack alone, into a pipe", alone.throughput, "MB/s"),
        Figure("  its processor", alone.cpu_per_gigabyte, "s/GB"),
    ]
    for count in counts:
        best: dict[str, Taken] = {}
        for _ in range(rounds):
            for server in (ours, *peers):
                taken = clones(server, body, count)
                if server.label not in best or taken.throughput > best[server.label].throughput:
                    best[server.label] = taken
        mine = best[ours.label]
        for peer in peers:
            least = THROUGHPUT_TIMES * best[peer.label].throughput if peer.label.startswith("nginx") else None
            figures.append(
                Figure(
                    f"{count} at a time", mine.throughput, "MB/s", None, least, peer.label, best[peer.label].throughput
                )
            )
        shown = [peer for peer in peers if not peer.label.startswith("nginx")]  # fcgiwrap does not count its children
        for peer in shown:
            figures.append(
                Figure(
                    "  processor of the server", mine.cpu_per_gigabyte, "s/GB", CPU_TIMES * alone.cpu_per_gigabyte, None,
                    peer.label, best[peer.label].cpu_per_gigabyte,
                )
            )  # fmt: skip
        floor = FIRST_BYTE_SECONDS if count <= 8 else None
        for peer in peers:
            figures.append(
                Figure(
                    "  first byte, the last client's", max(mine.first_bytes), "s", floor, None,
                    peer.label, max(best[peer.label].first_bytes),
                )
            )  # fmt: skip
        figures.append(Figure("  memory of the web", mine.most_memory, "MB", WEB_MEGABYTES))
    return figures


if __name__ == "__main__":
    sys.exit(main())
