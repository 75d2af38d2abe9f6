from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mirror_sync.config import Settings, find, load, load_text
from mirror_sync.domain.selection import Selection
from mirror_sync.errors import ConfigError


def problems(text: str, *, environ: dict[str, str] | None = None, path: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_text(text, environ=environ, path=path)
    return refused.value.problems


def test_nothing_written_means_the_defaults() -> None:
    settings = load_text("")
    plain = Settings()
    for part in (
        "server",
        "database",
        "storage",
        "workers",
        "git",
        "lfs",
        "schedule",
        "webhooks",
        "serve",
        "log",
        "ui",
    ):
        assert getattr(settings, part) == getattr(plain, part)
    assert (settings.removal_delay, settings.keep_runs) == (plain.removal_delay, plain.keep_runs)
    assert set(settings.origins.values()) == {"default"}
    assert settings.written["schedule.interval"] == "30m"


def test_every_problem_is_told_at_once_with_its_line_and_what_to_write() -> None:
    found = problems(
        """\
[schedule]
intervall = "5m"
interval = 15
[serverr]
x = 1
[server]
listen = "somewhere"
trusted_proxies = 99
[git]
forced = "no"
refs = ["refs/*/x"]
[upstream."github.com"]
concurrency = "many"
[[mirror]]
url = "ssh://example.org/a/b"
[[mirror]]
interval = "5m"
[webhooks]
max_body = 25
[lfs]
enabled = 1
"""
    )
    assert 'config.toml:3 schedule.interval = 15: a duration needs a unit; write "15m"' in found
    assert 'config.toml:2 schedule.intervall: there is no such key; did you mean "interval"?' in found
    assert 'config.toml:4 serverr: there is no such section; did you mean "server"?' in found
    assert 'config.toml:10 git.forced = "no": must be one of "follow-and-keep" or "hold"' in found
    assert 'config.toml:19 webhooks.max_body = 25: a size needs a unit; write "25MiB"' in found
    assert "config.toml:8 server.trusted_proxies = 99: must be at most 8" in found
    assert "config.toml:16 mirror[1].url: must be given" in found
    starts = {line.split(" ")[0] + " " + line.split(" ")[1].rstrip(":") for line in found}
    assert starts >= {
        "config.toml:7 server.listen",
        "config.toml:11 git.refs",
        'config.toml:13 upstream."github.com".concurrency',
        "config.toml:15 mirror[0].url",
        "config.toml:21 lfs.enabled",
    }
    assert len(found) == 12


@pytest.mark.parametrize(
    ("text", "where"),
    [("[a\n", "config.toml:1 "), ('a = 1\nb = "x\n', "config.toml:2 "), ("x = [1,\n", "config.toml:1 ")],
)
def test_what_is_not_toml_is_told_with_its_line(text: str, where: str) -> None:
    (only,) = problems(text)
    assert only.startswith(where)
    assert "is not TOML" in only


@pytest.mark.parametrize(
    "text",
    [
        "git = 1",
        "upstream = 2",
        "mirror = 3",
        'upstream = { "github.com" = 1 }',
        "mirror = [1]",
        "mirror = { url = 1 }",
    ],
)
def test_a_value_where_a_table_belongs_is_refused(text: str) -> None:
    assert "must be" in problems(text)[0]


def test_the_objective_leaves_room_for_two_polls() -> None:
    (only,) = problems('[schedule]\ninterval = "2h"\n')
    assert only.startswith('config.toml:2 schedule.interval = "2h": ')
    assert 'objective = "4h"' in only
    (other,) = problems('[[mirror]]\nurl = "https://example.org/a/b"\nobjective = "45m"')
    assert other.startswith('config.toml:3 mirror[0].objective = "45m": ')
    assert load_text('[schedule]\ninterval = "1h"\nobjective = "2h"').schedule.objective == 7200


def test_plain_http_and_repeated_mirrors_are_refused() -> None:
    text = '[[mirror]]\nurl = "http://10.0.0.1:9000/a/b"\n[[mirror]]\nurl = "http://10.0.0.1:9000/a/b.git"\n'
    found = problems(text)
    assert (
        'config.toml:2 mirror[0].url = "http://10.0.0.1:9000/a/b": plain http needs allow_http = true in [upstream."10.0.0.1:9000"]'
        in found
    )
    assert any("declared before, at config.toml:2" in line for line in found)
    allowed = load_text('[[mirror]]\nurl = "http://10.0.0.1:9000/a/b"\n[upstream."10.0.0.1:9000"]\nallow_http = true\n')
    assert allowed.mirrors[0].name == "10.0.0.1:9000/a/b"
    assert allowed.declaration(allowed.mirrors[0].name) == allowed.mirrors[0]


@pytest.mark.parametrize("value", ["_lfs/", "/_lfs", "/", "//", "/a b/", "/a/;/", "/../", "https://x/"])
def test_an_internal_location_is_a_plain_path(value: str) -> None:
    (only,) = problems(f'[server]\ntrusted_proxies = 1\naccel_redirect = "{value}"')
    assert "beginning and ending with a slash" in only


def test_an_internal_location_needs_a_proxy_in_front() -> None:
    (only,) = problems('[server]\naccel_redirect = "/_lfs/"')
    assert "trusted_proxies" in only
    assert load_text('[server]\ntrusted_proxies = 1\naccel_redirect = "/_lfs/"').server.accel_redirect == "/_lfs/"


def test_storage_directories_lie_apart() -> None:
    assert "outside" in problems('[storage]\nlfs_dir = "/var/lib/mirror-sync/git/lfs"')[0]


# ---------------------------------------------------------------- precedence


def test_flag_over_environment_over_config_d_over_file_over_default(tmp_path: Path) -> None:
    main = tmp_path / "config.toml"
    main.write_text(
        '[schedule]\ninterval = "1m"\nobjective = "9h"\n[workers]\ngit = 2\nlfs = 2\n[[mirror]]\nurl = "https://a.org/x/one"\n'
    )
    extra = tmp_path / "config.d"
    extra.mkdir()
    (extra / "20-b.toml").write_text('[workers]\ngit = 4\n[[mirror]]\nurl = "https://a.org/x/two"\n')
    (extra / "10-a.toml").write_text('[workers]\ngit = 3\nlfs = 3\n[upstream."a.org"]\nconcurrency = 2\n')
    (extra / "ignored.txt").write_text("not TOML at all [")
    environ = {"MIRROR_SYNC__SCHEDULE__INTERVAL": "2m", "MIRROR_SYNC__WORKERS__DRAIN_TIMEOUT": "5s"}
    settings = load(main, overrides={"workers.drain_timeout": "7s"}, environ=environ)
    assert settings.workers.git == 4
    assert settings.workers.lfs == 3
    assert settings.schedule.interval == 120
    assert settings.workers.drain_timeout == 7
    assert settings.schedule.backoff_max == 6 * 3600
    assert [mirror.name for mirror in settings.mirrors] == ["a.org/x/one", "a.org/x/two"]
    assert settings.origins["workers.git"] == "config.d/20-b.toml:2"
    assert settings.origins["workers.lfs"] == "config.d/10-a.toml:3"
    assert settings.origins["schedule.objective"] == "config.toml:3"
    assert settings.origins["schedule.interval"] == "environment MIRROR_SYNC__SCHEDULE__INTERVAL"
    assert settings.origins["workers.drain_timeout"] == "flag"
    assert settings.origins["schedule.backoff_max"] == "default"
    assert settings.origins["mirror[1].url"] == "config.d/20-b.toml:4"
    assert settings.origins['upstream."a.org".concurrency'] == "config.d/10-a.toml:5"
    (extra / "30-c.toml").write_text("[workers]\n\ngit = 0\n")
    with pytest.raises(ConfigError) as refused:
        load(main, environ={})
    assert refused.value.problems == ("config.d/30-c.toml:3 workers.git = 0: must be at least 1",)


def test_every_kind_of_value_can_come_from_the_environment() -> None:
    settings = load_text(
        "",
        environ={
            "MIRROR_SYNC__GIT__REFS": "refs/heads/*, refs/tags/v1",
            "MIRROR_SYNC__WORKERS__GIT": "3",
            "MIRROR_SYNC__LFS__ENABLED": "false",
            "MIRROR_SYNC__LFS__MAX_OBJECT": "5GiB",
            "MIRROR_SYNC__SCHEDULE__JITTER": "0.25",
            "MIRROR_SYNC__UPSTREAM__GITHUB.COM__CONCURRENCY": "2",
            "MIRROR_SYNC__MIRROR": json.dumps([{"url": "https://github.com/a/b"}]),
            "MIRROR_SYNC__SERVER__LISTEN": "[::1]:99",
            "MIRROR_SYNC__STORAGE__RESERVE": "none",
        },
    )
    assert settings.git.refs == ("refs/heads/*", "refs/tags/v1")
    assert settings.workers.git == 3
    assert settings.lfs.enabled is False
    assert settings.lfs.max_object_bytes == 5 * 2**30
    assert settings.schedule.jitter == 0.25
    assert settings.upstream_rule("github.com").concurrency == 2
    assert settings.mirrors[0].name == "github.com/a/b"
    assert settings.server.listen == "[::1]:99"
    assert settings.server.local_url == "http://[::1]:99"
    assert settings.storage.reserve_bytes == 0


def test_misspelt_variables_and_secrets_in_the_environment_are_refused() -> None:
    found = problems(
        "",
        environ={
            "MIRROR_SYNC__SCHEDUEL__INTERVAL": "1m",
            "MIRROR_SYNC__NONSENSE": "1",
            "MIRROR_SYNC__UPSTREAM__GITHUB.COM__TOKEN": "ghp_canary",
            "MIRROR_SYNC__DATABASE__PASSWORD": "canary",
            "MIRROR_SYNC__MIRROR": "{{canary",
            "MIRROR_SYNC__SCHEDULE__INTERVAL": "15",
        },
    )
    text = "\n".join(found)
    assert "did you mean MIRROR_SYNC__SCHEDULE__INTERVAL?" in text
    assert "set MIRROR_SYNC__DATABASE__PASSWORD_FILE" in text
    assert "MIRROR_SYNC__UPSTREAM__GITHUB.COM__TOKEN: a secret is never" in text
    assert "MIRROR_SYNC__MIRROR is not a JSON list" in text
    assert "canary" not in text


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    "text",
    [
        '[upstream."github.com"]\ntoken = "ghp_canary"',
        '[upstream."github.com"]\ntoken_file = "ghp_canary"',
        '[webhooks]\nsecret = "canary"',
        '[[mirror]]\nurl = "https://user:canary@example.org/a/b"',
        '[[mirror]]\nurl = "ssh://user:canary@example.org/a/b"',
        '[upstream."a.org"]\nproxy = "http://user:canary@proxy"',
        '[database]\npassword = "canary"',
        '[webhooks]\nsecret_file = ["canary"]',
        '[database]\nurl = "postgresql://user@host/db"\npassword_file = "canary"',
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_text(text)
    assert "canary" not in str(refused.value) + repr(refused.value.problems) + refused.value.why


@pytest.mark.parametrize("url", ["postgresql://user:canary@host/db", "postgresql://user@host/db?password=canary"])
def test_a_password_in_the_database_url_is_refused_and_not_repeated(url: str) -> None:
    (only,) = problems(f'[database]\nurl = "{url}"')
    assert "password_file" in only
    assert "canary" not in only


def test_a_secret_is_read_at_each_use(tmp_path: Path) -> None:
    secret = tmp_path / "hook"
    secret.write_text("one\n")
    secret.chmod(0o600)
    before = tmp_path / "hook.old"
    before.write_text("zero")
    before.chmod(0o640)
    text = (
        '[webhooks]\nsecret_file = "hook"\nprevious_secret_file = "hook.old"\n[upstream."a.org"]\ntoken_file = "hook"\n'
    )
    settings = load_text(text, path=tmp_path / "config.toml")
    assert settings.webhooks.secrets() == (("current", b"one"), ("previous", b"zero"))
    secret.write_text("two-3\r\n")
    assert settings.webhooks.secrets()[0] == ("current", b"two-3")
    token = settings.upstream_rule("a.org").token
    assert token is not None
    assert token() == "two-3"
    assert "two-3" not in repr(settings)
    assert str(tmp_path / "hook") not in repr(token)
    secret.write_text("\n")
    with pytest.raises(ConfigError, match="empty"):
        token.read()
    secret.write_bytes(b"\xff\xfecanary")
    with pytest.raises(ConfigError, match="not UTF-8") as refused:
        token.read()
    assert refused.value.__cause__ is None
    secret.unlink()
    with pytest.raises(ConfigError, match="no such file") as absent:
        token.read()
    assert "name a file that is there" in absent.value.remedy


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620])
def test_a_secret_that_others_may_reach_is_refused(tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "token"
    secret.write_text("x")
    secret.chmod(0o600)
    path = tmp_path / "config.toml"
    text = '[upstream."a.org"]\ntoken_file = "token"\n'
    settings = load_text(text, path=path)
    secret.chmod(mode)
    (only,) = problems(text, path=path)
    assert f"{mode:04o}" in only
    token = settings.upstream_rule("a.org").token
    assert token is not None
    with pytest.raises(ConfigError) as open_to_others:
        token.read()
    assert open_to_others.value.remedy.startswith("chmod 600 ")


def test_a_credential_comes_from_systemd_and_is_missed_only_when_used(tmp_path: Path) -> None:
    text = '[upstream."a.org"]\ntoken_file = "credential:github"\n'
    outside = load_text(text).upstream_rule("a.org").token
    assert outside is not None
    assert outside.where() == "credential:github"
    with pytest.raises(ConfigError, match="was not given"):
        outside.read()
    (tmp_path / "github").write_text("tok")
    (tmp_path / "github").chmod(0o400)
    inside = load_text(text, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}).upstream_rule("a.org").token
    assert inside is not None
    assert inside.read() == "tok"
    assert "letters" in problems(text.replace("github", "../passwd"))[0]


