from __future__ import annotations

from pathlib import Path

import pytest

from mirror_sync.errors import ConfigError
from mirror_sync.state.engine import parse_database_url, sqlite_path


@pytest.mark.parametrize("text", ["/var/lib/x/state.db", "sqlite:////var/lib/x/state.db"])
def test_a_path_means_sqlite(text):
    url = parse_database_url(text)
    assert sqlite_path(url) == Path("/var/lib/x/state.db")


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite_path(parse_database_url("state.db")) == tmp_path / "state.db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_postgres_means_psycopg_3(scheme):
    url = parse_database_url(f"{scheme}://mirror@db.example.org/mirror")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.host, url.database) == ("mirror", "db.example.org", "mirror")
    assert sqlite_path(url) is None


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://mirror:hunter2@db/mirror",
        "postgresql://db/mirror?password=hunter2",
        "mysql://db/mirror",
        "sqlite://",
        "sqlite:///:memory:",
        "://",
    ],
)
def test_what_is_refused_names_no_secret(text):
    with pytest.raises(ConfigError) as caught:
        parse_database_url(text)
    assert "hunter2" not in f"{caught.value} {caught.value.remedy} {caught.value.why}"
    assert caught.value.remedy
