"""The whole objects at the beginning of a pack, however it is cut or damaged."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.repos.salvage import PackScan, checksum, pack_of_blob, prefix, scan_file
from tests.support.raw_history import History

FORMATS = [ObjectFormat.SHA1, ObjectFormat.SHA256]


class Packs:
    """A history, its packs, and a repository that has part of it."""

    def __init__(self, directory: Path, object_format: ObjectFormat) -> None:
        self.directory = directory
        self.object_format = object_format
        self.history = History(directory / "upstream", object_format=object_format)
        self.here = History(directory / "here", object_format=object_format)
        self._text = b"".join(b"line %d of a text that is long enough to make deltas worth it\n" % n for n in range(60))
        self._tips: list[str] = []

    def commits(self, number: int) -> list[str]:
        made: list[str] = []
        for count in range(number):
            at = (len(self._tips) + count) * 37 % len(self._text)
            text = self._text[:at] + b"edit %d\n" % (len(self._tips) + count) + self._text[at:]
            parents = made[-1:] or self._tips[-1:]
            made.append(self.history.commit(parents=parents, files={"text": text}))
        self._tips += made
        return made

    def pack(self, wants: list[str], *, haves: list[str] | None = None, offsets: bool = True) -> bytes:
        asked = "".join([*(f"{oid}\n" for oid in wants), *(f"^{oid}\n" for oid in haves or [])])
        options = ["--delta-base-offset"] if offsets else []
        arguments = ["pack-objects", "--revs", "--thin", "--stdout", "--quiet", *options]
        return self.history.git(*arguments, stdin=asked.encode())

    def index(self, pack: bytes) -> set[str]:
        """Index a pack strictly where only ``here`` is and return what it has."""
        into = self.directory / "into"
        subprocess.run(["rm", "-rf", str(into)], check=True)
        made = History(into, object_format=self.object_format)
        (into / "objects/info/alternates").write_text(f"{self.here.directory}/objects\n")
        said = made.git("index-pack", "--stdin", "--fix-thin", stdin=pack).split()[-1].decode()
        made.git("index-pack", "--verify", "--fsck-objects", str(into / f"objects/pack/pack-{said}.pack"))
        with (into / f"objects/pack/pack-{said}.idx").open("rb") as stdin:
            shown = subprocess.run(
                ["git", "show-index", f"--object-format={self.object_format}"],
                stdin=stdin,
                check=True,
                capture_output=True,
            ).stdout
        return {line.split()[1].decode() for line in shown.splitlines()}


@pytest.fixture(params=FORMATS)
def packs(tmp_path, request) -> Packs:
    return Packs(tmp_path, request.param)


def scanned(data: bytes, object_format: ObjectFormat, *, piece: int = 0, until_trees: bool = False) -> PackScan:
    scan = PackScan(object_format, until_trees=until_trees)
    for at in range(0, len(data), piece or len(data) or 1):
        scan.feed(data[at : at + (piece or len(data))])
    return scan


def salvaged(path: Path, data: bytes, object_format: ObjectFormat) -> tuple[int, bytes]:
    path.write_bytes(data)
    scan = scan_file(path, object_format)
    return len(scan.ends), b"".join(prefix(path, scan, len(scan.ends), object_format))


@pytest.mark.parametrize("offsets", [True, False], ids=["offset-deltas", "ref-deltas"])
def test_a_pack_cut_anywhere_keeps_its_whole_objects(packs, tmp_path, offsets):
    tips = packs.commits(4)
    data = packs.pack([tips[-1]], offsets=offsets)
    every = packs.index(data)
    kept, indexed = -1, 0
    for cut in range(len(data) + 1):
        objects, made = salvaged(tmp_path / "part", data[:cut], packs.object_format)
        assert objects >= kept
        if objects > kept:
            kept = objects
            if objects:
                found = packs.index(made)
                assert found <= every
                assert len(found) == objects
                indexed += 1
    assert kept == len(every)
    assert indexed == len(every)
    assert made == data


def test_a_thin_pack_cut_anywhere_is_completed_from_what_is_here(packs, tmp_path):
    first = packs.commits(3)
    packs.here.git("index-pack", "--stdin", stdin=packs.pack([first[-1]]))
    before = set(packs.here.git("cat-file", "--batch-all-objects", "--batch-check=%(objectname)").decode().split())
    second = packs.commits(3)
    data = packs.pack([second[-1]], haves=[first[-1]])
    whole = packs.index(data)
    assert whole & before, "the pack is not thin"
    for cut in sorted(random.Random(5).sample(range(len(data)), 25)):
        objects, made = salvaged(tmp_path / "part", data[:cut], packs.object_format)
        if objects:
            assert packs.index(made) <= whole
    assert salvaged(tmp_path / "part", data, packs.object_format)[1] == data


def test_a_larger_pack_cut_at_random_keeps_what_was_whole(packs, tmp_path):
    tips = packs.commits(150)
    data = packs.pack([tips[-1]])
    every = packs.index(data)
    chance = random.Random(11)
    for _ in range(12):
        cut = chance.randrange(len(data))
        objects, made = salvaged(tmp_path / "part", data[:cut], packs.object_format)
        if objects:
            found = packs.index(made)
            assert found <= every
            assert len(found) == objects


def test_the_pieces_in_which_it_comes_do_not_matter(packs):
    data = packs.pack([packs.commits(6)[-1]])
    expected = scanned(data, packs.object_format)
    assert len(expected.ends) == expected.announced
    assert expected.done
    for piece in (1, 2, 7, 100, 4096):
        assert scanned(data, packs.object_format, piece=piece).ends == expected.ends


def test_a_flipped_bit_leaves_only_what_git_would_take(packs, tmp_path):
    tips = packs.commits(12)
    data = packs.pack([tips[-1]])
    every = packs.index(data)
    chance = random.Random(3)
    for _ in range(60):
        at, bit = chance.randrange(12, len(data)), chance.randrange(8)
        flipped = bytearray(data)
        flipped[at] ^= 1 << bit
        path = tmp_path / "part"
        path.write_bytes(flipped)
        scan = scan_file(path, packs.object_format)
        before = sum(1 for end in scan.ends if end <= at)
        assert len(scan.ends) >= before
        if before:
            assert packs.index(b"".join(prefix(path, scan, before, packs.object_format))) <= every


def test_flips_inside_compressed_bytes_are_seen_at_once(packs):
    data = packs.pack([packs.commits(5)[-1]])
    ends = [12, *scanned(data, packs.object_format).ends]
    for number, (begin, end) in enumerate(itertools.pairwise(ends)):
        flipped = bytearray(data)
        flipped[end - 1] ^= 0x10  # in the checksum that closes the entry
        scan = scanned(bytes(flipped), packs.object_format)
        assert scan.broken
        assert len(scan.ends) == number, (begin, end)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PAC",
        b"PACKxxxxxxxx",
        b"<html>nothing here</html>",
        b"PACK\0\0\0\4\0\0\0\1" + bytes(20),
        b"PACK\0\0\0\2\0\0\0\1" + bytes(40),
    ],
)
def test_what_is_no_pack_has_no_objects(data):
    assert len(scanned(data, ObjectFormat.SHA1).ends) == 0


def entry(kind: int, size: int, content: bytes) -> bytes:
    head = [(kind << 4) | (size & 15)]
    rest = size >> 4
    while rest:
        head[-1] |= 0x80
        head.append(rest & 0x7F)
        rest >>= 7
    return bytes(head) + content


def pack_of(*entries: bytes, announced: int | None = None) -> bytes:
    return b"PACK\0\0\0\2" + (announced or len(entries)).to_bytes(4) + b"".join(entries)


@pytest.mark.parametrize("said", [0, 99, 101, 2**40])
def test_an_object_of_another_size_than_it_says_is_none(said):
    scan = scanned(pack_of(entry(3, said, zlib.compress(bytes(100)))), ObjectFormat.SHA1)
    assert scan.broken
    assert not scan.ends


@pytest.mark.parametrize("distance", [b"\x00", b"\x01", b"\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_a_delta_that_leans_on_no_entry_is_none(distance):
    blob = entry(3, 100, zlib.compress(bytes(100)))
    scan = scanned(pack_of(blob, entry(6, 5, distance + zlib.compress(b"12345"))), ObjectFormat.SHA1)
    assert scan.broken
    assert len(scan.ends) == 1


def test_an_endless_number_is_none():
    assert scanned(pack_of(b"\xb0" + b"\xff" * 60), ObjectFormat.SHA1).broken


def test_the_size_of_the_object_that_was_cut_is_told():
    whole = entry(3, 10, zlib.compress(bytes(10)))
    big = entry(3, 5_000_000, zlib.compress(random.Random(1).randbytes(5_000_000)))
    assert scanned(pack_of(whole, big)[:-9], ObjectFormat.SHA1).cut_size == 5_000_000
    assert scanned(pack_of(whole, big), ObjectFormat.SHA1).cut_size is None
    delta = entry(6, 300, bytes([len(whole)]) + zlib.compress(bytes(300)))
    assert scanned(pack_of(whole, delta)[:-3], ObjectFormat.SHA1).cut_size is None
    assert scanned(pack_of(whole, big)[: 12 + len(whole)], ObjectFormat.SHA1).cut_size is None


def test_it_stops_where_the_commits_are_over(packs):
    tips = packs.commits(7)
    data = packs.pack([tips[-1]])
    for piece in (0, 1, 50):
        scan = scanned(data, packs.object_format, piece=piece, until_trees=True)
        assert scan.stopped
        assert len(scan.ends) == 7
        assert not scan.broken


BOMB = """
import resource, sys, zlib
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.repos.salvage import PackScan
big = zlib.compressobj(9)
data = b"".join([big.compress(bytes(2**20)) for _ in range(1024)]) + big.flush()
size, head = 2**30, []
head = [0x80 | (3 << 4) | (size & 15)]
rest = size >> 4
while rest:
    head.append((rest & 0x7F) | (0x80 if rest > 0x7F else 0))
    rest >>= 7
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scan = PackScan(ObjectFormat.SHA1)
scan.feed(b"PACK" + bytes([0, 0, 0, 2, 0, 0, 0, 1]) + bytes(head) + data)
assert len(scan.ends) == 1, (scan.broken, scan.ends)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_an_object_that_inflates_to_a_gigabyte_takes_no_memory():
    grown = int(subprocess.run([sys.executable, "-c", BOMB], check=True, capture_output=True).stdout)
    assert grown < 16 * 1024, f"{grown} KiB"


@pytest.mark.parametrize("object_format", FORMATS)
@pytest.mark.parametrize("size", [0, 1, 15, 16, 2047, 2048, 300_000])
def test_a_pack_of_one_blob_is_what_git_reads(tmp_path, object_format, size):
    content = random.Random(size).randbytes(size)
    path = tmp_path / "blob"
    path.write_bytes(content)
    made = History(tmp_path / "git", object_format=object_format)
    made.git("index-pack", "--stdin", stdin=b"".join(pack_of_blob(path, size, object_format)))
    digest = checksum(object_format)
    digest.update(b"blob %d\0" % size + content)
    assert made.git("cat-file", "blob", digest.hexdigest()) == content