# ---------------------------------------------------------------- paths, hosts, proxies


def test_relative_paths_begin_beside_the_file(tmp_path: Path) -> None:
    settings = load_text('[storage]\ngit_dir = "g"\n[database]\nurl = "state.db"\n', path=tmp_path / "config.toml")
    assert settings.storage.git_dir == tmp_path / "g"
    assert settings.database.sqlite_path == tmp_path / "state.db"
    assert settings.storage.lfs_dir == Path("/var/lib/mirror-sync/lfs")
    assert load_text('[database]\nurl = "postgresql://u@h/db"').database.sqlite_path is None


def test_hosts_without_a_rule_get_the_careful_one() -> None:
    settings = load_text('[upstream."Git.Example:8443"]\nallow_private = true\n')
    assert settings.upstream_rule("git.example:8443").allow_private
    other = settings.upstream_rule("git.example")
    assert not other.allow_private
    assert not other.allow_http
    assert other.token is None


def test_the_environment_s_proxy_is_used_where_no_rule_says_otherwise() -> None:
    text = '[upstream."own.org"]\nproxy = "socks5h://p:1080"\n[upstream."direct.org"]\nproxy = "none"\n[upstream."10.0.0.1"]\nallow_private = true\n'
    environ = {"HTTPS_PROXY": "http://user:canary@proxy:3128", "NO_PROXY": "inside.org,.corp"}
    settings = load_text(text, environ=environ)
    assert settings.upstream_rule("github.com").proxy == environ["HTTPS_PROXY"]
    assert settings.upstream_rule("own.org").proxy == "socks5h://p:1080"
    assert settings.upstream_rule("direct.org").proxy == ""
    assert settings.upstream_rule("10.0.0.1").proxy == ""
    assert settings.upstream_rule("git.inside.org:8443").proxy == ""
    assert settings.upstream_rule("x.corp").proxy == ""
    assert settings.upstream_rule("notinside.org").proxy == environ["HTTPS_PROXY"]
    assert "canary" not in repr(settings) + repr(settings.upstream_rule("github.com"))
    assert load_text("", environ={**environ, "no_proxy": "*"}).upstream_rule("github.com").proxy == ""


