from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain.names import RESERVED_FIRST_SEGMENTS
from mirror_sync.web.paths import FileService, Service, decoded_path, file_targets, parse_target

M = "git.example/acme/model"


@pytest.mark.parametrize(
    ("raw", "name", "service", "rest"),
    [
        (f"/{M}", M, Service.PAGE, ""),
        (f"/{M}/", M, Service.PAGE, ""),
        (f"/{M}.git", M, Service.PAGE, ""),
        (f"/{M}/info/refs?service=git-upload-pack", M, Service.INFO_REFS, ""),
        (f"/{M}.git/info/refs", M, Service.INFO_REFS, ""),
        (f"/{M}.git/git-upload-pack", M, Service.UPLOAD_PACK, ""),
        (f"/{M}/git-receive-pack", M, Service.RECEIVE_PACK, ""),
        (f"/{M}.git/HEAD", M, Service.DUMB, ""),
        (f"/{M}.git/objects/info/packs", M, Service.DUMB, ""),
        (f"/{M}.git/info/lfs/objects/batch", M, Service.LFS_BATCH, ""),
        (f"/{M}/info/lfs/objects/batch", M, Service.LFS_BATCH, ""),
        (f"/{M}.git/info/lfs/objects/{'a' * 64}", M, Service.LFS_OBJECT, "a" * 64),
        (f"/{M}.git/info/lfs/locks", M, Service.LFS_LOCKS, ""),
        (f"/{M}.git/info/lfs/locks/verify", M, Service.LFS_LOCKS_VERIFY, ""),
        (f"/{M}.git/info/lfs/locks/7/unlock", M, Service.LFS_UNLOCK, ""),
        (f"/{M}.git/info/lfs", M, Service.LFS_OTHER, ""),
        ("/127.0.0.1:9000/a/b/c/d/e.git/info/refs", "127.0.0.1:9000/a/b/c/d/e", Service.INFO_REFS, ""),
        ("/127.0.0.1%3A9000/a.git/info/refs", "127.0.0.1:9000/a", Service.INFO_REFS, ""),
        ("/GIT.Example/Acme/Model", "git.example/Acme/Model", Service.PAGE, ""),
        ("http://mirror.example/git.example/a/info/refs", "git.example/a", Service.INFO_REFS, ""),
        ("/git.example/a/info/refs/info/refs", "git.example/a/info/refs", Service.INFO_REFS, ""),
        ("/git.example/a/info/lfs/x.git/info/lfs/objects/batch", "git.example/a/info/lfs/x", Service.LFS_BATCH, ""),
        ("/git.example/%E6%A8%A1%E5%9E%8B/info/refs", "git.example/模型", Service.INFO_REFS, ""),
    ],
)
def test_the_longest_name_before_a_known_service_wins(raw: str, name: str, service: Service, rest: str) -> None:
    target = parse_target(raw)
    assert target is not None
    assert (target.name, target.service, target.rest) == (name, service, rest)


@pytest.mark.parametrize(
    "raw",
    [
        "/git.example/../etc/passwd",
        "/git.example/%2e%2e/etc/info/refs",
        "/git.example/%2E./x",
        "/git.example/a%2fb/info/refs",
        "/git.example%2Facme/model",
        "/git.example/a%5cb",
        "/git.example/a\\b",
        "/git.example/a%00b/info/refs",
        "/git.example/a%0ab",
        "/git.example/a%7fb",
        "/git.example//b",
        "//git.example/b",
        "/git.example/./b",
        "/git.example/%ff%fe/info/refs",
        "/git.example/-rf/info/refs",
        "/git.example/a.lock/info/refs",
        "/git.example",
        "/",
        "",
        "*",
        "/git.example/" + "a" * 5000,
        "/git.example/a?b".replace("?", "%3f"),
    ],
)
def test_what_no_name_can_have_is_nobodys(raw: str) -> None:
    assert parse_target(raw) is None


@pytest.mark.parametrize("segment", sorted(RESERVED_FIRST_SEGMENTS))
def test_the_products_own_segments_are_no_hosts(segment: str) -> None:
    assert parse_target(f"/{segment}/acme/model") is None
    assert parse_target(f"/{segment.upper()}/acme/model/info/refs") is None


@given(st.text(alphabet="/.%aA0259fFeE\\:?#\x00é-", max_size=60))
def test_nothing_leads_out_of_its_name(raw: str) -> None:
    path = decoded_path("/" + raw)
    if path is not None:
        segments = path.split("/")
        assert ".." not in segments
        assert "." not in segments
        assert "\\" not in path
        assert "\x00" not in path
    target = parse_target("/" + raw)
    if target is not None:
        assert "/" in target.name
        assert not set(target.name.split("/")) & {"", ".", ".."}


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (f"/{M}/resolve/main/a.txt", [(M, FileService.RESOLVE, [b"main", b"a.txt"])]),
        (f"/{M}.git/resolve/main/a.txt?download=true", [(M, FileService.RESOLVE, [b"main", b"a.txt"])]),
        (f"http://host/{M}/resolve/main/a", [(M, FileService.RESOLVE, [b"main", b"a"])]),
        (f"/{M}/resolve/a%2Fb/c%20%FF%00%2e%2e/d", [(M, FileService.RESOLVE, [b"a/b", b"c \xff\x00..", b"d"])]),
        (f"/{M}/resolve/main//a", [(M, FileService.RESOLVE, [b"main", b"", b"a"])]),
        (f"/{M}/checksums/v1/", [(M, FileService.CHECKSUMS, [b"v1"])]),
        (f"/{M}/checksums", [(M, FileService.CHECKSUMS, [])]),
        (
            f"/{M}/resolve/main/resolve/b",
            [(M, FileService.RESOLVE, [b"main", b"resolve", b"b"]), (f"{M}/resolve/main", FileService.RESOLVE, [b"b"])],
        ),
        (f"/{M}/info/refs", []),
        (f"/{M}/Resolve/main/a", []),
        ("/git.example/resolve/main/a", []),
        ("/resolve/main/a", []),
        ("/hf/acme/resolve/main/a", []),
        ("/api/v1/resolve/main/a", []),
        (f"/{M}/../resolve/main/a", []),
        (f"/{M}%2Fresolve/main/a", []),
        (f"/{M}/-x/resolve/main/a", []),
        ("/" + "a/" * 4096 + "resolve/b", []),
        ("", []),
        ("*", []),
    ],
)
def test_a_path_may_ask_for_files(raw: str, found: list[tuple[str, FileService, list[bytes]]]) -> None:
    assert [(target.name, target.service, list(target.words)) for target in file_targets(raw)] == found


def test_few_ways_of_reading_a_path_are_tried() -> None:
    assert len(list(file_targets(f"/{M}" + "/resolve" * 300))) == 8


@given(st.text(max_size=200))
def test_no_path_makes_looking_for_files_fail(raw: str) -> None:
    for target in file_targets(f"/{raw}/resolve/{raw}"):
        assert not {"", ".", ".."} & set(target.name.split("/"))
