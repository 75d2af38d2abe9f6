from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from mirror_sync.errors import ConfigError, GitFailed, Interrupted, StorageFull
from mirror_sync.repos import git as door
from mirror_sync.repos.git import PIPE, Git, config_of_variables, git_version

HOSTILE = {
    "GIT_DIR": "/evil",
    "GIT_WORK_TREE": "/evil",
    "GIT_OBJECT_DIRECTORY": "/evil",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES": "/evil",
    "GIT_INDEX_FILE": "/evil",
    "GIT_CONFIG_PARAMETERS": "'core.evil=1'",
    "GIT_CONFIG": "/evil",
    "GIT_CONFIG_SYSTEM": "/evil",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "core.evil",
    "GIT_CONFIG_VALUE_0": "1",
    "GIT_CONFIG_KEY_40": "core.evil",
    "GIT_CONFIG_VALUE_40": "1",
    "GIT_EXEC_PATH": "/evil",
    "GIT_SSH": "/evil",
    "GIT_PROXY_COMMAND": "/evil",
    "GIT_EXTERNAL_DIFF": "/evil",
    "GIT_PROTOCOL": "version=2",
    "GIT_CURL_VERBOSE": "1",
    "SSH_AUTH_SOCK": "/evil",
    "XDG_CONFIG_HOME": "/evil",
    "HTTPS_PROXY": "http://evil",
    "http_proxy": "http://evil",
    "ALL_PROXY": "http://evil",
    "PAGER": "/evil",
    "EDITOR": "/evil",
    "TOKEN": "canary",
    "PYTHONPATH": "/evil",
    "BASH_FUNC_git%%": "() { evil; }",
}


