"""Options that every command takes, wherever on the line they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from mirror_sync.errors import UsageError

T = TypeVar("T")


@dataclass(slots=True)
class Globals:
    """What the global flags say."""

    config: Path | None = None
    directory: Path | None = None
    json: bool = False
    plain: bool = False
    quiet: bool = False
    verbose: int = 0
    no_color: bool = False
    yes: bool = False


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> Any:
        told = context.find_object(Globals)
        if told is not None and value:
            setattr(told, name, value)
        return value

    return callback


class FilledPath(click.Path):
    """A path that is written out: an empty word, as an unset variable leaves it, is not the present directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return super().convert(value, param, ctx)


class FilledText(click.ParamType[str]):
    """Text that is there: an empty word is no choice of the default."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        if value == "":
            self.fail("it is empty", param, ctx)
        return value


PATH = FilledPath(path_type=Path)
TEXT = FilledText()


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """Return the global flags; in a command's own help they are ``hidden``."""

    def option(*names: str, store: str, text: str, **rest: Any) -> click.Option:
        return click.Option(list(names), help=text, hidden=hidden, expose_value=False, callback=_store(store), **rest)

    return [
        option("-c", "--config", store="config", text="Configuration file.", type=PATH, metavar="FILE"),
        option("--dir", store="directory", text="Short for -c DIR/config.toml.", type=PATH, metavar="DIR"),
        option("--json", store="json", text="Print one JSON document.", is_flag=True),
        option("--plain", store="plain", text="Print tab-separated lines without headings.", is_flag=True),
        option("-q", "--quiet", store="quiet", text="Say nothing beside the result.", is_flag=True),
        option("-v", "--verbose", store="verbose", text="Log what happens; show where errors come from.", count=True),
        option("--no-color", store="no_color", text="No colours; so does NO_COLOR.", is_flag=True),
        option("-y", "--yes", store="yes", text="Answer yes where a command asks.", is_flag=True),
    ]


class Command(click.Command):
    """A command that takes the global flags too and shows examples in its help."""

    def __init__(self, *arguments: Any, examples: tuple[str, ...] = (), **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self.examples = examples
        self.params += global_options(hidden=True)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, then how it is called."""
        super().format_help_text(ctx, formatter)
        if self.examples:
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write("".join(f"{'':>{formatter.current_indent}}  {line}\n" for line in self.examples))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name the flags that every command takes."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text("Also -c, --dir, --json, --plain, -q, -v, --no-color, -y: see mirror-sync --help.")


class Group(click.Group):
    """A noun with verbs; both take the global flags."""

    command_class = Command

    def __init__(self, *arguments: Any, **rest: Any) -> None:
        super().__init__(*arguments, **rest)
        self.params += global_options(hidden=True)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one was probably meant."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise unknown_command(args[0], self.list_commands(ctx), place=ctx.command_path)
        return super().resolve_command(ctx, args)


def unknown_command(name: str, known: list[str], *, place: str) -> UsageError:
    """Return the error for a word that is no command, with the one that was probably meant."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean: {place} {near[0]}" if near else f"{place} --help lists the commands"
    return UsageError(f"there is no command {name!r}", remedy=hint)
