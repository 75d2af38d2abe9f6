"""Snapshots of one process's counts, so that another process can show them.

Web and worker are separate processes and only the web answers scrapes.  The worker
writes its counts to a file in the run directory; the web adds them to its own.  A
file whose process is gone is not read, so a restarted worker starts again from zero,
which is what a counter is allowed to do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

PREFIX = "metrics-"


def write_snapshot(directory: Path, families: Iterable[Metric]) -> None:
    """Replace this process's snapshot.

    Neither fsynced nor needed after a crash: it is a view of memory.
    """
    document = [
        {
            "name": family.name,
            "type": family.type,
            "help": family.documentation,
            "samples": [[sample.name, sample.labels, sample.value] for sample in family.samples],
        }
        for family in families
    ]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{PREFIX}{os.getpid()}.json"
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(document), encoding="utf-8")
    fresh.replace(path)


def remove_snapshot(directory: Path) -> None:
    """Take this process's snapshot away."""
    (directory / f"{PREFIX}{os.getpid()}.json").unlink(missing_ok=True)


def read_snapshots(directory: Path) -> list[Metric]:
    """Return the families that other living processes wrote; what a dead one left is removed."""
    families: list[Metric] = []
    for path in sorted(directory.glob(f"{PREFIX}*.json")):
        pid = path.stem.removeprefix(PREFIX)
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        if not _alive(int(pid)):
            path.unlink(missing_ok=True)
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # removed or replaced between listing and reading: the next scrape has it
        for entry in document:
            family = Metric(entry["name"], entry["help"], entry["type"])
            family.samples = [Sample(name, labels, value) for name, labels, value in entry["samples"]]
            families.append(family)
    return families


def merged(families: Iterable[Metric]) -> list[Metric]:
    """Return families by name with the samples of equal labels added (gauges: the largest)."""
    by_name: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in families:
        target = by_name.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        samples = values.setdefault(family.name, {})
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue  # when a series began is told by the counter's own reset
            key = (sample.name, tuple(sample.labels.items()))
            if key not in samples:
                samples[key] = sample.value
            elif target.type == "gauge":
                samples[key] = max(samples[key], sample.value)
            else:
                samples[key] += sample.value
    for name, target in by_name.items():
        target.samples = [Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()]
    return list(by_name.values())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
