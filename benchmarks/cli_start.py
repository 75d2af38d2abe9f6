"""How long the command line takes to start, beside the bare interpreter and bare click.

    python -m benchmarks.cli_start [--runs 15]

Prints one line per command: median wall time, and that of ``python -c pass`` over it.
Runs are interleaved, so that other load on the machine meets all of them alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure, conclude, median, options

FLOORS = {"mirror-sync --help": 0.4}
"""What a command may take, in seconds."""

PEER = "python -c pass"


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
    told = options(__doc__, (("--runs",), {"type": int, "default": 15})).parse_args()
    runs = told.runs
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
    medians = {name: median(taken[1:]) for name, taken in times.items()}  # the first one compiles and fills caches
    figures = [
        Figure(name, medians[name], "s", FLOORS.get(name), None, PEER, medians[PEER]) for name in times if name != PEER
    ]
    return conclude("cli_start", figures, told, runs=runs)


if __name__ == "__main__":
    sys.exit(main())
