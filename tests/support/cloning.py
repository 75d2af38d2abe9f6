"""Clones made by the command and by git, and pictures of them that can be compared.

::

    assert call("clone", repo.url, tmp_path / "ours") == 0
    by_git(repo.url, tmp_path / "theirs")                 # git clone, git lfs install --local, git lfs pull
    assert picture(tmp_path / "ours") == picture(tmp_path / "theirs")
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from mirror_sync.cli.entry import run


def call(*words: str | Path) -> int:
    """Run a command line of ours in this process; return its exit status."""
    return run([str(word) for word in words])


def git(directory: Path, *words: str, ok: tuple[int, ...] = (0,), **variables: str) -> str:
    """Run git as a person does, and return what it says."""
    done = subprocess.run(
        ["git", *words], cwd=directory, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode in ok, f"git {words} exited {done.returncode}: {done.stderr}"
    return done.stdout


def by_git(url: str, directory: Path, *options: str, lfs: bool = True, **variables: str) -> None:
    """Clone as a person does without us; with ``lfs`` set git-lfs up for this clone and let it bring its files."""
    git(directory.parent, "clone", "--quiet", *options, url, str(directory), **variables)
    if lfs:
        git(directory, "lfs", "install", "--local")
        git(directory, "lfs", "pull")


def picture(directory: Path, *, but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return everything that tells one clone from another, less the entries named in ``but``."""
    bare = not (directory / ".git").exists()
    inner = directory if bare else directory / ".git"
    seen: dict[str, Any] = {
        "config": sorted(git(directory, "config", "--list", "--local").splitlines()),
        "config sections": sorted(line for line in _text(inner / "config").splitlines() if line.startswith("[")),
        "refs": git(directory, "for-each-ref", "--format=%(refname) %(objectname) %(symref) %(upstream)").splitlines(),
        "packed": _text(inner / "packed-refs"),
        "HEAD": _text(inner / "HEAD"),
        "fsck": git(directory, "fsck", "--full", "--strict", "--no-progress", "--no-dangling"),
        "hooks": _files(inner / "hooks"),
        "logs": _files(inner / "logs"),
        "info": _files(inner / "info"),
        "lfs": _files(inner / "lfs" / "objects"),
        "rights": stat.S_IMODE(inner.stat().st_mode),
        "names": sorted(path.name for path in inner.iterdir() if path.name != "lfs"),
        "packs": {stat.S_IMODE(path.stat().st_mode) for path in (inner / "objects" / "pack").iterdir()},
        "stray": sorted(path.name for path in (inner / "objects" / "pack").iterdir() if path.suffix == ".keep"),
    }
    if not bare:
        head = git(directory, "rev-parse", "--verify", "--quiet", "HEAD", ok=(0, 1))
        seen |= {
            "status": git(directory, "status", "--porcelain=v2", "--branch"),
            "index": git(directory, "ls-files", "--stage", "-t", "-v"),
            "tree": _files(directory, but=(".git",)),
        }
        if head:
            seen["fresh"] = git(directory, "diff-files", ok=(0, 1))
    return {name: what for name, what in seen.items() if name not in but}


def _text(path: Path) -> str:
    return path.read_text(errors="surrogateescape") if path.exists() else ""


def _files(directory: Path, *, but: tuple[str, ...] = ()) -> dict[str, tuple[int, str]]:
    """Every file below ``directory`` with its rights and a digest of its content."""
    found: dict[str, tuple[int, str]] = {}
    for above, names, files in os.walk(directory):
        names[:] = [name for name in names if name not in but]
        for name in files:
            path = Path(above) / name
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            digest = hashlib.sha256(content).hexdigest() if len(content) > 200 else repr(content)
            found[str(path.relative_to(directory))] = (stat.S_IMODE(path.lstat().st_mode), digest)
    return found
