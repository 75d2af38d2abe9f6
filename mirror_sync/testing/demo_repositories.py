"""Repositories with LFS objects to watch a mirror by, made with plain git and written by hand."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GIT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}
COMMITTER = b"committer Demo Upstream <demo@example.invalid> now\n"
ATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n"
MIB = 1 << 20
UPDATE_BYTES = 256 << 10
LFS_EVERY = 3
"""Every third push brings a new LFS object too."""

README = b"""# Demo upstream

This repository was made on this machine to watch mirror_sync by.
It gets a new commit every now and then; every third one replaces an LFS object.
"""


class Shelf:
    """LFS objects by oid, as an upstream has them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, content: bytes) -> bytes:
        """Keep an object and return its pointer."""
        oid = hashlib.sha256(content).hexdigest()
        self._directory.mkdir(parents=True, exist_ok=True)
        final = self._directory / oid
        draft = self._directory / f".{oid}"
        draft.write_bytes(content)
        draft.replace(final)
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (oid.encode(), len(content))

    def path(self, oid: str) -> Path | None:
        """Return where an object rests, ``None`` when it is not here."""
        if len(oid) != 64 or not all(char in "0123456789abcdef" for char in oid):
            return None
        found = self._directory / oid
        return found if found.is_file() else None


@dataclass(frozen=True, slots=True)
class DemoRepository:
    """One bare repository and the shelf its pointers point at."""

    name: str
    path: Path
    shelf: Shelf

    def git(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run git in the repository and return what it wrote."""
        done = subprocess.run(
            ["git", "--git-dir", str(self.path), *arguments],
            input=stdin, env=GIT_ENVIRONMENT, check=True, capture_output=True,
        )  # fmt: skip
        return done.stdout.decode()

    def commit(
        self, message: str, files: Mapping[str, bytes], *, branch: str = "refs/heads/main", start: str = ""
    ) -> None:
        """Add a commit that writes ``files``; a whole new history when the branch is new and ``start`` empty."""
        text = message.encode()
        stream = b"commit %s\n%sdata %d\n%s\n" % (branch.encode(), COMMITTER, len(text), text)
        if start:
            stream += b"from %s\n" % start.encode()
        for path, content in files.items():
            stream += b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(content), content)
        self.git("fast-import", "--quiet", "--date-format=now", stdin=stream)

    def tag(self, name: str, message: str) -> None:
        """Add an annotated tag on main."""
        text = message.encode()
        stream = b"tag %s\nfrom refs/heads/main^0\ntagger %sdata %d\n%s\n" % (
            name.encode(), COMMITTER.removeprefix(b"committer "), len(text), text,
        )  # fmt: skip
        self.git("fast-import", "--quiet", "--date-format=now", stdin=stream)

    def commits(self) -> int:
        """Return how many commits main has."""
        return int(self.git("rev-list", "--count", "refs/heads/main"))

    def tip(self) -> str:
        """Return main's tip."""
        return self.git("rev-parse", "refs/heads/main").strip()

    def push_next(self) -> str:
        """Add one more commit to main and return a sentence that says what it brought."""
        number = self.commits()
        files = {"journal.md": f"# Journal\n\nThis is commit {number + 1}.\n".encode()}
        said = f"commit {number + 1}"
        if number % LFS_EVERY == 0:
            files["latest.bin"] = self.shelf.put(os.urandom(UPDATE_BYTES))
            said += f" with an LFS object of {UPDATE_BYTES >> 10} KiB"
        self.commit(f"Entry {number + 1}", files, start="refs/heads/main^0")
        return said


def make_repositories(directory: Path) -> list[DemoRepository]:
    """Return the demo's repositories, making in ``directory`` those that are not there yet."""
    shelf = Shelf(directory / "lfs")
    model = DemoRepository("demo/model", directory / "git" / "demo" / "model.git", shelf)
    data = DemoRepository("demo/data", directory / "git" / "demo" / "data.git", shelf)
    if _begin(model):
        model.commit("Weights and tokenizer", {
            ".gitattributes": ATTRIBUTES,
            "README.md": README,
            "config.json": b'{"layers": 2, "width": 64}\n',
            "weights.bin": shelf.put(os.urandom(4 * MIB)),
            "tokenizer.bin": shelf.put(os.urandom(MIB)),
        })  # fmt: skip
        model.tag("v1.0", "The first weights")
        model.commit("Try wider layers", {"config.json": b'{"layers": 2, "width": 128}\n'},
                     branch="refs/heads/wider", start="refs/heads/main^0")  # fmt: skip
        _finish(model)
    if _begin(data):
        data.commit("Two shards", {
            ".gitattributes": ATTRIBUTES,
            "README.md": README,
            "shards/000.bin": shelf.put(os.urandom(2 * MIB)),
            "shards/001.bin": shelf.put(os.urandom(2 * MIB)),
        })  # fmt: skip
        _finish(data)
    return [model, data]


def _begin(repository: DemoRepository) -> bool:
    """Make an empty repository, unless it was finished before."""
    if (repository.path / "made").exists():
        return False
    shutil.rmtree(repository.path, ignore_errors=True)  # what an interrupted start left
    repository.path.mkdir(parents=True)
    repository.git("init", "--quiet", "--bare", "--template=", "--initial-branch=main", str(repository.path))
    return True


def _finish(repository: DemoRepository) -> None:
    (repository.path / "made").touch()
