"""Numbers as people read them."""

from __future__ import annotations


def size_text(count: float) -> str:
    """Return bytes as people say them, in steps of 1,024 as the configuration counts, on pages and terminals alike."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if round(count, 0 if unit == "B" else 1) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def refs_text(count: int) -> str:
    """Return a number of refs as people say it."""
    return "1 ref" if count == 1 else f"{count:,} refs"


def tips_text(count: int) -> str:
    """Return a number of tips as people say it."""
    return "1 tip" if count == 1 else f"{count:,} tips"


def objects_text(count: int) -> str:
    """Return a number of LFS objects as people say it."""
    return "1 LFS object" if count == 1 else f"{count:,} LFS objects"
