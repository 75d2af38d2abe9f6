"""The stock Hugging Face client against the product's own server, and what only other clients ask."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from mirror_sync.config import HuggingFaceSettings
from mirror_sync.web import create_app, hub
from tests.support.history import build_history
from tests.support.link import Link, Weather
from tests.support.pointers import pointer_text
from tests.support.upstream import GitUpstream, UpstreamRepo
from tests.support.web_world import MirrorSpec, Served, World, make_world, oid_of

WEIGHTS = "".join(chr(index * 7 % 256) for index in range(1009)) * 600
OID = oid_of(WEIGHTS)
ODD = "sub dir/a b%20\u00e9#?&+\\x.txt"
CONFIG = b'{"model_type": "tiny"}\n'

BEGIN = """
import json, os, sys
import huggingface_hub as h
from pathlib import Path
api = h.HfApi()
def files(top):
    top = Path(top)
    return {str(p.relative_to(top)): p.read_bytes().hex() for p in sorted(top.rglob("*")) if p.is_file() and ".cache" not in p.parts}
def error(call, *args, **kwargs):
    try: call(*args, **kwargs)
    except Exception as found: return type(found).__name__
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpstreamRepo]:
    with GitUpstream(tmp_path_factory.mktemp("source")) as upstream:
        repo = upstream.create("acme/model")
        first = repo.commit({"README.md": "hello\n", "config.json": CONFIG})
        repo.tag("v1", message="one")
        repo.update("refs/heads/feature/x", first)
        repo.update("refs/pr/1", first)
        repo.commit(
            {ODD: b"odd\n", "empty": b"", "text.ptr": pointer_text("ab" * 32, 7)},
            lfs={"deep/er/weights.bin": WEIGHTS.encode("latin-1")},
        )
        yield repo


@pytest.fixture(scope="module")
def mirrors(source: UpstreamRepo) -> dict[str, MirrorSpec]:
    spec = MirrorSpec(repository=str(source.path), queued=[WEIGHTS])  # refers to it; the first mirror brings it
    return {
        "huggingface.co/acme/model": MirrorSpec(repository=str(source.path), objects=[WEIGHTS]),
        "huggingface.co/gpt2": spec,
        "huggingface.co/datasets/acme/data": spec,
        "huggingface.co/spaces/acme/app": spec,
        "git.example/acme/tool": spec,
        "git.example/acme/new": MirrorSpec(queued=["x1"]),
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mirrors: dict[str, MirrorSpec]) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served"), mirrors) as served:
        yield served


class Outside:
    """A proxy that lets nothing out and remembers who tried."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                self.asked.append(client.recv(4096))

    def close(self) -> None:
        self._socket.close()


def stock_client(origin: str, home: Path, script: str) -> Any:
    """Run a script with the stock client as a user would: only the endpoint is set.  Returns what it assigns to ``out``."""
    outside = Outside()
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": f"{origin}/hf",
        "HTTP_PROXY": outside.url, "HTTPS_PROXY": outside.url, "NO_PROXY": "127.0.0.1", "PYTHONWARNINGS": "ignore",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", f"{BEGIN}\n{script}\nprint('OUT' + json.dumps(out))"],
        env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    outside.close()
    assert ran.returncode == 0, ran.stderr
    assert outside.asked == []
    return json.loads(ran.stdout.rpartition("OUT")[2])


def expected(source: UpstreamRepo, revision: str) -> dict[str, str]:
    """What a checkout has, LFS and all."""
    found: dict[str, str] = {}
    for path in source.git("ls-tree", "-r", "-z", "--name-only", revision).split("\0")[:-1]:
        blob = subprocess.run(
            ["git", "-C", str(source.path), "cat-file", "blob", f"{revision}:{path}"], capture_output=True, check=True
        ).stdout
        found[path] = (WEIGHTS.encode("latin-1") if path.endswith(".bin") else blob).hex()
    return found


def test_snapshots_by_branch_tag_and_commit(served: Served, source: UpstreamRepo, tmp_path: Path) -> None:
    tip, first = (source.git("rev-parse", f"{name}^{{commit}}").strip() for name in ("main", "v1"))
    script = f"""
out = {{}}
for name in (None, "v1", "feature/x", "refs/pr/1", "{tip}", "{first}"):
    top = h.snapshot_download("acme/model", revision=name, cache_dir=f"cache-{{name and name.replace('/', '_')}}")
    out[str(name)] = [Path(top).name, files(top)]
out["local"] = files(h.snapshot_download("acme/model", local_dir="here"))
out["some"] = sorted(files(h.snapshot_download("acme/model", local_dir="some", allow_patterns=["*.json"])))
"""
    out = stock_client(served.url, tmp_path, script)
    newest, oldest = [tip, expected(source, "main")], [first, expected(source, "v1")]
    assert out["None"] == out[tip] == newest
    assert out["v1"] == out["feature/x"] == out["refs/pr/1"] == out[first] == oldest
    assert out["local"] == newest[1]
    assert out["some"] == ["config.json"]


def test_datasets_spaces_and_single_files(served: Served, source: UpstreamRepo, tmp_path: Path) -> None:
    script = f"""
