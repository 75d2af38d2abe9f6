"""Repositories of every shape through one daemon, and upstreams of every kind."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.compare import assert_same_files, assert_same_refs, git_output, objects_of, refs_of, upstream_refs
from tests.support.daemon import WITH_LFS, Daemon
from tests.support.upstream import GitUpstream, UpstreamRepo, make_authority, pointer_text

CANARY = "canary-6f1d27c0b5"
LFS_TYPE = "application/vnd.git-lfs+json"
ABSENT = "a" * 64
MANY_REFS = 50_000
HOSTILE_REFS = (
    "refs/heads/<script>alert(1)</script>",
    "refs/heads/" + "x" * 250,
    "refs/heads/späße/日本語",
    os.fsdecode(b"refs/heads/latin-\xe9\xff"),
    "refs/heads/'quoted'\"and;$(touch${IFS}x)|&",
    "refs/heads/-dash",
    "refs/tags/%2e%2e%00",
    "refs/heads/right\u202eto-left",
)
TOO_LONG = "refs/heads/" + "y" * 251


@dataclass
class Site:
    """One daemon and the upstreams it follows."""

    daemon: Daemon
    plain: GitUpstream
    guarded: GitUpstream
    secure: GitUpstream

    def name(self, repo: UpstreamRepo) -> str:
        return self.daemon.name(repo.url)

    def add(self, repo: UpstreamRepo) -> str:
        """Mirror one more repository; return its name."""
        assert self.daemon.cli("add", repo.url).returncode == 0
        return self.name(repo)

    def sync(self, repo: UpstreamRepo) -> str:
        """Tell of a push and return the outcome of the sync that follows."""
        number = 1 + [each.url for each in self.repos()].index(repo.url)
        asked = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        payload = {
            "ref": "refs/heads/main",
            "repository": {"id": number, "full_name": repo.name, "clone_url": repo.url},
        }
        assert self.daemon.hook("push", payload) == 202

        def last_run() -> dict[str, Any] | None:
            last = self.show(repo)["last_run"]
            return last if last["started_at"] >= asked and last["outcome"] != "abandoned" else None

        run = self.daemon.wait_until(last_run, f"{repo.name} was synced again")
        return str(run["outcome"])

    def repos(self) -> list[UpstreamRepo]:
        return [repo for upstream in (self.plain, self.guarded, self.secure) for repo in upstream.repos.values()]

    def show(self, repo: UpstreamRepo) -> dict[str, Any]:
        return self.daemon.show(self.name(repo))

    def wait_for_run(self, repo: UpstreamRepo, *, seconds: float = 60.0) -> dict[str, Any]:
        """Return the document once the first run has ended."""
        return self.daemon.wait_until(
            lambda: (shown := self.show(repo))["last_run"] and shown, f"{repo.name} was synced", seconds=seconds
        )

    def served(self, repo: UpstreamRepo) -> dict[str, str]:
        """What a client gets, whatever the bytes of a name."""
        out = git_output(self.daemon.directory, "ls-remote", self.daemon.url(self.name(repo)))
        rows = (line.decode("utf-8", "surrogateescape").split("\t") for line in out.splitlines())
        return {name: oid for oid, name in rows if name != "HEAD" and not name.endswith("^{}")}

    def assert_mirrored(self, repo: UpstreamRepo, into: Path) -> Path:
        """A copy has the refs and every object; returned for a closer look."""
        # A run that made way for others is not the last one.
        self.daemon.wait_until(lambda: self.served(repo) == upstream_refs(repo), f"all of {repo.name} is served")
        copy = into / "copy"
        self.daemon.git("clone", "-q", "--mirror", self.daemon.url(self.name(repo)), str(copy))
        assert_same_refs(refs_of(copy), repo)
        assert objects_of(copy) == objects_of(repo.path)
        git_output(copy, "fsck", "--full")
        return copy


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("shapes")
    tls = make_authority(base / "authority").server("127.0.0.1")
    with (
        GitUpstream(base / "plain") as plain,
        GitUpstream(base / "guarded") as guarded,
        GitUpstream(base / "secure", tls=tls) as secure,
        Daemon(base / "mirror") as daemon,
    ):
        for make in SHAPES:
            make(plain)
        make_guarded(guarded)
        make_renamed(secure)
        configure(daemon, base, tls.authority, plain=plain, guarded=guarded, secure=secure)
        site = Site(daemon, plain, guarded, secure)
        found = [repo for repo in site.repos() if not repo.name.startswith("later/")]
        with arguments_kept(base):
            daemon.start(*(repo.url for repo in found))
            for repo in found:
                site.wait_for_run(repo)
        yield site


def configure(
    daemon: Daemon, base: Path, authority: Path, *, plain: GitUpstream, guarded: GitUpstream, secure: GitUpstream
) -> None:
    token = base / "token"
    token.write_text(CANARY)
    token.chmod(0o600)
    extra = daemon.directory / "config.d"
    extra.mkdir(parents=True)
    (extra / "50-test.toml").write_text(
        f"""
