"""How long the command line takes to start, beside the bare interpreter and bare click.

    python -m benchmarks.cli_start [--runs 15]

Prints one line per command: median and best wall time, and the ratio to ``python -c pass``.
Runs are interleaved, so that other load on the machine meets all of them alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS = 0.4
"""What ``mirror-sync --help`` may take."""


def commands(directory: Path) -> dict[str, list[str]]:
    own = [sys.executable, "-m", "mirror_sync"]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import click'": [sys.executable, "-c", "import click"],
        "mirror-sync --help": [*own, "--help"],
        "mirror-sync ls --help": [*own, "ls", "--help"],
        "mirror-sync config validate": [*own, "config", "validate", "--dir", str(directory)],
        "mirror-sync ls (empty database)": [*own, "ls", "--dir", str(directory)],
    }


def prepare(directory: Path) -> None:
    from mirror_sync.config import default_config_text, write_secret

    write_secret(directory / "webhook-secret", "0" * 64)
    (directory / "config.toml").write_text(default_config_text(listen="127.0.0.1:8080"))
    subprocess.run(
        [sys.executable, "-m", "mirror_sync", "db", "upgrade", "--dir", str(directory)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        prepare(directory)
        wanted = commands(directory)
        times: dict[str, list[float]] = {name: [] for name in wanted}
        for _ in range(runs + 1):
            for name, argv in wanted.items():
                began = time.perf_counter()
                subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
                times[name].append(time.perf_counter() - began)
    base = statistics.median(times["python -c pass"][1:])
    print(f"{'command':34}  {'median':>8}  {'best':>8}  ratio   ({runs} runs)")
    for name, all_taken in times.items():
        taken = all_taken[1:]  # the first one compiles and fills caches
        median = statistics.median(taken)
        print(f"{name:34}  {median:7.3f}s  {min(taken):7.3f}s  {median / base:5.1f}")
    help_median = statistics.median(times["mirror-sync --help"][1:])
    verdict = "within" if help_median < LIMIT_SECONDS else "ABOVE"
    print(f"mirror-sync --help is {verdict} its limit of {LIMIT_SECONDS}s")
    return 0 if help_median < LIMIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
