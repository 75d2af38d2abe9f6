"""What is committed: nothing that names a package registry, locks that fit, scripts that any shell reads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.tools import require

ROOT = Path(__file__).resolve().parents[2]

# put together here, so that this file does not name them
REGISTRIES = tuple(
    ".".join(parts).encode()
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("maven", "org"),
        ("yarnpkg", "com"),
        ("golang", "org/dl"),
    )
)
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def committed() -> list[Path]:
    """Every file that a clone gets, and those that are about to be added."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("impossible here: this is no git checkout")
    paths = [ROOT / os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_no_file_names_a_package_registry() -> None:
    naming = {
        str(path.relative_to(ROOT)): host.decode()
        for path in committed()
        for host in REGISTRIES
        if host in path.read_bytes().lower()
    }
    assert naming == {}


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {canonicalize_name(match[1]): match[2] for match in PINNED.finditer(text)}


def wanted(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in extras:
        lines += project["project"]["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(("lock", "extras"), [("run", ("postgres",)), ("test", ("postgres", "test", "check"))])
def test_the_lock_fits_the_project(lock: str, extras: tuple[str, ...]) -> None:
    """When this fails: make lock."""
    pinned = pins(lock)
    unfit = [
        str(need)
        for need in wanted(*extras)
        if not need.specifier.contains(pinned.get(canonicalize_name(need.name), "0"), prereleases=True)
    ]
    assert unfit == []


def test_the_tests_run_on_what_is_shipped() -> None:
    tested = pins("test")
    assert {name: tested.get(name) for name in pins("run")} == pins("run")


@pytest.mark.parametrize("lock", ["run", "test"])
def test_every_pin_has_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").iterdir()))
def test_scripts_are_plain_shell(script: str) -> None:
    path = ROOT / "scripts" / script
    if not path.name.endswith(".sh"):
        assert path.read_text().startswith("#!/bin/sh\n")
        assert os.access(path, os.X_OK)
    shell = shutil.which("dash") or "/bin/sh"
    subprocess.run([shell, "-n", str(path)], check=True)


def test_make_alone_prints_help() -> None:
    done = subprocess.run([require("make")], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("run", "test", "check", "prove", "bench", "lock"):
        assert re.search(rf"^  {target} ", done.stdout, re.MULTILINE), done.stdout


def test_make_run_passes_everything_on() -> None:
    done = subprocess.run(
        [require("make"), "-n", "run", "UPSTREAM=https://a/b https://c/d", "PORT=9000", "DIR=/srv/my mirror"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = 'scripts/run --dir "/srv/my mirror" --port "9000" https://a/b https://c/d'
    assert " ".join(done.stdout.split()) == expected
