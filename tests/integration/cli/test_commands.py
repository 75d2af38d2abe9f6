from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from mirror_sync.actions.status import Document
from mirror_sync.cli.check import fault
from mirror_sync.cli.output import Output
from mirror_sync.cli.progress import Board
from mirror_sync.domain.names import MirrorName, RefName
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.domain.refs import Hold
from mirror_sync.domain.runs import Outcome
from tests.integration.cli.conftest import Bench, finish

ONE = "https://example.org/acme/one"
TWO = "https://example.org/acme/two"
NAME = "example.org/acme/one"


def test_mirrors_are_added_listed_and_shown(bench: Bench) -> None:
    assert bench("add", ONE, TWO) == 0
    assert bench.out == f"added {NAME}\nadded example.org/acme/two\n"
    assert bench("add", ONE + ".git") == 0
    assert bench.out == f"is here already: {NAME}\n"
    items = bench.json("ls")["items"]
    assert [item["name"] for item in items] == [NAME, "example.org/acme/two"]
    shown = bench.json("show", ONE + ".git")
    assert shown == bench.json("show", NAME) | {"lag_seconds": shown["lag_seconds"]}
    for key in (
        "name",
        "upstream",
        "health",
        "activity",
        "confirmed_at",
        "lag_seconds",
        "known_behind_since",
        "lfs",
        "last_run",
    ):
        assert key in shown
    assert shown["health"] == "new"
    assert bench("show", NAME) == 0
    assert f"git clone http://127.0.0.1:1/{NAME}" in bench.out
    assert bench("ls", "*/two", "--plain") == 0
    assert bench.out.split("\t")[:2] == ["new", "example.org/acme/two"]
    assert bench("ls", "--health", "fresh", "--plain") == 0
    assert bench.out == ""
    assert bench("why", NAME) == 0
    assert "first fill" in bench.out
    assert f"do       mirror-sync --dir {bench.directory} sync {NAME} --wait" in bench.out, "it can be typed as it is"
    told = bench.json("why", NAME)
    assert told["verdict"] == "new"
    assert told["remedies"] == [f"mirror-sync sync {NAME} --wait"]


def test_a_mirror_of_a_mirror_keeps_the_port_in_its_name_and_brackets_are_no_pattern(bench: Bench) -> None:
    names = ["[2001:db8::1]:8443/acme/one", "mirror.example/127.0.0.1:9000/acme/one", "mirror.example/[::1]:9000/a"]
    assert bench("add", *(f"https://{name}" for name in names)) == 0
    assert [item["name"] for item in bench.json("ls")["items"]] == names
    for name in names:
        assert [item["name"] for item in bench.json("ls", name)["items"]] == [name]
        assert [item["name"] for item in bench.json("pause", name)["items"]] == [name]


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(bench: Bench) -> None:
    assert bench("add", ONE, TWO) == 0
    for command in (["show"], ["why"], ["pause"], ["sync"], ["refs", "ls"]):
        for wrong in ("acme/one", "example.org/acme/oen"):
            assert bench(*command, wrong) == 5
            assert f"did you mean: {NAME}" in bench.err
    assert bench("show", "elsewhere.net/x/y") == 5
    assert "mirror-sync ls" in bench.err


def test_mirrors_join_a_class_leave_it_and_are_listed_by_it(bench: Bench) -> None:
    config = bench.directory / "config.toml"
    text = config.read_text()
    config.write_text(text + '\n[class.models]\ninterval = "10m"\nobjective = "1h"\nmax_object = "1GiB"\n')
    assert bench("add", ONE, "--class", "nonsense") == 2
    assert "the configuration has models" in bench.err
    assert bench("add", ONE, "--class", "models") == 0
    assert bench("add", TWO) == 0
    assert [item["name"] for item in bench.json("ls", "--class", "models")["items"]] == [NAME]
    (item,) = bench.json("ls", NAME)["items"]
    assert (item["class"], item["interval_seconds"], item["objective_seconds"]) == ("models", 600, 3600)
    assert bench("show", NAME) == 0
    assert "models" in bench.out
    assert bench.json("set", "*", "--class", "models")["items"][1]["class"] == "models"
    assert len(bench.json("ls", "--class", "models")["items"]) == 2
    assert bench("set", NAME, "--class", "none", "--interval", "5m") == 0
    assert bench.out == f"changed {NAME}\n"
    (item,) = bench.json("ls", NAME)["items"]
    assert (item["class"], item["interval_seconds"]) == ("", 300)
    assert bench("set", NAME, "--class", "nonsense") == 2
    assert bench("set", NAME, "--interval", "2h", "--objective", "2h") == 2
    assert bench("set", NAME) == 2
    assert "--class" in bench.err
    with bench.app() as app:
        assert app.settings.selection(MirrorName(NAME), "models").max_object == 1 << 30
        assert app.policy(app.state.mirror(MirrorName(NAME))).selection.everything


