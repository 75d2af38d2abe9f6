"""The units as systemd reads them: without a word of complaint, and shut tight."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mirror_sync.config import Settings
from tests.support.tools import require

ROOT = Path(__file__).resolve().parents[3]
UNITS = ROOT / "systemd"
PROGRAM = "/opt/mirror-sync/bin/mirror-sync"
SERVICES = ("mirror-sync.service", "mirror-sync-web.service", "mirror-sync-worker.service")


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60, **more)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with a program that exists here."""
    directory = tmp_path / "units"
    directory.mkdir()
    for unit in UNITS.iterdir():
        if unit.suffix in {".service", ".socket", ".target", ".slice"}:
            text = unit.read_text().replace(PROGRAM, "/bin/true")
            (directory / unit.name).write_text(text)
    return directory


def add_example(unit: Path, example: str) -> None:
    """Add a drop-in as systemd would read it: after the unit."""
    unit.write_text(unit.read_text() + (UNITS / "examples" / example).read_text())


def directives(service: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / service)
    return parser["Service"]


def files(units: Path) -> list[Path]:
    return [path for path in units.iterdir() if path.is_file()]


def test_systemd_has_nothing_to_say(units: Path) -> None:
    done = run(require("systemd-analyze"), "verify", *map(str, files(units)))
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("example", sorted(path.name for path in (UNITS / "examples").iterdir()))
def test_systemd_has_nothing_to_say_of_the_examples(units: Path, example: str) -> None:
    for service in SERVICES:
        add_example(units / service, example)
    done = run(require("systemd-analyze"), "verify", *map(str, files(units)))
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_a_misspelt_directive_would_be_heard_of(units: Path) -> None:
    worker = units / "mirror-sync-worker.service"
    worker.write_text(worker.read_text().replace("ProtectHome=", "ProtectHomes="))
    done = run(require("systemd-analyze"), "verify", str(worker))
    assert "ProtectHomes" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("service", "example", "threshold"),
    [
        ("mirror-sync.service", "", 15),
        ("mirror-sync-web.service", "", 15),
        ("mirror-sync-worker.service", "", 15),
        ("mirror-sync-worker.service", "egress.conf", 15),
        ("mirror-sync-worker.service", "egress-proxy.conf", 10),
    ],
)
def test_exposure_stays_below_its_threshold(units: Path, service: str, example: str, threshold: int) -> None:
    """Thresholds are tenths of systemd's exposure level."""
    if example:
        add_example(units / service, example)
    done = run(
        require("systemd-analyze"), "security", "--offline=true", f"--threshold={threshold}", str(units / service)
    )
    assert done.returncode == 0, done.stdout


def test_an_open_unit_would_be_above_it(units: Path) -> None:
    bare = units / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\nUser=mirror-sync\n")
    done = run(require("systemd-analyze"), "security", "--offline=true", "--threshold=15", str(bare))
    assert done.returncode != 0


@pytest.mark.parametrize("service", SERVICES)
def test_the_command_line_is_one_the_program_knows(service: str) -> None:
    program, *arguments = shlex.split(directives(service)["ExecStart"])
    assert program == PROGRAM
    done = run(sys.executable, "-m", "mirror_sync", *arguments, "--help", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    role = arguments[arguments.index("--role") + 1]
    assert role in done.stdout


def test_time_to_stop_is_longer_than_the_program_takes() -> None:
    from mirror_sync.web.server import GRACEFUL_SECONDS
    from mirror_sync.worker.process import STOP_GRACE_SECONDS
    from mirror_sync.worker.supervise import KILL_AFTER_SECONDS

    drain = Settings().workers.drain_timeout
    assert float(directives("mirror-sync-worker.service")["TimeoutStopSec"]) > drain + STOP_GRACE_SECONDS
    assert float(directives("mirror-sync.service")["TimeoutStopSec"]) > drain + KILL_AFTER_SECONDS
    assert float(directives("mirror-sync-web.service")["TimeoutStopSec"]) > GRACEFUL_SECONDS


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_restart_cannot_heal_is_not_restarted(service: str) -> None:
    from mirror_sync.cli import codes

    assert directives(service)["RestartPreventExitStatus"].split() == [str(codes.USAGE), str(codes.CONFIG)]


@pytest.mark.parametrize("service", SERVICES)
def test_the_default_directories_are_writable(service: str) -> None:
    unit = directives(service)
    storage = Settings().storage
    assert storage.git_dir.is_relative_to(f"/var/lib/{unit['StateDirectory']}")
    assert storage.lfs_dir.is_relative_to(f"/var/lib/{unit['StateDirectory']}")
    assert storage.run_dir == Path(f"/run/{unit['RuntimeDirectory']}")
    assert str(Settings().database.sqlite_path).startswith(f"/var/lib/{unit['StateDirectory']}/")


def test_the_socket_is_where_the_web_listens_by_default() -> None:
    assert f"ListenStream={Settings().server.listen}\n" in (UNITS / "mirror-sync-web.socket").read_text()


def test_the_user_and_the_directories_are_made(tmp_path: Path) -> None:
    sysusers, tmpfiles = require("systemd-sysusers"), require("systemd-tmpfiles")
    if os.geteuid() != 0:
        pytest.skip("directories for another user can be made by root only")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    user = UNITS / "sysusers.d" / "mirror-sync.conf"
    dry = run(sysusers, f"--root={root}", "--dry-run", str(user))
    assert (dry.returncode, (root / "etc/passwd").exists()) == (0, False), dry.stderr
    made = run(sysusers, f"--root={root}", str(user))
    assert made.returncode == 0, made.stderr
    (entry,) = (root / "etc/passwd").read_text().splitlines()
    name, _, uid, gid, _, home, shell = entry.split(":")
    assert (name, home, shell) == ("mirror-sync", "/var/lib/mirror-sync", "/usr/sbin/nologin")
    done = run(tmpfiles, "--create", f"--root={root}", str(UNITS / "tmpfiles.d" / "mirror-sync.conf"))
    assert (done.returncode, done.stderr) == (0, "")
    found = {
        directory: (oct(stat.st_mode & 0o777), stat.st_uid, stat.st_gid)
        for directory in ("etc/mirror-sync", "etc/mirror-sync/credentials", "var/lib/mirror-sync")
        for stat in [(root / directory).stat()]
    }
    assert found == {
        "etc/mirror-sync": ("0o750", 0, int(gid)),
        "etc/mirror-sync/credentials": ("0o700", 0, 0),
        "var/lib/mirror-sync": ("0o750", int(uid), int(gid)),
    }
