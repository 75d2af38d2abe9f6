from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.progress import Kind, Progress, Way
from mirror_sync.domain.runs import (
    Lease,
    LfsCounts,
    Mirror,
    MirrorId,
    Outcome,
    RunReport,
    Step,
    Trigger,
)
from mirror_sync.errors import StateUnavailable
from mirror_sync.ports import MirrorPage, Totals
from mirror_sync.telemetry import LoggingTelemetry, Metrics


class HandClock:
    def __init__(self) -> None:
        self.at = 5_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float, *, stop: object = None) -> bool:
        self.at += seconds
        return False

    def chance(self) -> float:
        return 0.5


class Facts:
    """The few questions that metrics ask of the state."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.beats = {"w1": 4_999_990.0, "old": 1.0}
        self.items: tuple[Mirror, ...] = ()

    def totals(self) -> Totals:
        self.asked += 1
        if self.down:
            raise StateUnavailable("no answer")
        return Totals(
            by_health={"fresh": 3, "stale": 1},
            by_activity={"idle": 4},
            lag_within={"60": 2, "+Inf": 4},
            oldest_confirmed_at=4_990_000.0,
            due=2,
            lfs=LfsCounts(10, 7, 3, 1, 1000, 700, 5, 50_000),
            mirrors=4,
        )

    def workers(self) -> dict[str, float]:
        return self.beats

    def counters(self) -> dict[tuple[str, str], int]:
        return {("runs", "published"): 5, ("runs", "failed"): 1, ("ref_updates", "create"): 9, ("unheard", "x"): 1}

    def mirrors(self, which: object, *, cursor: str = "", limit: int = 100) -> MirrorPage:
        if cursor:
            return MirrorPage(self.items[1:], "")
        return MirrorPage(self.items[:1], "next" if len(self.items) > 1 else "")


def make(facts: Facts, clock: HandClock, **kwargs: Any) -> Metrics:
    return Metrics(facts, clock=clock, version="1.2.3", **kwargs)  # type: ignore[arg-type]


def values(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in parse_text(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_a_scrape_shows_what_the_database_knows() -> None:
    metrics = make(Facts(), HandClock(), volumes={"lfs": lambda: 77})
    body, content_type = metrics.render("")
    assert content_type.startswith("text/plain")
    found = values(body.decode())
    assert found["mirror_sync_mirrors{health=fresh}"] == 3
    assert found["mirror_sync_mirrors{health=gone}"] == 0
    assert found["mirror_sync_lag_mirrors{lag_le=60}"] == 2
    assert found["mirror_sync_oldest_confirmed_timestamp_seconds{}"] == 4_990_000.0
    assert found["mirror_sync_runs_total{result=published}"] == 5
    assert found["mirror_sync_ref_updates_total{change=create}"] == 9
    assert found["mirror_sync_lfs_objects{state=missing}"] == 2
    assert found["mirror_sync_lfs_objects{state=known_missing}"] == 1
    assert found["mirror_sync_lfs_objects{state=left_out}"] == 5
    assert found["mirror_sync_lfs_bytes{state=missing}"] == 300
    assert found["mirror_sync_lfs_bytes{state=left_out}"] == 50_000
    assert found["mirror_sync_workers{}"] == 1
    assert found["mirror_sync_scheduler_tick_timestamp_seconds{}"] == 4_999_990.0
    assert found["mirror_sync_storage_free_bytes{volume=lfs}"] == 77
    assert found["mirror_sync_state_up{}"] == 1
    assert found["mirror_sync_build_info{version=1.2.3}"] == 1
    assert "unheard" not in body.decode()
    assert "_created" not in body.decode()
    assert found["process_resident_memory_bytes{}"] > 0


def test_openmetrics_is_served_to_who_asks_for_it() -> None:
    metrics = make(Facts(), HandClock())
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(body.decode())}
    assert "mirror_sync_mirrors" in names
    assert body.endswith(b"# EOF\n")


def test_the_database_is_asked_once_in_a_few_seconds_and_its_loss_is_shown() -> None:
    facts, clock = Facts(), HandClock()
    metrics = make(facts, clock)
    assert facts.asked == 0
    metrics.render("")
    metrics.render("")
    assert facts.asked == 1
    facts.down = True
    clock.at += 6
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_state_up{}"] == 0
    assert "mirror_sync_mirrors{health=fresh}" not in found


def test_unknown_times_and_volumes_are_left_out() -> None:
    facts = Facts()
    facts.beats = {}

    def broken() -> int:
        raise OSError("gone")

    found = values(make(facts, HandClock(), volumes={"lfs": broken}).render("")[0].decode())
    assert "mirror_sync_scheduler_tick_timestamp_seconds{}" not in found
    assert not [name for name in found if "free_bytes" in name]


def test_hosts_that_nobody_configured_share_a_label() -> None:
    metrics = make(Facts(), HandClock(), hosts=frozenset({"github.com"}))
    for host in ("github.com", "evil-1.example", "evil-2.example"):
        metrics.upstream_request(host=host, operation="observe", status=200, seconds=0.2)
    metrics.upstream_request(host="github.com", operation="observe", status=0, seconds=0.2)
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_upstream_requests_total{code=2xx,host=github.com,op=observe}"] == 1
    assert found["mirror_sync_upstream_requests_total{code=2xx,host=other,op=observe}"] == 2
    assert found["mirror_sync_upstream_requests_total{code=none,host=github.com,op=observe}"] == 1


def lease() -> Lease:
    mirror = Mirror(MirrorId(1), MirrorName("h/a"), "https://h/a", 0, 0, Trigger.POLL, 60, 120)
    return Lease(mirror, "w", 1, 0, Trigger.WEBHOOK)


def test_a_workers_counts_reach_the_webs_scrape(tmp_path: Path) -> None:
    program = f"""
