"""Commands about who may read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirror_sync.domain.readers import token_digest
from mirror_sync.domain.runs import Visibility
from tests.integration.cli.conftest import Bench

ONE = "https://example.org/acme/one"
TWO = "https://example.org/acme/two"
NAME = "example.org/acme/one"


def configure(bench: Bench, text: str) -> None:
    path = bench.directory / "config.toml"
    path.write_text(path.read_text() + text)


def test_visibility_is_given_with_the_mirror_and_changed_later(bench: Bench) -> None:
    assert bench("add", ONE, "--visibility", "token") == 0
    assert bench.json("show", NAME)["visibility"] == "token"
    assert bench("add", ONE, "--visibility", "none") == 0
    assert "its visibility stays token; mirror-sync set --visibility changes it" in bench.err
    assert bench("set", "*/one", "--visibility", "upstream") == 0
    assert bench("ls", "--plain") == 0
    assert bench.out.split("\t")[5] == "upstream"
    assert bench("set", NAME, "--visibility", "default") == 0
    assert bench.json("show", NAME)["visibility"] == "public"
    assert bench("add", TWO, "--visibility", "everybody") == 2
    assert "'public', 'open', 'token', 'upstream', 'none'" in bench.err
    assert bench("set", NAME) == 2


def test_a_change_of_visibility_makes_the_mirror_due(bench: Bench) -> None:
    assert bench("add", ONE) == 0
    bench.play()
    assert bench.play() == 0
    assert bench("set", NAME, "--visibility", "open") == 0
    assert bench.play() == 1


def test_what_the_configuration_declares_is_changed_there(bench: Bench) -> None:
    configure(bench, f'\n[[mirror]]\nurl = "{ONE}"\nvisibility = "token"\n')
    with bench.app() as app:
        app.declare_mirrors()
        assert app.state.mirror(NAME).visibility is Visibility.TOKEN  # type: ignore[arg-type]
    assert bench("set", NAME, "--visibility", "public") == 2
    assert "declared in the configuration: token" in bench.err
    assert bench.json("show", NAME)["visibility"] == "token"


def test_a_declared_word_counts_before_it_is_stored(bench: Bench) -> None:
    assert bench("add", ONE, "--visibility", "open") == 0
    configure(bench, f'\n[[mirror]]\nurl = "{ONE}"\nvisibility = "none"\n')
    assert bench.json("show", NAME)["visibility"] == "none"
    with bench.app() as app:
        assert app.state.mirror(NAME).visibility is Visibility.OPEN  # type: ignore[arg-type]
        app.declare_mirrors()
        assert app.state.mirror(NAME).visibility is Visibility.NONE  # type: ignore[arg-type]


def test_a_closed_mirror_is_told_of(bench: Bench) -> None:
    assert bench("add", ONE) == 0
    with bench.app() as app:
        lease = app.claim("tests")
        assert lease is not None
        app.state.note_shown(lease, shown=False)
    assert bench("ls", "--plain") == 0
    assert bench.out.split("\t")[5] == "closed"
    assert bench("show", NAME) == 0
    assert "public, closed: upstream does not show it to everybody" in bench.out
    assert bench("why", NAME) == 0
    assert "MS-V403" in bench.out
    assert "answered as if it were not mirrored" in bench.out
    assert f"set {NAME} --visibility token" in bench.out
    assert bench("status") == 0
    assert NAME in bench.out


def test_a_token_is_shown_once_and_listed_by_number(bench: Bench) -> None:
    assert bench("token", "ls") == 0
    assert "no tokens" in bench.err
    assert bench("add", ONE, "--visibility", "token") == 0
    assert bench("token", "create", "--mirror", "example.org/*", "--expires", "30d", "--note", "build farm") == 0
    token = bench.out.strip()
    assert re.fullmatch(r"msy_[A-Za-z0-9_-]{43}", token)
    assert token not in bench.err
    assert bench("token", "ls", "--plain") == 0
    number, state, mirrors, _created, expires, note = bench.out.rstrip("\n").split("\t")
    assert (number, state, mirrors, note) == ("1", "good", "example.org/*", "build farm")
    assert expires != "never"
    assert token not in bench.out
    with bench.app() as app:
        kept = app.state.token(token_digest(token))
        assert kept is not None
        assert kept.expires_at is not None
        assert round(kept.expires_at - kept.created_at) == 30 * 86400
    assert bench("token", "revoke", "1") == 0
    assert bench.json("token", "ls")["items"][0]["state"] == "revoked"
    assert bench("token", "revoke", "2") == 5


def test_how_long_a_token_counts(bench: Bench) -> None:
    def lasts(*more: str) -> float | None:
        number = bench.json("token", "create", "--mirror", "*", *more)["id"]
        with bench.app() as app:
            (kept,) = (token for token in app.state.tokens() if token.id == number)
            return None if kept.expires_at is None else round(kept.expires_at - kept.created_at)

    assert lasts() == 90 * 86400
    assert lasts("--expires", "never") is None
    configure(bench, '\n[access]\ntoken_ttl = "none"\n')
    assert lasts() is None
    assert lasts("--expires", "1h") == 3600
    assert bench("token", "create", "--mirror", "*", "--expires", "10") == 2
    assert bench("token", "create") == 2
    assert bench("token", "create", "--mirror", "") == 2


def test_what_is_odd_about_a_token_is_said(bench: Bench) -> None:
    assert bench("token", "create", "--mirror", "other.example/*") == 0
    assert "no mirror matches other.example/* yet" in bench.err
    assert bench("add", ONE) == 0
    assert bench("token", "create", "--mirror", NAME) == 0
    assert f"mirror-sync set '{NAME}' --visibility token" in bench.err


def test_a_token_may_go_into_a_file(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert bench("token", "create", "--mirror", "*", "--out", str(path)) == 0
    assert bench.out == ""
    assert path.stat().st_mode & 0o777 == 0o600
    with bench.app() as app:
        assert app.state.token(token_digest(path.read_text().strip())) is not None
    assert bench("token", "create", "--mirror", "*", "--out", str(path)) == 6
    assert len(bench.json("token", "ls")["items"]) == 1
    assert bench("token", "create", "--mirror", "*", "--out", str(tmp_path / "no" / "token")) == 1
    assert [item["state"] for item in bench.json("token", "ls")["items"]] == ["good", "revoked"]


def test_keys_of_links_are_made_and_changed(bench: Bench) -> None:
    path = bench.directory / "link-keys"
    assert bench("token", "rotate-links", "--plain") == 0
    assert bench.out == f"made\t{path}\n"
    first = path.read_text().split()
    assert bench("token", "rotate-links") == 0
    second = path.read_text().split()
    assert (len(first), len(second), second[1]) == (1, 2, first[0])
    assert bench("token", "rotate-links") == 0
    assert path.read_text().split()[1:] == second[:1]
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert bench("token", "rotate-links") == 8
    assert "MS-C004" in bench.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('visibility = "everybody"', "public"),
        ('allow = ["192.0.2.1/24"]', "has bits set behind its prefix"),
        ('deny = ["campus"]', "is no network"),
        ("deny = 5", "list of texts"),
        ("check_ttl = 300", "needs a unit"),
        ('check_ttl = "0s"', "longer than nothing"),
        ('token_ttl = "0d"', "longer than nothing"),
        ('conceal = "yes"', "true or false"),
    ],
)
def test_a_rule_that_makes_no_sense_is_told_with_its_place(bench: Bench, text: str, said: str) -> None:
    configure(bench, f"\n[access]\n{text}\n")
    assert bench("config", "validate") == 8
    assert said in bench.err
    assert "access." + text.partition(" ")[0] in bench.err
