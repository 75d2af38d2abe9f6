"""What a power cut could take: the order of writes, syncs and new names in one trace of system calls.

kill -9 keeps what the kernel has; a power cut keeps only what was synced, and in no
promised order: the bytes of a file since its last ``fsync``, and names made in a
directory since that directory's.  :func:`judge` follows a trace of ``strace -f -y`` and
tells every step that relies on something not durable yet:

``unsynced-source``   a name in store, views, ``current`` or LFS objects given to bytes that were not synced
``before-flip``       ``current`` flipped while something below it, or the journal of the publish, was not durable
``before-record``     the database told of something (:data:`RELIES`) that was not durable
``commit``            a call of the state store returned before its transaction was durable
``removed-early``     something old deleted while what replaces it was not durable
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.crash import MARK

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,"
    "fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "access,faccessat,faccessat2"
)
WRITES = frozenset(
    {"write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "fallocate", "copy_file_range", "sendfile"}
)
SYNCS = frozenset({"fsync", "fdatasync", "syncfs"})
RENAMES = frozenset({"rename", "renameat", "renameat2"})
LINKS = frozenset({"link", "linkat"})
SYMLINKS = frozenset({"symlink", "symlinkat"})
REMOVALS = frozenset({"unlink", "unlinkat", "rmdir"})
ASKS = frozenset({"access", "faccessat", "faccessat2"})

RELIES = {
    "settle_intent": ("git", "lfs"),
    "finish": ("git", "lfs"),
    "lfs_arrived": ("lfs",),
    "release": ("git",),
}
"""Which storage must be durable before a call of the state store tells of it."""

PASSING = re.compile(
    r"/(?:tmp_|\.tmp-|\.new-)|/stage(?:/|$)|\.git/lock$|\.lock$|\.tmp$|\.evicted$|/lfs/incomplete/[0-9a-f]{64}$"
)
"""Names that mean nothing after a crash: recovery deletes them, or checks them."""

_CALL = re.compile(r"(\w+)\((.*?)\)?\s*(?:= (-?\d+|\?)(?:<(.*?)>)?(?: .*)?)?$")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)$")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<([^>]*)>")


def strace(output: Path) -> tuple[str, ...]:
    """Return the words that make a command's trace readable here."""
    return (
        "strace",
        "-f",
        "-y",
        "-s",
        "0",
        "--seccomp-bpf",
        "-q",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(output),
    )


@dataclass
class Call:
    """One system call that succeeded."""

    name: str
    begun: int
    """Number of the line on which it began: what comes later is not covered by it."""
    line: str
    descriptor: str = ""
    """Path of the first descriptor argument, or of the directory paths are relative to."""
    paths: tuple[str, ...] = ()
    flags: str = ""


@dataclass(frozen=True)
class Violation:
    """One step that relied on something a power cut could have taken."""

    rule: str
    what: str
    line: str
    because: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}\n    at      {self.line}\n    because {self.because}"


@dataclass
class Node:
    """A file's bytes, under however many names."""

    dirty: int = 0
    """Line of the last write that no sync covers; 0 when there is none."""
    line: str = ""


