"""The main job, as processes: an upstream, the daemon, clients, and what happens to all of them."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, listed
from tests.support.upstream import GitUpstream, UpstreamRepo


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[GitUpstream]:
    with GitUpstream(tmp_path / "upstream") as server:
        yield server


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "mirror") as made:
        yield made


def model(upstream: GitUpstream, name: str = "acme/model") -> UpstreamRepo:
    repo = upstream.create(name)
    repo.commit({"README.md": "a model\n", "src/train.py": "print('hi')\n"})
    repo.commit({"config.json": "{}"}, lfs={"weights/a.bin": os.urandom(300_000), "weights/b.bin": b"b" * 70_000})
    repo.tag("v1", message="first release")
    repo.tag("light")
    repo.commit({"docs/x.md": "x"}, branch="dev", start="main", lfs={"dev.bin": os.urandom(50_000)})
    return repo


def upstream_refs(repo: UpstreamRepo) -> dict[str, str]:
    return {
        name: oid for name, oid in repo.refs().items() if name.startswith(("refs/heads/", "refs/tags/", "refs/notes/"))
    }


def assert_same_files(clone: Path, repo: UpstreamRepo, tip: str) -> None:
    """Every file of the checkout is the upstream's, LFS objects in place of pointers."""
    tree = repo.git("ls-tree", "-r", "-z", tip).split("\0")
    paths = [line.split("\t", 1)[1] for line in tree if line]
    assert paths
    for path in paths:
        blob = subprocess.run(
            ["git", "--git-dir", str(repo.path), "cat-file", "blob", f"{tip}:{path}"], capture_output=True, check=True
        ).stdout
        if blob.startswith(b"version https://git-lfs"):
            oid = blob.split(b"oid sha256:")[1][:64].decode()
            blob = (repo.lfs.directory / oid).read_bytes()
        assert (clone / path).read_bytes() == blob, path


