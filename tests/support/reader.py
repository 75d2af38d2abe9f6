"""A client that lists, clones and fetches LFS objects in a loop, as a process of its own.

``python -m tests.support.reader URL DIRECTORY`` goes on until its standard input is
closed, and tells of each look in a line of JSON: ``{"refs": ..., "head": ...}`` for what
it was shown, ``{"fault": ...}`` for what must never happen.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

POINTER = re.compile(rb"^version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]+)\n")
LFS_TYPE = "application/vnd.git-lfs+json"


class Fault(Exception):
    """Something that no client may ever see."""


class Reader:
    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self._fetched: set[str] = set()

    def list(self, *options: str) -> dict[str, Any]:
        """List refs and HEAD."""
        refs: dict[str, str] = {}
        head = ""
        for line in self._git(*options, "ls-remote", "--symref", self.url).splitlines():
            left, name = line.split("\t")
            if left.startswith("ref: "):
                head = left
            elif name != "HEAD" and not name.endswith("^{}"):
                refs[name] = left
        return {"refs": refs, "head": head}

    def clone(self, number: int, *options: str) -> dict[str, Any]:
        """Clone everything, look for gaps, and fetch every LFS object that a checkout of any branch needs."""
        clone = self.directory / str(number)
        try:
            self._git(*options, "clone", "-q", "--mirror", self.url, str(clone))
            self._git(f"--git-dir={clone}", "fsck", "--full", "--strict", "--no-dangling")
            rows = self._git(f"--git-dir={clone}", "for-each-ref", "--format=%(objectname) %(refname)").splitlines()
            refs = {name: oid for oid, name in (row.split(" ") for row in rows)}
            self.fetch_lfs(self._pointers(clone, set(refs.values())))
            return {"refs": refs, "head": (clone / "HEAD").read_text().strip(), "clone": True}
        finally:
            shutil.rmtree(clone, ignore_errors=True)

    def _pointers(self, clone: Path, tips: set[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for tip in tips:
            for row in self._git(f"--git-dir={clone}", "ls-tree", "-r", tip).splitlines():
                blob = row.split("\t")[0].split()[2]
                data = subprocess.run(
                    ["git", f"--git-dir={clone}", "cat-file", "blob", blob], capture_output=True, check=True
                ).stdout
                if match := POINTER.match(data):
                    found[match[1].decode()] = int(match[2])
        return found

    def fetch_lfs(self, pointers: dict[str, int]) -> None:
        """Ask for all of them, download those not had before, and check every byte."""
        asked = [{"oid": oid, "size": size} for oid, size in sorted(pointers.items())]
        body = json.dumps({"operation": "download", "transfers": ["basic"], "objects": asked}).encode()
        headers = {"Accept": LFS_TYPE, "Content-Type": LFS_TYPE}
        answer = json.loads(self._http(f"{self.url}.git/info/lfs/objects/batch", body, headers))
        for item in answer["objects"]:
            oid = item["oid"]
            if "actions" not in item:
                raise Fault(f"a published ref needs LFS object {oid}, and it is not there: {item.get('error')}")
            if oid in self._fetched:
                continue
            action = item["actions"]["download"]
            data = self._http(action["href"], None, action.get("header", {}))
            if len(data) != pointers[oid] or hashlib.sha256(data).hexdigest() != oid:
                raise Fault(f"LFS object {oid} came with wrong bytes")
            self._fetched.add(oid)

    def _http(self, url: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, data=body, headers=headers), timeout=60) as reply:
                data: bytes = reply.read()
        except OSError as error:
            raise Fault(f"{url}: {error}") from error
        return data

    def _git(self, *arguments: str) -> str:
        ran = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=120)
        if ran.returncode != 0:
            raise Fault(f"git {' '.join(arguments)} exited {ran.returncode}: {ran.stderr}")
        return ran.stdout


def main() -> None:
    reader = Reader(sys.argv[1], Path(sys.argv[2]))
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    for number in itertools.count():
        if done.is_set():
            return
        options = ("-c", f"protocol.version={number % 2 * 2}")
        try:
            told = reader.clone(number, *options) if number % 4 == 3 else reader.list(*options)
        except Fault as fault:
            told = {"fault": str(fault)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
