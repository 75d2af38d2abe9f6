"""An upstream, an App that syncs from it, and its web on a port: for tests of who may read."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

from mirror_sync.bootstrap import App, build, upgrade_database
from mirror_sync.config import load_text, write_secret
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Mirror, RunReport, Visibility
from mirror_sync.web import create_app
from tests.support.upstream import GitUpstream, UpstreamRepo, isolated_git_environment

LFS = "application/vnd.git-lfs+json"
OURS = "the-daemons-own-upstream-credential"


@dataclass
class Reply:
    """What a request got."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Say nothing."""


@dataclass
class AccessWorld:
    """``repo`` is upstream's; ``name`` its mirror here; ``origin`` where the web is."""

    up: GitUpstream
    app: App
    directory: Path
    origin: str
    environment: dict[str, str]
    served: list[str] = field(default_factory=list)

    def repo(self, name: str = "acme/model", *, lfs: bytes = b"weights" * 1000) -> UpstreamRepo:
        """Make an upstream repository with one commit and one LFS object."""
        repo = self.up.create(name)
        repo.commit({"README.md": f"{name}\n"}, lfs={"weights.bin": lfs + name.encode()})
        return repo

    def keep(self, repo: UpstreamRepo, visibility: Visibility | None = None) -> MirrorName:
        """Mirror a repository and sync it once."""
        mirror, _ = self.app.enrol(repo.url, visibility=visibility)
        self.sync(mirror.name)
        return mirror.name

    def sync(self, name: MirrorName) -> RunReport:
        self.app.request_sync(name)
        lease = self.app.claim("here")
        assert lease is not None
        assert lease.mirror.name == name
        return self.app.sync(lease, stop=threading.Event())

    def mirror(self, name: MirrorName) -> Mirror:
        return self.app.state.mirror(name)

    def token(self, *globs: str, lasts: float | None = None) -> str:
        return self.app.create_token(globs, lasts=lasts, note="a test")[0]

    def get(
        self,
        path: str,
        *,
        password: str = "",
        user: str = "me",
        bearer: str = "",
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Ask; ``path`` may be a whole URL."""
        url = path if "://" in path else f"{self.origin}{path}"
        request = urllib.request.Request(url, data=data, headers=dict(headers or {}))
        if password:
            request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        if bearer:
            request.add_header("Authorization", f"Bearer {bearer}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return Reply(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read(), dict(error.headers))

    def refs(self, name: str, **how: Any) -> Reply:
        """Ask for a repository's refs as git does."""
        return self.get(f"/{name}.git/info/refs?service=git-upload-pack", **how)

    def batch(self, name: str, oid: str, size: int, **how: Any) -> Reply:
        document = {"operation": "download", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
        headers = {"Accept": LFS, "Content-Type": LFS}
        return self.get(
            f"/{name}.git/info/lfs/objects/batch", data=json.dumps(document).encode(), headers=headers, **how
        )

    def git(self, *arguments: str, password: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run git as a client whose credential helper knows one password."""
        helper = f'!f() {{ test "$1" = get && echo username=me && echo password={password}; }}; f' if password else ""
        done = subprocess.run(
            ["git", "-c", "credential.helper=", "-c", f"credential.helper={helper}", *arguments],
            env=self.environment | {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "false"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done


@contextlib.contextmanager
def access_world(
    root: Path, *, access: str = "", more: str = "", rule: str = "", ours: bool = False
) -> Iterator[AccessWorld]:
    """Make a world; ``access``, ``more`` and ``rule`` (of the upstream host) are TOML; with ``ours`` the daemon has a token for its upstream."""
    directory = root / "mirror"
    directory.mkdir(parents=True)
    with GitUpstream(root / "up") as up:
        host = up.origin.partition("://")[2]
        write_secret(directory / "token", OURS)
        token = 'token_file = "token"\n' if ours else ""
        text = (
            '[database]\nurl = "state.db"\n[storage]\ngit_dir = "git"\nlfs_dir = "lfs"\nrun_dir = "run"\n'
            f'[workers]\nlease = "50m"\n[upstream."{host}"]\nallow_http = true\nallow_private = true\n{token}{rule}\n'
            f"[metrics]\nper_mirror = true\n[access]\n{access}\n{more}\n"
        )
        settings = load_text(text, path=directory / "config.toml")
        for name in ("run", "git", "lfs"):
            (directory / name).mkdir()
        upgrade_database(settings)
        with build(settings, role="web") as app:
            app.recover_all()
            server = make_server("127.0.0.1", 0, create_app(app), threaded=True, request_handler=_Quiet)
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            environment = isolated_git_environment(root / "home") | {"PATH": os.environ["PATH"]}
            try:
                yield AccessWorld(up, app, directory, f"http://127.0.0.1:{server.server_port}", environment)
            finally:
                server.shutdown()
                server.server_close()
                thread.join()
