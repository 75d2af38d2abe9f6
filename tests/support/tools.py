"""Outside programs that some tests need."""

from __future__ import annotations

import shutil

import pytest

PACKAGES = {
    "chromium": "chromium",
    "git-lfs": "git-lfs",
    "jgit": "jgit-cli",
    "make": "make",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
}


def require(program: str) -> str:
    """Return the program's path, or skip the test and say which package has it (in CI that fails)."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed: apt-get install {PACKAGES.get(program, program)}")
    return path
