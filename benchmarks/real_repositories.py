"""Mirror real repositories and prove the copies: ref by ref, and by ``git fsck`` on both sides.

``python -m benchmarks.real_repositories DIR...`` takes bare repositories with full
history, serves them from a loopback upstream, mirrors all of them with the daemon as it
is installed, and prints a table and one JSON document.  Exit status 1 when any differs.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.daemon import Daemon, listed
from tests.support.upstream import GitUpstream

SELECTED = ("refs/heads/", "refs/tags/", "refs/notes/")
WAIT_SECONDS = 1800.0


@dataclass
class Result:
    """What became of one repository."""

    repository: str
    refs: int = 0
    objects: int = 0
    pack_megabytes: float = 0.0
    first_publish_seconds: float = 0.0
    refs_equal: bool = False
    fsck_equal: bool = False
    clone_refs_equal: bool = False
    unchanged_poll_outcome: str = ""
    health: str = ""
    oddities: list[str] = field(default_factory=list)


def git(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=check).stdout


def fsck(repository: Path) -> list[str]:
    """Return what fsck says of reachable objects, by message, counted."""
    done = subprocess.run(
        ["git", "--git-dir", str(repository), "fsck", "--full", "--no-dangling"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [re.sub(r"\b[0-9a-f]{40,64}\b", "ID", line) for line in (done.stdout + done.stderr).splitlines()]
    kept = [line for line in said if line.startswith(("error", "warning", "missing", "broken"))]
    return sorted(f"{line} x{kept.count(line)}" for line in set(kept))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "repositories", nargs="+", type=Path, help="bare repositories, each named by its directory or parent"
    )
    parser.add_argument("--work", type=Path, default=None, help="where to work (default: a temporary directory)")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="mirror-sync-real-", dir=options.work))
    results: list[Result] = []
    try:
        with GitUpstream(work / "upstream") as upstream, Daemon(work / "mirror") as daemon:
            names: dict[str, Path] = {}
            for given in options.repositories:
                name = (given.parent.name if given.name in {"repo", "repo.git"} else given.name).removesuffix(".git")
                name = "real/" + name.replace("+", "-")
                place = upstream.repositories / f"{name}.git"
                place.parent.mkdir(parents=True, exist_ok=True)
                # a copy without pull requests' refs is what a mirror selects; the objects are shared, not copied
                git("clone", "-q", "--mirror", "--shared", str(given), str(place))
                for key in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
                    git("--git-dir", str(place), "config", key, "true")
                upstream.adopt(name)
                names[name] = place
            tiny = upstream.create("real/seed")
            tiny.commit({"README": "names the host as trusted"})
            daemon.start(tiny.url)
            for name, place in names.items():
                results.append(mirror(daemon, upstream.url(name), place, work))
                print(json.dumps(asdict(results[-1])), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(f"{'repository':28} {'refs':>6} {'objects':>8} {'MB':>6} {'seconds':>8}  refs  fsck  clone  oddities")
    for row in results:
        marks = ["same" if same else "DIFF" for same in (row.refs_equal, row.fsck_equal, row.clone_refs_equal)]
        print(
            f"{row.repository:28} {row.refs:6} {row.objects:8} {row.pack_megabytes:6.0f} {row.first_publish_seconds:8.1f}  "
            f"{'  '.join(marks)}  {'; '.join(row.oddities)}"
        )
    print(json.dumps([asdict(row) for row in results]))
    return 0 if all(row.refs_equal and row.fsck_equal and row.clone_refs_equal for row in results) else 1


def mirror(daemon: Daemon, url: str, place: Path, work: Path) -> Result:
    name = daemon.name(url)
    result = Result(name.partition("/")[2])
    began = time.monotonic()
    added = daemon.cli("add", url)
    assert added.returncode == 0, added.stderr
    document = daemon.wait_until(
        lambda: (shown := daemon.show(name))["published_at"] and shown["activity"] != "syncing" and shown,
        f"{name} published",
        seconds=WAIT_SECONDS,
    )
    result.first_publish_seconds = time.monotonic() - began
    theirs = {ref: oid for ref, oid in listed(git("ls-remote", str(place))).items() if ref.startswith(SELECTED)}
    result.refs = len(theirs)
    result.refs_equal = daemon.refs(name) == theirs
    served = daemon.directory / "git" / f"{name}.git" / "current"
    result.objects = len(git("--git-dir", str(served), "rev-list", "--objects", "--all").splitlines())
    result.pack_megabytes = document["git_bytes"] / 1e6
    selected = work / "selected.git"
    git("init", "-q", "--bare", str(selected))
    git(
        "--git-dir",
        str(selected),
        "fetch",
        "-q",
        "--no-tags",
        str(place),
        *(f"+{prefix}*:{prefix}*" for prefix in SELECTED),
    )
    clone = work / "clone.git"
    git("clone", "-q", "--mirror", daemon.url(name), str(clone))
    result.clone_refs_equal = listed(git("ls-remote", str(clone))) == theirs
    before, after = fsck(selected), fsck(clone)
    result.fsck_equal = before == after
    result.health = document["health"]
    result.oddities = [
        *document["notes"],
        *after,
        *(f"{hold['ref']}: {hold['reason']}" for hold in document["holds"][:5]),
    ]
    daemon.sync(name)
    result.unchanged_poll_outcome = daemon.show(name)["last_run"]["outcome"]
    shutil.rmtree(selected)
    shutil.rmtree(clone)
    return result


if __name__ == "__main__":
    sys.exit(main())
