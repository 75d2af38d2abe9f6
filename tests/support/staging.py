"""One pack into a mirror's stage, as a fetch brings it that needs no more than one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def stage_pack(repository: Any, chunks: Iterable[bytes], *, max_bytes: int = 2**40) -> int:
    """Take one pack and return its bytes; raises what broke it off.

    ``repository`` is any :class:`mirror_sync.ports.GitRepository`; its lock is held.
    """
    taken = repository.filling().take(chunks, max_bytes=max_bytes)
    if taken.error is not None:
        raise taken.error
    assert taken.complete
    return int(taken.received)
