"""Query parameters."""

from __future__ import annotations

from urllib.parse import parse_qsl

from flask import request

from mirror_sync.errors import UsageError


def raw_query() -> dict[str, str]:
    """Return the query parameters with bytes that are not UTF-8 kept by ``surrogateescape``, as ref names have them."""
    text = request.query_string.decode("latin-1")
    pairs = parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="surrogateescape", max_num_fields=50)
    return {key: value for key, value in pairs if len(value) <= 5000}


def number(key: str, *, default: int, low: int, high: int) -> int:
    """Return a whole number; raises :class:`UsageError` for anything else or out of bounds."""
    text = request.args.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or not low <= int(text) <= high:
        raise UsageError(f"{key} is a whole number from {low} to {high}")
    return int(text)
