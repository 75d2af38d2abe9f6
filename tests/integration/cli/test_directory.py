from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mirror_sync.cli.directory import Directory, Wishes, check_port_free
from mirror_sync.config import load
from mirror_sync.domain.names import parse_upstream_url
from mirror_sync.errors import Conflict, UsageError

LOCAL = parse_upstream_url("http://127.0.0.1:9000/acme/model")
OTHER = parse_upstream_url("http://127.0.0.1:9001/acme/model")
NAMED = parse_upstream_url("https://localhost:9002/acme/model")
PUBLIC = parse_upstream_url("https://192.88.100.1/acme/model")


def test_a_new_directory_gets_a_configuration_a_secret_and_rules_for_the_hosts_named(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "new" / "mirror")
    with directory.held():
        directory.prepare([LOCAL, PUBLIC], Wishes(port=9090))
    settings = load(directory=directory.path, environ={})
    assert settings.server.listen == "127.0.0.1:9090"
    assert settings.upstream_rule("127.0.0.1:9000").allow_http
    assert settings.upstream_rule("127.0.0.1:9000").allow_private
    assert not settings.upstream_rule("127.0.0.1").allow_private
    assert list(settings.upstreams) == ["127.0.0.1:9000"]
    assert directory.secret.stat().st_mode & 0o777 == 0o600
    assert len(settings.webhooks.secrets()[0][1]) == 64


def test_a_second_start_keeps_everything_and_adds_rules(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.prepare([LOCAL], Wishes())
    secret, config = directory.secret.read_text(), directory.config.read_text()
    for _ in range(2):
        directory.prepare([LOCAL, OTHER], Wishes())
        directory.prepare([NAMED], Wishes())
    assert directory.secret.read_text() == secret
    assert directory.config.read_text() == config
    settings = load(directory=directory.path, environ={})
    assert settings.upstream_rule("127.0.0.1:9001").allow_http
    assert settings.upstream_rule("localhost:9002").allow_private
    assert not settings.upstream_rule("localhost:9002").allow_http
    assert settings.origins['upstream."localhost:9002".allow_private'].startswith("config.d/quickstart.toml:")


def test_what_the_operator_wrote_is_kept_beside_the_rules(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.prepare([], Wishes())
    directory.config.write_text(
        directory.config.read_text() + '\n[upstream."127.0.0.1:9000"]\nconcurrency = 2\nallow_private = true\n'
    )
    directory.prepare([LOCAL], Wishes())
    rule = load(directory=directory.path, environ={}).upstream_rule("127.0.0.1:9000")
    assert (rule.concurrency, rule.allow_private, rule.allow_http) == (2, True, True)


def test_flags_change_one_run_only(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.prepare([], Wishes(port=8100))
    assert directory.wished(Wishes()) == {}
    assert directory.wished(Wishes(port=8100)) == {}
    assert directory.wished(Wishes(port=8200, lfs=False)) == {
        "MIRROR_SYNC__SERVER__LISTEN": "127.0.0.1:8200",
        "MIRROR_SYNC__LFS__ENABLED": "false",
    }
    assert directory.wished(Wishes(host="::")) == {"MIRROR_SYNC__SERVER__LISTEN": "[::]:8100"}


def test_one_quickstart_per_directory(tmp_path: Path) -> None:
    with Directory(tmp_path).held(), pytest.raises(Conflict, match="another mirror-sync"), Directory(tmp_path).held():
        pass
    with Directory(tmp_path).held():
        pass


def test_a_port_that_is_taken_is_told_with_another(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=str(port)) as refused:
            check_port_free("127.0.0.1", port)
        assert "--port" in refused.value.remedy
    check_port_free("127.0.0.1", port)
    with pytest.raises(UsageError):
        check_port_free("203.0.113.7", 8080)