[log]
level = "debug"
format = "json"
[access]
visibility = "open"
[upstream."127.0.0.1:{guarded.port}"]
token_file = "{token}"
[upstream."127.0.0.1:{secure.port}"]
ca_file = "{authority}"
[[mirror]]
url = "{plain.url("lfs/incomplete")}"
known_missing = "publish"
"""
    )


@contextmanager
def arguments_kept(base: Path) -> Iterator[None]:
    """Keep every command line that ``ps`` would show meanwhile in a file ``arguments``."""
    done = threading.Event()
    seen: set[bytes] = set()

    def look() -> None:
        while not done.wait(0.02):
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    try:
                        seen.add(Path(entry.path, "cmdline").read_bytes())
                    except OSError:
                        continue  # it ended
        (base / "arguments").write_bytes(b"\n".join(seen))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(30)


# ---------------------------------------------------------------- what upstream has


def make_empty(upstream: GitUpstream) -> None:
    upstream.create("shape/empty")


def make_headless(upstream: GitUpstream) -> None:
    repo = upstream.create("shape/headless", branch="nowhere")
    repo.commit({"a": "1"}, branch="somewhere")
    detached = upstream.create("shape/detached")
    first = detached.commit({"a": "1"})
    detached.commit({"a": "2"})
    detached.git("update-ref", "--no-deref", "HEAD", first)


def make_sha256(upstream: GitUpstream) -> None:
    repo = upstream.create("shape/sha256", object_format="sha256")
    repo.commit({"README.md": "x"}, lfs={"w.bin": os.urandom(40_000)})
    repo.tag("v1", message="one")
    repo.commit({"b": "2"}, branch="dev", start="main")


def make_tags(upstream: GitUpstream) -> None:
    repo = upstream.create("shape/tags")
    repo.commit({"README.md": "x", "docs/a": "a"})
    repo.tag("annotated", message="one")
    repo.tag("twice", target="refs/tags/annotated", message="a tag of a tag")
    repo.tag("thrice", target="refs/tags/twice", message="a tag of a tag of a tag")
    repo.tag("tree", target="main^{tree}")
    repo.tag("tree-annotated", target="main^{tree}", message="a tree")
    repo.tag("blob", target="main:README.md")
    repo.tag("blob-annotated", target="main:docs/a", message="a blob")
    repo.tag("only-here", target=repo.git("hash-object", "-w", "--stdin", data="in no tree"), message="a key, say")
    repo.git("notes", "add", "-m", "note", "main")
    repo.update("refs/notes/other", repo.git("rev-parse", "refs/notes/commits"))
    repo.update("refs/pull/1/head", repo.git("rev-parse", "main"))
    repo.update("refs/mirror-sync/kept/1/x", repo.git("rev-parse", "main"))


def make_odd_names(upstream: GitUpstream) -> None:
    repo = upstream.create("shape/names")
    tip = repo.commit({"README.md": "x"})
    for name in HOSTILE_REFS:
        repo.update(name, tip)
    repo.pack_new({TOO_LONG: tip})  # git could not make the file beside which it locks


def make_odd_trees(upstream: GitUpstream) -> None:
    """Links, programs, submodules, names no Windows could have; faults of old tools that harm nobody."""
    repo = upstream.create("shape/trees")
    start = repo.commit({"README.md": "x"})
    blob = repo.git("hash-object", "-w", "--stdin", data="content")
    entries = [
        f"120000 blob {blob}\tlink",
        f"100755 blob {blob}\trun.sh",
        f"160000 commit {start}\tsubmodule",
        f"100644 blob {blob}\ta b\\c\x01é\U0001f600",
        f"100644 blob {blob}\t{'n' * 255}",
        f"100644 blob {blob}\tNUL",
        f"100644 blob {blob}\tnul",
    ]
    tree = repo.git("mktree", "-z", "--missing", data="\0".join(entries) + "\0")
    repo.update("refs/heads/odd", repo.git("commit-tree", tree, "-p", start, "-m", "odd"))
    padded = raw_object(repo, "tree", b"0100644 file\0" + bytes.fromhex(blob))
    old = (
        f"tree {padded}\nparent {start}\nauthor A U Thor <a@example.org> 1112911993 -73000\n"
        f"committer C O Mitter <c@example.org>1112911993 +0000\n\nby an old tool\n"
    )
    repo.update("refs/heads/legacy", raw_object(repo, "commit", old.encode()))


def raw_object(repo: UpstreamRepo, kind: str, data: bytes) -> str:
    return repo.git("hash-object", "--literally", "-t", kind, "-w", "--stdin", data=data)


def make_moving(upstream: GitUpstream) -> None:
    for name in ("move/conflicts", "move/during"):
        repo = upstream.create(name)
        repo.commit({"a": "1"})
        repo.commit({"a": "2"}, branch="topic", start="main")


def make_old_server(upstream: GitUpstream) -> None:
    repo = upstream.create("server/v0")
    repo.protocol = 0
    repo.commit({"README.md": "x"}, lfs={"w.bin": os.urandom(30_000)})
    repo.tag("v1", message="one")


def make_absent(upstream: GitUpstream) -> None:
    for status in (401, 404, 410):
        upstream.create(f"server/{status}").commit({"README.md": str(status)}, lfs={"w.bin": b"%d" % status * 1000})


def make_lfs(upstream: GitUpstream) -> None:
    shared = os.urandom(90_000)
    for name in ("lfs/one", "lfs/two"):
        upstream.create(name).commit({"name": name}, lfs={"shared.bin": shared, "own.bin": name.encode() * 1000})
    none = upstream.create("lfs/none")
    none.commit({"README.md": "no pointers", "look.txt": pointer_text(ABSENT, 12345), "empty": b""})
    none.commit({".gitattributes": "*.dat filter=lfs\n*.dat !filter\n", "b.dat": pointer_text("b" * 64, 5)})
    refusing = upstream.create("lfs/refusing")
    refusing.commit({"README.md": "x"}, branch="plain")
    refusing.commit({}, lfs={"w.bin": b"never had"})
    refusing.lfs.status = 404
    for name in ("lfs/incomplete", "lfs/holding"):
        repo = upstream.create(name)
        repo.commit({"README.md": "x"}, branch="plain")
        repo.commit({}, lfs={"here.bin": b"h" * 5000, "lost.bin": name.encode() * 100})
        repo.lfs.remove(next(oid for oid in repo.lfs.oids() if oid_of(repo, "lost.bin") == oid))


def oid_of(repo: UpstreamRepo, path: str, *, tip: str = "main") -> str:
    return repo.git("cat-file", "blob", f"{tip}:{path}").split("oid sha256:")[1][:64]


def make_later(upstream: GitUpstream) -> None:
    history = upstream.create("later/history")
    history.commit({}, lfs={"w.bin": os.urandom(20_000)})
    history.commit({}, lfs={"w.bin": os.urandom(10_000)})
    many = upstream.create("later/many")
    tip = many.commit({"README.md": "x"})
    tips = [tip, many.commit({"README.md": "y"}), many.tag("annotated", message="x")]
    many.delete("refs/tags/annotated")
    names = (
        f"refs/{'tags' if number % 3 == 2 else 'heads'}/group-{number % 100}/ref-{number}"
        for number in range(MANY_REFS - 1)
    )
    many.pack_new({name: tips[number % 3] for number, name in enumerate(names)})


def make_guarded(upstream: GitUpstream) -> None:
    for name, protocol in (("private/model", 2), ("private/old", 0)):
        repo = upstream.create(name)
        repo.commit({"README.md": "x"}, lfs={"w.bin": os.urandom(30_000) + name.encode()})
        repo.token = CANARY
        repo.protocol = protocol


def make_renamed(upstream: GitUpstream) -> None:
    upstream.create("acme/before").commit({"README.md": "x"}, lfs={"w.bin": os.urandom(30_000)})


SHAPES = (
    make_empty, make_headless, make_sha256, make_tags, make_odd_names, make_odd_trees, make_moving, make_old_server,
    make_absent, make_lfs, make_later,
)  # fmt: skip


# ---------------------------------------------------------------- shapes


def test_an_empty_repository_and_its_first_push(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["shape/empty"]
    shown = site.show(repo)
    assert (shown["health"], shown["refs"]["count"]) == ("fresh", 0)
    work = tmp_path / "work"
    done = site.daemon.git("clone", site.daemon.url(site.name(repo)), str(work))
    assert "empty repository" in done.stderr
    assert git_output(work, "symbolic-ref", "HEAD") == b"refs/heads/main\n"
    repo.commit({"README.md": "first"})
    assert site.sync(repo) == "published"
    git_output(work, "pull", "-q")
    assert_same_files(work, repo, repo.refs()["refs/heads/main"])


def test_a_default_branch_that_does_not_exist_and_then_does(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["shape/headless"]
    assert site.show(repo)["refs"]["head"] == "refs/heads/nowhere"
    site.assert_mirrored(repo, tmp_path)
    work = tmp_path / "work"
    done = site.daemon.git("clone", site.daemon.url(site.name(repo)), str(work))
    assert "remote HEAD refers to nonexistent ref" in done.stderr
    repo.commit({"b": "1"}, branch="nowhere", start="somewhere")
    assert site.sync(repo) == "published"
    again = site.daemon.clone(site.name(repo), tmp_path / "again")
    assert git_output(again, "symbolic-ref", "HEAD") == b"refs/heads/nowhere\n"


def test_a_detached_head_is_served_as_a_branch(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["shape/detached"]
    site.assert_mirrored(repo, tmp_path)
    work = site.daemon.clone(site.name(repo), tmp_path / "work")
    assert git_output(work, "symbolic-ref", "HEAD") == b"refs/heads/main\n"


def test_sha256_objects(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["shape/sha256"]
    for version in ("0", "2"):
        work = site.daemon.clone(site.name(repo), tmp_path / version, "-c", f"protocol.version={version}")
        assert git_output(work, "rev-parse", "--show-object-format") == b"sha256\n"
        assert_same_files(work, repo, repo.refs()["refs/heads/main"])
    repo.commit({"c": "3"}, branch="dev", lfs={"v.bin": os.urandom(5000)})
    repo.force({"d": "4"})
    assert site.sync(repo) == "published"
    site.assert_mirrored(repo, tmp_path)


def test_tags_at_anything_and_notes(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["shape/tags"]
    copy = site.assert_mirrored(repo, tmp_path)
    for tag in ("thrice", "tree-annotated", "blob-annotated", "only-here"):
        peeled = repo.git("rev-parse", f"refs/tags/{tag}^{{}}")
        assert git_output(copy, "rev-parse", f"refs/tags/{tag}^{{}}").decode().strip() == peeled
        for version in ("0", "2"):
            listing = site.daemon.git(
                "-c", f"protocol.version={version}", "ls-remote", site.daemon.url(site.name(repo))
            )
            assert f"{peeled}\trefs/tags/{tag}^{{}}\n" in listing.stdout
    assert git_output(copy, "cat-file", "blob", "refs/tags/only-here^{}") == b"in no tree"
    assert git_output(copy, "notes", "show", "main") == b"note\n"
    shown = site.show(repo)
    assert (shown["health"], shown["refs"]["held"]) == ("fresh", 0)
    repo.tag("annotated", target="main^{tree}", message="moved")
    repo.delete("refs/tags/twice")
    assert site.sync(repo) == "published"
    site.assert_mirrored(repo, tmp_path / "again")


def test_odd_ref_names_are_served_byte_for_byte_and_shown_as_text(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["shape/names"]
    wanted = upstream_refs(repo)
    assert wanted.pop(TOO_LONG)
    assert wanted.keys() == {"refs/heads/main", *HOSTILE_REFS}
    assert site.served(repo) == wanted
    copy = tmp_path / "copy"
    site.daemon.git("clone", "-q", "--mirror", site.daemon.url(site.name(repo)), str(copy))
    assert refs_of(copy) == wanted
    shown = site.show(repo)
    assert shown["health"] == "fresh"
    assert any("250" in note and "yyyy" in note for note in shown["notes"])
    status, page, _ = site.daemon.get(f"/{site.name(repo)}", {"Accept": "text/html"})
    if status in (301, 302, 303, 307, 308):
        pytest.fail("the address of a mirror is its page")
    assert status == 200
    pages = page + site.daemon.get(f"/mirrors/{site.name(repo)}", {"Accept": "text/html"})[1]
    assert b"<script>alert" not in pages
    json.loads(site.daemon.cli("show", site.name(repo), "--refs", "--json").stdout)
    repo.commit({"b": "1"}, branch=HOSTILE_REFS[0])
    repo.update(HOSTILE_REFS[3], repo.refs()[HOSTILE_REFS[0]])
    assert site.sync(repo) == "published"
    assert site.served(repo) == {name: oid for name, oid in upstream_refs(repo).items() if name != TOO_LONG}


def test_odd_trees_and_faults_of_old_tools(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["shape/trees"]
    copy = tmp_path / "copy"
    site.daemon.git("clone", "-q", "--mirror", site.daemon.url(site.name(repo)), str(copy))
    assert_same_refs(refs_of(copy), repo)
    assert objects_of(copy) == objects_of(repo.path)
    notes = " ".join(site.show(repo)["notes"])
    for fault in ("zeroPaddedFilemode", "badTimezone", "missingSpaceBeforeDate"):
        assert fault in notes


# ---------------------------------------------------------------- between and during runs


def test_names_that_become_directories_and_back(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["move/conflicts"]
    tip = repo.refs()["refs/heads/topic"]
    for number, names in enumerate((("topic/a", "topic/b/c"), ("topic",), ("topic/b", "x/y"), ("topic/b/z", "x"))):
        for ref in [name for name in repo.refs() if name != "refs/heads/main"]:
            repo.delete(ref)
        for name in names:
            repo.update(f"refs/heads/{name}", tip)
            repo.update(f"refs/tags/{name}", tip)
        assert site.sync(repo) == "published"
        site.assert_mirrored(repo, tmp_path / str(number))


def test_upstream_moves_while_it_is_fetched(site: Site, tmp_path: Path) -> None:
    """One snapshot or the next, never a mixture: what was listed is fetched by its ids."""
    repo = site.plain.repos["move/during"]
    listed: dict[str, str] = {}

    def move(listing: bytes) -> bytes:
        listed.update(upstream_refs(repo))
        repo.force({"a": "rewritten"})
        repo.delete("refs/heads/topic")
        repo.commit({"new": "1"}, branch="new", start="main")
        return listing

    repo.commit({"a": "3"}, branch="topic")
    repo.commit({"a": "3"})
    fault = site.plain.fault("POST /move/during.*git-upload-pack", rewrite=move)
    assert site.sync(repo) == "published"
    assert fault.hits
    assert site.served(repo) == listed != upstream_refs(repo)
    assert site.sync(repo) == "published"
    site.assert_mirrored(repo, tmp_path)


def test_upstream_drops_what_it_listed(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["move/during"]
    before = site.served(repo)

    def drop(listing: bytes) -> bytes:
        repo.force({"a": "rewritten again"})
        repo.git("reflog", "expire", "--expire=now", "--all")
        repo.git("prune", "--expire=now")
        return listing

    repo.commit({"a": "soon gone"})
    site.plain.fault("POST /move/during.*git-upload-pack", rewrite=drop)
    assert site.sync(repo) == "failed"
    assert site.served(repo) == before
    assert site.sync(repo) == "published"
    site.assert_mirrored(repo, tmp_path)


def seconds_of(run: Mapping[str, str]) -> float:
    began, ended = (datetime.fromisoformat(run[key]) for key in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


def test_fifty_thousand_refs(site: Site) -> None:
    repo = site.plain.repos["later/many"]
    site.add(repo)
    first = site.wait_for_run(repo, seconds=120)
    assert first["refs"]["count"] == MANY_REFS
    assert first["last_run"]["outcome"] == "published"
    assert seconds_of(first["last_run"]) < 60
    assert_same_refs(site.served(repo), repo)
    took = []
    for _ in range(3):
        assert site.sync(repo) == "unchanged"
        took.append(seconds_of(site.show(repo)["last_run"]))
    assert min(took) < 2
    tip = repo.commit({"README.md": "z"})
    repo.update("refs/heads/group-0/ref-0", tip)
    repo.delete("refs/heads/group-1/ref-1")
    assert site.sync(repo) == "published"
    assert_same_refs(site.served(repo), repo)


# ---------------------------------------------------------------- kinds of upstreams


def test_an_upstream_of_protocol_zero(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["server/v0"]
    site.assert_mirrored(repo, tmp_path)
    repo.commit({"b": "1"}, lfs={"v.bin": os.urandom(9000)})
    repo.force({"c": "1"}, branch="other")
    assert site.sync(repo) == "published"
    site.assert_mirrored(repo, tmp_path / "again")
    work = site.daemon.clone(site.name(repo), tmp_path / "work")
    assert_same_files(work, repo, repo.refs()["refs/heads/main"])


def test_a_token_opens_and_is_found_nowhere(site: Site, tmp_path: Path) -> None:
    base = site.daemon.directory.parent
    with arguments_kept(tmp_path):
        for repo in site.guarded.repos.values():
            site.guarded.fault("POST .*git-upload-pack", hang=0.2, times=None)  # git lives long enough to be seen
            repo.commit({"README.md": "y"}, lfs={"v.bin": os.urandom(9000)})
            assert site.sync(repo) == "published"
            work = site.daemon.clone(site.name(repo), tmp_path / repo.name.replace("/", "-"))
            assert_same_files(work, repo, repo.refs()["refs/heads/main"])
        site.guarded.heal()
        for repo in site.guarded.repos.values():  # and when it is refused
            repo.token = "another"
            assert site.sync(repo) == "failed"
            repo.token = CANARY
    assert site.guarded.seen("info/lfs/objects/batch")
    repos = list(site.guarded.repos.values())
    said = b"".join(
        site.daemon.get(path)[1]
        for repo in repos
        for path in (f"/{site.name(repo)}", f"/api/v1/mirrors/by-name/{site.name(repo)}", "/metrics", "/", "/mirrors")
    )
    for repo in repos:
        for command in ("why", "show"):
            done = site.daemon.cli(command, site.name(repo))
            said += (done.stdout + done.stderr).encode()
    config = site.daemon.cli("config", "show")
    said += (config.stdout + config.stderr).encode()
    user_and_token = base64.b64encode(f"x-access-token:{CANARY}".encode())
    places = {"pages and commands": said, "log": site.daemon.log.read_bytes()}
    places |= {str(path): path.read_bytes() for path in (base / "arguments", tmp_path / "arguments")}
    seen = (places[str(base / "arguments")] + places[str(tmp_path / "arguments")]).split(b"\n")
    old = site.guarded.url("private/old").encode()
    assert [line for line in seen if b"fetch" in line and old in line], "git itself was looked at while it fetched"
    places |= {str(path): path.read_bytes() for path in site.daemon.directory.rglob("*") if path.is_file()}
    assert any("objects/pack" in place for place in places)
    for secret in (CANARY.encode(), user_and_token, user_and_token.rstrip(b"=")[:-2]):
        assert [place for place, content in places.items() if secret in content] == []
    assert {request.headers.get("authorization") for request in site.guarded.seen("info/refs")} - {None}
    assert not any(CANARY in str(request.headers) for request in [*site.plain.seen(), *site.secure.seen()])


def test_a_renamed_upstream_is_followed(site: Site, tmp_path: Path) -> None:
    old = site.secure.repos["acme/before"]
    name = site.name(old)
    new = site.secure.create("acme/after")
    new.commit({"README.md": "y"}, lfs={"w.bin": os.urandom(20_000)})
    old.moved_to = "acme/after"
    assert site.daemon.sync(name) == 0
    assert_same_refs(site.served(old), new)
    work = site.daemon.clone(name, tmp_path / "work")
    assert_same_files(work, new, new.refs()["refs/heads/main"])
    assert site.daemon.show(name)["upstream"] == new.url
    site.secure.forget()
    new.commit({"README.md": "z"})
    assert site.daemon.sync(name) == 0
    assert_same_refs(site.served(old), new)
    assert not site.secure.seen("/acme/before")


def test_upstreams_that_are_gone_stay_served(site: Site, tmp_path: Path) -> None:
    repos = {status: site.plain.repos[f"server/{status}"] for status in (401, 404, 410)}
    names = [site.name(repo) for repo in repos.values()]
    before = {status: site.show(repo) for status, repo in repos.items()}
    for status, repo in repos.items():
        repo.absent = status
    for _ in range(3):
        assert site.daemon.cli("sync", *names, "--wait").returncode == 1
    for status, repo in repos.items():
        shown = site.show(repo)
        assert shown["health"] == ("denied" if status == 401 else "gone")
        assert shown["confirmed_at"] == before[status]["confirmed_at"]
        work = site.daemon.clone(site.name(repo), tmp_path / str(status))
        assert_same_files(work, repo, repo.refs()["refs/heads/main"])
        assert str(status) in site.daemon.cli("why", site.name(repo)).stdout
    for repo in repos.values():
        repo.absent = None
        repo.commit({"back": "again"})
    assert site.daemon.cli("sync", *names, "--wait").returncode == 0
    for status, repo in repos.items():
        assert site.show(repo)["health"] == "fresh"
        site.assert_mirrored(repo, tmp_path / f"again-{status}")


# ---------------------------------------------------------------- LFS


def ask(site: Site, repo: UpstreamRepo, oid: str, size: int) -> dict[str, Any]:
    body = json.dumps({"operation": "download", "objects": [{"oid": oid, "size": size}]}).encode()
    headers = {"Accept": LFS_TYPE, "Content-Type": LFS_TYPE}
    status, answer, _ = site.daemon.post(f"/{site.name(repo)}.git/info/lfs/objects/batch", body, headers)
    assert status == 200
    entry = json.loads(answer)["objects"][0]
    assert isinstance(entry, dict)
    return entry


def test_a_shared_object_is_fetched_once_and_served_to_those_who_refer_to_it(site: Site, tmp_path: Path) -> None:
    one, two, none = (site.plain.repos[f"lfs/{name}"] for name in ("one", "two", "none"))
    shared = oid_of(one, "shared.bin")
    assert shared == oid_of(two, "shared.bin")
    assert len(site.plain.seen(f"GET /-/lfs/.*/{shared}")) == 1
    for repo in (one, two):
        work = site.daemon.clone(site.name(repo), tmp_path / repo.name.replace("/", "-"))
        assert_same_files(work, repo, repo.refs()["refs/heads/main"])
    own = oid_of(one, "own.bin")
    assert "actions" in ask(site, one, own, len("lfs/one") * 1000)
    for repo, oid, size in ((two, own, len("lfs/one") * 1000), (none, shared, 90_000)):
        assert ask(site, repo, oid, size)["error"]["code"] == 404
        assert site.daemon.get(f"/{site.name(repo)}.git/info/lfs/objects/{oid}")[0] == 404
    assert len([path for path in site.daemon.directory.rglob(shared) if path.is_file()]) == 1


def test_what_only_looks_like_a_pointer_holds_nothing(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["lfs/none"]
    shown = site.show(repo)
    assert shown["refs"]["held"] == 0
    assert shown["confirmed_at"]
    copy = site.assert_mirrored(repo, tmp_path)
    assert git_output(copy, "cat-file", "blob", "main:look.txt") == pointer_text(ABSENT, 12345)


@pytest.mark.parametrize("name", ["lfs/refusing", "lfs/holding"])
def test_refs_whose_objects_upstream_lacks_are_held_until_they_come(site: Site, tmp_path: Path, name: str) -> None:
    repo = site.plain.repos[name]
    shown = site.show(repo)
    assert [hold["ref"] for hold in shown["holds"]] == ["refs/heads/main"]
    assert shown["last_run"]["outcome"] == "held"
    assert site.served(repo) == {"refs/heads/plain": repo.refs()["refs/heads/plain"]}
    work = site.daemon.clone(site.name(repo), tmp_path / "work")
    assert_same_files(work, repo, repo.refs()["refs/heads/plain"])
    repo.lfs.status = None
    repo.lfs.put(name.encode() * 100)
    assert site.sync(repo) == "published"
    site.assert_mirrored(repo, tmp_path)
    again = site.daemon.clone(site.name(repo), tmp_path / "again")
    assert_same_files(again, repo, repo.refs()["refs/heads/main"])


def test_known_missing_objects_may_be_published_over(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["lfs/incomplete"]
    site.assert_mirrored(repo, tmp_path)
    shown = site.show(repo)
    assert shown["health"] == "incomplete"
    assert (shown["lfs"]["present"], shown["lfs"]["known_missing"]) == (1, 1)
    lost = oid_of(repo, "lost.bin")
    entry = ask(site, repo, lost, len("lfs/incomplete") * 100)
    assert entry["error"]["code"] == 404
    assert lost[:12] in site.daemon.cli("why", site.name(repo)).stdout
    work = tmp_path / "work"
    refused = site.daemon.git(*WITH_LFS, "clone", "-q", site.daemon.url(site.name(repo)), str(work), check=False)
    assert refused.returncode != 0
    assert "lost.bin" in refused.stderr


def test_objects_of_old_commits_come_behind_the_refs(site: Site, tmp_path: Path) -> None:
    repo = site.plain.repos["later/history"]
    old = oid_of(repo, "w.bin", tip="main~1")
    slow = site.plain.fault(f"GET /-/lfs/.*{old}", hang=3.0)
    began = time.monotonic()
    name = site.add(repo)
    shown = site.daemon.published(name)
    if time.monotonic() - began < 3:
        assert shown["lfs"]["missing"] == 1
        work = site.daemon.clone(name, tmp_path / "work")
        assert_same_files(work, repo, repo.refs()["refs/heads/main"])
    site.daemon.wait_until(lambda: site.show(repo)["lfs"]["missing"] == 0, "history arrived")
    assert slow.hits == 1
    before = site.daemon.clone(name, tmp_path / "before", "--no-checkout")
    git_output(before, "checkout", "-q", "main~1")
    assert_same_files(before, repo, repo.git("rev-parse", "main~1"))
