"""A scratch repository that plays upstream: commits, tags, packs and deliberately broken objects."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path


class History:
    """A bare repository to make objects in, and packs of them."""

    def __init__(self, directory: Path, *, object_format: str = "sha1") -> None:
        self.directory = directory
        subprocess.run(["git", "init", "-q", "--bare", f"--object-format={object_format}", str(directory)], check=True)
        self._counter = 0

    def git(self, *args: str, stdin: bytes = b"") -> bytes:
        return subprocess.run(
            ["git", f"--git-dir={self.directory}", *args], input=stdin, check=True, stdout=subprocess.PIPE
        ).stdout

    def blob(self, data: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=data).decode().strip()

    def raw(self, kind: str, data: bytes) -> str:
        """Store any bytes as an object, sound or not."""
        return self.git("hash-object", "--literally", "-t", kind, "-w", "--stdin", stdin=data).decode().strip()

    def tree(self, entries: Iterable[tuple[str, bytes, str]]) -> str:
        """Store a tree exactly as given: mode, name, object; neither sorted nor checked."""
        data = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries)
        return self.raw("tree", data)

    def commit(
        self, text: str = "", *, parents: Iterable[str] = (), files: Mapping[str, bytes] | None = None, tree: str = ""
    ) -> str:
        """Store a commit with these files (or this tree); the first content differs each time."""
        self._counter += 1
        if not tree:
            content = {"counter": f"{self._counter}\n".encode(), **(files or {})}
            tree = self.tree(("100644", name.encode(), self.blob(data)) for name, data in sorted(content.items()))
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        who = f"Ada <ada@example.org> {1700000000 + self._counter} +0000"
        body = "\n".join([*lines, f"author {who}", f"committer {who}", "", text or f"commit {self._counter}", ""])
        return self.raw("commit", body.encode())

    def tag(self, name: str, target: str, kind: str = "commit") -> str:
        body = f"object {target}\ntype {kind}\ntag {name}\ntagger Ada <ada@example.org> 1700000000 +0000\n\n{name}\n"
        return self.raw("tag", body.encode())

    def chain(self, length: int, *, parent: str = "") -> list[str]:
        """Store a line of commits with one file each, quickly; oldest first."""
        stream = []
        for index in range(length):
            self._counter += 1
            above = f"from {parent}\n" if parent and index == 0 else ""
            text = f"chain {self._counter}"
            stream.append(
                f"commit refs/scratch/chain\nmark :{index + 1}\n"
                f"committer Ada <ada@example.org> {1700000000 + self._counter} +0000\n"
                f"data {len(text)}\n{text}\n{above}M 644 inline counter\ndata {len(text)}\n{text}\n"
            )
        marks = self.directory / "marks"
        self.git("fast-import", "--quiet", "--force", f"--export-marks={marks}", stdin="".join(stream).encode())
        self.git("update-ref", "-d", "refs/scratch/chain")
        found = dict(line.split() for line in marks.read_text().splitlines())
        return [found[f":{index + 1}"] for index in range(length)]

    def pack(self, wants: Iterable[str], *, haves: Iterable[str] = ()) -> bytes:
        """Return a thin pack of what ``wants`` reach and ``haves`` do not, as an upstream would send it."""
        asked = "".join([*(f"{oid}\n" for oid in wants), *(f"^{oid}\n" for oid in haves)])
        return self.git(
            "pack-objects", "--revs", "--thin", "--stdout", "--quiet", "--delta-base-offset", stdin=asked.encode()
        )

    def pack_of(self, oids: Iterable[str]) -> bytes:
        """Return a pack of exactly these objects, whole or not."""
        return self.git("pack-objects", "--stdout", "--quiet", stdin="".join(f"{oid}\n" for oid in oids).encode())