import pathlib, sys, time
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from mirror_sync.clock import SystemClock
from mirror_sync.telemetry import Metrics
m = Metrics(None, clock=SystemClock(), version="x", shared=pathlib.Path({str(tmp_path)!r}))
m.propagated(evidence="webhook", seconds=0.3)
m.run_error("MS-U503")
m.publish(at_once=True)
print("ready", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    web = make(Facts(), HandClock(), shared=tmp_path)
    web.run_error("MS-U503")
    found = values(web.render("")[0].decode())
    assert found["mirror_sync_run_errors_total{reason=MS-U503}"] == 2
    assert found["mirror_sync_propagation_seconds_count{evidence=webhook}"] == 1
    assert found["mirror_sync_propagation_seconds_bucket{evidence=webhook,le=0.5}"] == 1
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()
    child.stdout.close()
    found = values(web.render("")[0].decode())
    assert found["mirror_sync_run_errors_total{reason=MS-U503}"] == 1
    assert list(tmp_path.iterdir()) == []


def test_publishing_waits_a_few_seconds_and_close_takes_it_away(tmp_path: Path) -> None:
    clock = HandClock()
    metrics = make(Facts(), clock, shared=tmp_path)
    metrics.publish()
    (path,) = tmp_path.iterdir()
    first = path.read_text()
    metrics.run_error("MS-U503")
    metrics.publish()
    assert path.read_text() == first
    clock.at += 6
    metrics.publish()
    assert path.read_text() != first
    metrics.close()
    assert list(tmp_path.iterdir()) == []


def test_the_page_per_mirror_walks_every_page_and_escapes() -> None:
    facts = Facts()
    facts.items = (
        Mirror(MirrorId(1), MirrorName('h/"a'), "https://h/a", 10, 0, Trigger.POLL, 60, 120, confirmed_at=4_999_999.0),
        Mirror(MirrorId(2), MirrorName("h/b"), "https://h/b", 10, 0, Trigger.POLL, 60, 120, known_behind_since=3.0),
    )
    text = b"".join(make(facts, HandClock()).render_mirrors()).decode()
    found = values(text)
    assert 'mirror="h/\\"a"' in text
    assert found['mirror_sync_mirror_confirmed_timestamp_seconds{mirror=h/"a}'] == 4_999_999.0
    assert found["mirror_sync_mirror_health{health=new,mirror=h/b}"] == 1
    assert found["mirror_sync_mirror_known_behind_since_timestamp_seconds{mirror=h/b}"] == 3.0
    assert "mirror_sync_mirror_confirmed_timestamp_seconds{mirror=h/b}" not in found


@pytest.mark.parametrize(
    ("outcome", "errors"), [(Outcome.PUBLISHED, 0), (Outcome.UNCHANGED, 0), (Outcome.HELD, 1), (Outcome.FAILED, 1)]
)
def test_telemetry_feeds_the_metrics(outcome: Outcome, errors: int) -> None:
    clock = HandClock()
    metrics = make(Facts(), clock)
    telemetry = LoggingTelemetry(metrics, clock=clock)
    telemetry.run_started(lease())
    telemetry.step_finished(lease(), Step.OBSERVE, 0.1)
    telemetry.progress(MirrorName("h/a"), Progress(Kind.GIT, Way.PLAIN, 0, None, 10, 1.0, 1, 0))
    telemetry.run_finished(lease(), RunReport(outcome, 10.0, 12.0, 99.0, code="MS-U503" if errors else ""))
    telemetry.propagated(evidence="poll", seconds=3)
    telemetry.upstream_request(host="h", operation="batch", status=503, seconds=1)
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_run_duration_seconds_sum{kind=sync}"] == 2.0
    assert found.get("mirror_sync_run_errors_total{reason=MS-U503}", 0) == errors
    assert found["mirror_sync_step_duration_seconds_count{step=observe}"] == 1
    assert found["mirror_sync_upstream_requests_total{code=5xx,host=other,op=batch}"] == 1


def told(**changes: Any) -> Progress:
    fields: dict[str, Any] = {
        "kind": Kind.GIT, "way": Way.LADDER, "done": 1, "total": 9, "received": 1000, "rate": 10.0, "connections": 1,
        "cuts": 1, "began_at": 100.0, "at": 5_000_000.0,
    }  # fmt: skip
    return Progress(**fields | changes)


def test_bytes_and_cuts_are_counted_while_they_come() -> None:
    clock = HandClock()
    metrics = make(Facts(), clock)
    telemetry = LoggingTelemetry(metrics, clock=clock)
    one, two = MirrorName("h/a"), MirrorName("h/b")
    telemetry.progress(one, told(way=Way.GRAPH))
    telemetry.progress(one, told(received=3500, cuts=4))
    telemetry.progress(one, told(received=3500, cuts=4))
    telemetry.progress(two, told(kind=Kind.LFS, way=Way.PARTS, received=70, cuts=0))
    telemetry.progress(one, told(kind=Kind.LFS, way=Way.PARTS, received=7, cuts=1))
    telemetry.progress(one, told(received=20, cuts=0, began_at=200.0))  # the next job
    telemetry.progress(one, told(received=5, cuts=1, began_at=200.0))  # that began again
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_transfer_received_bytes_total{kind=git,way=graph}"] == 1000
    assert found["mirror_sync_transfer_received_bytes_total{kind=git,way=ladder}"] == 2500 + 20 + 5
    assert found["mirror_sync_transfer_received_bytes_total{kind=lfs,way=parts}"] == 77
    assert found["mirror_sync_transfer_cuts_total{kind=git}"] == 5
    assert found["mirror_sync_transfer_cuts_total{kind=lfs}"] == 1


def test_jobs_that_ended_long_ago_are_forgotten() -> None:
    metrics = make(Facts(), HandClock())
    for number in range(2000):
        metrics.progressed(MirrorName(f"h/{number}"), told(at=5_000_000.0 + number * 60))
    assert len(metrics._jobs) <= 257
    metrics.progressed(MirrorName("h/1999"), told(received=1001))
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_transfer_received_bytes_total{kind=git,way=ladder}"] == 2_000_001


def test_what_moves_now_is_read_from_the_database() -> None:
    facts = Facts()
    facts.items = (
        Mirror(MirrorId(1), MirrorName("h/a"), "https://h/a", 10, 0, Trigger.POLL, 60, 120, progress=told()),
        Mirror(
            MirrorId(2), MirrorName("h/b"), "https://h/b", 10, 0, Trigger.POLL, 60, 120,
            progress=told(kind=Kind.LFS, way=Way.PARTS, connections=8),
        ),
    )  # fmt: skip
    clock = HandClock()
    metrics = make(facts, clock)
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_transfers{kind=git,way=ladder}"] == 1
    assert found["mirror_sync_transfers{kind=git,way=objects}"] == 0
    assert found["mirror_sync_transfers{kind=lfs,way=parts}"] == 1
    assert found["mirror_sync_transfer_connections{kind=git}"] == 1
    assert found["mirror_sync_transfer_connections{kind=lfs}"] == 8
    clock.at += 60  # and both of their workers died
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_transfers{kind=lfs,way=parts}"] == 0
    assert found["mirror_sync_transfer_connections{kind=lfs}"] == 0


def test_sources_given_up_and_packs_saved_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    clock = HandClock()
    metrics = make(Facts(), clock, hosts=frozenset({"near.example"}))
    telemetry = LoggingTelemetry(metrics, clock=clock)
    telemetry.event("lfs_source_lied", level="warning", host="near.example", oid="1" * 64)
    telemetry.event("git_source_lied", level="warning", host="https://user:canary@elsewhere.example/x")
    telemetry.event("git_source_left", why="no host was named")
    telemetry.event("pack_salvaged", objects=12, announced=20, bytes=4096)
    telemetry.event("pack_salvaged", objects=0)
    text = metrics.render("")[0].decode()
    found = values(text)
    assert found["mirror_sync_sources_demoted_total{host=near.example,kind=lfs,reason=lied}"] == 1
    assert found["mirror_sync_sources_demoted_total{host=other,kind=git,reason=lied}"] == 1
    assert found["mirror_sync_sources_demoted_total{host=other,kind=git,reason=left}"] == 1
    assert found["mirror_sync_salvaged_bytes_total{}"] == 4096
    assert found["mirror_sync_salvaged_objects_total{}"] == 12
    assert "canary" not in text


def test_what_the_web_serves_is_counted() -> None:
    metrics = make(Facts(), HandClock())
    metrics.served(protocol="git", code=200)
    metrics.served_bytes(protocol="lfs", count=12)
    metrics.first_byte(protocol="git", seconds=0.01)
    metrics.stream_began("git")
    metrics.webhook(provider="github", result="accepted")
    found = values(metrics.render("")[0].decode())
    assert found["mirror_sync_served_requests_total{code=200,protocol=git}"] == 1
    assert found["mirror_sync_served_bytes_total{protocol=lfs}"] == 12
    assert found["mirror_sync_served_streams{protocol=git}"] == 1
    assert found["mirror_sync_webhook_last_timestamp_seconds{provider=github}"] == 5_000_000.0


def test_a_directory_that_cannot_be_written_never_stops_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    metrics = make(Facts(), HandClock(), shared=tmp_path / "file" / "metrics")
    metrics.publish(at_once=True)
    assert "metrics_not_shared" in capsys.readouterr().out


def test_an_event_may_have_a_field_of_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    clock = HandClock()
    LoggingTelemetry(make(Facts(), clock), clock=clock).event("delivery_accepted", event="push", level="warning")
    out = capsys.readouterr().out
    assert "delivery_accepted" in out
    assert "what=push" in out
    assert "warning" in out
