from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mirror_sync.actions.readers import REMEMBERED, UpstreamsWord, new_token
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.readers import TOKEN_PREFIX, token_digest
from mirror_sync.domain.runs import Mirror, MirrorId, Trigger
from mirror_sync.errors import Overloaded, UpstreamGone, UpstreamRefused, UpstreamUnavailable, UsageError
from mirror_sync.ports import Credential
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.state import MemoryState


def mirror(number: int = 1, *, upstream: str = "https://git.example/a/b") -> Mirror:
    name = MirrorName(f"git.example/a/{number}")
    return Mirror(MirrorId(number), name, upstream, 0.0, 0.0, Trigger.POLL, 60.0, 120.0)


class Asked:
    """An upstream that lets in whoever has the password."""

    def __init__(self) -> None:
        self.times = 0
        self.password = "right"
        self.error: Exception | None = None

    def __call__(self, _mirror: Mirror, credential: Credential) -> None:
        self.times += 1
        if self.error is not None:
            raise self.error
        if credential.password != self.password:
            raise UpstreamRefused


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def word(asked: Asked, clock: HandClock) -> UpstreamsWord:
    return UpstreamsWord(asked, clock=clock, yes_seconds=300.0, no_seconds=30.0)


def test_yes_and_no_count_for_their_own_times(word: UpstreamsWord, asked: Asked, clock: HandClock) -> None:
    good, bad = Credential("me", "right"), Credential("me", "wrong")
    assert word.remembered(mirror(), good) is None
    for _ in range(3):
        assert word.lets_read(mirror(), good)
        assert not word.lets_read(mirror(), bad)
    assert asked.times == 2
    assert (word.remembered(mirror(), good), word.remembered(mirror(), bad)) == (True, False)
    clock.advance(31.0)
    asked.password = "wrong"
    assert word.lets_read(mirror(), bad)
    assert word.lets_read(mirror(), good)  # still by what was said before
    clock.advance(300.0)
    assert not word.lets_read(mirror(), good)


def test_each_question_is_its_own(word: UpstreamsWord, asked: Asked) -> None:
    assert word.lets_read(mirror(1), Credential("me", "right"))
    assert word.lets_read(mirror(2), Credential("me", "right"))
    assert word.lets_read(mirror(1, upstream="https://git.example/a/moved"), Credential("me", "right"))
    assert not word.lets_read(mirror(1), Credential("m", "eright"))
    assert not word.lets_read(mirror(1), Credential("meright"[:2], "righ"))
    assert asked.times == 5


@pytest.mark.parametrize("error", [UpstreamGone, UpstreamRefused])
def test_not_there_and_not_for_you_are_no(word: UpstreamsWord, asked: Asked, error: type[Exception]) -> None:
    asked.error = error()
    assert not word.lets_read(mirror(), Credential("me", "right"))


def test_what_cannot_be_asked_is_not_remembered(word: UpstreamsWord, asked: Asked) -> None:
    asked.error = UpstreamUnavailable()
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            word.lets_read(mirror(), Credential("me", "right"))
    asked.error = None
    assert word.lets_read(mirror(), Credential("me", "right"))
    assert asked.times == 3


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("me", ""), ("me", "two words\n"), ("me", "é"), ("me:you", "right"), ("me", " right"), ("me", "x" * 5000),
        ("me", TOKEN_PREFIX + "x"), (TOKEN_PREFIX + "x", "x-oauth-basic"), ("me", "a\r\nHost: evil"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_credential_is_sent_nowhere(
    word: UpstreamsWord, asked: Asked, username: str, password: str
) -> None:
    asked.password = password
    assert not word.lets_read(mirror(), Credential(username, password))
    assert asked.times == 0


def test_the_same_question_is_asked_once_however_many_ask(clock: HandClock) -> None:
    entered, go_on, times = threading.Event(), threading.Event(), []

    def slow(_mirror: Mirror, _credential: Credential) -> None:
        times.append(1)
        entered.set()
        assert go_on.wait(20)

    word = UpstreamsWord(slow, clock=clock, yes_seconds=300.0, no_seconds=30.0)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(word.lets_read, mirror(), Credential("me", "right"))
        assert entered.wait(20)
        others = [pool.submit(word.lets_read, mirror(), Credential("me", "right")) for _ in range(5)]
        go_on.set()
        assert all(answer.result(20) for answer in (first, *others))
    assert len(times) == 1


def test_too_many_at_once_are_sent_away(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror_sync.actions.readers.ASKED_AT_ONCE", 1)
    monkeypatch.setattr("mirror_sync.actions.readers.WAIT_SECONDS", 0.01)
    entered, go_on = threading.Event(), threading.Event()

    def slow(_mirror: Mirror, _credential: Credential) -> None:
        entered.set()
        assert go_on.wait(20)

    word = UpstreamsWord(slow, clock=clock, yes_seconds=300.0, no_seconds=30.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(word.lets_read, mirror(), Credential("me", "right"))
        assert entered.wait(20)
        for password in ("right", "other"):
            with pytest.raises(Overloaded):
                word.lets_read(mirror(), Credential("me", password))
        go_on.set()
        assert first.result(20)


def test_those_who_wait_are_bounded_too(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror_sync.actions.readers.WAITING", 2)
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slow(_mirror: Mirror, _credential: Credential) -> None:
        entered.release()
        assert go_on.wait(20)

    word = UpstreamsWord(slow, clock=clock, yes_seconds=300.0, no_seconds=30.0)
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(word.lets_read, mirror(), Credential("me", text)) for text in ("one", "two")]
        assert entered.acquire(timeout=20)
        assert entered.acquire(timeout=20)
        with pytest.raises(Overloaded, match="too many"):
            word.lets_read(mirror(), Credential("me", "three"))
        go_on.set()
        assert all(answer.result(20) for answer in asking)
    assert word.lets_read(mirror(), Credential("me", "three"))


def test_a_bounded_number_is_remembered(word: UpstreamsWord, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REMEMBERED >= 1000
    monkeypatch.setattr("mirror_sync.actions.readers.REMEMBERED", 3)
    for number in range(5):
        word.lets_read(mirror(number), Credential("me", "right"))
    known = [word.remembered(mirror(number), Credential("me", "right")) for number in range(5)]
    assert known == [None, None, True, True, True]


def test_a_token_is_random_and_kept_by_its_digest(clock: HandClock) -> None:
    state = MemoryState(clock)
    made = [new_token(state, clock, globs=["a/*", "a/*"], lasts=60.0, note="") for _ in range(50)]
    assert len({token for token, _ in made}) == 50
    assert all(token.startswith(TOKEN_PREFIX) and len(token) == len(TOKEN_PREFIX) + 43 for token, _ in made)
    token, kept = made[0]
    assert state.token(token_digest(token)) == kept
    assert (kept.globs, kept.expires_at) == (("a/*",), clock.now() + 60.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"globs": []}, {"globs": [""]}, {"globs": [" a"]}, {"globs": ["a\x1b"]}, {"globs": ["a"] * 101},
        {"globs": ["x" * 2000]}, {"note": "x" * 501}, {"lasts": 0.0}, {"lasts": -1.0},
    ],
)  # fmt: skip
def test_a_token_that_makes_no_sense_is_refused(clock: HandClock, wrong: dict[str, object]) -> None:
    state = MemoryState(clock)
    with pytest.raises(UsageError):
        new_token(state, clock, **({"globs": ["*"], "lasts": None, "note": ""} | wrong))  # type: ignore[arg-type]
    assert state.tokens() == []
