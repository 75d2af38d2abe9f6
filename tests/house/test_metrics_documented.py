"""Every metric that a scrape can show stands in docs/metrics.md, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mirror_sync.telemetry import Metrics
from mirror_sync.telemetry.metrics import _PER_MIRROR, COUNTER_LABELS
from mirror_sync.testing.clock import HandClock
from mirror_sync.testing.state import MemoryState

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def scraped() -> dict[str, str]:
    clock = HandClock()
    state: Any = MemoryState(clock)
    state.beat("w1")
    metrics = Metrics(state, clock=clock, version="x", volumes={"git": lambda: 1})
    found: dict[str, str] = {}
    for line in metrics.render("")[0].decode().splitlines():
        if line.startswith("# TYPE mirror_sync_"):
            name, kind = line.removeprefix("# TYPE mirror_sync_").split()
            found[name] = kind
    found |= {f"{name}_total": "counter" for name in COUNTER_LABELS}
    return found


def test_the_table_of_metrics_is_complete() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("## One series per mirror")
    rows = dict(re.findall(r"^\| `(\w+)` \| (gauge|counter|histogram) \|", text[0], re.MULTILINE))
    only_with_mirrors = {"oldest_confirmed_timestamp_seconds": "gauge"}
    assert rows == scraped() | only_with_mirrors
    assert set(re.findall(r"^\| `(\w+)` \|", text[2], re.MULTILINE)) == {name for name, _ in _PER_MIRROR}
