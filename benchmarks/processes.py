"""Processor time and memory of other processes, read from ``/proc``."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
MEGABYTE = 1_000_000


def own_cpu() -> float:
    """Return the processor seconds of this process and of its children that ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def children_cpu() -> float:
    """Return the processor seconds of the children that ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cpu(pids: Iterable[int]) -> float:
    """Return the processor seconds of processes and of their children that ended."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15]) * TICK
    return total


def memory(pids: Iterable[int]) -> dict[str, float]:
    """Return megabytes: ``pss`` (shared pages divided among those that share them), ``rss``, ``private``."""
    sums = {"pss": 0.0, "rss": 0.0, "private": 0.0}
    kinds = {"Pss": "pss", "Rss": "rss", "Private_Clean": "private", "Private_Dirty": "private"}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in kinds:
                    sums[kinds[name]] += int(rest.split()[0]) * 1024 / MEGABYTE
    return sums


def family(pid: int) -> list[int]:
    """Return a process and everything below it."""
    return list(_below(pid))


def _below(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _below(int(child))


def command(pid: int) -> str:
    """Return a process's command line, empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
