from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain.trees import EntryKind, parse_tree, path_of_text, path_text, sum_line

OID = "ab" * 20
SUM = "0" * 64


def test_a_tree_is_read_line_by_line() -> None:
    raw = b"".join(
        mode + b" " + name + b"\0" + bytes.fromhex(OID)
        for mode, name in [
            (b"100644", b"a b"),
            (b"40000", b"d"),
            (b"120000", b"l"),
            (b"160000", b"s"),
            (b"100755", b"x"),
        ]
    )
    items = list(parse_tree(raw, oid_bytes=20))
    assert [(item.name, item.kind, item.oid) for item in items] == [
        (b"a b", EntryKind.FILE, OID),
        (b"d", EntryKind.DIRECTORY, OID),
        (b"l", EntryKind.LINK, OID),
        (b"s", EntryKind.SUBMODULE, OID),
        (b"x", EntryKind.FILE, OID),
    ]
    assert [item.sort_key for item in items] == [b"a b", b"d/", b"l", b"s", b"x"]


@pytest.mark.parametrize("cut", range(1, 27))
def test_a_cut_tree_is_refused(cut: int) -> None:
    raw = b"100644 a\0" + bytes.fromhex(OID)
    with pytest.raises(ValueError, match="middle"):
        list(parse_tree(raw[:-cut], oid_bytes=20))


@given(st.binary().filter(lambda path: b"\\x" not in path))
def test_a_path_can_be_told_and_found_again(path: bytes) -> None:
    text = path_text(path)
    assert path in (text.encode(), path_of_text(text.encode()))


@pytest.mark.parametrize("path", [b"plain", b"caf\xc3\xa9", b"a\\xc3\\xa9", b"\\x41", b"\\xFF", b""])
def test_what_needs_no_other_writing_has_none(path: bytes) -> None:
    assert path_text(path).encode() == path
    assert path_of_text(path) is None


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (b"a b", f"{SUM}  a b\n".encode()),
        (b"a\nb", f"\\{SUM}  a\\nb\n".encode()),
        (b"a\\b", f"\\{SUM}  a\\\\b\n".encode()),
        (b"a\rb", f"\\{SUM}  a\\rb\n".encode()),
        (b"\xff", SUM.encode() + b"  \xff\n"),
    ],
)
def test_a_line_is_as_sha256sum_writes_it(path: bytes, line: bytes) -> None:
    assert sum_line(path, SUM) == line
