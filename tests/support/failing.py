"""An upstream behind a failing link, and whether what came across is what upstream has."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.compare import objects_of, refs_of
from tests.support.link import Link, Weather
from tests.support.mirroring import Carried, carried, fsck, mirror_command, view_of
from tests.support.upstream import GitUpstream, UpstreamRepo

SECONDS = 120.0
"""Nothing here takes so long on any machine; what hangs is given up."""


def adopt(up: GitUpstream, name: str, source: Path) -> UpstreamRepo:
    """Serve a bare repository that lies elsewhere under ``name``; its objects are shared, not copied."""
    place = up.repositories / f"{name}.git"
    place.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "clone", "-q", "--mirror", "--shared", str(source), str(place)], check=True)
    for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        subprocess.run(["git", "-C", str(place), "config", key, "true"], check=True)
    return up.adopt(name)


def plain_bytes(up: GitUpstream, repo: UpstreamRepo, scratch: Path) -> int:
    """Return the bytes over the link of a plain ``git clone --mirror``."""
    with Link(up.port) as link:
        subprocess.run(["git", "clone", "-q", "--mirror", f"{link.origin}/{repo.name}", str(scratch)], check=True)
        return link.count().down


@dataclass
class Crossing:
    """One mirror of one repository over one link."""

    up: GitUpstream
    repo: UpstreamRepo
    link: Link
    directory: Path

    @property
    def url(self) -> str:
        return f"{self.link.origin}/{self.repo.name}"

    @property
    def view(self) -> Path:
        return view_of(self.directory, self.url)

    def mirror(
        self,
        *options: str,
        kill_every: tuple[float, float] | None = None,
        kills: int | None = None,
        seconds: float = SECONDS,
    ) -> Carried:
        """Mirror by the worker's own code, killed now and then; nothing incomplete is ever served."""
        return carried(
            mirror_command(self.directory, self.url, *options),
            log=self.directory.with_suffix(".log"),
            seconds=seconds,
            kill_every=kill_every,
            kills=kills,
            seed=self.link.weather.seed,
            after_kill=self.assert_nothing_incomplete,
        )

    def assert_nothing_incomplete(self) -> None:
        """What is served, if anything is, is whole."""
        if self.view.exists():
            assert objects_of(self.view)

    def assert_same(self) -> None:
        """Refs, objects and the judgement of ``git fsck --full`` are upstream's."""
        assert refs_of(self.view) == refs_of(self.repo.path)
        assert objects_of(self.view) == objects_of(self.repo.path)
        assert fsck(self.view) == fsck(self.repo.path)


@contextmanager
def crossing(up: GitUpstream, repo: UpstreamRepo, directory: Path, weather: Weather) -> Iterator[Crossing]:
    """Put a link with ``weather`` before an upstream, LFS objects included."""
    with Link(up.port, weather) as link:
        repo.lfs.href_origin = link.origin
        yield Crossing(up, repo, link, directory)


def plain_clone_fails(url: str, into: Path) -> None:
    """Fail unless ``git clone --mirror`` over the link ends with nothing."""
    done = subprocess.run(
        ["git", "clone", "-q", "--mirror", url, str(into)], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode != 0, "the link is good enough for a plain clone and proves nothing"
    assert not into.exists()