def test_clone_from_the_mirror_is_what_upstream_has(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    repo = model(upstream)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    document = daemon.published(name)
    assert document["health"] == "fresh"
    assert document["lfs"] == document["lfs"] | {"wanted": 3, "present": 3, "missing": 0}
    assert daemon.refs(name) == upstream_refs(repo)
    for suffix in ("", ".git"):
        clone = daemon.clone(name + suffix, tmp_path / f"clone{suffix}")
        assert_same_files(clone, repo, repo.refs()["refs/heads/main"])
        daemon.git("fsck", "--full", cwd=clone)
        daemon.git("checkout", "-q", "dev", cwd=clone)
        assert_same_files(clone, repo, repo.refs()["refs/heads/dev"])
    daemon.tells(f"git clone {daemon.origin}/{name}\n")


def test_every_kind_of_change_arrives(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    repo = model(upstream)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    old_dev = repo.refs()["refs/heads/dev"]
    repo.commit({"README.md": "newer\n"}, lfs={"weights/c.bin": os.urandom(200_000)})
    repo.force({"dev.md": "rewritten"}, branch="dev")
    repo.commit({"f": "1"}, branch="feature", start="main")
    repo.tag("v2", message="second")
    repo.delete("refs/tags/light")
    assert daemon.sync(name) == 0
    assert daemon.refs(name) == upstream_refs(repo)
    clone = daemon.clone(name, tmp_path / "clone")
    assert_same_files(clone, repo, repo.refs()["refs/heads/main"])
    kept = daemon.cli("refs", "kept", name, "--json")
    assert old_dev in kept.stdout
    repo.commit({"a/b": "1"}, branch="topic", start="main")
    assert daemon.sync(name) == 0
    repo.delete("refs/heads/topic")
    repo.commit({"a/b": "2"}, branch="topic/deeper", start="main")
    assert daemon.sync(name) == 0
    assert daemon.refs(name) == upstream_refs(repo)


def test_webhook_publishes_within_seconds(upstream: GitUpstream, daemon: Daemon) -> None:
    repo = model(upstream)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    tip = repo.commit({"README.md": "pushed\n"})
    began = time.monotonic()
    payload = {
        "ref": "refs/heads/main",
        "after": tip,
        "repository": {"id": 7, "full_name": "acme/model", "clone_url": repo.url},
    }
    assert daemon.hook("push", payload, delivery="d-1") == 202
    daemon.wait_until(lambda: daemon.refs(name)["refs/heads/main"] == tip, "the push is served", seconds=20)
    assert time.monotonic() - began < 20
    assert daemon.hook("push", payload, delivery="d-1") == 202
    assert daemon.hook("push", payload, secret=b"wrong") == 401


def test_a_ref_whose_lfs_object_is_missing_is_held_and_the_others_move(
    upstream: GitUpstream, daemon: Daemon, tmp_path: Path
) -> None:
    repo = model(upstream)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    before = daemon.refs(name)
    repo.commit({"x": "1"}, branch="dev", lfs={"gone.bin": b"g" * 5000})
    gone = next(oid for oid in repo.lfs.oids() if (repo.lfs.directory / oid).read_bytes() == b"g" * 5000)
    repo.lfs.remove(gone)
    main = repo.commit({"y": "2"})
    assert daemon.sync(name) == 3
    served = daemon.refs(name)
    assert served["refs/heads/main"] == main
    assert served["refs/heads/dev"] == before["refs/heads/dev"]
    document = daemon.show(name)
    assert document["lfs"]["missing"] == 1
    assert document["holds"][0]["ref"] == "refs/heads/dev"
    assert document["known_behind_since"]
    assert document["last_run"]["outcome"] == "held"
    daemon.clone(name, tmp_path / "clone")
    assert "gone.bin" in daemon.cli("why", name).stdout
    repo.lfs.put(b"g" * 5000)
    assert daemon.sync(name) == 0
    assert daemon.refs(name) == upstream_refs(repo)


def test_a_strange_list_changes_nothing(upstream: GitUpstream, daemon: Daemon) -> None:
    repo = model(upstream)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    before = daemon.refs(name)
    for body in (b"", b"<html>login</html>", b'{"message": "no"}'):
        upstream.fault("info/refs", status=200, body=body)
        upstream.fault("git-upload-pack", status=200, body=body)
        assert daemon.sync(name) == 1
        assert daemon.refs(name) == before
        upstream.heal()
    for ref in upstream_refs(repo):
        repo.delete(ref)
    assert daemon.sync(name) == 3
    assert daemon.refs(name) == before
    assert daemon.show(name)["holds"][0]["code"] == "MS-H001"
    assert daemon.cli("refs", "release", name).returncode == 0
    assert daemon.sync(name) == 0
    assert daemon.refs(name) == {}


def test_kill_and_restart_lose_nothing(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    repo = upstream.create("acme/big")
    repo.commit({"README": "big"}, lfs={"big.bin": os.urandom(60_000_000)})
    upstream.fault("GET /-/lfs/", times=None, drip=(65_536, 0.4))
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    for _ in range(3):
        daemon.wait_until(
            lambda: (daemon.show(name)["run"] or {}).get("step") == "transfer", "the object is on its way"
        )
        time.sleep(1.6)
        daemon.kill()
        daemon.start()
    upstream.heal()
    daemon.published(name)
    assert_same_files(daemon.clone(name, tmp_path / "clone"), repo, repo.refs()["refs/heads/main"])
    fetched = upstream.seen("GET /-/lfs/")
    assert any(request.headers.get("range") for request in fetched), "a broken transfer goes on from what is on disk"
    assert daemon.terminate() == 0


def test_readers_see_one_snapshot_or_the_next(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    repo = upstream.create("acme/moving")
    first = repo.commit({"n": "0"}, lfs={"w.bin": os.urandom(1000)})
    for number in range(20):
        repo.update(f"refs/heads/b{number}", first)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    faults: list[str] = []
    done = threading.Event()
    counted = [0]

    def read() -> None:
        number = 0
        while not done.is_set():
            tips = set(daemon.refs(name).values())
            if len(tips) != 1:
                faults.append(f"mixed: {tips}")
            number += 1
            if number % 5 == 0:
                clone = daemon.clone(name, tmp_path / f"read-{number}")
                daemon.git("fsck", "--full", cwd=clone)
            counted[0] = number

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 8):
            tip = repo.commit({"n": str(number)}, lfs={"w.bin": os.urandom(1000)})
            repo.update_many({f"refs/heads/b{index}": tip for index in range(20)})
            assert daemon.sync(name) == 0
    finally:
        done.set()
        reader.join(120)
    assert not faults
    assert counted[0] > 5


def test_commands_print_the_contract(upstream: GitUpstream, daemon: Daemon) -> None:
    repo = model(upstream)
    other = upstream.create("acme/other")
    other.commit({"a": "b"})
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    assert daemon.cli("add", other.url).returncode == 0
    daemon.published(daemon.name(other.url))
    shown = json.loads(daemon.cli("show", name, "--json").stdout)
    for key in (
        "name",
        "upstream",
        "health",
        "activity",
        "confirmed_at",
        "lag_seconds",
        "known_behind_since",
        "lfs",
        "last_run",
    ):
        assert key in shown
    assert {"wanted", "present", "missing"} <= shown["lfs"].keys()
    assert {"outcome", "code", "message"} <= shown["last_run"].keys()
    assert shown.keys() == daemon.show(name).keys()
    items = json.loads(daemon.cli("ls", "--json").stdout)["items"]
    assert [item["name"] for item in items] == sorted([name, daemon.name(other.url)])
    assert {item["name"] for item in daemon.json("/api/v1/mirrors")["items"]} == {name, daemon.name(other.url)}
    json.loads(daemon.cli("status", "--json").stdout)
    assert daemon.cli("check").returncode == 0
    assert daemon.cli("show", "nowhere.example/x").returncode == 5
    assert daemon.cli("pause", name).returncode == 0
    assert daemon.show(name)["health"] == "paused"
    assert daemon.refs(name) == upstream_refs(repo)
    assert daemon.cli("resume", name).returncode == 0
    status, body, _ = daemon.get("/metrics")
    assert status == 200
    assert b"mirror_sync_" in body
    assert daemon.get("/readyz")[0] == 200
    assert daemon.cli("rm", daemon.name(other.url), "--now", "--yes").returncode == 0
    daemon.wait_until(
        lambda: daemon.get(f"/{daemon.name(other.url)}/info/refs?service=git-upload-pack")[0] in (404, 410), "removed"
    )


def test_push_is_refused_with_a_reason(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    repo = model(upstream)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    clone = daemon.clone(name, tmp_path / "clone")
    (clone / "new").write_text("x")
    daemon.git("add", "new", cwd=clone)
    daemon.git("commit", "-qm", "x", cwd=clone)
    refused = daemon.git("push", cwd=clone, check=False)
    assert refused.returncode != 0
    assert repo.url.removesuffix(".git") in refused.stderr


def test_shallow_partial_and_old_protocol_clones(upstream: GitUpstream, daemon: Daemon, tmp_path: Path) -> None:
    repo = model(upstream)
    daemon.start(repo.url)
    name = daemon.name(repo.url)
    daemon.published(name)
    assert listed(daemon.git("-c", "protocol.version=0", "ls-remote", daemon.url(name)).stdout) == upstream_refs(repo)
    daemon.git("-c", "protocol.version=0", "clone", "-q", "--mirror", daemon.url(name), str(tmp_path / "v0"))
    daemon.clone(name, tmp_path / "shallow", "--depth=1")
    daemon.git("clone", "-q", "--bare", "--filter=blob:none", daemon.url(name), str(tmp_path / "partial"))
    refused = daemon.git(
        "clone", "-q", "--bare", "--filter=tree:5", daemon.url(name), str(tmp_path / "tree"), check=False
    )
    assert refused.returncode != 0
