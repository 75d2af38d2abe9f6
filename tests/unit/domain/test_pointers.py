"""Every case of the pointer grammar, decided as git-lfs decides it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror_sync.domain.pointers import EMPTY_OID, MAX_OBJECT_BYTES, Pointer, parse_pointer
from tests.support.pointers import OID, VERSION, nearly_pointers, pointer_text

LINES = [f"version {VERSION}", f"oid sha256:{OID}", "size 12345"]
EXT = f"sha256:{OID}"


def text(*lines: str, newline: str = "\n", tail: str = "\n") -> bytes:
    return (newline.join(lines) + tail).encode()


ACCEPTED = {
    "canonical": text(*LINES),
    "no final newline": text(*LINES, tail=""),
    "CRLF": text(*LINES, newline="\r\n", tail="\r\n"),
    "leading blank lines": b"\n\r\n" + text(*LINES),
    "inner blank lines": text(LINES[0], "", LINES[1], "\r", LINES[2]),
    "trailing blank lines": text(*LINES, "", ""),
    "trailing spaces": text(*LINES) + b"  \t \n",
    "surrounding wide blanks": "\u3000\u2028".encode() + text(*LINES) + "\u00a0\u0085".encode(),
    "leading zeros": text(*LINES[:2], "size 0012345"),
    "plus sign": text(*LINES[:2], "size +12345"),
    "hawser": text("version https://hawser.github.com/spec/v1", *LINES[1:]),
    "git-media": text("version http://git-media.io/v/2", *LINES[1:]),
    "extension": text(LINES[0], f"ext-0-foo {EXT}", *LINES[1:]),
    "extensions unsorted": text(LINES[0], f"ext-3-foo {EXT}", f"ext-1-bar {EXT}", *LINES[1:]),
    "extension before the version": text(f"ext-0-foo {EXT}", *LINES),
    "extension between oid and size": text(*LINES[:2], f"ext-0-foo {EXT}", LINES[2]),
    "one extension twice": text(LINES[0], f"ext-0-foo {EXT}", f"ext-0-foo {EXT}", *LINES[1:]),
    "one extension twice, the first without an oid": text(LINES[0], "ext-0-foo x", f"ext-0-foo {EXT}", *LINES[1:]),
    "extension with dashes": text(LINES[0], f"ext-0-foo-bar {EXT}", *LINES[1:]),
    "1,023 bytes": text(*LINES).ljust(1023, b"\n"),
}
REJECTED = {
    "nothing": b"",
    "upper-case oid": text(LINES[0], f"oid sha256:{OID.upper()}", LINES[2]),
    "sha512": text(LINES[0], f"oid sha512:{OID}", LINES[2]),
    "oid too long": text(LINES[0], f"oid sha256:{OID}0", LINES[2]),
    "oid too short": text(LINES[0], f"oid sha256:{OID[:-1]}", LINES[2] + "0"),
    "oid without its kind": text(LINES[0], f"oid {OID}", LINES[2], tail="\n" * 20),
    "negative size": text(*LINES[:2], "size -1"),
    "size beyond 2^63-1": text(*LINES[:2], f"size {MAX_OBJECT_BYTES + 1}"),
    "size with a blank": text(*LINES[:2], "size  12345"),
    "size with an underscore": text(*LINES[:2], "size 12_345"),
    "size in other digits": text(*LINES[:2], "size \u0661\u0662"),
    "no size": text(*LINES[:2], tail="\n" * 20),
    "empty size": text(*LINES[:2], "size ", tail="\n" * 20),
    "size before oid": text(LINES[0], LINES[2], LINES[1]),
    "http git-lfs": text(f"version {VERSION.replace('https', 'http')}", *LINES[1:]),
    "version 2": text(f"version {VERSION[:-1]}2", *LINES[1:]),
    "byte order mark": "\ufeff".encode() + text(*LINES),
    "two spaces": text(f"version  {VERSION}", *LINES[1:]),
    "tab for space": text(f"version\t{VERSION}", *LINES[1:]),
    "trailing space inside": text(LINES[0], LINES[1] + " ", LINES[2]),
    "line of blanks inside": text(LINES[0], " ", *LINES[1:]),
    "two carriage returns": text(*LINES, newline="\r\r\n"),
    "old Macintosh newlines": text(*LINES, newline="\r"),
    "unknown key": text(LINES[0], "foo bar", *LINES[1:]),
    "repeated key": text(LINES[0], LINES[0], *LINES[1:]),
    "line after the size": text(*LINES, "foo bar"),
    "extension after the size": text(*LINES, f"ext-0-foo {EXT}"),
    "priority of two digits": text(LINES[0], f"ext-10-foo {EXT}", *LINES[1:]),
    "two extensions of one priority": text(LINES[0], f"ext-0-foo {EXT}", f"ext-0-bar {EXT}", *LINES[1:]),
    "extension without an oid": text(LINES[0], "ext-0-foo bar", *LINES[1:]),
    "extension without a name": text(LINES[0], f"ext-0- {EXT}", *LINES[1:]),
    "1,024 bytes": text(*LINES).ljust(1024, b"\n"),
    "NUL": text(*LINES[:2], "size 12345\0"),
}


@pytest.mark.parametrize("data", ACCEPTED.values(), ids=ACCEPTED)
def test_accepts_what_git_lfs_accepts(data: bytes) -> None:
    assert parse_pointer(data) == Pointer(OID, 12345)


@pytest.mark.parametrize("data", REJECTED.values(), ids=REJECTED)
def test_rejects_what_git_lfs_rejects(data: bytes) -> None:
    assert parse_pointer(data) is None


@pytest.mark.parametrize(
    ("size", "expected"), [("0", 0), ("-0", 0), ("+0", 0), ("007", 7), (str(MAX_OBJECT_BYTES), MAX_OBJECT_BYTES)]
)
def test_reads_sizes_as_git_lfs_does(size: str, expected: int) -> None:
    assert parse_pointer(pointer_text(size=size)) == Pointer(OID, expected)


def test_the_smallest_pointer_has_114_bytes() -> None:
    data = text("version http://git-media.io/v/2", LINES[1], "size 1", tail="")
    assert len(data) == 114
    assert parse_pointer(data) == Pointer(OID, 1)


def test_knows_the_pointer_of_the_empty_file() -> None:
    assert parse_pointer(pointer_text(EMPTY_OID, 0)) == Pointer(EMPTY_OID, 0)


@given(st.one_of(nearly_pointers(), st.binary(max_size=1100), st.binary().map(lambda tail: pointer_text() + tail)))
@settings(max_examples=500, deadline=None)
def test_never_fails(data: bytes) -> None:
    found = parse_pointer(data)
    assert found is None or (len(found.oid) == 64 and 0 <= found.size <= MAX_OBJECT_BYTES)