@dataclass
class Disk:
    """What is durable of one directory tree as the trace goes on."""

    home: str
    nodes: dict[str, Node] = field(default_factory=dict)
    fresh: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Names whose directory was not synced since they were made, with the line that made them."""
    found: list[Violation] = field(default_factory=list)
    flips: int = 0
    intended: bool = False

    # ------------------------------------------------------------ what happens

    def take(self, call: Call) -> None:
        if call.name in ASKS:
            self._mark(call)
        elif call.name in ("open", "openat", "creat"):
            self._open(call)
        elif call.name in WRITES or call.name == "truncate":
            self._write(call, call.paths[0] if call.name == "truncate" else call.descriptor)
        elif call.name in SYNCS:
            self._sync(call)
        elif call.name in ("mkdir", "mkdirat"):
            self._name(call, call.paths[0])
        elif call.name in SYMLINKS:
            self._name(call, call.paths[1])
        elif call.name in LINKS:
            self._link(call)
        elif call.name in RENAMES:
            self._rename(call)
        elif call.name in REMOVALS:
            self._remove(call)

    def _open(self, call: Call) -> None:
        path = call.paths[0]
        if not self._ours(path) or not ("O_CREAT" in call.flags or "O_TRUNC" in call.flags):
            return
        if path not in self.nodes and "O_CREAT" in call.flags:
            self._name(call, path)
            self.nodes[path] = Node(call.begun, call.line)
        elif "O_TRUNC" in call.flags:
            self._write(call, path)

    def _write(self, call: Call, path: str) -> None:
        if self._ours(path):
            node = self.nodes.setdefault(path, Node())
            node.dirty, node.line = call.begun, call.line

    def _sync(self, call: Call) -> None:
        path, whole = call.descriptor, call.name == "syncfs"
        for name in [name for name, (line, _) in self.fresh.items() if line < call.begun]:
            if whole or parent(name) == path:
                del self.fresh[name]
        for name, node in self.nodes.items():
            if (whole or name == path) and node.dirty < call.begun:
                node.dirty = 0

    def _name(self, call: Call, path: str) -> None:
        if self._ours(path):
            self.fresh[path] = (call.begun, call.line)

    def _link(self, call: Call) -> None:
        source, target = call.paths[:2]
        if not self._ours(target):
            return
        self._judge_source(call, source, target)
        self.nodes[target] = self.nodes.setdefault(source, Node())
        self._name(call, target)

    def _rename(self, call: Call) -> None:
        source, target = call.paths[:2]
        if not self._ours(target):
            return
        self._judge_source(call, source, target)
        if target.endswith("/current"):
            self._judge_flip(call)
        self._forget(target)
        for table in (self.nodes, self.fresh):
            for name in [name for name in table if within(name, source)]:
                table[target + name[len(source) :]] = table.pop(name)  # type: ignore[attr-defined]
        self._name(call, target)

    def _remove(self, call: Call) -> None:
        path = call.paths[0]
        if not self._ours(path):
            return
        if path not in self.fresh:
            self._judge_removal(call, path)
        self._forget(path)

    def _forget(self, path: str) -> None:
        self.nodes.pop(path, None)
        self.fresh.pop(path, None)

    # ------------------------------------------------------------ what must be so

    def _judge_source(self, call: Call, source: str, target: str) -> None:
        if self._passing(target) or not self._area(target):
            return
        for name, node in self.nodes.items():
            if within(name, source) and node.dirty:
                self._tell("unsynced-source", target, call, node.line)
        for name, (_, line) in self.fresh.items():
            if name != source and within(name, source):
                self._tell("unsynced-source", target, call, line)

    def _judge_flip(self, call: Call) -> None:
        self.flips += 1
        if not self.intended:
            self._tell("before-flip", "the journal of this publish", call, "no call of intend ended before")
        self.intended = False
        for name, line in self._volatile(("git", "lfs", "state")):
            self._tell("before-flip", name, call, line)

    def _mark(self, call: Call) -> None:
        path = call.paths[0]
        if not path.startswith(MARK):
            return
        moment, _, name = path.removeprefix(MARK).partition(":")
        if moment == "begin":
            for fresh, line in self._volatile(RELIES.get(name, ())):
                self._tell("before-record", f"{name} with {fresh}", call, line)
            return
        self.intended |= name == "intend"
        for fresh, line in self._volatile(("state",)):
            self._tell("commit", f"{name} with {fresh}", call, line)

    def _judge_removal(self, call: Call, path: str) -> None:
        area = self._area(path)
        if self._passing(path) or not area:
            return
        oid = re.search(r"[0-9a-f]{64}", path)  # LFS objects come on several threads, each by itself
        for name, line in self._volatile((area,)):
            if area == "git" or (oid is not None and oid[0] in name):
                self._tell("removed-early", f"{path} while {name} was not durable", call, line)

    def _volatile(self, areas: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield each path below these areas that a power cut could take, with the line that made it so."""
        tops = tuple(f"{self.home}/{area}/" for area in areas)
        for name, node in self.nodes.items():
            if node.dirty and name.startswith(tops) and not self._passing(name) and not name.endswith("-shm"):
                yield name, node.line
        for name, (_, line) in self.fresh.items():
            if name.startswith(tops) and not self._passing(name) and not name.endswith("-shm"):
                yield name, line

    def _tell(self, rule: str, what: str, call: Call, because: str) -> None:
        self.found.append(Violation(rule, what.replace(self.home, ""), call.line, because))

    def _passing(self, path: str) -> bool:
        return PASSING.search(path[len(self.home) :]) is not None

    def _area(self, path: str) -> str:
        """Return which of the two stores a path lies in, if any."""
        area = path[len(self.home) + 1 :].split("/", 1)[0]
        return area if area in ("git", "lfs") else ""

    def _ours(self, path: str) -> bool:
        return within(path, self.home)


def judge(trace: Path, home: Path) -> Disk:
    """Follow a trace for the tree at ``home``; what was there when it began counts as durable.  ``found`` has what is wrong."""
    disk = Disk(str(home))
    for call in calls(trace, str(home)):
        disk.take(call)
    return disk


def calls(trace: Path, home: str) -> Iterator[Call]:
    """Yield the calls that succeeded, at their end, among those that speak of ``home`` or are marks."""
    waiting: dict[str, tuple[int, str]] = {}
    with trace.open(errors="surrogateescape") as file:
        for number, row in enumerate(file, start=1):
            process, _, text = row.rstrip("\n").partition(" ")
            text = text.lstrip()
            begun = number
            if text.endswith("<unfinished ...>"):
                waiting[process] = (number, text.removesuffix("<unfinished ...>").rstrip())
                continue
            if resumed := _RESUMED.match(text):
                begun, head = waiting.pop(process, (number, ""))
                text = head + resumed[2].lstrip()
            if home not in text and MARK not in text:
                continue
            call = _parsed(text, begun)
            if call is not None:
                yield call


def _parsed(text: str, begun: int) -> Call | None:
    match = _CALL.match(text)
    if match is None or match[3] is None:
        return None
    name, arguments = match[1], match[2]
    if name in ASKS:
        return Call(name, begun, text, paths=tuple(_STRING.findall(arguments))) if MARK in arguments else None
    if match[3].startswith("-") or match[3] == "?":
        return None
    if name in WRITES or name in SYNCS:
        found = _DESCRIPTOR.match(arguments.split(", ", 1)[1] if name == "copy_file_range" else arguments)
        return Call(name, begun, text, descriptor=found[2].removesuffix(" (deleted)")) if found else None
    return Call(name, begun, text, paths=tuple(_paths(arguments)), flags=arguments)


def _paths(arguments: str) -> Iterator[str]:
    """Yield the paths among the arguments, made whole by the directory descriptor before them."""
    at = ""
    for match in re.finditer(rf"{_DESCRIPTOR.pattern}|{_STRING.pattern}", arguments):
        if match[2] is not None:
            at = match[2]
        else:
            text = match[3]
            yield text if text.startswith("/") or not at else f"{at}/{text}"


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def within(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")
