from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain.deliveries import calls, delivery_key, repository_key, tells_of_change
from mirror_sync.domain.runs import Delivery, Trigger
from mirror_sync.domain.standing import Due, Evidence, heard, is_news, outlived, sooner

times = st.floats(0, 1000)
dues = st.builds(Due, times, st.sampled_from(Trigger))


@given(st.none() | dues, dues, times)
def test_asking_never_delays(present, asked, now):
    after = sooner(present, asked, now=now)
    assert after.at <= asked.at or after.at <= now
    if present is not None:
        assert after.at <= present.at


@given(dues, dues, times)
def test_asking_twice_is_asking_once(present, asked, now):
    once = sooner(present, asked, now=now)
    assert sooner(once, asked, now=now) == once


@given(dues, dues, times)
def test_only_what_is_due_now_speeds_up_what_waits(present, asked, now):
    after = sooner(present, asked, now=now)
    if present.at <= now < asked.at:
        assert after == present


@given(st.lists(times, min_size=1), times)
def test_evidence_after_the_observation_outlives_it(told, observed_at):
    evidence = None
    for at in told:
        evidence = heard(evidence, at)
    assert evidence == Evidence(min(told), max(told))
    left = outlived(evidence, observed_at)
    later = [at for at in told if at > observed_at]
    assert (left is None) == (not later)
    if left is not None:
        assert left.first in later
        assert left.last == max(later)


def test_news_is_what_came_no_earlier_than_the_confirmed_observation():
    assert is_news(5.0, confirmed_at=None)
    assert is_news(5.0, confirmed_at=5.0)
    assert not is_news(4.9, confirmed_at=5.0)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://GitHub.com/Acme/Model.git", ("github.com", "github.com/acme/model")),
        ("https://github.com/acme/model", ("github.com", "github.com/acme/model")),
        ("http://127.0.0.1:9000/acme/model.git", ("127.0.0.1:9000", "127.0.0.1:9000/acme/model")),
        ("git@github.com:acme/model.git", ("", "")),
        ("", ("", "")),
    ],
)
def test_repositories_are_compared_without_case_and_suffix(url, key):
    assert repository_key(url) == key


def test_pings_call_nobody_and_unknown_senders_refs_do():
    assert not calls(Delivery("github", "1", "ping", 0.0))
    assert calls(Delivery("gitlab", "1", "Push Hook", 0.0, refs=("refs/heads/main",)))
    assert tells_of_change(Delivery("github", "1", "delete", 0.0, deleted_refs=("refs/heads/x",)))
    assert not tells_of_change(Delivery("github", "1", "repository", 0.0, action="renamed"))


def test_long_delivery_ids_are_shortened_without_colliding():
    keys = {delivery_key(Delivery("github", "x" * 300 + tail, "push", 0.0)) for tail in "ab"}
    assert len(keys) == 2
    assert all(len(key) <= 200 for key in keys)
    assert delivery_key(Delivery("github", "72d3162e-cc78", "push", 0.0)) == "72d3162e-cc78"