out = {{}}
for kind, name in (("dataset", "acme/data"), ("space", "acme/app")):
    out[kind] = files(h.snapshot_download(name, repo_type=kind))
out["lfs"] = Path(h.hf_hub_download("acme/model", "weights.bin", subfolder="deep/er")).read_bytes().hex()
out["plain"] = Path(h.hf_hub_download("acme/model", "config.json", revision="feature/x")).read_bytes().hex()
out["odd"] = Path(h.hf_hub_download("acme/model", {ODD!r})).read_bytes().hex()
out["one word"] = Path(h.hf_hub_download("gpt2", "config.json")).read_bytes().hex()
about = h.get_hf_file_metadata(h.hf_hub_url("acme/model", "deep/er/weights.bin"))
out["about"] = [about.etag, about.size, about.commit_hash, about.location, about.xet_file_data]
fs = h.HfFileSystem()
out["fs"] = [sorted(fs.ls("acme/model/deep", detail=False)), fs.size("datasets/acme/data/deep/er/weights.bin")]
with fs.open("acme/model/deep/er/weights.bin") as file:
    file.seek(1000)
    out["seek"] = file.read(500).hex()
"""
    out = stock_client(served.url, tmp_path, script)
    raw = WEIGHTS.encode("latin-1")
    assert out["dataset"] == out["space"] == expected(source, "main")
    assert out["lfs"] == raw.hex()
    assert out["plain"] == out["one word"] == CONFIG.hex()
    assert out["odd"] == b"odd\n".hex()
    assert out["about"] == [
        OID, len(raw), source.git("rev-parse", "main").strip(),
        f"{served.url}/hf/acme/model/resolve/main/deep/er/weights.bin", None,
    ]  # fmt: skip
    assert out["fs"] == [["acme/model/deep/er"], len(raw)]
    assert out["seek"] == raw[1000:1500].hex()


def test_lists_and_what_is_not_there(served: Served, source: UpstreamRepo, tmp_path: Path) -> None:
    script = """
out = {"files": sorted(api.list_repo_files("acme/model"))}
info = api.model_info("acme/model", revision="v1", files_metadata=True)
out["info"] = [info.id, info.sha, info.author, info.private, [[s.rfilename, s.size, s.blob_id, s.lfs and s.lfs.sha256] for s in info.siblings]]
out["sha"] = [api.dataset_info("acme/data").sha, api.space_info("acme/app").sha, api.model_info("gpt2").sha]
out["modified"] = info.last_modified.timestamp()
refs = api.list_repo_refs("acme/model", include_pull_requests=True)
out["refs"] = [[r.ref, r.name, r.target_commit] for r in [*refs.branches, *refs.tags, *refs.pull_requests]]
out["tree"] = [[e.path, getattr(e, "size", None)] for e in api.list_repo_tree("acme/model", "deep", recursive=True, expand=True)]
weights, folder = api.get_paths_info("acme/model", ["deep/er/weights.bin", "deep", "nothing"])
out["paths"] = [weights.lfs.sha256, weights.lfs.size, weights.size, folder.path]
out["exists"] = [api.file_exists("acme/model", "README.md"), api.file_exists("acme/model", "nothing"),
                 api.repo_exists("acme/model"), api.repo_exists("acme/nobody"), api.revision_exists("acme/model", "v2")]
