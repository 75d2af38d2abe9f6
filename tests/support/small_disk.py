"""A file system so small that a test can fill it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20


@contextlib.contextmanager
def small_disk(directory: Path, *, megabytes: int = 64) -> Iterator[None]:
    """Move a directory's content to a file system of its own; skips the test where nothing may be mounted."""
    content = shutil.copytree(directory, directory.with_name(f"{directory.name}.content"), symlinks=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"impossible here: nothing may be mounted: {mounted.stderr.strip()}")
    try:
        shutil.copytree(content, directory, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)
        shutil.rmtree(content)


@contextlib.contextmanager
def filled_up(directory: Path, *, free: int) -> Iterator[None]:
    """Leave only so many bytes free."""
    ballast = directory / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free_bytes(directory) - free))
    try:
        yield
    finally:
        ballast.unlink()


def free_bytes(directory: Path) -> int:
    """Return how many bytes a file system has left."""
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize
