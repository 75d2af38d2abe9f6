"""What the documents say can be followed: links, named tests, keys, commands, metrics; two languages, one content."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from mirror_sync.cli.root import root
from mirror_sync.config import load_text
from mirror_sync.config.schema import listing

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HAN = re.compile(r"[\u4e00-\u9fff]")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_page_is_reached_from_the_front() -> None:
    linked = {(ENGLISH.parent / link).resolve() for link in re.findall(r"\]\(([^)\s#]+)", text_of(ENGLISH))}
    unlinked = [page for page in PAGES if page.parent != ROOT and page not in linked and page.parent not in linked]
    assert unlinked == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_where_it_was_written(page: Path) -> None:
    assert str(ROOT) not in text_of(page)
    assert re.findall(r"/home/\w+|/root/\S+", text_of(page)) == []


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(ROOT / "docs" / "promises.md"))
    assert named
    assert len(named) == len(set(named))
    lost = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or not re.search(rf"^\s*def {name}\(", text_of(ROOT / path), re.MULTILINE)
    ]
    assert lost == []


def test_every_promise_of_clients_has_a_test() -> None:
    kept = re.split(r"^## Not yet$", text_of(ROOT / "docs" / "promises.md"), flags=re.MULTILINE)[0]
    parts = re.split(r"^\*\*(P\d+|[A-Z]\w+)\. ", kept, flags=re.MULTILINE)
    assert {name for name, body in zip(parts[1::2], parts[2::2], strict=True) if "::test_" not in body} == set()
    both = set(re.findall(r"\bP\d+\b", text_of(ROOT / "docs" / "promises.md")))
    assert both == {f"P{number}" for number in range(1, 25)}


# --- the two languages


def code_blocks(page: Path) -> list[tuple[str, list[str]]]:
    """Fenced blocks without their comments, which are translated."""
    return [
        (kind, [re.sub(r"\s*#.*$", "", line) for line in body.splitlines() if not line.lstrip().startswith("#")])
        for kind, body in FENCE.findall(text_of(page))
    ]


def test_both_readmes_have_one_structure() -> None:
    assert code_blocks(ENGLISH) == code_blocks(CHINESE)
    for pattern in (r"^(#+) ", r"^(\|)", r"^(!)\["):
        assert re.findall(pattern, prose(ENGLISH), re.MULTILINE) == re.findall(pattern, prose(CHINESE), re.MULTILINE)
    skip = {"README.md", "README.zh-CN.md"}
    links = [
        [re.sub(r"\.zh(?=\.png)", "", link) for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if link not in skip]
        for page in (ENGLISH, CHINESE)
    ]
    assert links[0] == links[1]


def test_the_chinese_readme_is_chinese_with_spaces_around_latin_words() -> None:
    lines = [line for line in re.sub(r"`[^`]*`", "", prose(CHINESE)).splitlines() if len(line) > 40]
    bare = [line for line in lines if re.sub(r"[\W\w]*?\]\([^)]*\)", "", line).strip(" |\n") and not HAN.search(line)]
    assert bare == []
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "", prose(CHINESE))
    assert re.findall(r".[\u4e00-\u9fff][A-Za-z0-9].|.[A-Za-z0-9][\u4e00-\u9fff].", plain) == []


# --- what is typed


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_the_readmes_configuration_is_valid(page: Path) -> None:
    (written,) = [body for kind, body in FENCE.findall(text_of(page)) if kind == "toml"]
    tomllib.loads(written)
    assert load_text(written).mirrors[0].name == "github.com/acme/model"


def calls() -> Iterator[tuple[str, list[str]]]:
    """Every call of mirror-sync that a page shows, with the page's name."""
    shown = re.compile(r"`((?:/opt/mirror-sync/bin/)?mirror-sync [^`]+)`")
    for page in PAGES:
        lines = [line for _, body in FENCE.findall(text_of(page)) for line in body.splitlines()]
        lines = [part for line in lines for part in re.split(r"&&|\|", line.split(" #")[0])]
        lines += shown.findall(prose(page))
        for line in lines:
            line = line.strip().removeprefix("/opt/mirror-sync/bin/")
            if line.startswith("mirror-sync "):
                yield str(page.relative_to(ROOT)), shlex.split(line.split(" > ")[0])[1:]


def fault(words: list[str]) -> str:
    """Return what is wrong with a call's command or flags, or an empty string."""
    command: click.Command = root
    known = {name for parameter in root.params for name in parameter.opts}
    while isinstance(command, click.Group):
        words = [
            word for word in words if word.split("=")[0] not in known and not word.startswith(("/etc/", "DIR", "FILE"))
        ]
        if not words:
            return ""
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return "" if words[0].isupper() else f"no command {words[0]}"
        command, words = found, words[1:]
        known |= {name for parameter in command.params for name in parameter.opts}
    unknown = [word for word in words if word.startswith("-") and word != "-" and word.split("=")[0] not in known]
    return f"no flag {unknown}" if unknown else ""


def test_every_call_that_is_shown_can_be_made() -> None:
    found = list(calls())
    assert len(found) > 40
    assert [(page, words, fault(list(words))) for page, words in found if fault(list(words))] == []


def test_a_call_that_cannot_be_made_is_noticed() -> None:
    assert fault(["frobnicate", "x"]) == "no command frobnicate"
    assert fault(["sync", "x", "--now"]) == "no flag ['--now']"


def test_every_key_that_is_named_exists() -> None:
    keys = {key.path for key in listing()}
    sections = {key.partition(".")[0] for key in keys if "[" not in key}
    dotted = re.compile(rf"`((?:{'|'.join(sorted(sections))})\.[a-z_]+)(?: = [^`]*)?`")
    wrong = []
    for page in PAGES:
        wrong += [
            (page.name, name)
            for name in dotted.findall(prose(page))
            if name not in keys and not name.endswith((".py", ".db", ".toml"))
        ]
        for name in re.findall(r'`upstream\."HOST"\.([a-z_]+)`', prose(page)):
            if f'upstream."HOST".{name}' not in keys:
                wrong.append((page.name, name))
    assert wrong == []


def test_every_metric_in_a_query_exists() -> None:
    page = ROOT / "docs" / "metrics.md"
    table = set(re.findall(r"^\| `(\w+)` \|", text_of(page), re.MULTILINE))
    table |= {f"{name}_{part}" for name in table for part in ("bucket", "count", "sum")}
    asked = {
        name for kind, body in FENCE.findall(text_of(page)) if kind for name in re.findall(r"mirror_sync_(\w+)", body)
    }
    assert asked
    assert asked <= table


def test_every_file_that_the_service_section_installs_exists() -> None:
    for pattern in re.findall(r"(?<![\w/])(systemd/[\w.*/-]+)", text_of(ENGLISH)):
        assert list(ROOT.glob(pattern)), pattern


def test_shell_examples_are_shell() -> None:
    for page in PAGES:
        for kind, body in FENCE.findall(text_of(page)):
            if kind == "sh":
                subprocess.run(["sh", "-n"], input=body.replace("...", ""), text=True, check=True)