def test_a_class_that_is_configured_no_more_is_told_of(bench: Bench) -> None:
    config = bench.directory / "config.toml"
    text = config.read_text()
    config.write_text(f'{text}\n[class.models]\nmax_object = "1GiB"\n')
    assert bench("add", ONE, "--class", "models") == 0
    assert bench("config", "validate") == 0
    assert bench.err == ""
    config.write_text(text)
    said = "1 mirror is of the class models, which is not configured: the general settings are in force"
    assert bench("config", "validate") == 0
    assert f"warning: {said}" in bench.err
    assert "mirror-sync ls --class models" in bench.err
    assert bench.json("config", "validate")["warnings"] == [said]
    bench("doctor")  # the host does not resolve, which is another matter
    assert f"warn  class: {said}" in bench.out
    assert bench("show", NAME) == 0
    assert "models  (not configured: the general settings are in force)" in bench.out
    with bench.app() as app, structlog.testing.capture_logs() as told:
        app.declare_mirrors()
    assert [(each["event"], each["class_name"], each["mirrors"]) for each in told] == [
        ("class_not_configured", "models", 1)
    ]


def test_a_configuration_is_judged_without_its_database(bench: Bench) -> None:
    for file in bench.directory.glob("state.db*"):
        file.unlink()
    assert bench("config", "validate") == 0
    assert not list(bench.directory.glob("state.db*"))


def test_a_declared_mirror_is_not_removed_to_come_back(bench: Bench) -> None:
    config = bench.directory / "config.toml"
    text = config.read_text()
    config.write_text(f'{text}\n[[mirror]]\nurl = "{ONE}"\n')
    assert bench("add", ONE, TWO) == 0
    assert bench("rm", "example.org/*", "--confirm", "2") == 6
    assert f"{NAME} stands in the configuration" in bench.err
    assert "next start or reload; nothing was removed" in bench.err
    assert f"mirror-sync pause {NAME}" in bench.err
    assert [item["removing_at"] for item in bench.json("ls")["items"]] == [None, None]
    config.write_text(text)
    assert bench("rm", NAME, "--confirm", "1") == 0


def test_a_declared_class_decides_at_each_start(bench: Bench) -> None:
    config = bench.directory / "config.toml"
    text = config.read_text()
    config.write_text(f'{text}\n[class.models]\nexclude = ["*.ckpt"]\n\n[[mirror]]\nurl = "{ONE}"\nclass = "models"\n')
    assert bench("add", ONE) == 0
    with bench.app() as app:
        app.declare_mirrors()
        mirror = app.state.mirror(MirrorName(NAME))
        assert mirror.class_name == "models"
        assert app.policy(mirror).selection.exclude == ("*.ckpt",)


def test_a_removed_mirror_is_taken_back(bench: Bench) -> None:
    assert bench("add", ONE, TWO) == 0
    assert bench("rm", ONE, "-y") == 0
    assert bench("ls", NAME, "--plain") == 0
    assert bench.out.rstrip().split("\t")[-1] == "removing"
    assert bench("add", ONE) == 0
    assert bench.out == f"taken back {NAME}\n"
    assert "it is kept and served again" in bench.err
    assert bench("ls", NAME, "--plain") == 0
    assert "removing" not in bench.out


def test_removing_now_tells_who_deletes_and_when(bench: Bench) -> None:
    assert bench("add", ONE, TWO) == 0
    with bench.app() as app:
        lease = app.claim("tests")
        assert lease is not None
        assert bench("rm", lease.mirror.name, "--now", "--confirm", "1") == 0
        assert bench.out == f"removed {lease.mirror.name}; the worker deletes the data once its present run has ended\n"
        assert bench.err.splitlines() == [
            "until the data is gone, mirror-sync add takes it back with it",
            "no worker is running; nothing is deleted until one does: mirror-sync serve",
        ]
        finish(app, lease)
        app.state.beat("tests")
        removal = app.state.claim_removal("tests", lease_seconds=60)
        assert removal is not None
        assert bench("add", removal.mirror.upstream) == 0
        assert bench.out == f"taken back {lease.mirror.name}\n"
        assert "what is gone already is fetched again" in bench.err
    assert bench("rm", "example.org/*", "--now", "--confirm", "2") == 0
    assert bench.err == "until the data is gone, mirror-sync add takes them back with it\n"


