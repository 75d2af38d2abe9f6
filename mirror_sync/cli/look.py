"""Looking: ls, show, status, why."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from mirror_sync.cli import choosing
from mirror_sync.cli.opening import as_typed, opened, told
from mirror_sync.cli.options import Command
from mirror_sync.cli.output import Output, health_text, span
from mirror_sync.cli.progress import LEAST_COLUMNS, arrived, brief, doing, line, objects, pace
from mirror_sync.domain.figures import size_text
from mirror_sync.domain.runs import Activity, Health
from mirror_sync.errors import NotFound
from mirror_sync.ports import MirrorFilter

if TYPE_CHECKING:
    from mirror_sync.actions.status import Document, Overview

HEADINGS = ("HEALTH", "NAME", "LAG", "REFS", "LFS", "READERS", "NOW")
CLOSED = ", closed: upstream does not show it to everybody, so nobody reads it here"
WORKER_ALIVE_SECONDS = 30.0
"""A worker that gave no sign of life for longer is taken for gone."""


@click.command(cls=Command, examples=("mirror-sync ls", "mirror-sync ls 'github.com/acme/*' --health failing"))
@click.argument("glob", required=False, default="", shell_complete=choosing.complete_names)
@click.option("--health", type=click.Choice([kind.value for kind in Health]), help="Only mirrors of this health.")
@click.option("--activity", type=click.Choice([kind.value for kind in Activity]), help="Only mirrors doing this now.")
@click.option("--class", "class_name", default="", metavar="NAME", help="Only mirrors of this class.")
@click.pass_context
def ls(context: click.Context, glob: str, health: str | None, activity: str | None, class_name: str) -> None:
    """List mirrors."""
    out = Output(told(context))
    which = MirrorFilter(glob=glob, health=health or "", activity=activity or "", class_name=class_name)
    with opened(context) as app:
        items = list(choosing.matching(app, which))
    if glob and not choosing.is_glob(glob) and not items:
        raise NotFound(f"no mirror {glob!r}", remedy="mirror-sync ls lists them")
    if out.json:
        out.document({"items": items})
        return
    out.table(
        ("HEALTH", "NAME", "LAG", "REFS", "LFS", "READERS", "NOW"), [_row(item, plain=out.plain) for item in items]
    )
    if not items and not out.plain:
        out.note(
            "no mirrors" + (" match" if glob or health or activity or class_name else "; mirror-sync add URL keeps one")
        )


def _row(item: Document, *, plain: bool) -> tuple[str, ...]:
    lfs = item["lfs"]
    lag = str(item["lag_seconds"]) if plain else span(item["lag_seconds"])
    return (
        item["health"] if plain else health_text(item["health"]),
        item["name"],
        lag,
        str(item["refs"]["count"]),
        f"{lfs['present']}/{lfs['wanted']}" if lfs["wanted"] or plain else "-",
        readers(item),
        doing(item) if plain else brief(item),
    )


def readers(item: Document) -> str:
    """Return who may read a mirror in one word."""
    return "closed" if item["closed"] else str(item["visibility"])


@click.command(
    cls=Command,
    examples=("mirror-sync show github.com/acme/model", "mirror-sync show https://github.com/acme/model.git --json"),
)
@click.argument("name", shell_complete=choosing.complete_names)
@click.pass_context
def show(context: click.Context, name: str) -> None:
    """Show all facts about one mirror."""
    out = Output(told(context))
    with opened(context) as app:
        item = app.mirror_status(choosing.known(app, name))
        lost = "" if item["class"] in app.settings.classes else "  (not configured: the general settings are in force)"
        clone = f"git clone {app.settings.server.base_url}/{item['name']}"
    if out.json:
        out.document(item)
        return
    lfs, last, refs = item["lfs"], item["last_run"], item["refs"]
    out.line(f"{health_text(item['health'])}  {click.style(item['name'], bold=True)}")
    held = f", {refs['held']} held" if refs["held"] else ""
    missing = f", {lfs['missing']} missing ({lfs['known_missing']} upstream lacks)" if lfs["missing"] else ""
    left_out = f", {lfs['left_out']} left out ({size_text(lfs['left_out_bytes'])})" if lfs["left_out"] else ""
    rows = [
        ("upstream", item["upstream"]),
        *([("class", item["class"] + lost)] if item["class"] else []),
        ("visibility", item["visibility"] + (CLOSED if item["closed"] else "")),
        ("clone", clone),
        ("lag", f"{span(item['lag_seconds'])}, objective {span(item['objective_seconds'])}"),
        ("confirmed", item["confirmed_at"] or "never"),
        ("behind since", item["known_behind_since"] or "not known to be"),
        ("published", item["published_at"] or "never"),
        ("now", doing(item)),
        *_progress_rows(item["progress"]),
        ("next poll", item["next_due_at"] or "-"),
        ("refs", f"{refs['count']}, HEAD {refs['head'] or '-'}{held}"),
        ("lfs", f"{lfs['present']}/{lfs['wanted']} objects, {size_text(lfs['present_bytes'])}{missing}{left_out}"),
        ("git", f"{size_text(item['git_bytes'])}, {item['object_format']}"),
    ]
    if last:
        text = " ".join(part for part in (last["outcome"], last["code"], last["message"]) if part)
        rows.append(("last run", f"{text} ({last['trigger']}, {last['finished_at']})"))
    rows += [("held", f"{hold['ref']}  {hold['code']}  {hold['reason']}") for hold in item["holds"]]
    rows += [("note", note) for note in item["notes"]]
    if item["paused"]:
        rows.append(("paused", f"{item['paused']['at']}  {item['paused']['reason']}"))
    if item["removing_at"]:
        rows.append(("removing", f"the data goes at {item['removing_at']}"))
    out.fields(rows)


def _progress_rows(progress: Document | None) -> list[tuple[str, str]]:
    """Return what is under way, how fast it goes and where it comes from."""
    if progress is None:
        return []
    far = ", ".join(
        text
        for text in (
            f"{progress['percent']} %" if progress["percent"] is not None else "",
            f"{objects(progress)} LFS objects" if objects(progress) else "",
            arrived(progress),
            f"{size_text(progress['received_bytes'])} received",
        )
        if text
    )
    rows = [("progress", f"{progress['kind']} by {progress['way']}: {far}")]
    if progress["stale"]:
        rows.append(("pace", f"nothing heard since {progress['at']}"))
    elif told := pace(progress):
        rows.append(("pace", ", ".join(told)))
    if progress["sources"]:
        rows.append(("from", ", ".join(progress["sources"])))
    return rows


@click.command(cls=Command)
@click.pass_context
def status(context: click.Context) -> None:
    """Show totals, the worst mirrors and what needs a human."""
    from mirror_sync import __version__
    from mirror_sync.actions.status import lfs_document, rfc3339

    out = Output(told(context))
    with opened(context) as app:
        found = app.overview()
        address = app.settings.server.base_url
    alive = workers_alive(found.workers, found.now)
    totals = found.totals
    if out.json:
        out.document(
            {
                "version": __version__,
                "at": rfc3339(found.now),
                "verdict": verdict(found),
                "url": address,
                "mirrors": {
                    "total": totals.mirrors,
                    "due": totals.due,
                    "by_health": dict(totals.by_health),
                    "by_activity": dict(totals.by_activity),
                },
                "lfs": lfs_document(totals.lfs),
                "oldest_confirmed_at": rfc3339(totals.oldest_confirmed_at),
                "workers": [{"name": name, "seen_at": rfc3339(at)} for name, at in sorted(found.workers.items())],
                "workers_alive": alive,
                "items": list(found.attention),
                "running": list(found.running),
            }
        )
        return
    out.line(click.style(verdict(found), bold=True))
    counts = [
        f"{health_text(kind.value)} {totals.by_health[kind.value]}"
        for kind in Health
        if totals.by_health.get(kind.value)
    ]
    left_out = f", {totals.lfs.left_out} left out" if totals.lfs.left_out else ""
    oldest = span(found.now - totals.oldest_confirmed_at) if totals.oldest_confirmed_at is not None else "-"
    out.fields(
        [
            ("mirrors", f"{totals.mirrors}  " + "  ".join(counts)),
            ("oldest", f"confirmed {oldest} ago" if oldest != "-" else "nothing confirmed yet"),
            ("due", str(totals.due)),
            (
                "lfs",
                f"{totals.lfs.present}/{totals.lfs.wanted} objects, {size_text(totals.lfs.present_bytes)}{left_out}",
            ),
            ("workers", f"{alive} alive" if alive else "none alive; start one: mirror-sync serve"),
            ("page", f"{address}/"),
        ]
    )
    if found.attention:
        _show_table(out, "needs a look", found.attention)
    if found.running and out.plain:
        _show_table(out, "running", found.running)
    elif found.running:
        _show_running(out, found.running)


def _show_table(out: Output, title: str, items: Sequence[Document]) -> None:
    out.line(f"\n{title}")
    out.table(HEADINGS, [_row(item, plain=out.plain) for item in items])


def _show_running(out: Output, items: Sequence[Document]) -> None:
    """Print one line per mirror, whole where there is no terminal to be wider than."""
    out.line("\nrunning")
    columns = max(LEAST_COLUMNS, shutil.get_terminal_size().columns - 3) if sys.stdout.isatty() else sys.maxsize
    for item in items:
        out.line(f"  {line(item, columns)}")


def workers_alive(workers: Mapping[str, float], now: float) -> int:
    """Return how many workers gave a sign of life lately."""
    return sum(1 for at in workers.values() if now - at <= WORKER_ALIVE_SECONDS)


def verdict(found: Overview) -> str:
    """Return one sentence on how the mirrors are."""
    totals = found.totals
    if not totals.mirrors:
        return "No mirrors yet."
    if not workers_alive(found.workers, found.now):
        return "No worker is running: nothing is being kept up to date."
    bad = totals.mirrors - sum(totals.by_health.get(kind, 0) for kind in ("fresh", "paused", "new"))
    if bad:
        return f"{bad} of {totals.mirrors} mirrors {'needs' if bad == 1 else 'need'} a look."
    filling = totals.by_health.get("new", 0)
    if filling:
        return (
            f"{filling} of {totals.mirrors} mirrors {'is' if filling == 1 else 'are'} being filled for the first time."
        )
    return "Every mirror is within its objective."


@click.command(cls=Command, examples=("mirror-sync why github.com/acme/model",))
@click.argument("name", shell_complete=choosing.complete_names)
@click.pass_context
def why(context: click.Context, name: str) -> None:
    """Explain lag or failure and what to do."""
    out = Output(told(context))
    with opened(context) as app:
        found = app.why(choosing.known(app, name))
    if out.json:
        out.document(found.document())
        return
    lag = f"lag {span(found.lag_seconds)}, objective {span(found.objective_seconds)}"
    out.line(f"{health_text(found.verdict.value)}  {found.name}  {lag}")
    rows = [("since", found.since)] if found.since else []
    rows.append(("cause", " ".join(part for part in (found.cause_code, found.cause) if part)))
    tries = f"{found.tried} failed {'run' if found.tried == 1 else 'runs in a row'}, " if found.tried else ""
    rows.append(("tried", f"{tries}last {found.last_at or 'never'}, next {found.next_at or 'not planned'}"))
    rows.append(("clients", found.clients))
    rows += [("do", as_typed(told(context), remedy)) for remedy in found.remedies]
    out.fields(rows)