# ---------------------------------------------------------------- finding


def test_the_file_is_found_where_it_is_looked_for(tmp_path: Path) -> None:
    environ = {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    if not os.path.exists("/etc/mirror-sync/config.toml"):
        with pytest.raises(ConfigError, match="there is no configuration") as refused:
            find(environ=environ)
        assert "quickstart" in refused.value.remedy
    with pytest.raises(ConfigError, match="no configuration file"):
        find(tmp_path / "absent.toml", environ=environ)
    data = tmp_path / "data" / "mirror-sync" / "config.toml"
    data.parent.mkdir(parents=True)
    data.write_text("")
    if not os.path.exists("/etc/mirror-sync/config.toml"):
        assert find(environ=environ) == data
        assert find(directory=data.parent, environ=environ) == data
    config = tmp_path / "xdg" / "mirror-sync" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("")
    assert find(environ=environ) == config
    assert load(directory=data.parent, environ=environ).path == data


def test_a_container_may_be_configured_by_the_environment_alone(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "MIRROR_SYNC__DATABASE__URL": str(tmp_path / "x.db")}
    if not os.path.exists("/etc/mirror-sync/config.toml"):
        assert load(environ=environ).path is None
        assert load(environ=environ).database.url == str(tmp_path / "x.db")


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path, environ={})


