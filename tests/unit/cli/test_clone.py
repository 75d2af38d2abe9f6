"""What the clone command makes of its words."""

from __future__ import annotations

from dataclasses import fields

import pytest

from mirror_sync.actions.clone import CloneWorld, Waiting
from mirror_sync.cli.clone import _PROXY, QUIET_SECONDS, _checked, _Screen, humanish
from mirror_sync.cli.entry import run
from mirror_sync.cli.options import Globals
from mirror_sync.cli.output import Output
from mirror_sync.cli.progress import SAY_EVERY_SECONDS
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.errors import AddressRefused, MirrorSyncError, UsageError
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream import Access


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("https://github.com/acme/model", "model"),
        ("https://github.com/acme/model.git", "model"),
        ("https://github.com/acme/model.git/", "model"),
        ("http://mirror:8080/127.0.0.1:41833/acme/model", "model"),
        ("https://git.test/one", "one"),
        ("https://git.test/my%20project/my%20model", "my%20model"),
    ],
)
def test_the_directory_is_what_git_would_choose(url: str, directory: str) -> None:
    assert humanish(url, bare=False) == directory
    assert humanish(url, bare=True) == f"{directory}.git"


@pytest.mark.parametrize(
    "url",
    ["git@github.com:acme/model", "ssh://github.com/acme/model", "acme/model", "https://git.test/", "https://git.test/a/../b",
     "https://git.test/a?b", "-u", "https:///a", "file:///tmp/a"],
)  # fmt: skip
def test_what_is_no_address_here_is_refused_and_says_so(url: str) -> None:
    with pytest.raises(MirrorSyncError):
        _checked(url)


@pytest.mark.parametrize("hidden", ["%0ahost=evil.test", "%0D", "%00", "%5C", "%7f", "%2e%2e/b"])
def test_nothing_hides_in_an_address_that_credential_helpers_are_asked_about(hidden: str) -> None:
    with pytest.raises(MirrorSyncError):
        _checked(f"https://git.test/a{hidden}/b" if hidden != "%2e%2e/b" else f"https://git.test/a/{hidden}")
    assert _checked("https://git.test/My%20Project/_git/model") == "git.test/My Project/_git/model"


def test_a_password_in_the_url_is_refused_and_never_repeated() -> None:
    with pytest.raises(AddressRefused) as caught:
        _checked("https://me:topsecret@git.test/acme/model")
    assert "topsecret" not in f"{caught.value} {caught.value.remedy}"
    assert "--token-file" in caught.value.remedy


def test_a_proxy_is_an_address_without_a_password() -> None:
    assert _PROXY.match("http://proxy.test:3128")
    assert _PROXY.match("socks5h://127.0.0.1:1080")
    for text in ("proxy.test:3128", "http://me:secret@proxy.test", "ftp://proxy.test", "http://a b"):
        assert not _PROXY.match(text)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["clone", ""], "'URL'"),
        (["clone", "https://git.test/a", ""], "'[DIR]'"),
        (["clone", "https://git.test/a", "--branch", ""], "'-b' / '--branch'"),
        (["clone", "https://git.test/a", "--origin="], "'-o' / '--origin'"),
        (["clone", "https://git.test/a", "--token-file", ""], "'--token-file'"),
        (["clone", "https://git.test/a", "--proxy", ""], "'--proxy'"),
        (["--dir", "", "status"], "'--dir'"),
        (["status", "-c", ""], "'-c' / '--config'"),
    ],
)
def test_an_empty_word_is_no_default(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error[MS-C001]: invalid value for {named}: it is empty\n")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_silent_host_is_named_with_the_time_it_has_left(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    clock = HandClock()
    screen = _Screen(Output(Globals(quiet=quiet)), MirrorName("git.test/a"), clock=clock)

    def after(seconds: float) -> str:
        clock.advance(seconds)
        screen.tell_of_silence()
        return capsys.readouterr().err

    assert after(100) == "", "nobody is asked for anything"
    screen.waits(Waiting("git.test", 1, 3, 60.0))
    assert after(QUIET_SECONDS - 1) == ""
    told = "" if quiet else "waiting for git.test: silent for 5s, given up after 1m, try 1 of 3\n"
    assert after(1) == told
    assert after(SAY_EVERY_SECONDS - 1) == "", "a log is told now and then"
    assert after(1) == told.replace("5s", "35s")
    screen.show(Progress(Kind.GIT, Way.PLAIN, 0, None, 1, 0.0, 1, 0))
    assert after(QUIET_SECONDS - 1) == "", "something came"
    screen.waits(Waiting("git.test", 3, 3, 60.0))
    assert after(QUIET_SECONDS) == told.replace("1 of 3", "3 of 3")
    screen.waits(None)
    assert after(100) == ""


def test_the_time_that_is_told_is_the_time_that_is_given() -> None:
    (silence,) = (each.default for each in fields(CloneWorld) if each.name == "silence")
    assert silence == Access().stall_timeout


def test_an_empty_address_is_called_so() -> None:
    with pytest.raises(UsageError, match="the URL is empty"):
        _checked("")
