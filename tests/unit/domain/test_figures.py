"""Numbers as people read them."""

from __future__ import annotations

import pytest

from mirror_sync.domain.figures import objects_text, refs_text, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (1023.7, "1.0 KiB"),
        (0.6, "1 B"),
        (5_505_024, "5.2 MiB"),
        (3 * 2**40, "3.0 TiB"),
        (2**53, "8192.0 TiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("count", "refs", "objects"),
    [
        (0, "0 refs", "0 LFS objects"),
        (1, "1 ref", "1 LFS object"),
        (2, "2 refs", "2 LFS objects"),
        (12_345, "12,345 refs", "12,345 LFS objects"),
    ],
)
def test_one_is_not_many(count: int, refs: str, objects: str) -> None:
    assert (refs_text(count), objects_text(count)) == (refs, objects)
