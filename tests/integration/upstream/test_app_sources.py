"""Where an App leads to: upstream and nearer places, each by its own rule, at the pace that the configuration says now."""

from __future__ import annotations

import pytest

from mirror_sync.bootstrap import build
from mirror_sync.config import load
from mirror_sync.domain.budget import Cap, Urgency
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Mirror, MirrorId, Trigger
from mirror_sync.worker.reload import reload


def settings(directory, text):
    (directory / "config.toml").write_text(
        '[database]\nurl = "state.db"\n[storage]\ngit_dir = "git"\nlfs_dir = "lfs"\nrun_dir = "run"\n' + text
    )
    return load(directory / "config.toml", environ={})


def hosts(*servers, more=""):
    tables = [f'[upstream."{host(server)}"]\nallow_http = true\nallow_private = true\n' for server in servers]
    return "".join(tables) + more


def host(server):
    return server.origin.removeprefix("http://")


def mirror(repo, *, published=None):
    name = repo.url.removeprefix("http://")
    return Mirror(MirrorId(1), MirrorName(name), repo.url, 0.0, 0.0, Trigger.POLL, 60.0, 120.0, published_at=published)


@pytest.fixture
def repo(up):
    repo = up.create("acme/model")
    repo.commit({"README": "hello"})
    return repo


def test_a_nearer_place_is_reached_by_its_own_rule_and_sees_no_token(up, other, repo, tmp_path):
    near = other.create(f"{host(up)}/acme/model")
    near.commit({"README": "hello"})
    (tmp_path / "token").write_text("canary")
    (tmp_path / "token").chmod(0o600)
    repo.token = "canary"
    text = hosts(up, more=f'token_file = "token"\naccelerators = ["{other.origin}/{{host}}/{{path}}"]\n') + hosts(other)
    with build(settings(tmp_path, text), role="worker") as app:
        upstream, (nearer,) = app.upstream(mirror(repo)), app.accelerators(mirror(repo))
        assert (upstream.host, nearer.host) == (host(up), host(other))
        for source in (upstream, nearer):
            assert source.observe(("refs/heads/*",)).snapshot.tips
    assert all("authorization" in item.headers for item in up.seen())
    assert other.seen()
    assert not any("authorization" in item.headers for item in other.seen())


def test_who_waits_decides_the_urgency(repo, tmp_path):
    text = hosts(repo.upstream, more='accelerators = ["https://near.example/{path}"]\n')
    with build(settings(tmp_path, text), role="worker") as app:
        new, old = mirror(repo), mirror(repo, published=1.0)
        for kept, urgency in ((new, Urgency.FILL), (old, Urgency.UPDATE)):
            for source in (app.upstream(kept), *app.accelerators(kept)):
                assert source._place.urgency is urgency
        for awaited, urgency in ((False, Urgency.FILL), (True, Urgency.UPDATE)):
            behind = app.sources_behind(old, awaited=awaited)
            assert [source.host for source in behind] == [host(repo.upstream), "near.example"]
            assert {source._place.urgency for source in behind} == {urgency}


def test_a_reload_changes_the_caps_of_what_runs(repo, tmp_path):
    first = settings(tmp_path, hosts(repo.upstream))
    with build(first, role="worker") as app:
        budget = app.connections.budget
        assert not budget._rules().machine.narrows
        rules = f'[link]\nrate = "2MB/s"\nfill_share = 0.3\n{hosts(repo.upstream, more="rate = " + chr(34) + "1MB/s" + chr(34))}'
        assert reload(app, lambda: settings(tmp_path, rules))
        now = budget._rules()
        assert (now.machine, dict(now.hosts), now.fill_share) == (Cap(2e6), {host(repo.upstream): Cap(1e6)}, 0.3)
