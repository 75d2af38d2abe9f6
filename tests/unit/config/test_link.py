"""Accelerators, places of single files, and caps of the link, as the configuration says them."""

from __future__ import annotations

import pytest

from mirror_sync.config import load_text
from mirror_sync.domain.budget import Cap, Hours
from mirror_sync.domain.names import parse_upstream_url
from mirror_sync.errors import ConfigError

HUB = '[upstream."hub.org"]\n'


def test_caps_are_read_for_the_machine_and_for_hosts() -> None:
    settings = load_text(
        '[link]\nrate = "20MB/s"\nhours = ["08:00-18:00 5MB/s", "22:00-06:00 none"]\nfill_share = 0.5\n'
        f'{HUB}rate = "1MB/s"\n[upstream."late.org"]\nhours = ["00:00-12:00 1MB/s"]\n[upstream."free.org"]\n'
    )
    rules = settings.link_rules()
    assert rules.machine == Cap(20e6, (Hours(480, 1080, 5e6), Hours(1320, 360, None)))
    assert dict(rules.hosts) == {"hub.org": Cap(1e6), "late.org": Cap(None, (Hours(0, 720, 1e6),))}
    assert rules.fill_share == 0.5
    assert not load_text("").link_rules().machine.narrows


def test_hours_fit_into_a_variable() -> None:
    environ = {"MIRROR_SYNC__LINK__HOURS": "08:00-18:00 5MB/s, 18:00-24:00 none", "MIRROR_SYNC__LINK__RATE": "1MB/s"}
    machine = load_text("", environ=environ).link_rules().machine
    assert machine == Cap(1e6, (Hours(480, 1080, 5e6), Hours(1080, 0, None)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[link]\nrate = 20\n", 'link.rate = 20: a rate needs a unit; write "20MB/s"'),
        ('[link]\nhours = "often"\n', "link.hours"),
        ('[link]\nhours = ["25:00-26:00 1MB/s"]\n', "no day has"),
        ("[link]\nfill_share = 0\n", "a number from 0.05 to 1"),
        ('[link]\nfill_share = "most"\n', "a number from 0.05 to 1"),
        (HUB + 'rate = "5 megabytes"\n', "rate"),
        (HUB + 'raw_url = "https://raw.org/{path}/{commit}"\n', "must name {path}, {commit}, {file}"),
        (HUB + 'raw_url = "https://raw.org/{path}/{commit}/{file}/{branch}"\n', "no other field"),
        (HUB + 'raw_url = "https://raw.org/{path}/{commit}/{file}}"\n', "no other field"),
        (HUB + 'raw_url = "raw.org/{path}/{commit}/{file}"\n', "must be a URL"),
        (HUB + 'raw_url = "https://{path}/{commit}/{file}"\n', "whose path alone"),
        (HUB + 'raw_url = "https://me:canary@raw.org/{path}/{commit}/{file}"\n', "token_file"),
        (HUB + 'accelerators = ["https://near.org/all"]\n', "must name {path}"),
        (HUB + 'accelerators = ["https://near.org/{path}?x"]\n', "query"),
        (HUB + 'accelerators = ["https://near.org/{user}/{path}"]\n', "no other field"),
        (HUB + 'accelerators = ["https://me:canary@near.org/{path}"]\n', "token_file"),
        (HUB + 'accelerators = ["http://near.org/{host}/{path}"]\n', 'allow_http = true in [upstream."near.org"]'),
        ('[[mirror]]\nurl = "https://hub.org/a/b"\naccelerators = ["near.org/a/b"]\n', "accelerators"),
        (
            '[[mirror]]\nurl = "https://hub.org/a/b"\naccelerators = ["http://near.org/a/b"]\n',
            'allow_http = true in [upstream."near.org"]',
        ),
        (
            '[[mirror]]\nurl = "https://hub.org/a/b"\naccelerators = ["https://hub.org/a/b.git"]\n',
            "is the upstream itself",
        ),
    ],
)
def test_what_is_written_wrongly_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    told = " ".join(caught.value.problems)
    assert says in told
    assert "canary" not in told


def test_accelerators_are_the_mirrors_own_and_then_its_hosts() -> None:
    settings = load_text(
        '[upstream."hub.org:8443"]\naccelerators = ["https://near.org/{host}/{path}", "https://plain.org/{path}"]\n'
        '[upstream."near.org"]\naccelerators = ["https://near.org/{path}"]\n'
        '[[mirror]]\nurl = "https://hub.org:8443/a/b-c"\n'
        'accelerators = ["https://own.org/b", "https://plain.org/a/b-c"]\n'
    )
    url = parse_upstream_url("https://hub.org:8443/a/b-c.git")
    assert [str(place) for place in settings.accelerators(url.name, url)] == [
        "https://own.org/b",
        "https://plain.org/a/b-c",
        "https://near.org/hub.org:8443/a/b-c",
    ]
    other = parse_upstream_url("https://hub.org:8443/x/größe")
    assert [str(place) for place in settings.accelerators(other.name, other)] == [
        "https://near.org/hub.org:8443/x/gr%C3%B6%C3%9Fe",
        "https://plain.org/x/gr%C3%B6%C3%9Fe",
    ]
    itself = parse_upstream_url("https://near.org/x/y")
    assert settings.accelerators(itself.name, itself) == ()
    nobody = parse_upstream_url("https://else.org/x/y")
    assert settings.accelerators(nobody.name, nobody) == ()
