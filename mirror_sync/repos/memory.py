"""How much memory one git child may take: what the operator says, or half of what there is."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Final

AUTO_SHARE: Final = 0.5
LEAST_BYTES: Final = 1 << 30
"""Half of a small machine would be too little for ordinary histories; the kernel decides there."""

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


def child_memory_bytes(configured: int | None) -> int:
    """Return the bound in bytes, 0 for none; ``None`` asks for half of this machine's memory, at least 1 GiB."""
    if configured is not None:
        return configured
    return max(LEAST_BYTES, int(machine_memory() * AUTO_SHARE))


@functools.cache
def machine_memory() -> int:
    """Return the bytes that this process and its children may use: the machine's, or less in a control group."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *group_limits(_own_group(), top=_CGROUPS)])


def group_limits(group: Path, *, top: Path) -> list[int]:
    """Return the memory limits, in bytes, of a control group and of those above it up to ``top``."""
    found: list[int] = []
    while group.is_relative_to(top):
        try:
            said = (group / "memory.max").read_text("ascii").strip()
        except OSError:
            said = ""
        if said.isdigit():
            found.append(int(said))
        group = group.parent
    return found


def _own_group() -> Path:
    """Return the directory of the control group that this process is in."""
    try:
        lines = _OWN_CGROUP.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("0::/"):
            return _CGROUPS / line.removeprefix("0::/")
    return _CGROUPS
