"""Fillings on disk: the contract in both object formats, crashes, and what only the disk shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.ports import PublishRequest
from tests.contract.filling_contract import FillingContract
from tests.support.disk_mirror import MAIN, PLENTY, DiskMirror


class DiskScene:
    """A mirror on disk whose lock is held."""

    def __init__(self, directory: Path, object_format: ObjectFormat) -> None:
        self.mirror = DiskMirror(directory, object_format=object_format)
        self.object_format = object_format
        self.repository = self.mirror.repository
        self._made = 0

    def chain(self, commits: int, *, parents: Sequence[GitOid] = ()) -> list[GitOid]:
        made: list[GitOid] = []
        for _ in range(commits):
            made.append(self.commit(parents=made[-1:] or parents))
        return made

    def commit(self, *, parents: Sequence[GitOid] = (), files: dict[str, bytes] | None = None) -> GitOid:
        self._made += 1
        files = files or {"counter": b"%d\n" % self._made}
        listing = b"".join(sorted(self._paths(files)))
        tree = self.mirror.history.git("mktree", "-z", stdin=listing).decode().strip()
        return self.mirror.commit(f"commit {self._made}", parents=list(parents), tree=tree)

    def _paths(self, files: dict[str, bytes]) -> Iterator[bytes]:
        """Yield what mktree reads for these files: one level of directories."""
        directories: dict[str, dict[str, bytes]] = {}
        for path, content in files.items():
            directory, slash, name = path.rpartition("/")
            if slash:
                directories.setdefault(directory, {})[name] = content
            else:
                yield b"100644 blob %s\t%s\0" % (self.mirror.history.blob(content).encode(), path.encode())
        for directory, inside in directories.items():
            tree = self.mirror.history.git("mktree", "-z", stdin=b"".join(self._paths(inside))).strip()
            yield b"040000 tree %s\t%s\0" % (tree, directory.encode())

    def tag(self, name: str, target: GitOid, kind: str = "commit") -> GitOid:
        return GitOid(self.mirror.history.tag(name, target, kind))

    def blob_at(self, commit: GitOid, path: str) -> GitOid:
        return GitOid(self.mirror.history.git("rev-parse", f"{commit}:{path}").decode().strip())

    def content(self, blob: GitOid) -> bytes:
        return self.mirror.history.git("cat-file", "blob", blob)

    def pack(self, wants: Sequence[GitOid], *, haves: Sequence[GitOid] = ()) -> bytes:
        return self.mirror.history.pack(wants, haves=haves)

    def commits_pack(self, commits: Sequence[GitOid]) -> bytes:
        return self.mirror.history.pack_of(commits)

    def reached(self, tips: Sequence[GitOid]) -> set[GitOid]:
        asked = "".join(f"{tip}\n" for tip in tips).encode()
        listed = self.mirror.history.git("rev-list", "--objects", "--no-object-names", "--stdin", stdin=asked)
        return {GitOid(line) for line in listed.decode().split()}

    def publish(self, tip: GitOid) -> None:
        repository = self.repository
        if repository.missing([tip]):
            repository.stage_pack([self.pack([tip])], max_bytes=PLENTY)
        assert repository.inspect([tip]).bad == {}
        repository.promote([tip])
        published = repository.published()
        request = PublishRequest(repository.next_view(), published.number, RefSnapshot({MAIN: tip}, MAIN), ())
        repository.publish(request, confirm=lambda: None)
        repository.discard_stage()

    def here(self, oids: Sequence[GitOid]) -> set[GitOid]:
        return set(oids) - self.repository.missing(oids)


class TestFilling(FillingContract):
    @pytest.fixture(params=[ObjectFormat.SHA1, ObjectFormat.SHA256])
    def scene(self, tmp_path, request) -> Iterator[DiskScene]:
        made = DiskScene(tmp_path, request.param)
        with made.repository.lock():
            made.repository.create(made.object_format)
            yield made
