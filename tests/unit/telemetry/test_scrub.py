from __future__ import annotations

import io
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from mirror_sync.errors import ConfigError
from mirror_sync.telemetry import Scrubber, bound, configure_logging, logger
from mirror_sync.telemetry.journal import JournalHandler, encode_entry


class HandClock:
    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float, *, stop: object = None) -> bool:
        self.at += seconds
        return False

    def chance(self) -> float:
        return 0.5


@pytest.fixture(autouse=True)
def put_logging_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)


CANARY = "canary-5f1e0b77"


@pytest.mark.parametrize(
    ("text", "kept", "gone"),
    [
        (f"fetch https://x-access-token:{CANARY}@github.com/a/b failed", "github.com/a/b", CANARY),
        ("clone http://user@host/x", "host/x", "user"),
        (f"Authorization: Basic {CANARY}", "Authorization: ", CANARY),
        (f'{{"Authorization": "Bearer {CANARY}"}}', "Authorization", CANARY),
        (f"sent header Bearer {CANARY}== to it", "sent header Bearer", CANARY),
        (f"GET /o?X-Amz-Signature={CANARY}&x=1", "&x=1", CANARY),
        (f"GET /o?access_token={CANARY}", "GET /o?access_token=", CANARY),
        (f"GET /o?sig={CANARY} HTTP", " HTTP", CANARY),
    ],
)
def test_shapes_of_secrets_are_starred_whatever_their_value(text: str, kept: str, gone: str) -> None:
    scrubbed = Scrubber(clock=HandClock()).text(text)
    assert gone not in scrubbed
    assert kept in scrubbed


def test_ordinary_sentences_stay_whole() -> None:
    text = "basic transfer adapter used; bearer authentication refused; see https://host/path?page=2"
    assert Scrubber(clock=HandClock()).text(text) == text


def test_registered_values_go_and_a_rotated_one_stays_starred() -> None:
    clock = HandClock()
    secrets = [CANARY]
    scrubber = Scrubber(lambda: secrets, clock=clock, every=30)
    assert scrubber.text(f"x {CANARY} y") == "x *** y"
    secrets[:] = ["another-secret-9"]
    clock.at += 31
    assert scrubber.text(f"{CANARY} another-secret-9") == "*** ***"


def test_a_source_that_fails_does_not_stop_logging() -> None:
    clock = HandClock()

    def source() -> list[str]:
        raise ConfigError("the file is not there")

    scrubber = Scrubber(source, clock=clock)
    scrubber.add(CANARY)
    assert scrubber.text(f"a {CANARY}") == "a ***"


def test_values_are_scrubbed_at_any_depth() -> None:
    scrubber = Scrubber(clock=HandClock())
    scrubber.add(CANARY)
    found = scrubber.value(
        {"headers": {"Authorization": "whatever"}, "list": [f"{CANARY}!", 3], "raw": CANARY.encode()}
    )
    assert found == {"headers": {"Authorization": "***"}, "list": ["***!", 3], "raw": "***"}


@pytest.mark.parametrize("kind", ["json", "text"])
def test_no_way_of_logging_lets_a_secret_out(kind: str) -> None:
    clock = HandClock()
    scrubber = Scrubber(clock=clock)
    quoted = 'se"cret\\with\nline'
    scrubber.add(CANARY)
    scrubber.add(quoted)
    out = io.StringIO()
    configure_logging(level="debug", format=kind, scrubber=scrubber, stream=out)
    logger().info("token_read", value=CANARY, deep={"a": [CANARY]}, quoted=quoted)
    logging.getLogger("foreign").warning("said %s to %r", CANARY, {"k": CANARY})
    try:
        raise ValueError(f"bad {CANARY}")
    except ValueError:
        logger().exception("failed")
        logging.getLogger("foreign").exception("failed too")
    text = out.getvalue()
    assert CANARY not in text
    assert 'se"cret' not in text
    assert 'se\\"cret' not in text
    assert text.count("***") >= 6
    assert "Traceback" in text or '"exception"' in text


def test_json_lines_have_one_shape_for_our_own_and_foreign_records() -> None:
    out = io.StringIO()
    configure_logging(level="info", format="json", scrubber=Scrubber(clock=HandClock()), stream=out)
    with bound(mirror="h/a", run=7):
        logger().info("run_finished", outcome="published", text="a\x1b[31mb\u202e")
        logging.getLogger("gunicorn.error").warning("worker %d", 3)
    logging.getLogger("urllib3").info("quiet")
    logger().debug("hidden")
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first["event"] == "run_finished"
    assert first["mirror"] == "h/a"
    assert first["run"] == 7
    assert first["text"] == "a\\x1b[31mb\\u202e"
    assert first["at"].endswith("Z")
    assert second["event"] == "worker 3"
    assert second["level"] == "warning"
    assert second["logger"] == "gunicorn.error"
    assert second["mirror"] == "h/a"


def test_journal_entries_carry_fields(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(str(path))
    receiver.settimeout(5)
    out = io.StringIO()
    scrubber = Scrubber(clock=HandClock())
    scrubber.add(CANARY)
    configure_logging(level="info", format="journald", scrubber=scrubber, stream=out)
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, JournalHandler)
    handler._path = str(path)
    logger().warning("run_finished", mirror="h/a", code="MS-L429", why=f"told {CANARY}")
    entry = receiver.recv(65536)
    assert b"PRIORITY=4\n" in entry
    assert b"MIRROR=h/a\n" in entry
    assert b"CODE=MS-L429\n" in entry
    assert b"MESSAGE=run_finished" in entry
    assert CANARY.encode() not in entry
    handler.close()
    receiver.close()


def test_journal_values_with_line_feeds_are_length_prefixed() -> None:
    assert encode_entry({"A": "x", "MESSAGE": "a\nb"}) == b"A=x\nMESSAGE\n" + (3).to_bytes(8, "little") + b"a\nb\n"


def test_a_journal_that_is_gone_leaves_the_line_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level="info", format="journald", scrubber=Scrubber(clock=HandClock()), stream=io.StringIO())
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, JournalHandler)
    handler._path = str(tmp_path / "nobody")
    logger().error("state_lost")
    assert "<3>state_lost" in capsys.readouterr().err
    handler.close()
