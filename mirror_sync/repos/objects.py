"""Reading many objects by id from one long-lived ``cat-file``."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import IO, Final, Self

from mirror_sync.domain.names import GitOid
from mirror_sync.errors import GitFailed, RepositoryDamaged
from mirror_sync.repos.git import DEADLINE_SECONDS, PIPE, Child, Git

BATCH: Final = 4096
"""Objects asked for before their answers are read."""

_PIECE: Final = 256 * 1024
_PIPE_BYTES: Final = 4096
"""What a pipe takes at once whatever the system's limits are."""


class ObjectReader:
    """Reads objects of one repository by id; a context manager around one git child.

    Asks by object id only: asked by name, a long-lived ``cat-file`` can answer stale.
    After ``timeout`` seconds the child is killed, and reading raises :class:`EOFError`.
    """

    def __init__(self, git: Git, *, timeout: float = DEADLINE_SECONDS) -> None:
        self._child: Child = git.stream(["cat-file", "--batch-command", "--buffer"], stdin=PIPE, timeout=timeout)

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, trace)

    def read(self, oids: Iterable[GitOid], *, limit: int) -> Iterator[tuple[GitOid, str, bytes | None]]:
        """Yield id, type and content of each object, in order; ``None`` for the content beyond ``limit`` bytes.

        Read to the end before asking for more.  Raises :class:`RepositoryDamaged` for
        an object that is not here.
        """
        wanted = iter(oids)
        while batch := list(islice(wanted, BATCH)):
            with self._asked(batch):
                for oid in batch:
                    yield _read_one(self._child.stdout, oid, limit=limit)

    def info(self, names: Iterable[str]) -> Iterator[tuple[GitOid, str, int] | None]:
        """Yield id, type and size of each object, in order; ``None`` for one that is not here.

        A name is an id, perhaps with what to peel it to behind it.  Read to the end
        before asking for more.
        """
        wanted = iter(names)
        while batch := list(islice(wanted, BATCH)):
            with self._asked(batch, verb=b"info"):
                for _ in batch:
                    line = self._child.stdout.readline()
                    if not line:
                        raise EOFError
                    yield _header(line) if len(line.split()) == 3 else None

    def sha256(self, oids: Iterable[GitOid]) -> Iterator[tuple[GitOid, str]]:
        """Yield each object with the SHA-256 of its content, in order, however large it is.

        Read to the end before asking for more.  Raises :class:`RepositoryDamaged` for
        an object that is not here.
        """
        wanted = iter(oids)
        while batch := list(islice(wanted, BATCH)):
            with self._asked(batch):
                for oid in batch:
                    yield oid, _digest_one(self._child.stdout, oid)

    @contextlib.contextmanager
    def _asked(self, batch: Sequence[str], *, verb: bytes = b"contents") -> Iterator[None]:
        """Write the requests, beside the reader when they might not fit the pipe, so that neither side waits for the other."""
        data = b"".join(b"%s %s\n" % (verb, name.encode()) for name in batch) + b"flush\n"
        if len(data) <= _PIPE_BYTES:
            self._write(data)
            yield
            return
        writer = threading.Thread(target=self._write, args=(data,), name="object-reader", daemon=True)
        writer.start()
        try:
            yield
        except BaseException:
            self._child.kill()  # so that the writer's pipe breaks
            raise
        finally:
            writer.join()

    def _write(self, data: bytes) -> None:
        # a child that died is found out by its silence on the other pipe, where the error says more
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(data)
            self._child.stdin.flush()


def read_contents(stream: IO[bytes], *, containing: re.Pattern[bytes]) -> Iterator[tuple[GitOid, bytes]]:
    """Yield id and content of each object, in the output of ``cat-file --batch``, in which ``containing`` is found.

    For many small objects of which few matter: those that do not are never copied.
    Raises :class:`RepositoryDamaged` for an object that is not here.
    """
    held = b""
    while data := stream.read(_PIECE):
        held += data
        at = 0
        while (end := held.find(b"\n", at)) != -1:
            fields = held[at:end].split(b" ")
            if len(fields) != 3:
                raise _absent(held[at:end])
            begin, close = end + 1, end + 1 + int(fields[2])
            if close >= len(held):
                break
            if containing.search(held, begin, close):
                yield GitOid(fields[0].decode("ascii")), held[begin:close]
            at = close + 1
        held = held[at:]
    if held:
        raise EOFError


def _read_one(stream: IO[bytes], oid: GitOid, *, limit: int) -> tuple[GitOid, str, bytes | None]:
    kind, size = _begun(stream, oid)
    if size <= limit:
        return oid, kind, _body(stream, size)
    for _ in _pieces(stream, size):
        pass
    return oid, kind, None


def _digest_one(stream: IO[bytes], oid: GitOid) -> str:
    _kind, size = _begun(stream, oid)
    digest = hashlib.sha256()
    for piece in _pieces(stream, size):
        digest.update(piece)
    return digest.hexdigest()


def _begun(stream: IO[bytes], oid: GitOid) -> tuple[str, int]:
    """Return type and size of the object whose content comes next."""
    header = stream.readline()
    if not header:
        raise EOFError
    found, kind, size = _header(header)
    if found != oid:
        raise GitFailed("cat-file answered out of order", argv=("cat-file",))
    return kind, size


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield content of ``size`` bytes, and take the newline behind it."""
    left = size
    while left:
        data = stream.read(min(left, _PIECE))
        if not data:
            raise EOFError
        left -= len(data)
        yield data
    if stream.read(1) != b"\n":
        raise EOFError


def _header(line: bytes) -> tuple[GitOid, str, int]:
    fields = line.decode("ascii", "replace").split()
    if len(fields) != 3:
        raise _absent(line)
    return GitOid(fields[0]), fields[1], int(fields[2])


def _absent(line: bytes) -> RepositoryDamaged:
    text = line.decode("ascii", "replace").strip()
    return RepositoryDamaged(f"object {text.partition(' ')[0]} is not in the repository", why=text)


def _body(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size + 1)
    if len(data) != size + 1:
        raise EOFError
    return data[:-1]
