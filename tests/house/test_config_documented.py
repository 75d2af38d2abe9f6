"""Every configuration key stands in config.example.toml and docs/configuration.md, as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mirror_sync.config import load, load_text
from mirror_sync.config.schema import Key, listing
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.selection import Selection

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config.example.toml"
DOCUMENT = ROOT / "docs" / "configuration.md"
KEYS = list(listing())
_COMMENTED = re.compile(r"^# ([a-z_]+ = )", re.MULTILINE)


def test_the_example_is_a_valid_configuration() -> None:
    settings = load(EXAMPLE, environ={})
    assert [mirror.name for mirror in settings.mirrors] == ["github.com/git/git"]
    written = {key: origin for key, origin in settings.origins.items() if origin != "default"}
    assert list(written) == ["mirror[0].url"]


def test_every_commented_default_is_the_default() -> None:
    shown = load_text(
        _COMMENTED.sub(r"\1", EXAMPLE.read_text(encoding="utf-8")), path=Path("/etc/mirror-sync/config.toml")
    )
    plain = load_text(
        '[upstream."github.com"]\n[class."models"]\n[[mirror]]\nurl = "https://github.com/git/git"\n',
        path=Path("/etc/mirror-sync/config.toml"),
    )
    for part in (
        "server",
        "database",
        "storage",
        "workers",
        "git",
        "lfs",
        "schedule",
        "link",
        "webhooks",
        "serve",
        "log",
        "ui",
    ):
        assert getattr(shown, part) == getattr(plain, part)
    assert shown.upstreams == plain.upstreams
    assert (shown.removal_delay, shown.keep_runs) == (plain.removal_delay, plain.keep_runs)
    (declared,) = shown.mirrors
    assert declared.interval == plain.schedule.interval
    assert declared.objective == plain.schedule.objective
    assert declared.known_missing == plain.lfs.known_missing
    assert declared.forced == plain.git.forced
    (shared,) = shown.classes.values()
    assert (shared.interval, shared.objective) == (plain.schedule.interval, plain.schedule.objective)
    assert shared.known_missing == plain.lfs.known_missing
    for name, class_name in ((declared.name, declared.class_name), (MirrorName("example.org/a/b"), "models")):
        assert shown.selection(name, class_name) == plain.selection(declared.name, "") == Selection()


def test_the_example_shows_every_key_and_no_other() -> None:
    shown = load_text(_COMMENTED.sub(r"\1", EXAMPLE.read_text(encoding="utf-8")))
    given = {
        key.replace("mirror[0]", "mirror[]").replace('"github.com"', '"HOST"').replace("class.models", 'class."NAME"')
        for key, origin in shown.origins.items()
        if origin != "default"
    }
    assert given == {key.path for key in KEYS}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_the_document_has_a_row_for_every_key(key: Key) -> None:
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{key.path}` |")]
    assert len(rows) == 1, f"docs/configuration.md has {len(rows)} rows for {key.path}"
    _, default, meaning, change = rows[0].removeprefix("| ").removesuffix(" |").split(" | ")
    assert default == f"`{default_text(key)}`"
    assert meaning == key.purpose
    assert change == ("restart" if key.restart else "reload")


def test_the_document_has_rows_for_nothing_else() -> None:
    rows = re.findall(r"^\| `([a-z]+[.\[][^`]*)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(rows) == {key.path for key in KEYS}


def default_text(key: Key) -> str:
    """How the document shows a default."""
    match key.default:
        case None:
            return "none" if key.name != "url" else "required"
        case bool():
            return str(key.default).lower()
        case str():
            return f'"{key.default}"'
        case list():
            return "[" + ", ".join(f'"{item}"' for item in key.default) + "]"
        case _:
            return str(key.default)
