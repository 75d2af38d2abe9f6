from __future__ import annotations

import ipaddress

import pytest

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.readers import (
    Audience,
    CloneToken,
    Networks,
    TokenId,
    Verdict,
    Visibilities,
    matches,
    read_address,
    token_digest,
)
from mirror_sync.domain.runs import Mirror, MirrorId, Trigger, Visibility

NAME = MirrorName("git.example/acme/model")


def mirror(**over) -> Mirror:
    return Mirror(MirrorId(1), NAME, f"https://{NAME}", 0.0, 0.0, Trigger.POLL, 60.0, 120.0, **over)


@pytest.mark.parametrize(
    ("declared", "own", "class_name", "expected"),
    [
        (None, None, "", Visibility.TOKEN),
        (None, None, "open", Visibility.OPEN),
        (None, None, "unknown", Visibility.NONE),
        (None, Visibility.PUBLIC, "unknown", Visibility.PUBLIC),
        (None, Visibility.UPSTREAM, "open", Visibility.UPSTREAM),
        (Visibility.NONE, Visibility.UPSTREAM, "open", Visibility.NONE),
    ],
)
def test_the_particular_goes_before_the_general(declared, own, class_name, expected):
    rules = Visibilities(Visibility.TOKEN, {"open": Visibility.OPEN}, {NAME: declared} if declared else {})
    assert rules.of(mirror(visibility=own, class_name=class_name)) is expected


@pytest.mark.parametrize("shown", [None, True, False])
@pytest.mark.parametrize("word", list(Visibility))
def test_upstream_closes_what_is_public_and_nothing_else(word, shown):
    closes = Visibilities(word).closes(mirror(shown_upstream=shown))
    assert closes is (word is Visibility.PUBLIC and shown is False)


@pytest.mark.parametrize(
    ("word", "globs", "credentials", "expected"),
    [
        (Visibility.OPEN, (), False, Verdict.ADMIT),
        (Visibility.PUBLIC, (), False, Verdict.ADMIT),
        (Visibility.TOKEN, (), False, Verdict.ASK),
        (Visibility.TOKEN, (), True, Verdict.ASK),
        (Visibility.TOKEN, ("git.example/*",), False, Verdict.ADMIT),
        (Visibility.TOKEN, ("other.example/*",), False, Verdict.HIDE),
        (Visibility.UPSTREAM, (), False, Verdict.ASK),
        (Visibility.UPSTREAM, (), True, Verdict.CHECK),
        (Visibility.UPSTREAM, ("*",), True, Verdict.ASK),
        (Visibility.NONE, ("*",), True, Verdict.HIDE),
    ],
)
def test_a_wish_to_read_has_one_answer(word, globs, credentials, expected):
    assert Audience(Visibilities(word), globs).verdict(mirror(), credentials=credentials) is expected


def test_a_closed_mirror_is_hidden_from_everybody_with_or_without_a_token():
    for globs in ((), ("*",)):
        audience = Audience(Visibilities(), globs)
        assert audience.verdict(mirror(shown_upstream=False), credentials=True) is Verdict.HIDE
        assert not audience.may_see(mirror(shown_upstream=False))


@pytest.mark.parametrize(
    ("glob", "fits"),
    [
        ("git.example/acme/model", True), ("git.example/*", True), ("*", True), ("*/acme/mode?", True),
        ("git.example/acme", False), ("git.example/acme/MODEL", False), ("git[.]example/*", False), ("", False),
        ("git.example/acme/model*", True), ("git.example/acme/model/*", False),
    ],
)  # fmt: skip
def test_globs(glob, fits):
    assert matches(glob, NAME) is fits
    assert CloneToken(TokenId(1), (glob,), 0.0).covers(NAME) is fits


def test_a_token_is_good_until_it_expires_or_is_revoked():
    assert CloneToken(TokenId(1), ("*",), 0.0).is_good(1e12)
    assert CloneToken(TokenId(1), ("*",), 0.0, expires_at=10.0).is_good(9.9)
    assert not CloneToken(TokenId(1), ("*",), 0.0, expires_at=10.0).is_good(10.0)
    assert not CloneToken(TokenId(1), ("*",), 0.0, revoked_at=1.0).is_good(0.5)


def test_any_text_has_a_digest():
    assert len({token_digest(text) for text in ("", "msy_x", "é", "\udcff")}) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"), (" 192.0.2.1 ", "192.0.2.1"), ("192.0.2.1:80", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"), ("[2001:db8::1]", "2001:db8::1"), ("[2001:db8::1]:80", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"), ("fe80::1%eth0", "fe80::1"),
        ("", None), ("unknown", None), ("192.0.2", None), ("192.0.2.1.5", None), ("0x7f.1", None), ("[", None),
    ],
)  # fmt: skip
def test_addresses_as_servers_and_proxies_write_them(text, expected):
    assert read_address(text) == (ipaddress.ip_address(expected) if expected else None)


def networks(*texts: str):
    return tuple(ipaddress.ip_network(text) for text in texts)


def test_networks():
    everybody = Networks()
    assert everybody.admit("unknown")
    some = Networks(networks("192.0.2.0/24", "2001:db8::/32"), networks("192.0.2.66"))
    answers = {a: some.admit(a) for a in ("192.0.2.1", "192.0.2.66", "198.51.100.1", "2001:db8::5", "2001:db9::5", "")}
    assert answers == {
        "192.0.2.1": True, "192.0.2.66": False, "198.51.100.1": False, "2001:db8::5": True, "2001:db9::5": False,
        "": False,
    }  # fmt: skip
    assert not Networks(deny=networks("192.0.2.66")).admit("unknown")
    assert Networks(deny=networks("192.0.2.66")).admit("2001:db8::5")