@pytest.mark.parametrize(
    ("page", "repository"),
    [
        ("https://github.com/acme/model/tree/main", "https://github.com/acme/model"),
        ("https://huggingface.co/acme/model/blob/main/a.bin", "https://huggingface.co/acme/model"),
        ("https://huggingface.co/datasets/acme/text/tree/main", "https://huggingface.co/datasets/acme/text"),
    ],
)
def test_the_address_of_a_page_is_refused_with_the_repository(bench: Bench, page: str, repository: str) -> None:
    assert bench("add", page) == 2
    assert bench.err.rstrip().endswith(f"give the repository itself: {repository}")
    assert bench("add", repository, "https://gitlab.example/group/tree/model") == 0


def test_urls_come_from_standard_input_and_bad_ones_do_not_stop_good_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ONE}\n\nssh://example.org/x/y\n"))
    assert bench("add", "-") == 3
    assert "added" in bench.out
    assert "error[MS-U403]" in bench.err
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{TWO}\nhttp://example.org/plain/http\n"))
    document = bench.json("add", "-", status=3)
    assert [item["name"] for item in document["items"]] == ["example.org/acme/two"]
    assert document["failed"][0]["given"] == "http://example.org/plain/http"
    assert "allow_http" in document["failed"][0]["do"]


def test_what_is_not_here_is_said_with_status_5(bench: Bench) -> None:
    for command in (
        ["show", "nowhere.example/x"],
        ["why", "nowhere.example/x"],
        ["pause", "nowhere.*"],
        ["ls", "nowhere.example/x"],
        ["check", "no*"],
    ):
        assert bench(*command) == 5
        assert "error[MS-N404]" in bench.err
    assert bench.json("show", "nowhere.example/x", status=5)["error"]["code"] == "MS-N404"
    assert bench("show", "not-a-name") == 2


def test_pause_and_resume_take_globs(bench: Bench) -> None:
    bench("add", ONE, TWO)
    assert bench("pause", "example.org/*", "--reason", "moving disks") == 0
    assert bench.json("show", NAME)["paused"]["reason"] == "moving disks"
    assert bench.json("ls")["items"][1]["health"] == "paused"
    assert bench("sync", NAME) == 6
    assert "mirror-sync resume" in bench.err
    assert bench("resume", NAME) == 0
    assert bench.json("show", NAME)["paused"] is None


