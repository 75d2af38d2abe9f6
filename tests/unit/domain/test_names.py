"""Names of mirrors and refs, and the one parser of upstream URLs."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror_sync.domain.names import (
    _fault_in,
    parse_mirror_name,
    parse_upstream_url,
    printable,
    ref_bytes,
    ref_from_bytes,
    refname_fault,
)
from mirror_sync.errors import AddressRefused, MirrorSyncError, UsageError


@pytest.mark.parametrize(
    ("url", "name", "text"),
    [
        ("https://github.com/acme/model", "github.com/acme/model", "https://github.com/acme/model"),
        ("https://GitHub.com/Acme/Model.git", "github.com/Acme/Model", "https://github.com/Acme/Model.git"),
        ("https://github.com/acme/model/", "github.com/acme/model", "https://github.com/acme/model"),
        ("http://127.0.0.1:9000/acme/model", "127.0.0.1:9000/acme/model", "http://127.0.0.1:9000/acme/model"),
        ("https://host:443/a/b/c", "host/a/b/c", "https://host/a/b/c"),
        ("http://host:80/a", "host/a", "http://host/a"),
        ("https://[::1]:8443/a", "[::1]:8443/a", "https://[::1]:8443/a"),
        (
            "https://huggingface.co/datasets/org/set",
            "huggingface.co/datasets/org/set",
            "https://huggingface.co/datasets/org/set",
        ),
        ("http://m:8080/127.0.0.1:9000/a", "m:8080/127.0.0.1:9000/a", "http://m:8080/127.0.0.1:9000/a"),
        ("https://m/x/git.example%3A3000/a.git", "m/x/git.example:3000/a", "https://m/x/git.example:3000/a.git"),
        ("https://m/[::1]:8443/a", "m/[::1]:8443/a", "https://m/%5B::1%5D:8443/a"),
        ("https://h/%E6%A8%A1%E5%9E%8B", "h/模型", "https://h/%E6%A8%A1%E5%9E%8B"),
    ],
)
def test_url_gives_the_mirror_its_name(url: str, name: str, text: str) -> None:
    parsed = parse_upstream_url(url)
    assert parsed.name == name
    assert str(parsed) == text
    assert parse_upstream_url(str(parsed)) == parsed
    assert parse_mirror_name(name) == name


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/x", "file:///etc", "ssh://git@host/a", "git://host/a", "-oProxyCommand=x",
        "https://user@host/a", "https://user:pass@host/a", "https://host/a\nb", "https://host\\@evil/a",
        "https://api/a", "https://hooks/a", "https:// host/a", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_dangerous_url_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        parse_upstream_url(url)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("github.com/acme/model", "https://github.com/acme/model"),
        ("git@github.com:acme/model.git", "https://github.com/acme/model.git"),
        ("ssh://git@git.example:2222/acme/model", "https://git.example/acme/model"),
        ("git://git.example/acme/model", "https://git.example/acme/model"),
        ("ftp://git.example/acme/model", ""),
        ("./acme/model", ""),
        ("model", ""),
    ],
)
def test_an_address_in_another_form_is_refused_with_the_one_that_is_meant(text: str, meant: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        parse_upstream_url(text)
    assert caught.value.remedy == (f"did you mean: {meant}" if meant else "give the https:// address of the repository")


@pytest.mark.parametrize("text", ["ssh://me:s3cret@git.example/a/b", "me:s3cret@git.example/a", "git@h:me:s3cret@h/a"])
def test_a_password_in_an_address_is_not_repeated(text: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        parse_upstream_url(text)
    assert "s3cret" not in f"{caught.value} {caught.value.remedy}"


@pytest.mark.parametrize(
    "url",
    [
        "", "https://", "https://host", "https://host/", "https://host/a/../b", "https://host/./a", "https://host/a//b",
        "https://host/%2e%2e/a", "https://host/a%00b", "https://host/a%2f..%2fb", "https://host/a?x=1", "https://host/a#b",
        "https://host/-a", "https://host/a.lock", "https://host/a.git/b", "https://host:99999/a", "https://ho_st!/a",
        "https://host/" + "a" * 300, "https://host/a:b", "https://host/:80/a", "https://host/a:123456/b",
        "https://host/a:80:90/b", "https://host/[x]:80/b", "https://host/-a:80/b", "https://host/a/b:",
    ],
)  # fmt: skip
def test_url_that_names_no_repository_is_refused(url: str) -> None:
    with pytest.raises(MirrorSyncError):
        parse_upstream_url(url)


def test_bad_escape_is_refused_as_usage() -> None:
    with pytest.raises(UsageError):
        parse_upstream_url("https://host/%ff%fe")


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_no_text_breaks_the_url_parser(text: str) -> None:
    try:
        parsed = parse_upstream_url("https://host/" + text)
    except MirrorSyncError:
        return
    assert ".." not in parsed.name.split("/")
    assert parsed.name.startswith("host/")


@given(st.binary(max_size=40))
def test_ref_bytes_come_back(raw: bytes) -> None:
    assert ref_bytes(ref_from_bytes(raw)) == raw
    printable(ref_from_bytes(raw)).encode()


@given(st.binary(min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_refname_rules_are_gits_own(raw: bytes) -> None:
    if b"\0" in raw:
        return
    name = b"refs/heads/" + raw
    git = subprocess.run(["git", "check-ref-format", name], check=False, capture_output=True)
    assert (refname_fault(ref_from_bytes(name)) is None) == (git.returncode == 0)


@pytest.mark.parametrize(
    "name",
    ["HEAD", "refs/x", "heads/main", "refs/mirror-sync/kept/1/x", "refs/heads/" + "a" * 251, "refs/heads/../../../X"],
)
def test_refname_that_no_client_can_hold_is_refused(name: str) -> None:
    assert refname_fault(name) is not None


@pytest.mark.parametrize(
    "name", ["refs/heads/<script>", "refs/heads/$(id)", "refs/heads/;rm", "refs/heads/" + "a" * 250]
)
def test_strange_but_legal_refname_passes(name: str) -> None:
    assert refname_fault(name) is None


PIECES = [
    "refs",
    "mirror-sync",
    "heads",
    "v1.2",
    "a",
    ".",
    "..",
    "/",
    "//",
    ".lock",
    "@{",
    "@",
    "é",
    " ",
    "-",
    "x" * 130,
]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=6))
def test_the_quick_look_at_a_refname_says_what_the_thorough_one_says(pieces: list[str]) -> None:
    name = "refs/" + "".join(pieces)
    assert refname_fault(name) == _fault_in(ref_bytes(name))
