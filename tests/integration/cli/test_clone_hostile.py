"""Repositories made to harm whoever clones them: nothing of theirs is run, and nothing is written outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloning import by_git, call, git, picture
from tests.support.upstream import GitUpstream, UpstreamRepo

EVIL = "#!/bin/sh\ntouch {proof}\n"


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[UpstreamRepo]:
    with GitUpstream(tmp_path / "up") as up:
        made = up.create("acme/evil")
        made.commit({"README": "hello\n"})
        yield made


@pytest.fixture
def proof(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "proof"
    assert not (tmp_path / "proof").exists()


def raw_tree(repo: UpstreamRepo, *entries: tuple[str, bytes, str]) -> str:
    data = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries)
    return repo.git("hash-object", "--literally", "-t", "tree", "-w", "--stdin", data=data).strip()


def blob(repo: UpstreamRepo, text: str) -> str:
    return repo.git("hash-object", "-w", "--stdin", data=text).strip()


def commit_tree(repo: UpstreamRepo, tree: str) -> None:
    oid = repo.git("commit-tree", "-m", "evil", "-p", "main", tree).strip()
    repo.update("refs/heads/main", oid)


def test_refs_that_look_like_options_are_refs(repo: UpstreamRepo, tmp_path: Path, proof: Path) -> None:
    tip = repo.git("rev-parse", "main").strip()
    for name in (f"--upload-pack=touch${{IFS}}{proof.name}", "-x", "--template=x", "-c"):
        repo.git("update-ref", f"refs/heads/{name}", tip)
        repo.git("update-ref", f"refs/tags/{name}", tip)
    assert call("clone", repo.url, tmp_path / "ours") == 0
    by_git(repo.url, tmp_path / "theirs", lfs=False)
    assert picture(tmp_path / "ours")["refs"] == picture(tmp_path / "theirs")["refs"]
    repo.set_head("refs/heads/--template=x")
    assert call("clone", repo.url, tmp_path / "headed") == 0
    assert git(tmp_path / "headed", "symbolic-ref", "HEAD").strip() == "refs/heads/--template=x"


def test_nothing_in_a_tree_is_run(repo: UpstreamRepo, tmp_path: Path, proof: Path) -> None:
    run = EVIL.format(proof=proof)
    repo.commit(
        {
            ".gitattributes": "* filter=evil diff=evil merge=evil\n*.bin filter=lfs\n",
            ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {proof}\n\trequired\n',
            ".githooks/post-checkout": run,
            "hooks/post-checkout": run,
            ".lfsconfig": f'[lfs]\n\tstorage = {tmp_path / "elsewhere"}\n[lfs "customtransfer.x"]\n\tpath = touch\n'
            f"\targs = {proof}\n[lfs]\n\tstandalonetransferagent = x\n[core]\n\thooksPath = hooks\n"
            f'[filter "evil"]\n\tsmudge = touch {proof}\n',
            ".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = --upload-pack=touch${{IFS}}{proof}\n\tupdate = !touch {proof}\n',
        },
        lfs={"a.bin": b"x" * 2000},
    )
    call("clone", repo.url, tmp_path / "ours")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("name", [b".git", b".GIT", b"..", b"git~1", b".g\xe2\x80\x8cit", b"a/../../out", b"/abs"])
def test_trees_that_lead_out_of_the_work_tree_are_refused(
    repo: UpstreamRepo, tmp_path: Path, proof: Path, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = blob(repo, EVIL.format(proof=proof))
    hooks = raw_tree(repo, ("100755", b"post-checkout", hook))
    inside = raw_tree(repo, ("40000", b"hooks", hooks))
    commit_tree(repo, raw_tree(repo, ("40000", name, inside)))
    assert call("clone", repo.url, tmp_path / "deep" / "ours") != 0
    assert "cannot be had" in capsys.readouterr().err
    assert not (tmp_path / "deep" / "hooks").exists()
    assert not (tmp_path / "deep" / "ours" / ".git" / "hooks" / "post-checkout").exists()


def test_a_file_below_a_link_is_not_written_where_the_link_leads(
    repo: UpstreamRepo, tmp_path: Path, proof: Path
) -> None:
    (tmp_path / "outside").mkdir()
    link, file = blob(repo, str(tmp_path / "outside")), blob(repo, "x")
    below = raw_tree(repo, ("100644", b"file", file))
    commit_tree(repo, raw_tree(repo, ("120000", b"a", link), ("40000", b"a", below)))
    assert call("clone", repo.url, tmp_path / "ours") != 0
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_are_made_and_not_followed(repo: UpstreamRepo, tmp_path: Path, proof: Path) -> None:
    link = blob(repo, "../../../../etc/passwd")
    file = blob(repo, "x")
    commit_tree(repo, raw_tree(repo, ("120000", b"a", link), ("100644", b"b", file)))
    assert call("clone", repo.url, tmp_path / "ours") == 0
    assert (tmp_path / "ours" / "a").is_symlink()
    by_git(repo.url, tmp_path / "theirs", lfs=False)
    assert picture(tmp_path / "ours")["tree"] == picture(tmp_path / "theirs")["tree"]
