"""Repositories that are not mirrored yet, asked for by real clients, under every rule of their host."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.compare import assert_same_files, git_output
from tests.support.daemon import Daemon
from tests.support.upstream import GitUpstream, UpstreamRepo

SECRET = "the-operators-own"

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
[database]
url = "state.db"
[storage]
git_dir = "git"
lfs_dir = "lfs"
run_dir = "run"
reserve = "none"
[class."asked"]
max_object = "1KiB"
[upstream."{demand}"]
allow_http = true
allow_private = true
token_file = "token"
unknown = "add-on-demand"
on_demand = ["acme/*", "secret/*"]
on_demand_class = "asked"
on_demand_hourly = 3
on_demand_wait = "60s"
[upstream."{redirect}"]
allow_http = true
allow_private = true
unknown = "redirect"
"""


@dataclass
class Site:
    upstream: GitUpstream
    daemon: Daemon
    kept: UpstreamRepo

    def name(self, path: str, *, redirected: bool = False) -> str:
        host = "localhost" if redirected else "127.0.0.1"
        return f"{host}:{self.upstream.port}/{path}"

    def mirrors(self) -> set[str]:
        return {item["name"] for item in self.daemon.json("/api/v1/mirrors")["items"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("unknown")
    with GitUpstream(base / "upstream") as upstream, Daemon(base / "mirror") as daemon:
        kept = upstream.create("acme/kept")
        kept.commit({"README": "kept\n"})
        daemon.directory.mkdir(parents=True)
        (daemon.directory / "token").write_text(SECRET + "\n")
        (daemon.directory / "token").chmod(0o600)
        hosts = {"demand": f"127.0.0.1:{upstream.port}", "redirect": f"localhost:{upstream.port}"}
        (daemon.directory / "config.toml").write_text(CONFIG.format(port=daemon.port, **hosts))
        daemon.start(kept.url)
        daemon.published(daemon.name(kept.url))
        yield Site(upstream, daemon, kept)


def test_the_first_clone_of_an_allowed_repository_adds_it_and_waits(site: Site, tmp_path: Path) -> None:
    repo = site.upstream.create("acme/wanted")
    tip = repo.commit({"a": "b\n"}, lfs={"large.bin": b"L" * 5000})
    name = site.name("acme/wanted")
    site.daemon.git("clone", "-q", "-c", "filter.lfs.smudge=", site.daemon.url(name), str(tmp_path / "work"))
    assert git_output(tmp_path / "work", "rev-parse", "HEAD").decode().strip() == tip
    assert site.daemon.show(name)["class"] == "asked"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("other/wanted", "Ask the operator to run: mirror-sync add"),
        ("acme/no-such", "MS-U404"),
        ("secret/plans", "MS-A401"),
    ],
)
def test_what_is_not_allowed_or_not_shown_to_everybody_is_explained(site: Site, path: str, says: str) -> None:
    private = site.upstream.create("secret/plans") if path == "secret/plans" else None
    if private is not None:
        private.commit({"a": "b"})
        private.token = SECRET  # this machine may read it; whoever asks may not
    before = site.mirrors()
    done = site.daemon.git("clone", site.daemon.url(site.name(path)), check=False)
    assert done.returncode == 128
    assert "remote: " in done.stderr
    assert says in done.stderr
    assert SECRET not in done.stderr
    assert site.mirrors() == before


def test_a_host_has_a_limit_by_the_hour(site: Site, tmp_path: Path) -> None:
    refused = ""
    for number in range(4):
        site.upstream.create(f"acme/many{number}").commit({"a": str(number)})
        url = site.daemon.url(site.name(f"acme/many{number}"))
        refused += site.daemon.git("clone", "-q", url, str(tmp_path / str(number)), check=False).stderr
    assert "3 repositories of" in refused
    assert len(site.mirrors()) <= 4


def test_a_redirecting_host_serves_every_repository_through_one_address(site: Site, tmp_path: Path) -> None:
    repo = site.upstream.create("elsewhere/model")
    tip = repo.commit({"a": "b\n"})
    name = site.name("elsewhere/model", redirected=True)
    work = tmp_path / "work"
    done = site.daemon.git("clone", site.daemon.url(name) + ".git", str(work))
    assert "redirecting to http://localhost:" in done.stderr
    assert_same_files(work, repo, tip)
    repo.commit({"a": "c\n"})
    git_output(work, "pull", "-q")
    assert (work / "a").read_text() == "c\n"
    assert name not in site.mirrors()


def test_a_redirect_leads_to_the_listed_host_alone(site: Site) -> None:
    host = f"localhost:{site.upstream.port}"
    for path, status in [
        (f"/{host}/a/b.git/info/refs?service=git-upload-pack", 302),
        (f"/{host.upper()}/a/b/info/refs?service=git-receive-pack", 302),
        ("/other.example/a/b/info/refs?service=git-upload-pack", 404),
        (f"/{host}@other.example/a/b/info/refs?service=git-upload-pack", 404),
        (f"/{host}.other.example/a/b/info/refs?service=git-upload-pack", 404),
        (f"//other.example/{host}/a/b/info/refs?service=git-upload-pack", 404),
        (f"/{host}/../../other.example/x/info/refs?service=git-upload-pack", 404),
    ]:
        found, location = raw_get(site.daemon.port, path)
        assert (path, found) == (path, status)
        if status == 302:
            assert location == f"http://{host}/{path.split('/', 2)[2]}"


def raw_get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("GET", path, skip_accept_encoding=True)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers.get("Location", "")
