"""A small world behind the web: the real App with its state in memory.

::

    world = make_world(tmp_path, {"git.example/acme/model": MirrorSpec(repository=repo.path, objects=[b"..."])})
    client = create_app(world).test_client()

``python -m tests.support.web_world ROOT`` serves the world that :func:`write_world` left
under ROOT, with the product's own server.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mirror_sync.bootstrap import App
from mirror_sync.config import SecretFile, ServerSettings, ServeSettings, Settings, StorageSettings, WebhookSettings
from mirror_sync.domain.names import GitOid, LfsOid, MirrorName, RefName, ref_from_bytes
from mirror_sync.domain.pointers import Pointer, PointerBlob
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.domain.readers import token_digest
from mirror_sync.domain.refs import Change, Hold, ObjectFormat, RefSnapshot
from mirror_sync.domain.runs import (
    KeptTip,
    NewMirror,
    Outcome,
    PublishIntent,
    RefJournalEntry,
    RunId,
    RunReport,
    Visibility,
)
from mirror_sync.ports import PublishRequest
from mirror_sync.testing.state import MemoryState
from tests.support.daemon import free_port
from tests.support.staging import stage_pack

SECRET = "It's a Secret to Everybody"
MAX_PACKS = 8
TOKEN = "msy_" + "t" * 43
"""Opens every mirror of visibility ``token`` in a world that has one; its number is 1."""


@dataclass
class MirrorSpec:
    """One mirror of the world; ``repository`` is a bare repository to publish a copy of, ``None`` for none."""

    repository: str | None = None
    objects: list[str] = field(default_factory=list)
    """Contents that are here, as latin-1 text."""
    queued: list[str] = field(default_factory=list)
    known_missing: list[str] = field(default_factory=list)
    holds: list[tuple[str, str, str]] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: tuple[str, str] | None = None
    paused: str | None = None
    removing: bool = False
    left_out: list[str] = field(default_factory=list)
    visibility: str = ""
    progress: dict[str, Any] | None = None
    """A fetch or transfer under way, by the fields of :class:`Progress`; ``age`` says how long ago it was told of."""


def oid_of(content: str) -> str:
    return hashlib.sha256(content.encode("latin-1")).hexdigest()


def publish_copy(app: App, name: MirrorName, source: str) -> RefSnapshot:
    """Publish every ref of a bare repository as the mirror's, through the product's own steps."""

    def git(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run(["git", "-C", source, *arguments], input=data, capture_output=True, check=True).stdout

    tips: dict[RefName, GitOid] = {}
    for line in git("for-each-ref", "--format=%(objectname) %(refname)").splitlines():
        oid, _, ref = line.partition(b" ")
        tips[ref_from_bytes(ref)] = GitOid(oid.decode())
    head = ref_from_bytes(git("symbolic-ref", "HEAD").strip())
    wanted = sorted(set(tips.values()))
    repository = app.repositories.open(name)
    snapshot = RefSnapshot(tips, head)
    if repository.current_view():
        return snapshot  # a reload finds it published
    with repository.lock():
        repository.create(ObjectFormat(git("rev-parse", "--show-object-format").decode().strip()))
        if wanted:
            pack = git("pack-objects", "--revs", "--stdout", "-q", data="\n".join(wanted).encode() + b"\n")
            stage_pack(repository, [pack], max_bytes=1 << 40)
            assert not repository.inspect(wanted).bad
            repository.promote(wanted)
        repository.publish(PublishRequest(repository.next_view(), 0, snapshot, []), confirm=lambda: None)
    return snapshot


class NoWaker:
    def __init__(self) -> None:
        self.pokes = 0

    def poke(self) -> None:
        self.pokes += 1

    def wait(self, seconds: float) -> bool:
        return False

    def close(self) -> None:
        return None


def world_settings(root: Path, *, port: int = 0, **changes: Any) -> Settings:
    """Settings of a world: loopback, one webhook secret."""
    secret = root / "webhook.secret"
    if not secret.exists():
        secret.write_text(SECRET + "\n")
        secret.chmod(0o600)
    settings = Settings(
        server=ServerSettings(listen_port=port),
        storage=StorageSettings(root / "git", root / "lfs", root / "run", reserve_bytes=0),
        webhooks=WebhookSettings((SecretFile("webhooks.secret_file", secret),)),
        serve=ServeSettings(max_streams=8, max_packs=MAX_PACKS, threads=12),
    )
    return replace(settings, **changes)


class World(App):
    """The real App over a state in memory."""

    def __init__(self, settings: Settings, mirrors: dict[str, MirrorSpec]) -> None:
        super().__init__(settings, role="web")
        for directory in (settings.storage.git_dir, settings.storage.lfs_dir, settings.storage.run_dir):
            directory.mkdir(parents=True, exist_ok=True)
        self.memory = MemoryState(self.clock)
        self.no_waker = NoWaker()
        self.__dict__.update(state=self.memory, waker=self.no_waker)
        for name, spec in mirrors.items():
            self.add(name, spec)

    def add(self, name: str, spec: MirrorSpec) -> None:
        state, now = self.memory, self.clock.now()
        word = Visibility(spec.visibility) if spec.visibility else None
        mirror, _ = state.enrol(NewMirror(MirrorName(name), f"https://{name}", 600.0, 3600.0, visibility=word))
        if word is Visibility.TOKEN and state.token(token_digest(TOKEN)) is None:
            state.add_token(token_digest(TOKEN), globs=["*"], expires_at=None, note="for the tests")
        lease = state.claim("w1", lease_seconds=60.0)
        assert lease is not None
        pointers = [
            Pointer(LfsOid(oid_of(text)), len(text))
            for text in [*spec.objects, *spec.queued, *spec.known_missing, *spec.left_out]
        ]
        state.add_scan(
            lease,
            [PointerBlob(GitOid(f"{index:040x}"), pointer) for index, pointer in enumerate(pointers, 1)],
            scanned=None,
        )
        state.judge_lfs(lease, {LfsOid(oid_of(text)): "larger than 1 KiB" for text in spec.left_out})
        for text in spec.objects:
            raw = text.encode("latin-1")
            with self.objects.incomplete(Pointer(LfsOid(oid_of(text)), len(raw))) as part:
                if raw:
                    part.write(0, raw)
                part.promote()
        state.lfs_arrived([LfsOid(oid_of(text)) for text in spec.objects])
        for text in spec.known_missing:
            state.lfs_failed(
                mirror.id, LfsOid(oid_of(text)), code="MS-L404", message="upstream says 404", known_missing=True,
                retry_at=now + 3600,
            )  # fmt: skip
        outcome, code, message = Outcome.PUBLISHED, "", ""
        if spec.repository is not None:
            snapshot = publish_copy(self, MirrorName(name), spec.repository)
            entries = tuple(RefJournalEntry(ref, None, oid, Change.CREATE) for ref, oid in snapshot.tips.items())
            kept = [KeptTip(RunId(0), RefName(ref), GitOid(oid), now, now + 86400.0) for ref, oid in spec.kept]
            intent = PublishIntent(1, "digest", now, entries, snapshot.head, len(entries), complete=not spec.holds)
            run = state.intend(lease, intent, kept=kept)
            state.settle_intent(lease, run, published=True)
        else:
            outcome = Outcome.HELD
        if spec.failure is not None:
            outcome, (code, message) = Outcome.FAILED, spec.failure
        state.finish(
            lease,
            RunReport(
                outcome, now - 1, now, now + 600, code=code, message=message, observed_at=now, digest="digest",
                complete=spec.repository is not None and not spec.holds,
                holds=tuple(Hold(RefName(ref), hold, reason) for ref, hold, reason in spec.holds),
                notes=tuple(spec.notes), ref_updates=1, fetched_bytes=1234,
            ),
        )  # fmt: skip
        if spec.paused is not None:
            state.set_paused(mirror.id, reason=spec.paused)
        if spec.removing:
            state.set_removing(mirror.id, at=now + 3600)
        if spec.progress is not None:
            state.note_progress(mirror.id, progress_of(spec.progress, now))
        state.beat("w1")


def progress_of(told: dict[str, Any], now: float) -> Progress:
    fields = dict(told)
    age = fields.pop("age", -3600.0)  # by default it stays news as long as a test may take
    return Progress(
        Kind(fields.pop("kind")), Way(fields.pop("way")), sources=tuple(fields.pop("sources", ())),
        began_at=now - age - 60.0, at=now - age, **fields,
    )  # fmt: skip


def make_world(root: Path, mirrors: dict[str, MirrorSpec], **changes: Any) -> World:
    return World(world_settings(root, **changes), mirrors)


def write_world(
    root: Path,
    mirrors: dict[str, MirrorSpec],
    *,
    port: int,
    serve: dict[str, float] | None = None,
    trusted_proxies: int = 0,
    constants: dict[str, float] | None = None,
) -> None:
    """Leave a world for another process to serve; ``constants`` are of the product's modules, by their full names."""
    document = {
        "port": port,
        "serve": serve or {},
        "trusted_proxies": trusted_proxies,
        "constants": constants or {},
        "mirrors": {name: asdict(spec) for name, spec in mirrors.items()},
    }
    (root / "world.json").write_text(json.dumps(document))


