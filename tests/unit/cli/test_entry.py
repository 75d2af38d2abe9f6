from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from mirror_sync.cli import root as table
from mirror_sync.cli.entry import run
from mirror_sync.cli.options import Command, Group


def walk(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += walk(child, (*path, name))
    return found


EVERY = walk(table.root)


@pytest.mark.parametrize("name", list(table.COMMANDS))
def test_the_list_says_what_the_command_s_own_help_says(name: str) -> None:
    command = table.root.get_command(click.Context(table.root), name)
    assert command is not None
    assert command.help is not None
    assert command.help.splitlines()[0] == table.COMMANDS[name].help


@pytest.mark.parametrize(
    ("path", "command"), EVERY, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_explains_itself(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: mirror-sync")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help
    if path:
        assert isinstance(command, (Command, Group))
        assert {"config", "directory", "json"} <= {
            word
            for parameter in command.params
            for word in ("config", "directory", "json")
            if f"--{word[:3]}" in str(parameter.opts)
        }


def test_a_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shwo"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error[MS-C001]: there is no command 'shwo'\n  do:  did you mean: mirror-sync show\n"
    assert run(["refs", "lst"]) == 2
    assert "mirror-sync refs ls" in capsys.readouterr().err
    assert run(["zzzzzz"]) == 2
    assert "--help" in capsys.readouterr().err


def test_abbreviations_are_not_commands() -> None:
    assert run(["sta"]) == 2


def test_a_usage_error_is_a_document_when_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "--helath", "x", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "MS-C001"
    assert "--health" in document["error"]["message"]


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands" in capsys.readouterr().err


def test_a_fault_of_our_own_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("mirror_sync.cli.about.git_version", broken)
    assert run(["version"]) == 1
    told = capsys.readouterr().err
    assert "error[MS-X000]" in told
    assert "RuntimeError: surprise" in told
    assert "Traceback" not in told
    with pytest.raises(RuntimeError):
        run(["version", "-v"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mirror_sync.cli.about.git_version", interrupted)
    assert run(["version"]) == 130


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["git"].startswith("2.")
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"mirror-sync {document['mirror_sync']}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_this_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_MIRROR_SYNC_COMPLETE" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mirror_sync.cli.entry import run\nrun(['--help'])\n"
        "heavy = {'sqlalchemy', 'pydantic', 'flask', 'requests', 'git', 'rich', 'structlog', 'alembic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_terminal_without_the_letters_is_no_reason_to_fail() -> None:
    code = "from mirror_sync.cli.entry import run\nraise SystemExit(run(['zz\u25cf']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONIOENCODING": "latin-1"}, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"'zz\\u25cf'" in done.stderr


def test_a_reader_that_leaves_early_sees_no_traceback() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m mirror_sync --help | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1)
    assert done.stderr == ""