out["errors"] = [
    error(h.hf_hub_download, "acme/nobody", "config.json"), error(h.snapshot_download, "acme/nobody"),
    error(h.hf_hub_download, "acme/data", "config.json"), error(api.model_info, "acme/nobody"),
    error(h.hf_hub_download, "acme/model", "config.json", revision="v2"),
    error(h.snapshot_download, "acme/model", revision="v2"), error(api.model_info, "acme/model", revision="v2"),
    error(h.hf_hub_download, "acme/model", "nothing"), error(h.hf_hub_download, "acme/model", "deep"),
    error(lambda: list(api.list_repo_tree("acme/model", "nothing"))),
    error(api.upload_file, path_or_fileobj=b"x", path_in_repo="x", repo_id="acme/model"),
]
"""
    out = stock_client(served.url, tmp_path, script)
    tip, first = (source.git("rev-parse", f"{name}^{{commit}}").strip() for name in ("main", "v1"))
    assert out["files"] == sorted(expected(source, "main"))
    listed = [line.split() for line in source.git("ls-tree", "-r", "-l", "v1").splitlines()]
    siblings = [[path, int(size), blob, None] for _, _, blob, size, path in listed]
    assert out["info"] == ["acme/model", first, "acme", False, siblings]
    assert out["sha"] == [tip, tip, tip]
    assert out["modified"] == float(source.git("show", "-s", "--format=%ct", first))
    assert out["refs"] == [
        ["refs/heads/feature/x", "feature/x", first], ["refs/heads/main", "main", tip],
        ["refs/tags/v1", "v1", first], ["refs/pr/1", "1", first],
    ]  # fmt: skip
    assert out["tree"] == [["deep/er", None], ["deep/er/weights.bin", len(WEIGHTS)]]
    assert out["paths"] == [OID, len(WEIGHTS), len(WEIGHTS), "deep"]
    assert out["exists"] == [True, False, True, False, False]
    missing, revision, entry = "RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"
    assert out["errors"] == [
        missing, missing, missing, missing, revision, revision, revision, entry, entry, entry, "HfHubHTTPError"
    ]  # fmt: skip


def test_a_cut_download_goes_on_where_it_was(served: Served, tmp_path: Path) -> None:
    with Link(served.port, Weather(cut_bytes=(400_000, 400_000))) as link:
        # what arrives is kept by pieces of ten megabytes otherwise
        script = 'h.constants.DOWNLOAD_CHUNK_SIZE = 10_000; out = Path(h.hf_hub_download("acme/model", "deep/er/weights.bin")).read_bytes().hex()'
        assert stock_client(link.origin, tmp_path, script) == WEIGHTS.encode("latin-1").hex()
        assert link.count().cuts == 1
        assert link.count().down < len(WEIGHTS) + 100_000
    assert re.search(r'resolve/main/deep/er/weights\.bin.*"status": ?206|206.*weights\.bin', served.text())


# ---------------------------------------------------------------- request by request


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mirrors: dict[str, MirrorSpec]) -> Iterator[World]:
    many = tmp_path_factory.mktemp("many")
    build_history(many / "many.git", 30)
    added = {"huggingface.co/acme/many": MirrorSpec(repository=str(many / "many.git"))}
    with make_world(tmp_path_factory.mktemp("world"), mirrors | added) as world:
        yield world


@pytest.fixture
def client(world: World) -> FlaskClient:
    return create_app(world).test_client()


def test_pages_of_a_tree_lead_on_here_and_stay_at_one_commit(client: FlaskClient, source: UpstreamRepo) -> None:
    tip = source.git("rev-parse", "main").strip()
    link: str | None = "/hf/api/models/acme/model/tree/main?recursive=True&limit=2"
    found: list[dict[str, Any]] = []
    pages = 0
    while link:
        answer = client.get(link)
        assert answer.status_code == 200
        found += answer.json or []
        following = re.fullmatch(
            r'<http://localhost(/hf/api/models/acme/model/tree/[^>]*)>; rel="next"', answer.headers.get("Link", "")
        )
        assert following is not None or "Link" not in answer.headers
        link = following[1] if following else None
        assert link is None or link.startswith(f"/hf/api/models/acme/model/tree/{tip}?")
        pages += 1
    whole = client.get("/hf/api/models/acme/model/tree/main?recursive=1")
    assert found == whole.json
    assert pages == (len(found) + 1) // 2
    assert "Link" not in whole.headers
    assert whole.headers["X-Repo-Commit"] == tip


def test_a_page_below_a_directory_leads_on_below_it(client: FlaskClient) -> None:
    answer = client.get(f"/hf/api/models/acme/model/tree/feature%2Fx/{quote('.')}")
    assert (answer.status_code, answer.headers["X-Error-Code"]) == (404, "EntryNotFound")
    paths: list[str] = []
    link = "/hf/api/models/acme/model/tree/main/deep?recursive=true&limit=1"
    while link:
        answer = client.get(link)
        paths += [entry["path"] for entry in answer.json or []]
        link = answer.headers.get("Link", "").partition(">")[0].removeprefix("<http://localhost")
    assert paths == ["deep/er", "deep/er/weights.bin"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("api/models/acme/model/revision/feature/x", 200, None),
        ("api/models/acme/model/tree/feature/x", 200, None),
        ("acme/model/resolve/feature/x/config.json", 200, None),
        ("models/acme/model/resolve/main/config.json", 200, None),
        ("datasets/acme/data/resolve/main/config.json", 200, None),
        ("git.example/acme/tool/resolve/main/config.json", 200, None),
        ("api/models/git.example/acme/tool", 200, None),
        ("api/models/acme/tool", 404, "RepoNotFound"),
        ("api/datasets/acme/model", 404, "RepoNotFound"),
        ("acme/model/resolve/main", 404, "EntryNotFound"),
        ("acme/model/resolve/main/deep", 404, "EntryNotFound"),
        ("acme/model/resolve/main/%00", 404, "EntryNotFound"),
        ("acme/model/resolve/", 404, "RevisionNotFound"),
        ("acme/../resolve/main/x", 404, "RepoNotFound"),
        ("../../etc/passwd/resolve/main/x", 404, "RepoNotFound"),
        ("api/models/acme/model/tree/main/config.json", 404, "EntryNotFound"),
        ("api/models/acme/model/tree/nowhere", 404, "RevisionNotFound"),
        ("api/models/acme/model/tree/main?cursor=%21", 400, None),
        ("api/models/acme/model/tree/main?limit=0", 400, None),
        ("api/whoami-v2", 404, None),
        ("api/agent-harnesses", 404, None),
        ("api/models", 404, None),
        ("x", 404, None),
    ],
)
def test_every_path_has_its_answer(client: FlaskClient, path: str, status: int, code: str | None) -> None:
    answer = client.get(f"/hf/{path}", buffered=True)
    assert (answer.status_code, answer.headers.get("X-Error-Code")) == (status, code)
    if status >= 400:
        assert answer.json is not None
        assert answer.json["error"]
        assert answer.headers["X-Error-Message"]
    if code == "EntryNotFound":
        assert answer.headers["X-Repo-Commit"]


def test_nothing_is_written(client: FlaskClient) -> None:
    for path in (
        "acme/model/resolve/main/x",
        "api/models/acme/model",
        "api/models/acme/model/commit/main",
        "api/repos/create",
    ):
        answer = client.post(f"/hf/{path}", json={})
        assert answer.status_code == 403
        assert "read-only" in answer.headers["X-Error-Message"]
    assert client.get("/hf/api/models/acme/model/paths-info/main").status_code == 403


def test_a_mirror_that_is_not_filled_yet_says_so(world: World) -> None:
    settings = replace(world.settings, huggingface=HuggingFaceSettings(("git.example",)))
    client = create_app(other(world, settings)).test_client()
    answer = client.get("/hf/acme/new/resolve/main/config.json")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert "first time" in answer.headers["X-Error-Message"]


def test_hosts_answer_in_the_order_of_the_configuration(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(world.settings, huggingface=HuggingFaceSettings(("git.example", "huggingface.co")))
    client = create_app(other(world, settings)).test_client()
    for kind in ("models", "datasets", "spaces"):
        assert client.get(f"/hf/api/{kind}/acme/tool").status_code == 200
    assert client.get("/hf/api/models/acme/model").status_code == 200
    assert client.get("/hf/api/datasets/acme/model").status_code == 404
    none = create_app(other(world, replace(settings, huggingface=HuggingFaceSettings(())))).test_client()
    assert none.get("/hf/api/models/acme/model").headers["X-Error-Code"] == "RepoNotFound"


def other(world: World, settings: Any) -> World:
    """The same world under other settings."""
    found = object.__new__(World)
    found.__dict__.update(world.__dict__, settings=settings)
    return found


def test_paths_are_taken_as_a_form_and_as_json(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "/hf/api/models/acme/model/paths-info/main"
    form = client.post(url, data={"paths": [ODD, "deep", "nothing", "/README.md"], "expand": "False"})
    told = client.post(url, json={"paths": [ODD, "deep", "nothing", "/README.md"], "expand": False})
    assert form.status_code == told.status_code == 200
    assert form.json == told.json
    assert [entry["path"] for entry in form.json or []] == [ODD, "deep", "README.md"]
    assert client.post(url, json={"paths": "README.md"}).json == client.post(url, data={"paths": "README.md"}).json
    monkeypatch.setattr(hub, "MOST_PATHS", 3)
    assert client.post(url, json={"paths": ["x"] * 4}).status_code == 413
    for body in (b"{", b"[]", b'{"paths": [1]}', b"\xff"):
        assert client.post(url, data=body, content_type="application/json").status_code == 400


def test_a_list_of_files_is_cut_where_clients_know_it_is(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = client.get("/hf/api/models/acme/many").json
    assert whole is not None
    assert len(whole["siblings"]) > 40
    monkeypatch.setattr(hub, "SIBLINGS_STEP", 7)
    assert client.get("/hf/api/models/acme/many").json == whole
    monkeypatch.setattr(hub, "MOST_SIBLINGS", 20)
    cut = client.get("/hf/api/models/acme/many").json
    assert cut is not None
    assert cut["siblings"] == whole["siblings"][:20]


def test_the_page_for_users_shows_the_way(world: World, client: FlaskClient) -> None:
    page = client.get("/use").text
    assert "export HF_ENDPOINT=http://localhost/hf" in page
    assert re.search(r"wget -c http://localhost/[^ ]+/resolve/HEAD/README\.md", page)
    nobody = replace(world.settings, huggingface=HuggingFaceSettings(()))
    assert "HF_ENDPOINT" not in create_app(other(world, nobody)).test_client().get("/use").text
