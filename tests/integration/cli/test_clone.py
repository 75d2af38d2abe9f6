"""A clone made by the command is the one that git and git-lfs make, whatever upstream is like."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror_sync.bootstrap import _Roads
from mirror_sync.cli import codes
from mirror_sync.domain.names import parse_repository_url
from mirror_sync.ports import Credential
from mirror_sync.repos.worktree import OwnersSettings
from mirror_sync.upstream import Access
from tests.support.cloning import by_git, call, git, picture
from tests.support.tools import require
from tests.support.upstream import GitUpstream, UpstreamRepo, make_authority, pointer_text

LARGE = bytes(range(256)) * 4096


@pytest.fixture
def up(tmp_path: Path) -> Iterator[GitUpstream]:
    require("git-lfs")
    with GitUpstream(tmp_path / "up") as upstream:
        yield upstream


def model(up: GitUpstream, *, object_format: str = "sha1") -> UpstreamRepo:
    """A repository with branches, tags of both kinds, directories and LFS files."""
    repo = up.create("acme/model", object_format=object_format)
    repo.commit({"README": "hello\n", "src/deep/file.txt": "text\n"})
    repo.commit({}, lfs={"weights.bin": LARGE, "src/small.bin": b"small", "src/twin.bin": b"small"})
    repo.tag("v1", message="one")
    repo.tag("light")
    repo.commit({"later": "x"}, lfs={"other.bin": b"on a branch"}, branch="topic/deep", start="main")
    repo.commit({"README": "hello again\n"})
    return repo


OPTIONS = [
    (),
    ("--branch", "topic/deep"),
    ("--branch", "v1"),
    ("--origin", "up"),
    ("--bare",),
    ("--no-checkout",),
    ("--bare", "--branch", "topic/deep"),
]


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_it_is_the_clone_that_git_makes(
    up: GitUpstream, tmp_path: Path, options: tuple[str, ...], object_format: str
) -> None:
    repo = model(up, object_format=object_format)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert call("clone", repo.url, ours, *options) == codes.DONE
    by_git(repo.url, theirs, *options, lfs=not {"--bare", "--no-checkout"} & set(options))
    assert picture(ours) == picture(theirs)
    if "--bare" not in options:
        assert (ours / "weights.bin").exists() == ("--no-checkout" not in options)


def test_it_is_the_clone_that_git_makes_where_git_lfs_is_set_up_for_the_owner(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(own))
    git(tmp_path, "lfs", "install", "--skip-repo")
    git(tmp_path, "config", "--global", "clone.defaultRemoteName", "there")
    templates = tmp_path / "templates"
    (templates / "hooks").mkdir(parents=True)
    (templates / "hooks" / "pre-commit").write_text("#!/bin/sh\nexit 0\n")
    git(tmp_path, "config", "--global", "init.templateDir", str(templates))
    repo = model(up)
    assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
    by_git(repo.url, tmp_path / "theirs", lfs=False)
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")
    assert (tmp_path / "ours" / "weights.bin").read_bytes() == LARGE
    assert (tmp_path / "ours" / ".git" / "hooks" / "pre-commit").exists()
    index = Path(".git", "index")
    assert (tmp_path / "ours" / index).stat().st_size == (tmp_path / "theirs" / index).stat().st_size


def test_an_upstream_that_speaks_protocol_v0_only(up: GitUpstream, tmp_path: Path) -> None:
    repo = model(up)
    repo.protocol = 0
    assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
    by_git(repo.url, tmp_path / "theirs")
    loose = ("packs",)  # of such a server git unpacks what is small
    assert picture(tmp_path / "ours", but=loose) == picture(tmp_path / "theirs", but=loose)


def test_an_authority_of_the_owner_s_is_trusted_as_git_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    require("openssl")
    authority = make_authority(tmp_path / "authority")
    with GitUpstream(tmp_path / "up", tls=authority.server("127.0.0.1")) as up:
        repo = model(up)
        assert call("clone", repo.url, tmp_path / "ours") == codes.FAILED
        assert "http.sslCAInfo" in capfd.readouterr().err
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        git(tmp_path, "config", "--global", "http.sslCAInfo", str(authority.certificate))
        assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
        by_git(repo.url, tmp_path / "theirs")
        assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")


def test_a_detached_head_an_unborn_one_and_nothing_at_all(
    up: GitUpstream, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    detached = up.create("acme/detached")
    first = detached.commit({"a": "1"})
    detached.commit({"a": "2"})
    detached.git("update-ref", "--no-deref", "HEAD", first)
    gone = up.create("acme/gone")
    gone.commit({"a": "1"}, branch="only")
    gone.set_head("refs/heads/nowhere")
    empty = up.create("acme/empty", branch="trunk")
    apart = up.create("acme/apart")
    apart.commit({"a": "1"})
    lost = apart.commit({"a": "lost"}, branch="passing", root=True)
    apart.git("update-ref", "--no-deref", "HEAD", lost)
    apart.delete("refs/heads/passing")
    for repo in (detached, gone, empty, apart):
        ours, theirs = tmp_path / "ours" / repo.name, tmp_path / "theirs" / repo.name
        theirs.parent.mkdir(parents=True, exist_ok=True)
        assert call("clone", repo.url, ours) == codes.DONE
        by_git(repo.url, theirs, lfs=False)
        assert picture(ours) == picture(theirs), repo.name
    said = capfd.readouterr().err
    assert "empty repository" in said
    assert "nothing is checked out" in said


def test_no_lfs_leaves_pointers_and_asks_for_no_object(up: GitUpstream, tmp_path: Path) -> None:
    repo = model(up)
    assert call("clone", repo.url, tmp_path / "ours", "--no-lfs") == codes.DONE
    by_git(repo.url, tmp_path / "theirs", lfs=False)
    up.forget()
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")
    assert (tmp_path / "ours" / "weights.bin").read_text().startswith("version https://git-lfs")
    assert up.seen("lfs") == []


def test_no_lfs_holds_where_git_lfs_is_set_up_for_the_owner(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    git(tmp_path, "lfs", "install", "--skip-repo")
    repo = model(up)
    assert call("clone", repo.url, tmp_path / "ours", "--no-lfs") == codes.DONE
    assert up.seen("lfs") == []
    by_git(repo.url, tmp_path / "theirs", lfs=False, GIT_LFS_SKIP_SMUDGE="1")
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")


def test_objects_that_upstream_lacks_are_told_and_left_as_pointers(
    up: GitUpstream, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    lost, _ = repo.lfs.put(b"never to be seen")
    repo.commit({}, lfs={"gone.bin": b"never to be seen"})
    repo.lfs.remove(lost)
    ours = tmp_path / "ours"
    assert call("clone", repo.url, ours) == codes.PARTLY
    assert "gone.bin" in capfd.readouterr().err
    assert (ours / "weights.bin").read_bytes() == LARGE
    assert lost in (ours / "gone.bin").read_text()
    assert git(ours, "status", "--porcelain") == ""
    assert not (ours / ".git" / "mirror-sync").exists()


def test_without_git_lfs_the_files_stay_pointers_and_it_says_what_to_install(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "env", "sh", "sed", "uname", "cat"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    by_git(repo.url, tmp_path / "theirs", lfs=False)
    up.forget()
    own = tmp_path / "gitconfig"
    git(tmp_path, "lfs", "install", "--skip-repo", GIT_CONFIG_GLOBAL=str(own))  # removed since
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(programs))
        assert call("clone", repo.url, tmp_path / "ours") == codes.PARTLY
        bare.setenv("GIT_CONFIG_GLOBAL", str(own))
        assert call("clone", repo.url, tmp_path / "removed") == codes.PARTLY
    assert "git-lfs is not installed" in capfd.readouterr().err
    assert up.seen("lfs") == []
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")
    assert picture(tmp_path / "removed") == picture(tmp_path / "theirs")


def test_a_damaged_ref_is_told_and_left_out_and_the_others_come(
    up: GitUpstream, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    blob = repo.git("hash-object", "-w", "--stdin", data="x")
    tree = repo.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=_entry(b".git", blob))
    bad = repo.git("commit-tree", tree, "-m", "bad")
    repo.update("refs/heads/bad", bad)
    ours = tmp_path / "ours"
    assert call("clone", repo.url, ours) == codes.PARTLY
    assert "refs/heads/bad" in capfd.readouterr().err
    names = git(ours, "for-each-ref", "--format=%(refname)", "refs/remotes").split()
    assert names == ["refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/remotes/origin/topic/deep"]
    assert git(ours, "cat-file", "-e", bad, ok=(1, 128)) == ""
    assert git(ours, "status", "--porcelain") == ""


def test_where_the_branch_to_check_out_is_damaged_there_is_no_clone_until_another_is_named(
    up: GitUpstream, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    blob = repo.git("hash-object", "-w", "--stdin", data="x")
    tree = repo.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", data=_entry(b".git", blob))
    repo.update("refs/heads/main", repo.git("commit-tree", tree, "-m", "bad"))
    assert call("clone", repo.url, tmp_path / "ours") == codes.FAILED
    assert "--branch" in capfd.readouterr().err
    assert call("clone", repo.url, tmp_path / "ours", "--branch", "topic/deep") == codes.PARTLY
    assert (tmp_path / "ours" / "other.bin").read_bytes() == b"on a branch"
    assert git(tmp_path / "ours", "status", "--porcelain") == ""


def test_lfs_files_that_do_not_fit_are_refused_before_their_first_byte(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    monkeypatch.setattr("mirror_sync.lfs_store.space.Space.free", lambda _: (64 << 20) + 1000)
    assert call("clone", repo.url, tmp_path / "ours") == codes.FAILED
    assert "--no-lfs" in capfd.readouterr().err
    assert up.seen("lfs") == []
    assert call("clone", repo.url, tmp_path / "ours", "--no-lfs") == codes.DONE


def _entry(name: bytes, oid: str) -> bytes:
    return b"100644 " + name + b"\0" + bytes.fromhex(oid)


# ---------------------------------------------------------------- whose directory it is


def test_a_directory_with_something_in_it_is_refused_and_left_alone(
    up: GitUpstream, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    assert call("clone", repo.url, full) == codes.CONFLICT
    assert call("clone", repo.url, full / "mine") == codes.CONFLICT
    assert sorted(path.name for path in full.iterdir()) == ["mine"]
    assert "not empty" in capfd.readouterr().err
    (tmp_path / "empty").mkdir()
    assert call("clone", repo.url, tmp_path / "empty") == codes.DONE
    assert call("clone", repo.url, tmp_path / "empty") == codes.CONFLICT
    assert "no unfinished clone is in it" in capfd.readouterr().err, "it is one that this command made"


def test_a_wrong_address_or_branch_leaves_nothing_behind(up: GitUpstream, tmp_path: Path) -> None:
    repo = model(up)
    assert call("clone", up.url("acme/none"), tmp_path / "ours") == codes.FAILED
    assert call("clone", repo.url, tmp_path / "ours", "--branch", "none") == codes.USAGE
    assert call("clone", repo.url, tmp_path / "ours", "--origin", "a..b") == codes.USAGE
    assert call("clone", repo.url, "--dir", tmp_path / "ours") == codes.USAGE
    assert call("clone", repo.url, tmp_path / "ours", "--proxy", "http://me:secret@proxy:1") == codes.USAGE
    assert not (tmp_path / "ours").exists()


def test_a_url_with_a_password_is_refused_without_repeating_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("clone", "https://me:topsecret@git.test/acme/model", tmp_path / "ours") == codes.USAGE
    said = capfd.readouterr()
    assert "topsecret" not in said.out + said.err
    assert "--token-file" in said.err


def test_an_unfinished_clone_of_another_url_is_refused(
    up: GitUpstream, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repo, other = model(up), up.create("acme/other")
    other.commit({"a": "1"})
    up.fault("POST .*git-upload-pack", times=None, status=404, after=1)
    assert call("clone", repo.url, tmp_path / "ours") == codes.FAILED
    up.heal()
    assert (tmp_path / "ours" / ".git" / "mirror-sync").is_dir()
    assert git(tmp_path / "ours", "rev-parse", ok=(128,), GIT_CEILING_DIRECTORIES=str(tmp_path)) == ""
    capfd.readouterr()
    assert call("clone", other.url, tmp_path / "ours") == codes.CONFLICT
    assert repo.url in capfd.readouterr().err
    assert call("clone", repo.url, tmp_path / "ours", "--bare") == codes.CONFLICT
    assert "--bare" in capfd.readouterr().err
    assert call("clone", repo.url, tmp_path / "ours", "--branch", "v1") == codes.DONE
    by_git(repo.url, tmp_path / "theirs", "--branch", "v1")
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")


def test_the_directory_is_named_as_git_names_it(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    monkeypatch.chdir(tmp_path)
    assert call("clone", repo.url + ".git", "--json", "-q") == codes.DONE
    told = json.loads(capfd.readouterr().out)
    assert told == {"url": repo.url + ".git", "directory": "model", "missing": [], "notes": []}
    assert call("clone", repo.url, "--bare", "-q") == codes.DONE
    assert capfd.readouterr().err == ""
    assert (tmp_path / "model.git" / "HEAD").exists()
    assert git(tmp_path / "model", "remote", "get-url", "origin").strip() == repo.url + ".git"


def test_an_address_with_a_blank_in_it(up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = up.create("my project/my model")
    repo.commit({"README": "hello\n"})
    url = f"{up.origin}/my%20project/my%20model"
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    monkeypatch.chdir(tmp_path / "ours")
    assert call("clone", url) == codes.DONE
    git(tmp_path / "theirs", "clone", "--quiet", url)
    (theirs,) = (tmp_path / "theirs").iterdir()
    assert picture(tmp_path / "ours" / theirs.name) == picture(theirs)


def test_a_repository_around_it_has_no_say(up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = model(up)
    around = tmp_path / "around"
    git(tmp_path, "init", "--quiet", str(around))
    git(around, "config", "filter.lfs.process", "false")
    git(around, "config", "core.autocrlf", "true")
    monkeypatch.chdir(around)
    monkeypatch.setenv("GIT_DIR", str(around / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert call("clone", repo.url, "inside") == codes.DONE
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_INDEX_FILE")
    by_git(repo.url, tmp_path / "theirs")
    assert picture(around / "inside") == picture(tmp_path / "theirs")
    assert not (tmp_path / "index").exists()


# ---------------------------------------------------------------- credentials and ways


def test_a_token_from_a_file_is_sent_and_kept_nowhere(up: GitUpstream, tmp_path: Path) -> None:
    repo = model(up)
    repo.token = "sesame-open"
    token = tmp_path / "token"
    token.write_text("sesame-open\n")
    token.chmod(0o600)
    assert call("clone", repo.url, tmp_path / "ours", "--token-file", token) == codes.DONE
    assert (tmp_path / "ours" / "weights.bin").read_bytes() == LARGE
    assert not _holding(tmp_path / "ours", b"sesame-open")


def test_git_s_credential_helper_is_asked_and_told_how_it_went(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = model(up)
    repo.token = "sesame-open"
    assert call("clone", repo.url, tmp_path / "ours") == codes.FAILED
    assert "--token-file" in capfd.readouterr().err
    assert not (tmp_path / "ours").exists()

    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    helper = tmp_path / "helper"
    helper.write_text(
        f"#!/bin/sh\ncat >> {tmp_path}/asked; echo $1 >> {tmp_path}/asked\n"
        "[ $1 = get ] && echo username=me && echo password=$(cat " + str(tmp_path / "knows") + ")\nexit 0\n"
    )
    helper.chmod(0o700)
    git(tmp_path, "config", "--global", "credential.helper", str(helper))
    (tmp_path / "knows").write_text("wrong")
    assert call("clone", repo.url, tmp_path / "ours") == codes.FAILED
    assert (tmp_path / "asked").read_text().endswith("erase\n")
    (tmp_path / "knows").write_text("sesame-open")
    assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
    assert (tmp_path / "asked").read_text().endswith("store\n")
    assert (tmp_path / "ours" / "weights.bin").read_bytes() == LARGE
    assert not _holding(tmp_path / "ours", b"sesame-open")
    said = capfd.readouterr()
    assert "sesame-open" not in said.out + said.err


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A credential helper that knows sesame-open; return the file of what it was told."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    script, told = tmp_path / "helper", tmp_path / "told"
    script.write_text(
        f"#!/bin/sh\necho $1 >> {told}\n[ $1 = get ] && echo username=me && echo password=sesame-open\nexit 0\n"
    )
    script.chmod(0o700)
    git(tmp_path, "config", "--global", "credential.helper", str(script))
    told.write_text("")
    return told


def test_an_lfs_server_beside_the_repository_gets_the_credential_that_it_asks_for(
    up: GitUpstream, tmp_path: Path, helper: Path
) -> None:
    shelf, repo = up.create("acme/shelf"), up.create("acme/model")
    shelf.token = "sesame-open"
    shelf.lfs.put(LARGE)
    repo.commit({".lfsconfig": f"[lfs]\n\turl = {shelf.url}.git/info/lfs\n"}, lfs={"weights.bin": LARGE})
    assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
    assert (tmp_path / "ours" / "weights.bin").read_bytes() == LARGE
    assert helper.read_text().split()[-1] == "store"


def test_an_lfs_server_of_a_stranger_gets_no_credential_and_none_is_forgotten_for_it(
    up: GitUpstream, tmp_path: Path, helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = Access(allow_http=True, allow_private=True)
    monkeypatch.setattr(_Roads, "to_stranger", lambda self, netloc: near)
    with GitUpstream(tmp_path / "stranger", address="127.0.0.2") as stranger:
        shelf = stranger.create("acme/shelf")
        shelf.token = "another"
        repo = up.create("acme/model")
        repo.commit({".lfsconfig": f"[lfs]\n\turl = {shelf.url}.git/info/lfs\n"}, lfs={"weights.bin": LARGE})
        assert call("clone", repo.url, tmp_path / "ours") == codes.PARTLY
        assert stranger.seen("batch")
        assert not any("authorization" in request.headers for request in stranger.seen())
    assert helper.read_text() == ""


def _holding(directory: Path, secret: bytes) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_the_lfs_server_that_lfsconfig_names_is_asked(up: GitUpstream, tmp_path: Path) -> None:
    shelf = up.create("acme/shelf")
    repo = up.create("acme/model")
    repo.commit({".lfsconfig": f"[lfs]\n\turl = {shelf.url}.git/info/lfs\n"}, lfs={"weights.bin": LARGE})
    shelf.lfs.put(LARGE)
    repo.lfs.remove(repo.lfs.oids()[0])
    assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
    by_git(repo.url, tmp_path / "theirs")
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")
    assert next(request.path for request in up.seen("POST .*batch")) == "/acme/shelf.git/info/lfs/objects/batch"


@pytest.mark.parametrize("server", ["http://127.0.0.2:9/acme/x", "ssh://git@git.test/acme/x", "file:///tmp/x"])
def test_an_lfs_server_that_is_not_to_be_trusted_costs_the_files_and_not_the_clone(
    up: GitUpstream, tmp_path: Path, server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    repo = up.create("acme/model")
    repo.commit({".lfsconfig": f"[lfs]\n\turl = {server}\n"}, lfs={"weights.bin": LARGE})
    assert call("clone", repo.url, tmp_path / "ours") == codes.PARTLY
    assert "left as" in capfd.readouterr().err
    assert git(tmp_path / "ours", "status", "--porcelain") == ""
    assert (tmp_path / "ours" / "weights.bin").read_text().startswith("version")


def test_what_git_lfs_is_told_to_leave_out_is_left_out(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    git(tmp_path, "lfs", "install", "--skip-repo")
    repo = up.create("acme/model")
    config = "[lfs]\n\tfetchinclude = keep, *.deep\n\tfetchexclude = keep/not/**\n"
    files = {"keep/a.bin": b"a", "keep/not/b.bin": b"b", "c.bin": b"c", "src/d.deep": b"d", "src/a.bin": b"a"}
    files = {path: content * 200 for path, content in files.items()}
    repo.commit({".lfsconfig": config, ".gitattributes": "*.bin filter=lfs\n*.deep filter=lfs\n"}, lfs={})
    repo.commit({path: pointer_text(*repo.lfs.put(content)) for path, content in files.items()})
    assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
    assert len(up.seen("GET .*/lfs/")) == 2
    by_git(repo.url, tmp_path / "theirs", lfs=False)
    assert (tmp_path / "ours" / "keep" / "a.bin").read_bytes() == b"a" * 200
    assert (tmp_path / "ours" / "keep" / "not" / "b.bin").read_text().startswith("version")
    assert (tmp_path / "theirs" / "keep" / "a.bin").read_bytes() == b"a" * 200
    assert picture(tmp_path / "ours", but=("index",)) == picture(tmp_path / "theirs", but=("index",))


def test_lfs_objects_go_where_lfs_storage_says_and_those_there_are_not_fetched_again(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    git(tmp_path, "config", "--global", "lfs.storage", str(tmp_path / "shared"))
    repo = model(up)
    assert call("clone", repo.url, tmp_path / "one") == codes.DONE
    kept = [path for path in (tmp_path / "shared" / "objects").rglob("*") if path.is_file()]
    assert len(kept) == 2
    assert not (tmp_path / "one" / ".git" / "lfs" / "objects").exists()
    up.forget()
    assert call("clone", repo.url, tmp_path / "two") == codes.DONE
    assert up.seen("lfs") == []
    assert (tmp_path / "two" / "weights.bin").read_bytes() == LARGE


def test_the_owner_s_rules_for_urls_are_followed(
    up: GitUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    git(tmp_path, "config", "--global", f"url.{up.origin}/.insteadOf", "https://git.test/")
    git(tmp_path, "config", "--global", "url.git@other.test:.insteadOf", f"{up.origin}/acme/m")
    repo = model(up)
    assert call("clone", "https://git.test/acme/model", tmp_path / "ours") == codes.DONE
    by_git("https://git.test/acme/model", tmp_path / "theirs")
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")
    assert call("clone", repo.url, tmp_path / "typed") == codes.DONE, (
        "where ssh would be spoken, the URL is taken as typed"
    )


def test_the_way_out_is_the_one_named_then_git_s_then_the_environment_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    environment = {**os.environ, "HTTPS_PROXY": "http://env.test:1", "NO_PROXY": "inside.test"}

    def way(url: str, proxy: str = "") -> str:
        target = parse_repository_url(url)
        roads = _Roads(target, OwnersSettings(environment), environment, proxy=proxy, token=None)
        return roads.to(target, None).proxy

    assert way("https://git.test/a") == "http://env.test:1"
    assert way("https://inside.test/a") == ""
    git(tmp_path, "config", "--global", "http.https://git.test/.proxy", "own.test:3128")
    assert way("https://git.test/a") == "http://own.test:3128"
    assert way("https://other.test/a") == "http://env.test:1"
    assert way("https://git.test/a", "socks5h://named.test:1080") == "socks5h://named.test:1080"
    assert way("https://git.test/a", "none") == ""


def test_hosts_that_nobody_named_are_reached_as_strangers(tmp_path: Path) -> None:
    target = parse_repository_url("http://git.test/a")
    roads = _Roads(target, OwnersSettings(os.environ), os.environ, proxy="", token=None)
    own = roads.to(target, Credential("me", "sesame"))
    assert (own.allow_http, own.allow_private) == (True, True)
    assert own.credential()
    stranger = roads.to_stranger("objects.test")
    assert (stranger.allow_http, stranger.allow_private, stranger.credential()) == (False, False, "")


def test_the_umask_decides_who_may_read(up: GitUpstream, tmp_path: Path) -> None:
    repo = model(up)
    before = os.umask(0o077)
    try:
        assert call("clone", repo.url, tmp_path / "ours") == codes.DONE
        by_git(repo.url, tmp_path / "theirs")
    finally:
        os.umask(before)
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")
