"""Mirrors that are added because somebody asked for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mirror_sync.actions.demand import HOUR, Demand, OnDemand
from mirror_sync.domain.names import MirrorName, UpstreamUrl
from mirror_sync.domain.runs import Mirror, NewMirror
from mirror_sync.errors import NotFound, Overloaded, UpstreamGone
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.state import MemoryState

DEMAND = Demand(("acme/*", "solo/one"), hourly=2, class_name="asked")


class House:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.state = MemoryState(self.clock)
        self.asked: list[str] = []
        self.added: list[tuple[str, str]] = []
        self.absent: set[str] = set()
        self.demand = OnDemand(shown=self.show, enrol=self.enrol, clock=self.clock)

    def show(self, url: UpstreamUrl) -> None:
        self.asked.append(str(url))
        if str(url) in self.absent:
            raise UpstreamGone

    def enrol(self, url: UpstreamUrl, class_name: str) -> Mirror:
        self.added.append((str(url), class_name))
        return self.state.enrol(NewMirror(url.name, str(url), 600.0, 3600.0, class_name=class_name))[0]


def name(path: str) -> MirrorName:
    return MirrorName(f"git.example/{path}")


def test_an_allowed_repository_is_asked_for_and_added() -> None:
    house = House()
    assert house.demand.add(name("acme/deep/er"), DEMAND).name == name("acme/deep/er")
    house.demand.add(name("solo/one"), replace(DEMAND, scheme="http"))
    assert house.added == [("https://git.example/acme/deep/er", "asked"), ("http://git.example/solo/one", "asked")]
    assert [url for url, _ in house.added] == house.asked


@pytest.mark.parametrize("path", ["other/one", "solo/two", "acme", "Acme/one"])
def test_what_no_pattern_names_is_not_even_asked_for(path: str) -> None:
    house = House()
    assert not house.demand.allows(name(path), DEMAND)
    with pytest.raises(NotFound):
        house.demand.add(name(path), DEMAND)
    assert house.asked == []


def test_what_upstream_does_not_show_is_not_added_and_does_not_count() -> None:
    house = House()
    house.absent = {f"https://git.example/acme/{number}" for number in range(5)}
    for number in range(5):
        with pytest.raises(UpstreamGone):
            house.demand.add(name(f"acme/{number}"), DEMAND)
    assert house.added == []
    house.demand.add(name("acme/there"), DEMAND)


def test_each_host_has_its_hour() -> None:
    house = House()
    house.demand.add(name("acme/1"), DEMAND)
    house.clock.advance(HOUR / 2)
    house.demand.add(name("acme/2"), DEMAND)
    with pytest.raises(Overloaded) as raised:
        house.demand.add(name("acme/3"), DEMAND)
    assert 0 < raised.value.retry_after <= HOUR / 2
    house.demand.add(MirrorName("other.example/acme/3"), DEMAND)
    house.clock.advance(HOUR / 2 + 1)
    house.demand.add(name("acme/3"), DEMAND)
    with pytest.raises(Overloaded):
        house.demand.add(name("acme/4"), DEMAND)