class Served:
    """A world served by the product's own server in a process of its own."""

    def __init__(
        self,
        root: Path,
        mirrors: dict[str, MirrorSpec],
        *,
        environment: dict[str, str] | None = None,
        **world: Any,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = root / "server.log"
        write_world(root, mirrors, port=self.port, **world)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.web_world", str(root)],
                cwd=Path(__file__).parents[2],
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/healthz", timeout=5) as answer:
                    if answer.status == 200:
                        return self
            except (OSError, urllib.error.URLError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.05)
        raise AssertionError(f"the server did not start:\n{self.text()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def worker_pid(self) -> int:
        """The serving child of the master."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[-1])

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.worker_pid()}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def git_children(self) -> list[int]:
        """Process ids of git children of the serving child."""
        pid = self.worker_pid()
        found: list[int] = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
        return found


def main() -> None:
    from mirror_sync.bootstrap import configure_logs
    from mirror_sync.web import serve

    root = Path(sys.argv[1])
    document = json.loads((root / "world.json").read_text())
    settings = world_settings(root, port=document["port"])
    settings = replace(
        settings,
        serve=replace(settings.serve, **document["serve"]),
        server=replace(settings.server, trusted_proxies=document["trusted_proxies"]),
    )
    for name, value in document["constants"].items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    mirrors = {name: MirrorSpec(**spec) for name, spec in document["mirrors"].items()}
    configure_logs(settings)
    serve(lambda: World(settings, mirrors), settings, graceful_seconds=10)


if __name__ == "__main__":
    main()
