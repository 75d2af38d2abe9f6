from __future__ import annotations

from pathlib import Path

from mirror_sync.config import TrustedHost, default_config_text, load, write_secret


def test_what_quickstart_writes_is_a_whole_configuration(tmp_path: Path) -> None:
    write_secret(tmp_path / "webhook-secret", "s3cret")
    assert (tmp_path / "webhook-secret").stat().st_mode & 0o777 == 0o600
    hosts = [TrustedHost("127.0.0.1:9000", allow_http=True, allow_private=True), TrustedHost("github.com")]
    (tmp_path / "config.toml").write_text(default_config_text(listen="127.0.0.1:8123", hosts=hosts, lfs=False))
    settings = load(directory=tmp_path, environ={})
    assert settings.server.listen == "127.0.0.1:8123"
    assert settings.lfs.enabled is False
    assert settings.storage.git_dir == tmp_path / "git"
    assert settings.storage.run_dir == tmp_path / "run"
    assert settings.upstream_rule("127.0.0.1:9000").allow_http
    assert settings.upstream_rule("127.0.0.1:9000").allow_private
    assert list(settings.upstreams) == ["127.0.0.1:9000"]
    assert settings.webhooks.secrets() == (("current", b"s3cret"),)
