"""Files that ``quickstart`` writes: whole or not at all, and durable."""

from __future__ import annotations

import os
from pathlib import Path


def write_secret(path: Path, secret: str) -> bool:
    """Create ``path`` with ``secret``, readable by its owner only; ``False`` when it was there already."""
    draft = _draft(path, secret + "\n", mode=0o600)
    try:
        # Unlike a rename, a link never takes the place of a secret that somebody relies on.
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    _make_durable(path.parent)
    return True


def replace_secret(path: Path, secret: str) -> None:
    """Put ``secret`` in the place of the one in ``path`` at once; its owner stays the owner."""
    before = path.stat()
    draft = _draft(path, secret + "\n", mode=0o600)
    try:
        if os.geteuid() == 0:
            os.chown(draft, before.st_uid, before.st_gid)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _make_durable(path.parent)


def write_text(path: Path, text: str) -> None:
    """Put ``text`` in the place of ``path`` at once."""
    _draft(path, text, mode=0o644).replace(path)
    _make_durable(path.parent)


def _draft(path: Path, text: str, *, mode: int) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _make_durable(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
