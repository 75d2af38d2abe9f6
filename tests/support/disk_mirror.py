"""One mirror on disk with an upstream beside it, and the steps of a sync in few words."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.domain.runs import KeptTip
from mirror_sync.errors import LeaseLost
from mirror_sync.ports import Clock, Inspection, PublishRequest, View
from mirror_sync.repos import Repositories, Repository
from tests.support.raw_history import History
from tests.support.staging import stage_pack

NAME = MirrorName("git.example.org/acme/model")
MAIN = RefName("refs/heads/main")
PLENTY = 2**40


class DiskMirror:
    """The mirror ``NAME`` below a directory; the store is made and the lock is taken by each step."""

    def __init__(
        self, directory: Path, *, object_format: ObjectFormat = ObjectFormat.SHA1, clock: Clock | None = None
    ) -> None:
        self.directory = directory
        self.history = History(directory / "upstream", object_format=object_format)
        self.object_format = object_format
        self.clock = clock or SystemClock()
        self.git_dir = directory / "git"
        self.repository = self.open()

    def open(self) -> Repository:
        return Repositories(self.git_dir, clock=self.clock, reserve_bytes=0).open(NAME)

    def commit(self, text: str = "", **how: object) -> GitOid:
        return GitOid(self.history.commit(text, **how))  # type: ignore[arg-type]

    def create(self) -> None:
        with self.repository.lock():
            self.repository.create(self.object_format)

    def stage(self, *tips: str, haves: Sequence[str] = ()) -> None:
        with self.repository.lock():
            stage_pack(self.repository, [self.history.pack(tips, haves=haves)], max_bytes=PLENTY)

    def inspect(self, *tips: str, relaxed: Sequence[str] = ()) -> Inspection:
        with self.repository.lock():
            return self.repository.inspect([GitOid(tip) for tip in tips], relaxed=relaxed)

    def publish(self, tips: Mapping[str, str], *, head: str = MAIN, kept: Sequence[KeptTip] = ()) -> View:
        """Bring what is missing and publish exactly ``tips``, the whole way."""
        repository = self.repository
        wanted = {RefName(name): GitOid(oid) for name, oid in tips.items()}
        with repository.lock():
            repository.create(self.object_format)
            repository.recover()
            published = repository.published()
            missing = repository.missing(wanted.values())
            if missing:
                haves = sorted(set(published.snapshot.tips.values()))
                stage_pack(repository, [self.history.pack(sorted(missing), haves=haves)], max_bytes=PLENTY)
                found = repository.inspect(sorted(set(wanted.values())))
                assert found.bad == {}, found
            repository.promote(sorted(set(wanted.values())))
            request = PublishRequest(
                view=repository.next_view(),
                expected_view=published.number,
                snapshot=RefSnapshot(wanted, RefName(head)),
                kept=kept,
            )
            made = repository.publish(request, confirm=lambda: None)
            repository.discard_stage()
            return made

    def served(self) -> tuple[dict[str, str], str]:
        """Return refs and HEAD as git itself reads them from the published view."""
        view = self.repository.layout.current_view()
        assert view is not None
        lines = subprocess.run(["git", "ls-remote", str(view)], check=True, capture_output=True).stdout.decode(
            "utf-8", "surrogateescape"
        )
        refs = dict(reversed(line.split("\t")) for line in lines.split("\n") if line)
        refs.pop("HEAD", None)
        return refs, (view / "HEAD").read_text(errors="surrogateescape")

    def check_served(self) -> None:
        """Fail unless every object that the published refs reach is in the store."""
        view = self.repository.layout.current_view()
        assert view is not None
        subprocess.run(["git", f"--git-dir={view}", "rev-list", "--objects", "--all", "--quiet"], check=True)

    def loose_ends(self) -> list[str]:
        """Return every file on disk that only an interruption leaves behind."""
        suspicious = ("tmp_*", "*.lock", "*.keep", ".new-*", ".tmp-*")
        return sorted({str(path) for pattern in suspicious for path in self.repository.layout.root.rglob(pattern)})

    def copy(self, directory: Path) -> DiskMirror:
        """Return the same mirror, copied to another directory, hard links broken."""
        shutil.copytree(self.directory, directory, symlinks=True)
        twin = object.__new__(DiskMirror)
        twin.__dict__.update(self.__dict__)
        twin.directory = directory
        twin.git_dir = directory / "git"
        twin.repository = twin.open()
        return twin

    def wait_until_free(self) -> None:
        """Wait until no child of a killed process holds the lock any more."""
        ends = time.monotonic() + 20
        while True:
            try:
                with self.repository.lock():
                    return
            except LeaseLost:
                assert time.monotonic() < ends, "a git child of a killed process never ended"
                time.sleep(0.01)
