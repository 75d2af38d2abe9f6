"""Run the benchmarks and print one summary: ``python -m benchmarks [NAME ...]`` (``make bench``).

Without names all run that take seconds, one after another, each in a process of its own.  The exit
status is 1 when a floor is missed or a benchmark did not end well.  ``python -m
benchmarks.NAME --help`` says what each measures and takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import HEADINGS, Figure, table

ROOT = Path(__file__).resolve().parents[1]
ALL = ("cli_start", "poll", "fleet", "hook", "publish", "lfs_scan", "lfs_fetch", "state")
LINKS = ("git_links", "clone_links", "lfs_links", "lfs_small")
"""Failing links: minutes to an hour each, so by name only.  ``real_repositories`` and ``serve_git`` take repositories and are run by themselves."""


def run(name: str) -> list[Figure] | None:
    """Run one benchmark, let it be seen, and return its figures; ``None`` when it failed."""
    print(f"== {name}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, flush=True)
    if done.returncode:
        return None
    answer = json.loads(done.stdout.splitlines()[-1])
    return [Figure.of(figure) for figure in answer["figures"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*ALL, *LINKS]))
    names = parser.parse_args().names or list(ALL)
    unknown = sorted(set(names) - {*ALL, *LINKS})
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join([*ALL, *LINKS])}")
    rows, failed, missed = [HEADINGS], [], 0
    for name in names:
        figures = run(name)
        if figures is None:
            failed.append(name)
            continue
        held = [figure for figure in figures if figure.floor]
        missed += sum(figure.missed for figure in held)
        rows += [[f"{name}: {figure.what.strip()}", *figure.row()[1:]] for figure in held]
    print("== summary")
    print(table(rows))
    for name in failed:
        print(f"{name} did not end well", file=sys.stderr)
    return 1 if failed or missed else 0


if __name__ == "__main__":
    sys.exit(main())
