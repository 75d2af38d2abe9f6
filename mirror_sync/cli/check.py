"""check: the exit status tells whether mirrors are healthy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mirror_sync.cli import choosing, codes
from mirror_sync.cli.keep import DURATION
from mirror_sync.cli.look import workers_alive
from mirror_sync.cli.opening import opened, told
from mirror_sync.cli.options import Command
from mirror_sync.cli.output import Output, health_text, span
from mirror_sync.errors import MirrorSyncError, NotFound
from mirror_sync.ports import MirrorFilter

if TYPE_CHECKING:
    from mirror_sync.actions.status import Document

CRITICAL = frozenset({"failing", "gone", "denied"})
WARNING = frozenset({"stale", "incomplete"})
NAGIOS_OK, NAGIOS_WARNING, NAGIOS_CRITICAL, NAGIOS_UNKNOWN = range(4)


@click.command(cls=Command, examples=("mirror-sync check", "mirror-sync check 'github.com/acme/*' --max-lag 30m"))
@click.argument("glob", required=False, default="", shell_complete=choosing.complete_names)
@click.option("--max-lag", type=DURATION, help="More lag than this is unhealthy too, such as 1h.")
@click.option("--nagios", is_flag=True, help="Print one line and exit as Nagios plug-ins do (0, 1, 2, 3).")
@click.pass_context
def check(context: click.Context, glob: str, max_lag: float | None, nagios: bool) -> int:
    """Tell by the exit status whether mirrors are healthy.

    0: they are.  10: one is not, or no worker is running.  A paused mirror counts as
    healthy; one that is being filled for the first time does until its objective is over.
    """
    out = Output(told(context))
    try:
        with opened(context) as app:
            items = list(choosing.matching(app, MirrorFilter(glob=glob)))
            alive = workers_alive(app.state.workers(), app.clock.now())
        if glob and not items:
            raise NotFound(f"no mirror matches {glob!r}", remedy="mirror-sync ls lists them")
    except MirrorSyncError as error:
        if not nagios:
            raise
        out.line(f"MIRRORS UNKNOWN - {error.code} {error.message}")
        return NAGIOS_UNKNOWN
    bad = [(item, reason) for item in items if (reason := fault(item, max_lag=max_lag))]
    if nagios:
        return _nagios(out, items, bad, alive=alive)
    if out.json:
        problems = [{"name": item["name"], "health": item["health"], "reason": reason} for item, reason in bad]
        healthy = not bad and bool(alive)
        out.document({"healthy": healthy, "checked": len(items), "workers_alive": alive, "problems": problems})
    else:
        out.table(
            ("HEALTH", "NAME", "REASON"),
            [
                (item["health"] if out.plain else health_text(item["health"]), item["name"], reason)
                for item, reason in bad
            ],
        ) if bad else None
        if not alive:
            out.note("no worker is running: mirror-sync serve")
        if not bad and alive:
            out.note(f"{len(items)} mirrors are healthy")
    return codes.UNHEALTHY if bad or not alive else codes.DONE


def fault(item: Document, *, max_lag: float | None) -> str:
    """Return why a mirror is unhealthy, or an empty string."""
    health = item["health"]
    if health == "paused":
        return ""
    if health in CRITICAL or health in WARNING:
        last = item["last_run"]
        if health == "stale":
            return f"lag {span(item['lag_seconds'])}, objective {span(item['objective_seconds'])}"
        if health == "incomplete":
            return f"upstream lacks {item['lfs']['known_missing']} LFS objects"
        return " ".join(part for part in (last["code"], last["message"]) if part) if last else health
    if health == "new" and item["lag_seconds"] > item["objective_seconds"]:
        return f"nothing published {span(item['lag_seconds'])} after it was added"
    if max_lag is not None and item["lag_seconds"] > max_lag:
        return f"lag {span(item['lag_seconds'])}, allowed {span(max_lag)}"
    return ""


def _nagios(out: Output, items: list[Document], bad: list[tuple[Document, str]], *, alive: int) -> int:
    counts: dict[str, int] = {}
    for item in items:
        counts[item["health"]] = counts.get(item["health"], 0) + 1
    figures = " ".join(f"{health}={counts[health]}" for health in sorted(counts))
    worst = max((item["lag_seconds"] for item in items), default=0)
    performance = f"| {figures} max_lag={worst}s".replace("|  ", "| ")
    if not alive:
        status, word, text = NAGIOS_CRITICAL, "CRITICAL", "no worker is running"
    elif bad:
        critical = [entry for entry in bad if entry[0]["health"] in CRITICAL]
        first, reason = (critical or bad)[0]
        status, word = (NAGIOS_CRITICAL, "CRITICAL") if critical else (NAGIOS_WARNING, "WARNING")
        text = f"{len(bad)} of {len(items)} unhealthy; {first['name']}: {reason.replace('|', '/')}"
    else:
        status, word, text = NAGIOS_OK, "OK", f"{len(items)} mirrors are healthy"
    out.line(f"MIRRORS {word} - {text} {performance}")
    return status
