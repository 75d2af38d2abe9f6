"""A history of incompressible files, the same one every time: what git cannot make smaller and a bad link cuts.

``python -m tests.support.binary_history REPOSITORY [--megabytes 400] [--commits 3000]`` makes one.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SMALLEST, USUAL, LARGEST = 4 << 10, 2 << 20, 8 << 20
_MAIN_ALONE = 50
"""The first so many commits are on ``main``, so that every branch begins in a history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a history of incompressible files looks."""

    megabytes: int = 400
    commits: int = 3000
    branches: int = 6
    tags: int = 40
    largest: int = LARGEST
    """Bytes of the largest files; one in a hundred is between half of that and that."""
    seed: int = 1

    def __str__(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())


SMALL = Shape(megabytes=12, commits=400, tags=12, largest=128 << 10)
"""What tests can afford; cuts for it are a hundredth of those for the large one."""


def binary_history(shape: Shape) -> Iterator[bytes]:
    """Yield the ``fast-import`` stream of a history.

    Files of 4 KiB and up, log-uniform, a few much larger, spread over the commits so that
    all of them together have the size asked for; merges, light and annotated tags, and one
    text file that changes in every commit.
    """
    chance = random.Random(shape.seed)
    names = ["main", *(f"topic/{number}" for number in range(1, shape.branches))]
    tips: dict[str, int] = {}
    date, debt = 1_500_000_000, 0.0
    for number in range(1, shape.commits + 1):
        branch = "main" if number % 10 < 6 or number < _MAIN_ALONE else chance.choice(names)
        date += chance.randint(60, 7200)
        yield b"commit refs/heads/%s\nmark :%d\n" % (branch.encode(), number)
        yield b"committer C <c@example.org> %d +0000\n" % date
        yield _data(
            b"commit %d\n\n%s" % (number, b"with words of %d. " % chance.getrandbits(64) * chance.randint(1, 6))
        )
        if tips:
            yield b"from :%d\n" % tips.get(branch, tips["main"])
        others = [tip for name, tip in tips.items() if name != branch]
        if branch == "main" and number % 25 == 0 and others:
            yield b"merge :%d\n" % chance.choice(others)
        tips[branch] = number
        debt += shape.megabytes * 1e6 / shape.commits
        while debt > 0:
            size = _size(chance, shape.largest)
            debt -= size
            yield b"M 100644 inline d%02d/f%03d.bin\n" % (chance.randrange(20), chance.randrange(200))
            yield _data(chance.randbytes(size))
        yield b"M 100644 inline log/%03d.txt\n" % (number % 300)
        yield _data(b"entry %d\n" % number * 20)
    for number in range(shape.tags):
        at = max(1, (number + 1) * shape.commits // shape.tags)
        if number % 2:
            yield b"tag v%d\nfrom :%d\ntagger C <c@example.org> %d +0000\n" % (number, at, date)
            yield _data(b"release %d\n" % number)
        else:
            yield b"reset refs/tags/v%d\nfrom :%d\n\n" % (number, at)


def build_binary_history(repository: Path, shape: Shape = SMALL, *, object_format: str = "sha1") -> None:
    """Make a bare repository holding :func:`binary_history`, in one pack, that serves as a large public host does."""
    _git("init", "-q", "--bare", "-b", "main", f"--object-format={object_format}", str(repository))
    for key, value in (
        ("uploadpack.allowFilter", "true"),
        ("uploadpack.allowAnySHA1InWant", "true"),
        ("core.bigFileThreshold", "1m"),
        ("gc.auto", "0"),
    ):
        _git("-C", str(repository), "config", key, value)
    importing = subprocess.Popen(
        ["git", "-C", str(repository), "-c", "fastimport.unpackLimit=0", "fast-import", "--quiet", "--depth=0"],
        stdin=subprocess.PIPE,
    )
    assert importing.stdin is not None
    with importing.stdin:
        for piece in binary_history(shape):
            importing.stdin.write(piece)
    if importing.wait() != 0:
        raise RuntimeError("git fast-import failed")
    _git("-C", str(repository), "pack-refs", "--all")
    _git("-C", str(repository), "repack", "-adq", "--window=10")


def cached_binary_history(directory: Path, shape: Shape) -> Path:
    """Return a repository of this shape below ``directory``, made when it is not there yet."""
    repository = directory / f"binary-{shape}.git"
    if not repository.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        draft = repository.with_suffix(".draft")
        subprocess.run(["rm", "-rf", str(draft)], check=True)
        build_binary_history(draft, shape)
        draft.rename(repository)
    return repository


def _size(chance: random.Random, largest: int) -> int:
    if chance.random() < 0.01:
        return chance.randint(largest // 2, largest)
    return int(math.exp(chance.uniform(math.log(SMALLEST), math.log(min(USUAL, largest // 4)))))


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a repository of incompressible files.")
    parser.add_argument("repository", type=Path)
    usual = asdict(Shape())
    for name, value in usual.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    told = vars(parser.parse_args())
    build_binary_history(told.pop("repository"), Shape(**told))


if __name__ == "__main__":
    main()
