"""The bytes of the pack that is coming, as they came, so that a cut or a crash loses none of them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from mirror_sync.repos.files import Space
from mirror_sync.repos.stage import too_large


class Spool:
    """One pack on its way: written before it is indexed, removed once what it held is.

    It is not flushed: a killed process leaves it whole, and what a power cut takes of it
    is found out when it is read.
    """

    def __init__(self, path: Path, *, max_bytes: int, space: Space) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._space = space
        self._descriptor = -1
        self.received = 0

    def __enter__(self) -> Self:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o644)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def tee(self, chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
        """Yield ``chunks``, each after it was written; raises :class:`StorageFull` at the bounds."""
        for chunk in chunks:
            if self.received + len(chunk) > self._max_bytes:
                raise too_large(self._max_bytes)
            self._space.check(len(chunk))
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._descriptor, view) :]
            self.received += len(chunk)
            yield chunk