def test_removing_many_needs_their_number(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    bench("add", *(f"https://example.org/acme/r{number}" for number in range(4)))
    assert bench("rm", "example.org/acme/r0") == 2
    assert "-y" in bench.err
    assert bench("rm", "example.org/acme/r0", "-y") == 0
    assert "in 30d" in bench.out
    assert bench.json("show", "example.org/acme/r0")["removing_at"] is not None
    assert bench("rm", "example.org/*", "-y") == 2
    assert "--confirm" in bench.err
    assert bench("rm", "example.org/*", "--confirm", "99") == 2
    assert bench("rm", "example.org/acme/r1", "--now", "--keep", "1d", "-y") == 2
    assert bench("rm", "example.org/acme/r1", "example.org/acme/r2", "--now", "--confirm", "2") == 0
    assert bench.out.splitlines()[0] == "removed example.org/acme/r1; the worker deletes the data next"
    assert bench("add", "https://example.org/acme/r0") == 0
    assert bench.json("show", "example.org/acme/r0")["removing_at"] is None


def test_status_is_one_document(bench: Bench) -> None:
    empty = bench.json("status")
    assert empty["mirrors"]["total"] == 0
    assert empty["items"] == []
    bench("add", ONE)
    document = bench.json("status")
    assert document["mirrors"]["by_health"]["new"] == 1
    assert document["workers_alive"] == 0
    assert "No worker" in document["verdict"]
    bench.beat()
    assert bench.json("status")["workers_alive"] == 1
    assert bench("status") == 0
    assert "1 of 1 mirrors is being filled" in bench.out


def test_what_is_under_way_is_shown(bench: Bench) -> None:
    bench("add", ONE, TWO)
    assert "progress" not in (bench("show", NAME), bench.out)[1]
    with bench.app() as app:
        lease = app.claim("tests")
        assert lease is not None
        name, now = lease.mirror.name, app.clock.now()
        app.state.note_progress(
            lease.mirror.id,
            Progress(
                Kind.GIT, Way.LADDER, 250, 1000, 5 << 20, 1 << 20, 1, 2, sources=("near.example", "example.org"),
                began_at=now - 60, at=now,
            ),
        )  # fmt: skip
    shown = bench.json("show", name)["progress"]
    assert (shown["way"], shown["percent"], shown["remaining_seconds"]) == ("ladder", 25, 180)
    assert bench("show", name, "--plain") == 0
    told = dict(line.split("\t", 1) for line in bench.out.splitlines()[1:])
    assert told["progress"] == "git by ladder: 25 %, 250 of 1000 commits, 5.0 MiB received"
    assert told["pace"] == "1.0 MiB/s, 3m left, 1 connection, 2 cuts"
    assert told["from"] == "near.example, example.org"
    assert bench("ls") == 0
    assert "syncing observe, git 25 % 3m left" in bench.out
    assert bench("status") == 0
    assert f"{name}  git ladder  " in bench.out.partition("running")[2]
    assert "1.0 MiB/s  3m left  1 connection  2 cuts" in bench.out.partition("running")[2]
    assert bench("ls", "--plain") == 0
    assert "25 %" not in bench.out
    with bench.app() as app:
        app.state.note_progress(lease.mirror.id, None)
    assert bench.json("show", name)["progress"] is None


# ---------------------------------------------------------------- sync --wait


def test_sync_makes_due_and_hints_when_nobody_works(bench: Bench) -> None:
    bench("add", ONE)
    bench.play()
    assert bench.json("show", NAME)["activity"] != "queued"
    assert bench("sync", NAME) == 0
    assert "no worker is running" in bench.err
    assert bench.json("show", NAME)["activity"] == "queued"


def test_waiting_without_a_worker_is_status_7_and_the_request_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror_sync.cli.sync.WORKER_GRACE_SECONDS", 0.2)
    bench("add", ONE)
    bench.play()
    assert bench("sync", NAME, "--wait") == 7
    assert "error[MS-D001]" in bench.err
    assert "mirror-sync serve" in bench.err
    assert bench.json("show", NAME)["activity"] == "queued"


def test_waiting_says_how_far_it_is_where_nobody_looks_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Semaphore(0)
    show = Board.show

    def seen(board: Board, items: Sequence[Document], *, now: float) -> None:
        show(board, items, now=now)
        looked.release()

    def work() -> None:
        with bench.app() as app:
            app.state.beat("tests")
            assert looked.acquire(timeout=60)  # the request is made
            lease = app.claim("tests")
            assert lease is not None
            for done in (0, 60, 61):
                app.state.note_progress(
                    lease.mirror.id, Progress(Kind.LFS, Way.PARTS, done, 100, done, 9.0, 4, 1, at=app.clock.now())
                )
                while looked.acquire(blocking=False):
                    pass
                for _ in range(2):  # a look that had begun before, and one that saw this
                    assert looked.acquire(timeout=60)
            finish(app, lease)

    monkeypatch.setattr(Board, "show", seen)
    monkeypatch.setattr("mirror_sync.cli.sync.SHOW_EVERY_SECONDS", 0.0)
    bench("add", ONE)
    worker = threading.Thread(target=work)
    worker.start()
    assert bench("sync", NAME, "--wait", "--timeout", "60s") == 0
    worker.join()
    (told,) = [line for line in bench.err.splitlines() if line.startswith(f"mirror={NAME} ")]
    assert " kind=lfs way=parts unit=bytes done=60 total=100 percent=60 " in told
    assert " connections=4 cuts=1" in told


@pytest.mark.parametrize(
    ("report", "status"),
    [
        ({"outcome": Outcome.UNCHANGED}, 0),
        ({"outcome": Outcome.FAILED, "code": "MS-U503", "message": "upstream is away"}, 1),
        ({"outcome": Outcome.HELD, "code": "MS-H004", "message": "an object is missing"}, 3),
    ],
)
def test_waiting_tells_how_the_run_ended(
    bench: Bench, worker: Callable[..., None], report: dict[str, object], status: int
) -> None:
    bench("add", ONE)
    worker(**report)
    assert bench("sync", NAME, "--wait", "--timeout", "20s") == status
    assert str(report.get("message", "unchanged")) in bench.out
    (item,) = bench.json("sync", NAME, "--wait", status=status)["items"]
    assert item["last_run"]["outcome"] == report["outcome"]


def test_a_run_that_began_before_the_request_does_not_count(bench: Bench) -> None:
    bench("add", ONE)
    with bench.app() as app:
        lease = app.claim("tests")
        assert lease is not None
        app.state.beat("tests")
        assert bench("sync", NAME, "--wait", "--timeout", "300ms") == 9
        assert "error[MS-D009]" in bench.err


def test_waiting_goes_on_while_a_run_only_made_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    large, lacks = RefName("refs/heads/large"), Hold(RefName("refs/heads/odd"), "MS-H004", "upstream lacks it")
    held = {"outcome": Outcome.HELD, "message": "refs held"}
    on_the_way: list[dict[str, Any]] = [
        {"outcome": Outcome.ABANDONED, "code": "MS-H007", "message": "the fetch makes way"},
        held | {"code": "MS-H007", "holds": (Hold(large, "MS-H007", "fetched behind: 2 LFS objects"),)},
        held | {"code": "MS-H004", "holds": (lacks, Hold(large, "MS-H007", "fetched behind: 1 LFS object"))},
    ]
    said = threading.Semaphore(0)
    note = Output.note

    def noted(out: Output, text: str) -> None:
        note(out, text)
        said.release()

    def work() -> None:
        with bench.app() as app:
            app.state.beat("tests")
            for report in (*on_the_way, {"outcome": Outcome.PUBLISHED}):
                while (lease := app.claim("tests")) is None:
                    app.clock.sleep(0.01)
                finish(app, lease, **report)
                if report in on_the_way:
                    assert said.acquire(timeout=60)
                    app.request_sync(lease.mirror.name)

    monkeypatch.setattr(Output, "note", noted)
    bench("add", ONE)
    bench.play()
    worker = threading.Thread(target=work)
    worker.start()
    assert bench("sync", NAME, "--wait", "--timeout", "60s") == 0
    worker.join()
    assert bench.out == f"{NAME}: published\n"
    assert bench.err.splitlines() == [
        f"{NAME}: its run is tried again: the fetch makes way; waiting for it",
        f"{NAME}: its run made way for others; {large}: fetched behind: 2 LFS objects; waiting for it",
        f"{NAME}: its run made way for others; {large}: fetched behind: 1 LFS object; waiting for it",
    ]


def test_what_is_still_coming_is_told_when_the_time_is_over(bench: Bench, worker: Callable[..., None]) -> None:
    bench("add", ONE)
    behind = Hold(RefName("refs/heads/large"), "MS-H007", "fetched behind: 1 LFS object of 30.0 MiB")
    worker(outcome=Outcome.HELD, code="MS-H007", message="1 ref held", holds=(behind,))
    assert bench("sync", NAME, "--wait", "--timeout", "1s") == 9
    assert "refs/heads/large: fetched behind: 1 LFS object of 30.0 MiB" in bench.err.partition("why:")[2]


# ---------------------------------------------------------------- check


@pytest.mark.parametrize(
    ("facts", "max_lag", "reason"),
    [
        ({"health": "fresh", "lag_seconds": 100}, None, ""),
        ({"health": "fresh", "lag_seconds": 100}, 60.0, "lag 1m40s, allowed 1m"),
        ({"health": "stale", "lag_seconds": 7260}, None, "lag 2h1m, objective 2h"),
        ({"health": "paused", "lag_seconds": 999999}, 1.0, ""),
        ({"health": "new", "lag_seconds": 60}, None, ""),
        ({"health": "new", "lag_seconds": 7201}, None, "nothing published 2h after it was added"),
        ({"health": "incomplete", "lag_seconds": 1}, None, "upstream lacks 3 LFS objects"),
        ({"health": "gone", "lag_seconds": 1}, None, "MS-U404 gone away"),
    ],
)
def test_what_counts_as_unhealthy(facts: dict[str, object], max_lag: float | None, reason: str) -> None:
    item = {
        "objective_seconds": 7200,
        "lfs": {"known_missing": 3},
        "last_run": {"code": "MS-U404", "message": "gone away"},
    }
    assert fault(item | facts, max_lag=max_lag) == reason


def test_check_answers_by_its_status(bench: Bench) -> None:
    assert bench("check") == 10
    bench.beat()
    assert bench("check") == 0
    bench("add", ONE)
    assert bench("check") == 0
    for _ in range(3):
        assert bench.play(outcome=Outcome.FAILED, code="MS-U503", message="upstream is away") == 1
        bench("sync", NAME)
    bench.beat()
    assert bench("check") == 10
    assert "upstream is away" in bench.out
    document = bench.json("check", status=10)
    assert document["problems"] == [{"name": NAME, "health": "failing", "reason": "MS-U503 upstream is away"}]
    assert bench("check", "--nagios") == 2
    assert bench.out.startswith("MIRRORS CRITICAL - 1 of 1 unhealthy; ")
    assert bench("check", "nothing*", "--nagios") == 3


# ---------------------------------------------------------------- refs, config, db, doctor


def test_refs_of_a_mirror_without_any(bench: Bench) -> None:
    bench("add", ONE)
    assert bench.json("refs", "log", NAME)["items"] == []
    assert bench.json("refs", "kept", NAME)["items"] == []
    assert bench("refs", "release", NAME) == 0
    assert "nothing is held" in bench.out
    assert bench("refs", "log", "example.org/no/such") == 5


def test_the_configuration_is_shown_with_its_origins_and_without_secrets(bench: Bench) -> None:
    document = bench.json("config", "show", "--origin")
    line = (bench.directory / "config.toml").read_text().splitlines().index('interval = "5m"') + 1
    assert document["settings"]["schedule.interval"] == {"value": "5m", "origin": f"config.toml:{line}"}
    assert document["settings"]["git.forced"]["origin"] == "default"
    assert bench("config", "show", "--origin") == 0
    assert "s3cret-webhook" not in bench.out
    assert bench("config", "validate") == 0
    (bench.directory / "config.toml").write_text("[schedule]\ninterval = 15\n")
    assert bench("config", "validate") == 8
    assert 'why: config.toml:2 schedule.interval = 15: a duration needs a unit; write "15m"' in bench.err
    assert bench.json("status", status=8)["error"]["problems"]


def test_two_ways_to_name_the_configuration_are_one_too_many(bench: Bench) -> None:
    assert bench("status", "-c", "x.toml") == 2


def test_a_database_without_schema_says_how_to_make_it(bench: Bench) -> None:
    (bench.directory / "state.db").unlink()
    for beside in bench.directory.glob("state.db-*"):
        beside.unlink()
    assert bench("status") == 1
    assert "error[MS-D002]" in bench.err
    assert "mirror-sync db upgrade" in bench.err
    assert bench("db", "check") == 1
    assert bench.json("db", "upgrade")["revision"]
    assert bench("db", "check") == 0


def test_doctor_finds_what_is_wrong(bench: Bench) -> None:
    assert bench("doctor") == 0
    assert "warn  worker: none is running" in bench.out
    bench.beat()
    (bench.directory / "git").write_text("not a directory")
    (bench.directory / "config.toml").chmod(0o666)
    document = bench.json("doctor", status=1)
    failed = {finding["subject"]: finding for finding in document["findings"] if finding["level"] == "fail"}
    assert failed.keys() == {"storage.git_dir", "configuration"}
    assert "chmod o-w" in failed["configuration"]["remedy"]
    levels = {finding["subject"]: finding["level"] for finding in document["findings"]}
    assert levels["database"] == levels["worker"] == levels["clock"] == levels["secret"] == "ok"
    (bench.directory / "webhook-secret").chmod(0o644)
    assert any("everybody" in finding["text"] for finding in bench.json("doctor", status=1)["findings"])


def test_doctor_judges_upstream_hosts(bench: Bench) -> None:
    (bench.directory / "config.toml").open("a").write(
        '\n[upstream."localhost"]\n[upstream."127.0.0.1"]\nallow_private = true\n'
    )
    document = bench.json("doctor", status=1)
    found = {finding["subject"]: finding for finding in document["findings"]}
    assert found["upstream localhost"]["level"] == "fail"
    assert "allow_private" in found["upstream localhost"]["remedy"]
    assert found["upstream 127.0.0.1"]["level"] == "ok"


def test_names_complete(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    bench("add", ONE, TWO)
    done = subprocess.run(
        [sys.executable, "-m", "mirror_sync"],
        env=os.environ
        | {
            "_MIRROR_SYNC_COMPLETE": "bash_complete",
            "COMP_WORDS": f"mirror-sync --dir {bench.directory} show example",
            "COMP_CWORD": "4",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [f"plain,{NAME}", "plain,example.org/acme/two"]


def test_nothing_readable_is_left_by_a_missing_directory(tmp_path: Path, bench: Bench) -> None:
    bench.directory = tmp_path / "absent"
    assert bench("status") == 8
    assert "error[MS-C003]" in bench.err
    assert not bench.directory.exists()
