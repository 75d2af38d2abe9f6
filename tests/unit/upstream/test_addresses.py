from __future__ import annotations

import pytest

from mirror_sync.errors import AddressRefused, UpstreamUnavailable
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream.access import Access
from mirror_sync.upstream.addresses import Resolver, check_target, parse_target, refusal

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "140.82.112.3", "172.15.255.255", "172.32.0.1", "100.63.255.255",
    "100.128.0.1", "198.17.255.255", "198.20.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1",
    "2001:4860:4860::8888", "64:ff9b::808:808",
]  # fmt: skip

PRIVATE = [
    "10.0.0.1", "10.255.255.255", "127.0.0.1", "127.8.8.8", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "240.0.0.1", "192.88.99.1", "::1", "fc00::1", "fd12:3456::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1",
    "2001:0:1::1", "2001:2::1", "3fff::1", "100::1", "5f00::1", "::7f00:1", "64:ff9b:1::1", "fec0::1",
]  # fmt: skip

NEVER = [
    "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255",
    "100.100.100.200", "192.0.0.192", "168.63.129.16", "::", "fe80::1", "fe80::1%eth0", "ff02::1", "fd00:ec2::254",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2606:4700::1111%1", "nonsense",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address):
    assert refusal(address, allow_private=False) is None
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_permission(address):
    assert refusal(address, allow_private=False)
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_allowed(address):
    assert refusal(address, allow_private=False)
    assert refusal(address, allow_private=True)


class Answers:
    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host, port):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_one_private_answer_refuses_the_name():
    resolver = Resolver(clock=HandClock(), lookup=Answers(["8.8.8.8", "10.0.0.1", "1.1.1.1"]))
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        resolver.addresses("git.test", 443, allow_private=False)


def test_answers_are_kept_a_minute_and_a_refused_one_never():
    clock, answers = HandClock(), Answers(["10.0.0.1"], ["8.8.8.8"], ["1.1.1.1"])
    resolver = Resolver(clock=clock, lookup=answers)
    with pytest.raises(AddressRefused):
        resolver.addresses("git.test", 443, allow_private=False)
    assert resolver.addresses("git.test", 443, allow_private=False) == ("8.8.8.8",)
    clock.advance(59)
    assert resolver.addresses("git.test", 443, allow_private=False) == ("8.8.8.8",)
    assert answers.asked == 2
    clock.advance(1)
    assert resolver.addresses("git.test", 443, allow_private=False) == ("1.1.1.1",)


def test_what_one_rule_may_reach_another_may_not():
    resolver = Resolver(clock=HandClock(), lookup=Answers(["10.0.0.1"]))
    assert resolver.addresses("git.test", 443, allow_private=True) == ("10.0.0.1",)
    with pytest.raises(AddressRefused):
        resolver.addresses("git.test", 443, allow_private=False)


@pytest.mark.parametrize("answer", [OSError("no such name"), UnicodeError("label too long"), []])
def test_a_name_without_address_is_for_the_clock(answer):
    with pytest.raises(UpstreamUnavailable) as caught:
        Resolver(clock=HandClock(), lookup=Answers(answer)).addresses("git.test", 443, allow_private=True)
    assert caught.value.code == "MS-U530"


@pytest.mark.parametrize(
    "url",
    [
        "http://github.com/a", "ftp://github.com/a", "file:///etc/passwd", "gopher://h/", "https://u:p@h/", "https://u@h/",
        "https://@h/", "//h/a", "/a", "", "https://", "https:///a", "https://h:99999/", "https://h:0/", "https://h:x/",
        "https://h/a b", "https://h/\r\nX: y", "https://h/\x00", "https://h\\@evil/", "https://exämple/", "https://h%00/",
        "https://[::1/", "https://127.0.0.1/", "https://[::1]/", "https://10.1.2.3:8443/", "https://169.254.169.254/latest",
        "https://[::ffff:127.0.0.1]/", "ext::sh -c id", "https://[fe80::1%25eth0]/",
    ],
)  # fmt: skip
def test_urls_that_are_never_asked_without_permission(url):
    with pytest.raises(AddressRefused):
        check_target(url, Access())


def test_permission_is_for_http_or_for_private_addresses_each_on_its_own():
    assert check_target("http://github.com/a", Access(allow_http=True)).netloc == "github.com"
    with pytest.raises(AddressRefused):
        check_target("http://127.0.0.1:9000/a", Access(allow_http=True))
    with pytest.raises(AddressRefused):
        check_target("http://127.0.0.1:9000/a", Access(allow_private=True))
    assert check_target("http://127.0.0.1:9000/a", Access(allow_http=True, allow_private=True)).port == 9000
    with pytest.raises(AddressRefused):
        check_target("https://169.254.169.254/", Access(allow_http=True, allow_private=True))


def test_an_error_holds_no_signature():
    with pytest.raises(AddressRefused) as caught:
        parse_target("gopher://h/object?X-Amz-Signature=canary")
    assert "canary" not in str(caught.value) + caught.value.remedy


def test_a_target_is_verbatim_and_knows_its_origin():
    target = parse_target("https://H.example:443/a%2Fb?x=%7e&y")
    assert target.url == "https://H.example:443/a%2Fb?x=%7e&y"
    assert target.origin == ("https", "h.example", 443)
    assert target.netloc == "h.example"
    assert parse_target("https://[2606:4700::1]:8443/").netloc == "[2606:4700::1]:8443"
