from __future__ import annotations

import pytest

from mirror_sync.domain.names import GitOid, parse_upstream_url
from mirror_sync.upstream.raw import TEMPLATES, raw_address

COMMIT = GitOid("c" * 40)


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("https://github.com/acme/model.git", f"https://raw.githubusercontent.com/acme/model/{COMMIT}/a/b.bin"),
        ("https://gitlab.com/acme/group/model", f"https://gitlab.com/acme/group/model/-/raw/{COMMIT}/a/b.bin"),
        ("https://huggingface.co/acme/model", f"https://huggingface.co/acme/model/resolve/{COMMIT}/a/b.bin"),
        ("https://huggingface.co/datasets/a/d", f"https://huggingface.co/datasets/a/d/resolve/{COMMIT}/a/b.bin"),
        ("https://codeberg.org/acme/model", f"https://codeberg.org/acme/model/raw/commit/{COMMIT}/a/b.bin"),
        ("https://gitea.com/acme/model", f"https://gitea.com/acme/model/raw/commit/{COMMIT}/a/b.bin"),
        ("https://bitbucket.org/acme/model", f"https://bitbucket.org/acme/model/raw/{COMMIT}/a/b.bin"),
    ],
)
def test_each_forge_has_its_own_place_for_files(repository, expected):
    url = parse_upstream_url(repository)
    assert raw_address(TEMPLATES[url.netloc], url, COMMIT, b"a/b.bin") == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a b", "a%20b"),
        (b"a?b#c", "a%3Fb%23c"),
        (b"100%25", "100%2525"),
        (b"\xff\xfe/\n", "%FF%FE/%0A"),
        ("größe".encode(), "gr%C3%B6%C3%9Fe"),
        (b"{commit}{path}", "%7Bcommit%7D%7Bpath%7D"),
        (b"a\\b;c:d@e", "a%5Cb%3Bc%3Ad%40e"),
    ],
)
def test_every_byte_of_a_file_name_stays_that_byte(path, expected):
    url = parse_upstream_url("https://git.example/{file}/a")
    assert raw_address("https://raw/{path}/{commit}/{file}", url, COMMIT, path) == (
        f"https://raw/%7Bfile%7D/a/{COMMIT}/{expected}"
    )
