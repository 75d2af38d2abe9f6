"""refs: what is published, how it got there, what is kept, and letting held deletions through."""

from __future__ import annotations

import click

from mirror_sync.cli import choosing
from mirror_sync.cli.opening import opened, told
from mirror_sync.cli.options import Group
from mirror_sync.cli.output import Output
from mirror_sync.domain.names import printable

PAGE = 1000


@click.group(cls=Group)
def refs() -> None:
    """Show refs, their history and kept tips; let held deletions through."""


@refs.command("ls")
@click.argument("name", shell_complete=choosing.complete_names)
@click.option("--prefix", default="", help="Only refs that begin so, such as refs/tags/.")
@click.pass_context
def ls(context: click.Context, name: str, prefix: str) -> None:
    """List the refs that clients see."""
    out = Output(told(context))
    with opened(context) as app:
        mirror = app.state.mirror(choosing.known(app, name))
        found: list[tuple[str, str]] = []
        after = ""
        while True:
            head, page = app.serving.refs(mirror.name, after=after, limit=PAGE, prefix=prefix)
            found += [(ref, oid) for ref, oid in page]
            if len(page) < PAGE:
                break
            after = page[-1][0]
    if out.json:
        items = [{"ref": printable(ref), "oid": oid} for ref, oid in found]
        out.document({"name": mirror.name, "head": printable(head), "items": items})
        return
    out.table(
        ("OID", "REF"),
        [(oid, printable(ref) + (" (HEAD)" if ref == head and not out.plain else "")) for ref, oid in found],
    )


@refs.command("log")
@click.argument("name", shell_complete=choosing.complete_names)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10000), default=50, show_default=True, help="How many, newest first."
)
@click.pass_context
def log(context: click.Context, name: str, limit: int) -> None:
    """Show how refs moved, newest first."""
    from mirror_sync.actions.status import rfc3339

    out = Output(told(context))
    with opened(context) as app:
        mirror = app.state.mirror(choosing.known(app, name))
        rows = app.state.ref_journal(mirror.id, limit=limit)
    if out.json:
        items = [
            {
                "at": rfc3339(at),
                "run": run,
                "ref": printable(entry.ref),
                "change": entry.change.value,
                "old": entry.old,
                "new": entry.new,
            }
            for _, at, run, entry in rows
        ]
        out.document({"name": mirror.name, "items": items})
        return
    out.table(
        ("AT", "CHANGE", "OLD", "NEW", "REF"),
        [
            (
                rfc3339(at) or "",
                entry.change.value,
                _short(entry.old, plain=out.plain),
                _short(entry.new, plain=out.plain),
                printable(entry.ref),
            )
            for _, at, _, entry in rows
        ],
    )


def _short(oid: str | None, *, plain: bool) -> str:
    if oid is None:
        return "-"
    return oid if plain else oid[:10]


@refs.command("kept")
@click.argument("name", shell_complete=choosing.complete_names)
@click.pass_context
def kept(context: click.Context, name: str) -> None:
    """Show the old tips of forced and deleted refs that are still here."""
    from mirror_sync.actions.status import rfc3339

    out = Output(told(context))
    with opened(context) as app:
        mirror = app.state.mirror(choosing.known(app, name))
        rows = app.state.kept_tips(mirror.id)
    if out.json:
        items = [
            {
                "ref": printable(tip.ref),
                "oid": tip.oid,
                "run": tip.run,
                "kept_at": rfc3339(tip.kept_at),
                "expires_at": rfc3339(tip.expires_at),
            }
            for tip in rows
        ]
        out.document({"name": mirror.name, "items": items})
        return
    out.table(
        ("OID", "KEPT", "EXPIRES", "REF"),
        [(tip.oid, rfc3339(tip.kept_at) or "", rfc3339(tip.expires_at) or "", printable(tip.ref)) for tip in rows],
    )


@refs.command("release")
@click.argument("name", shell_complete=choosing.complete_names)
@click.pass_context
def release(context: click.Context, name: str) -> None:
    """Let held deletions through at the next sync, which is due now."""
    out = Output(told(context))
    with opened(context) as app:
        wanted = choosing.known(app, name)
        released = app.release_guard(wanted)
        document = app.mirror_status(wanted)
    if out.json:
        out.document(document | {"released": released})
        return
    out.line(f"{wanted}: " + ("released; a sync is due now" if released else "nothing is held by the deletion guard"))
