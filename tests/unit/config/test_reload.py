from __future__ import annotations

from mirror_sync.config import diff, load_text


def test_a_reload_tells_what_is_in_force_and_what_waits() -> None:
    old = load_text('[schedule]\ninterval = "5m"\n[[mirror]]\nurl = "https://a.org/x/y"\n')
    new = load_text(
        '[schedule]\ninterval = "6m"\n[server]\nlisten = "127.0.0.1:1"\n[upstream."a.org"]\nconcurrency = 2\n'
    )
    changes = diff(old, new)
    assert "schedule.interval" in changes.applied
    assert 'upstream."a.org".concurrency' in changes.applied
    assert "mirror[0].url" in changes.applied
    assert changes.needs_restart == ("server.listen",)


def test_the_same_configuration_changes_nothing() -> None:
    assert not diff(load_text('[git]\nforced = "hold"'), load_text('[git]\nforced = "hold"'))
