"""docs/commands.md has every command with its flags and every exit status, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mirror_sync.cli import codes
from mirror_sync.cli.options import global_options
from mirror_sync.cli.root import root

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


COMMANDS = dict(commands(root))


def rows() -> dict[str, tuple[str, ...]]:
    """Each command of the table with the flags it shows."""
    found: dict[str, tuple[str, ...]] = {}
    for call, flags in re.findall(r"^\| `([^`]+)` \| (.*?) ?\| .* \|$", DOCUMENT.split("## ", 1)[0], re.MULTILINE):
        words = call.replace("\\|", "|").split()
        name = next((" ".join(words[:length]) for length in (2, 1) if " ".join(words[:length]) in COMMANDS), call)
        assert name not in found
        found[name] = tuple(sorted(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", flags)))
    return found


def test_every_command_has_its_row_with_its_flags() -> None:
    shared = {name for option in global_options(hidden=True) for name in option.opts}
    real = {
        path: tuple(
            sorted(
                name
                for parameter in command.params
                if isinstance(parameter, click.Option)
                for name in parameter.opts
                if name not in shared
            )
        )
        for path, command in COMMANDS.items()
    }
    assert rows() == real


@pytest.mark.parametrize("option", global_options(hidden=False), ids=lambda option: option.name)
def test_every_shared_flag_is_named(option: click.Option) -> None:
    assert all(re.search(rf"[`/]{re.escape(name)}[`/ ]", DOCUMENT) for name in option.opts)


def test_every_exit_status_is_explained() -> None:
    table = DOCUMENT.partition("## Exit status")[2].partition("\n## ")[0]
    told = {int(number) for number in re.findall(r"^\| ([0-9]+) \|", table, re.MULTILINE)}
    real = {value for name, value in vars(codes).items() if name.isupper() and isinstance(value, int)}
    assert told == real
