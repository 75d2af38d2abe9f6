"""Column types: ref names as the bytes Git knows them by, object ids as bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import LargeBinary, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from mirror_sync.domain.names import RefName, ref_bytes, ref_from_bytes

SortedText = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that sorts by bytes on every database, so that pages are in one order everywhere."""


class RefBytes(TypeDecorator[RefName]):
    """A ref name, stored as its bytes: it need not be UTF-8."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: RefName | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - the base class's signature
        """Return the bytes to store."""
        return None if value is None else ref_bytes(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> RefName | None:  # noqa: ARG002 - the base class's signature
        """Return the name stored."""
        return None if value is None else ref_from_bytes(bytes(value))


class HexBytes(TypeDecorator[Any]):
    """An object id in hex, stored as its bytes: half the size, the same order."""

    impl = LargeBinary
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[str | None], Any]:  # noqa: ARG002 - the base class's signature
        """Return the function that stores an id."""
        return lambda value: None if value is None else bytes.fromhex(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], str | None]:  # noqa: ARG002 - the base class's signature
        """Return the function that reads an id back."""
        return lambda value: None if value is None else bytes(value).hex()

    def coerce_compared_value(self, op: object, value: object) -> TypeEngine[Any]:  # noqa: ARG002 - the base class's signature
        """Compare ids with ids."""
        return self