@pytest.fixture
def repository(tmp_path) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "r")], check=True)
    return tmp_path / "r"


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Let a shell script stand in for git."""

    def install(script: str) -> None:
        directory = tmp_path / "bin"
        directory.mkdir(exist_ok=True)
        (directory / "git").write_text(f"#!/bin/sh\n{script}\n")
        (directory / "git").chmod(0o755)
        monkeypatch.setitem(door._BASE_ENVIRONMENT, "PATH", f"{directory}:{door.CHILD_PATH}")

    return install


def environment_of_child(repository: Path, fake, **how) -> dict[str, str]:
    fake("exec env -0")
    raw = Git(repository, **how).run(["x"])
    return dict(entry.split("=", 1) for entry in raw.decode().split("\0") if entry)


def test_a_child_gets_our_environment_and_nothing_else(repository, fake, monkeypatch, tmp_path):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    for name in ("GIT_TRACE", "GIT_TRACE2", "GIT_TRACE_CURL"):
        monkeypatch.setenv(name, str(tmp_path / "trace"))
    found = environment_of_child(repository, fake)
    assert "/evil" not in " ".join(found.values())
    assert "canary" not in " ".join(found.values())
    assert {key for key in found if not key.startswith(("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"))} <= {
        *door._BASE_ENVIRONMENT,
        "GIT_DIR",
        "GIT_CONFIG_COUNT",
        "PWD",
        "_",
    }
    assert found["GIT_DIR"] == str(repository)
    count = int(found["GIT_CONFIG_COUNT"])
    assert f"GIT_CONFIG_KEY_{count}" not in found
    assert not (tmp_path / "trace").exists()


def test_real_git_obeys_us_in_a_hostile_environment(repository, monkeypatch):
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    git = Git(repository, config={"core.mine": "1"})
    assert git.run(["rev-parse", "--absolute-git-dir"]).decode().strip() == str(repository)
    listed = git.run(["config", "--list"]).decode()
    assert "core.evil" not in listed
    assert "core.mine=1" in listed
    assert "core.fsync=all" in listed


def test_a_scrubbed_parent_needs_no_helper_program(repository, fake, monkeypatch):
    for name in list(os.environ):
        if name not in door._BASE_ENVIRONMENT:
            monkeypatch.delenv(name)
    fake('tr "\\0" " " </proc/$$/cmdline')
    assert b"env -u" not in Git(repository).run(["x"])
    assert door._unset({**door._BASE_ENVIRONMENT, **os.environ}) == []


def test_no_setting_is_on_the_command_line(repository, fake):
    fake('tr "\\0" " " </proc/$$/cmdline')
    shown = Git(repository, config={"http.extraHeader": "secret-canary"}).run(
        ["x"], config={"http.proxy": "other-canary"}
    )
    assert b"canary" not in shown


def test_repeated_settings_all_arrive(repository):
    git = Git(repository)
    config = [("http.extraHeader", "A: 1"), ("http.extraHeader", "B: 2")]
    assert git.run(["config", "--get-all", "http.extraHeader"], config=config) == b"A: 1\nB: 2\n"
    assert git.run(["config", "core.fsync"], config={"core.fsync": "none"}) == b"none\n"


def test_settings_taken_out_of_variables():
    variables = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c", "GIT_X": "y"}
    assert config_of_variables(variables) == ([("a.b", "c")], {"GIT_X": "y"})
    assert config_of_variables({}) == ([], {})


def test_a_failure_tells_what_git_said_without_secrets(repository, fake):
    fake('printf "fatal: https://user:canary@host/x \\033[31mred\\007\\n" >&2; exit 3')
    with pytest.raises(GitFailed) as caught:
        Git(repository).run(["fetch", "https://user:canary@host/x"])
    error = caught.value
    assert error.status == 3
    assert error.argv == ("fetch", "https://***@host/x")
    assert "canary" not in f"{error} {error.stderr} {error.argv}"
    assert "\033" not in error.stderr
    assert "\007" not in error.stderr


def test_stderr_is_bounded(repository, fake):
    fake("yes 'a long complaint about everything' | head -c 3000000 >&2; echo last words >&2; exit 1")
    with pytest.raises(GitFailed) as caught:
        Git(repository).run(["x"])
    assert len(caught.value.stderr) <= 64 * 1024
    assert caught.value.stderr.endswith("last words")
    with pytest.raises(GitFailed) as caught, Git(repository).stream(["x"]) as child:
        child.stdout.read()
    assert caught.value.stderr.endswith("last words")


def test_a_full_disk_is_told_apart(repository, fake):
    fake('echo "fatal: write error: No space left on device" >&2; exit 128')
    with pytest.raises(StorageFull):
        Git(repository).run(["x"])


def test_expected_statuses_are_no_failure(repository, fake):
    fake("echo out; exit 5")
    assert Git(repository).run(["x"], ok=(0, 5)) == b"out\n"


def test_every_error_line_is_heard(repository, fake):
    fake("for i in $(seq 20000); do echo line $i >&2; done; printf unfinished >&2")
    heard: list[bytes] = []
    Git(repository).run(["x"], on_error_line=heard.append)
    assert len(heard) == 20001
    assert heard[-1] == b"unfinished"


def test_large_input_and_output_at_once(repository):
    git = Git(repository)
    lines = b"".join(b"%040x\n" % n for n in range(50_000))
    assert git.run(["cat-file", "--batch-check"], stdin=lines).count(b" missing\n") == 50_000
    assert git.feed(["cat-file", "--batch-check"], [lines[:100], lines[100:]]).count(b"missing") == 50_000


def test_a_file_as_input(repository, tmp_path):
    (tmp_path / "f").write_bytes(b"x\n")
    with (tmp_path / "f").open("rb") as stream:
        oid = Git(repository).run(["hash-object", "--stdin"], stdin=stream)
    assert oid == Git(repository).run(["hash-object", "--stdin"], stdin=b"x\n")


def alive(marker: Path) -> list[int]:
    """Return the processes whose ids ``marker`` lists that still live."""
    living: list[int] = []
    for word in marker.read_text().split() if marker.exists() else []:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{word}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                living.append(int(word))
    return living


def wait_for(condition) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def grandchildren(fake, tmp_path) -> Path:
    marker = tmp_path / "pids"
    fake(f"sleep 300 & echo $! $$ > {marker}.new; mv {marker}.new {marker}; wait")
    return marker


def test_a_timeout_kills_the_whole_group(repository, fake, tmp_path):
    marker = grandchildren(fake, tmp_path)
    with pytest.raises(GitFailed, match="longer than"):
        Git(repository).run(["x"], timeout=1.0)
    wait_for(lambda: marker.exists() and not alive(marker))


def test_stop_kills_the_whole_group(repository, fake, tmp_path):
    marker = grandchildren(fake, tmp_path)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: (wait_for(marker.exists), stop.set()))
    thread.start()
    with pytest.raises(Interrupted):
        Git(repository).run(["x"], stop=stop)
    thread.join()
    wait_for(lambda: not alive(marker))


def test_leaving_a_stream_early_kills_the_whole_group(repository, fake, tmp_path):
    marker = grandchildren(fake, tmp_path)

    def reading():
        with Git(repository).stream(["x"]) as child:
            wait_for(marker.exists)
            yield child.pid

    generator = reading()
    next(generator)
    generator.close()
    wait_for(lambda: not alive(marker))


def test_a_stream_has_a_deadline(repository, fake, tmp_path):
    marker = grandchildren(fake, tmp_path)
    with pytest.raises(GitFailed, match="longer than"), Git(repository).stream(["x"], timeout=1.0) as child:
        child.stdout.read()
    wait_for(lambda: not alive(marker))


def test_killing_on_purpose_is_no_failure(repository, fake, tmp_path):
    marker = grandchildren(fake, tmp_path)
    with Git(repository).stream(["x"]) as child:
        wait_for(marker.exists)
        child.kill()
    wait_for(lambda: not alive(marker))


def test_asking_and_answering(repository):
    git = Git(repository)
    oid = git.run(["hash-object", "-w", "--stdin"], stdin=b"hello\n").strip()
    with git.stream(["cat-file", "--batch-check"], stdin=PIPE) as child:
        for _ in range(3):
            child.stdin.write(oid + b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == oid + b" blob 6\n"


def test_a_stream_that_fails_says_so(repository):
    with pytest.raises(GitFailed), Git(repository).stream(["cat-file", "-p", "HEAD"]) as child:
        child.stdout.read()


def test_a_child_that_gives_up_on_its_input_is_the_news(repository, fake):
    fake("echo no thanks >&2; exit 9")
    with pytest.raises(GitFailed, match="no thanks"):
        Git(repository).feed(["x"], (b"x" * 100_000 for _ in range(100)))


def test_an_error_of_the_feeder_passes_through(repository, fake, tmp_path):
    marker = grandchildren(fake, tmp_path)

    def chunks():
        wait_for(marker.exists)
        yield b"some"
        raise StorageFull("the feeder")

    with pytest.raises(StorageFull, match="the feeder"):
        Git(repository).feed(["x"], chunks())
    wait_for(lambda: not alive(marker))


def test_children_dump_no_core_and_write_no_huge_files(repository, fake, tmp_path):
    fake("sleep 0.3; ulimit -c")
    assert Git(repository).run(["x"]) == b"0\n"
    fake(f"sleep 0.3; head -c 1000000 /dev/zero > {tmp_path}/big")
    with pytest.raises((GitFailed, StorageFull)):
        Git(repository).run(["x"], file_limit=1000)
    assert (tmp_path / "big").stat().st_size <= 1000


def test_children_inherit_the_named_descriptors_only(repository, fake, tmp_path):
    fake("ls /proc/$$/fd")
    with (tmp_path / "a").open("w") as named, (tmp_path / "b").open("w") as other:
        os.set_inheritable(other.fileno(), True)
        seen = Git(repository, descriptors=lambda: (named.fileno(),)).run(["x"]).decode().split()
        assert str(named.fileno()) in seen
        assert str(other.fileno()) not in seen


def test_a_missing_git_says_what_to_install(repository, monkeypatch):
    monkeypatch.setitem(door._BASE_ENVIRONMENT, "PATH", "/nonexistent")
    monkeypatch.setattr(door, "_unset", lambda variables: [])
    with pytest.raises(ConfigError, match="git") as caught:
        Git(repository).run(["version"])
    assert "install git" in caught.value.remedy


def test_an_old_git_is_refused(repository, fake):
    assert git_version() >= (2, 39)
    fake("echo git version 2.30.2")
    with pytest.raises(ConfigError, match="too old"):
        git_version.__wrapped__()


def test_a_small_child_costs_little(repository):
    git = Git(repository)
    git.run(["rev-parse", "--git-dir"])
    best = min(_timed(git) for _ in range(5))
    assert best < 0.030, f"{best * 1000:.1f} ms for one small child"


def _timed(git: Git) -> float:
    began = time.perf_counter()
    for _ in range(5):
        git.run(["rev-parse", "--git-dir"])
    return (time.perf_counter() - began) / 5


def test_signals_are_statuses(repository, fake):
    fake("kill -9 $$")
    with pytest.raises(GitFailed) as caught:
        Git(repository).run(["x"])
    assert caught.value.status == -signal.SIGKILL


def test_first_need_of_the_library_by_many_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_SSH", "kept")
    began = threading.Barrier(16)
    failures: list[BaseException] = []

    def first_need() -> None:
        began.wait()
        try:
            door._library()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test tells
            failures.append(error)

    for _ in range(20):
        door._library.cache_clear()
        threads = [threading.Thread(target=first_need) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert os.environ["GIT_SSH"] == "kept"
    assert "GIT_PYTHON_REFRESH" not in os.environ
