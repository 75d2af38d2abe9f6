"""Pointer texts: the canonical one, and many that are nearly pointers."""

from __future__ import annotations

from hypothesis import strategies as st

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
VERSION = "https://git-lfs.github.com/spec/v1"


def pointer_text(oid: str = OID, size: int | str = 12345, *, version: str = VERSION) -> bytes:
    """Return the canonical pointer of an LFS object."""
    return f"version {version}\noid sha256:{oid}\nsize {size}\n".encode()


_VERSION_LINES = st.sampled_from(
    [
        "version https://git-lfs.github.com/spec/v1",
        "version https://git-lfs.github.com/spec/v1",
        "version https://git-lfs.github.com/spec/v1",
        "version https://hawser.github.com/spec/v1",
        "version http://git-media.io/v/2",
        "version http://git-lfs.github.com/spec/v1",
        "version https://git-lfs.github.com/spec/v2",
        "version  https://git-lfs.github.com/spec/v1",
        "\ufeffversion https://git-lfs.github.com/spec/v1",
        "Version https://git-lfs.github.com/spec/v1",
        "version",
        "version https://git-lfs.github.com/spec/v1 ",
    ]
)
_OID_VALUES = st.sampled_from(
    [
        f"sha256:{OID}", f"sha256:{OID}", f"sha256:{OID}", f"sha256:{'0' * 64}", f"sha256:{OID.upper()}",
        f"sha512:{OID}", f"sha256:{OID[:-1]}", f"sha256:{OID}0", f"sha256: {OID}", OID, "", f"sha256:{OID}\r",
        f"sha256:{OID} ", f"sha256:sha256:{OID}", f"sha256:{OID[:-1]}g", f"sha256:{OID[:-1]}\u0661",
    ]
)  # fmt: skip
_SIZES = st.one_of(
    st.integers(0, 2**63 - 1).map(str),
    st.sampled_from(
        [
            "0", "-0", "+0", "007", "+5", "-5", "++5", "5_0", "0x10", "1e3", "", " 5", "5 ", "5.0",
            "9223372036854775807", "9223372036854775808", "000000000000000000009223372036854775807",
            "18446744073709551616", "\u0665", "12 34", "1\r", "NaN",
        ]
    ),
)  # fmt: skip
_EXTENSION_KEYS = st.one_of(
    st.builds("ext-{}-{}".format, st.integers(0, 9), st.sampled_from(["foo", "bar", "a_b", "foo-bar", "a!b", "Z9"])),
    st.sampled_from(["ext-10-foo", "ext--foo", "ext-0-", "ext-0-!", "ext-0", "ext-a-foo", "ext-0-\u00e9", "xext-0-a"]),
)
_BLANK = st.sampled_from(["", "", "", " ", "\r", "\t", "\n", "\r\n", "\u00a0", "\u2028", "\v", "\u3000", "\u200b"])


@st.composite
def nearly_pointers(draw: st.DrawFn) -> bytes:
    """Draw a blob that is a pointer, or one change or two away from it."""
    oid = draw(_OID_VALUES) if draw(st.integers(0, 3)) == 0 else f"sha256:{OID}"
    size = draw(_SIZES) if draw(st.booleans()) else "12345"
    lines = [draw(_VERSION_LINES), f"oid {oid}", f"size {size}"]
    for _ in range(draw(st.integers(0, 3)) if draw(st.booleans()) else 0):
        value = draw(_OID_VALUES) if draw(st.integers(0, 3)) == 0 else f"sha256:{OID}"
        lines.insert(draw(st.integers(0, len(lines))), f"{draw(_EXTENSION_KEYS)} {value}")
    change = draw(st.integers(0, 12))
    if change == 0:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(["", "\r", " ", "x y", "size 1", "\t"])))
    elif change == 1:
        del lines[draw(st.integers(0, len(lines) - 1))]
    elif change == 2:
        index = draw(st.integers(0, len(lines) - 2))
        lines[index], lines[index + 1] = lines[index + 1], lines[index]
    newline = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n", "\r\r\n"]))
    tail = draw(st.sampled_from([newline, newline, "", " ", "\n\n"]))
    text = draw(_BLANK) + newline.join(lines) + tail + draw(_BLANK)
    data = bytearray(text.encode())
    if draw(st.integers(0, 5)) == 0:
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 9)) == 0:
        padding = draw(st.integers(1018, 1030)) - len(data)
        if padding > 0:
            data += b"\n" * padding
    return bytes(data)