SELECTED = """
[lfs]
max_object = "10GiB"
exclude = ["*.ckpt"]
recent = "90d"

[class.models]
max_object = "none"
include = ["*.safetensors", "/data/"]
known_missing = "publish"

[class."small.ones"]
recent = "none"
exclude = []
interval = "10m"

[[mirror]]
url = "https://example.org/a/one"
class = "models"
max_object = "1GiB"
known_missing = "hold"

[[mirror]]
url = "https://example.org/a/two"
"""


def test_a_mirrors_own_word_goes_before_its_classs_and_that_before_the_general_one() -> None:
    settings = load_text(SELECTED)
    one, two = (mirror.name for mirror in settings.mirrors)
    days = 90 * 86400.0
    assert settings.mirrors[0].class_name == "models"
    assert settings.selection(two, "") == Selection((), ("*.ckpt",), 10 << 30, days)
    assert settings.selection(two, "models") == Selection(("*.safetensors", "/data/"), ("*.ckpt",), None, days)
    assert settings.selection(one, "models") == Selection(("*.safetensors", "/data/"), ("*.ckpt",), 1 << 30, days)
    assert settings.selection(two, "small.ones") == Selection((), (), 10 << 30, None)
    assert settings.selection(two, "gone since") == settings.selection(two, "")
    assert [settings.known_missing(name, "models") for name in (one, two)] == ["hold", "publish"]
    assert settings.schedule_of("small.ones") == (600.0, settings.schedule.objective)
    assert settings.origins["class.models.max_object"].endswith(":8")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[lfs]\ninclude = ["!a"]', "what is left out stands in exclude"),
        ('[lfs]\nexclude = ["["]', "no path pattern"),
        ('[lfs]\nexclude = ["/"]', "no path pattern"),
        ('[lfs]\nrecent = "0d"', "longer than nothing"),
        ("[lfs]\nrecent = 90", "90d"),
        ('[class.a]\nmax_object = "0GiB"', "larger than nothing"),
        ('[class.a]\ninterval = "2h"\nobjective = "3h"', "at least twice the interval"),
        ('[class.none]\nrecent = "1d"', 'other than "none"'),
        ('[class."a b"]\nrecent = "1d"', "letters, digits"),
        ('[class.a]\nmax_objekt = "1GiB"', 'did you mean "max_object"'),
        ('[[mirror]]\nurl = "https://example.org/a/b"\nclass = "x"', "there is no such class; there are: none"),
        ('[class]\nrecent = "1d"', "class"),
        ('[upstream."a.org"]\nunknown = "add-on-demand"', 'on_demand = ["acme/*"]'),
        ('[upstream."a.org"]\non_demand = ["/acme"]', "no path of a repository"),
        ('[upstream."a.org"]\non_demand_class = "x"', "there is no such class; there are: none"),
        ('[upstream."a.org"]\nunknown = "guess"', "explain"),
    ],
)
def test_what_no_selection_can_be_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(text)
    assert any(told in problem for problem in caught.value.problems), caught.value.problems


def test_what_a_class_may_take_goes_before_the_general_limit() -> None:
    settings = load_text(
        '[git]\nmax_pack = "2GiB"\n[class.small]\nmax_pack = "1MiB"\n[class.free]\nmax_pack = "none"\n[class.same]\n'
    )
    assert [settings.max_pack(name) for name in ("small", "same", "", "gone since")] == [1 << 20, *[2 << 30] * 3]
    assert settings.max_pack("free") is None


def test_a_class_is_not_given_by_the_environment() -> None:
    with pytest.raises(ConfigError, match="there is no such key"):
        load_text("", environ={"MIRROR_SYNC__CLASS__A__RECENT": "1d"})
    assert load_text("", environ={"MIRROR_SYNC__LFS__INCLUDE": "*.a, b/"}).lfs.include == ("*.a", "b/")
