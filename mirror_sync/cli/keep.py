"""Changing what is kept: add, pause, resume, rm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

import click

from mirror_sync.cli import choosing, codes
from mirror_sync.cli.look import workers_alive
from mirror_sync.cli.opening import opened, told
from mirror_sync.cli.options import Command, Globals
from mirror_sync.cli.output import Output, show_error, span
from mirror_sync.domain.figures import size_text
from mirror_sync.domain.runs import Activity, Mirror, Visibility, activity
from mirror_sync.errors import MirrorSyncError, NotFound, UsageError

if TYPE_CHECKING:
    from mirror_sync.bootstrap import App

ASK_SHARE = 0.05
"""Removing a larger share of all mirrors needs their number typed."""


class Duration(click.ParamType[float]):
    """Seconds, written with a unit."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        from mirror_sync.config import Unfit, parse_duration

        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except Unfit as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
VISIBILITY = click.Choice([word.value for word in Visibility])


@click.command(
    cls=Command,
    examples=(
        "mirror-sync add https://github.com/acme/model https://huggingface.co/acme/weights",
        "mirror-sync add --class models https://huggingface.co/acme/weights",
        "mirror-sync add - < urls.txt",
    ),
)
@click.argument("urls", nargs=-1, required=True, metavar="URL...")
@click.option("--class", "class_name", default="", metavar="NAME", help="Take the settings of this class.")
@click.option("--interval", type=DURATION, help="Time between two polls, such as 15m; default: schedule.interval.")
@click.option("--objective", type=DURATION, help="The sync lag to stay within; default: schedule.objective.")
@click.option("--visibility", type=VISIBILITY, help="Who may read; default: that of its class, or access.visibility.")
@click.pass_context
def add(
    context: click.Context,
    urls: tuple[str, ...],
    class_name: str,
    interval: float | None,
    objective: float | None,
    visibility: str | None,
) -> int:
    """Mirror repositories."""
    out = Output(told(context))
    added, failed = [], []
    with opened(context) as app:
        for url in dict.fromkeys(choosing.words(urls)):
            try:
                before = being_removed(app, url)
                mirror, made = app.enrol(
                    url,
                    interval=interval,
                    objective=objective,
                    class_name=class_name,
                    visibility=Visibility(visibility) if visibility else None,
                )
            except MirrorSyncError as error:
                if len(urls) == 1 and url == urls[0]:
                    raise
                failed.append((url, error))
                continue
            document = app.mirror_status(mirror.name)
            back = before is not None and not made
            added.append(document | {"added": made, "taken_back": back})
            if not out.json:
                what = "added" if made else "taken back" if back else "here already"
                told_as = "is here already:" if what == "here already" else what
                out.line(f"{what}\t{mirror.name}" if out.plain else f"{told_as} {mirror.name}")
            if visibility and document["visibility"] != visibility:
                out.note(f"  its visibility stays {document['visibility']}; mirror-sync set --visibility changes it")
            if before is not None and back:
                out.note(f"  {taken_back(before, app.clock.now())}")
    if out.json:
        out.document({"items": added, "failed": [_failure(url, wrong) for url, wrong in failed]})
    else:
        for _, wrong in failed:
            show_error(wrong, told(context))
    if failed:
        return codes.PARTLY if added else codes.exit_status(failed[0][1])
    return codes.DONE


def being_removed(app: App, url: str) -> Mirror | None:
    """Return the mirror of ``url`` when it is being removed."""
    try:
        mirror = app.state.mirror(choosing.name(url))
    except NotFound:
        return None
    return mirror if mirror.removing_at is not None else None


def taken_back(before: Mirror, now: float) -> str:
    """Return what becomes of a mirror that was being removed and is wanted again."""
    if before.removing_at is not None and before.removing_at <= now and activity(before, now) is Activity.SYNCING:
        return "its removal had begun: what is gone already is fetched again"
    return "its data was still here: it is kept and served again, and the removal is called off"


def _failure(word: str, error: MirrorSyncError) -> dict[str, str]:
    return {"given": word, "code": error.code, "message": error.message, "why": error.why, "do": error.remedy}


@click.command(
    cls=Command,
    examples=(
        "mirror-sync set 'huggingface.co/*' --class models",
        "mirror-sync set github.com/acme/app --interval 5m",
        "mirror-sync set github.com/acme/secret --visibility token",
    ),
)
@click.argument("globs", nargs=-1, required=True, metavar="GLOB...", shell_complete=choosing.complete_names)
@click.option("--class", "class_name", metavar="NAME", help='Take the settings of this class; "none": of no class.')
@click.option("--interval", type=DURATION, help="Time between two polls, such as 15m.")
@click.option("--objective", type=DURATION, help="The sync lag to stay within.")
@click.option(
    "--visibility",
    type=click.Choice([*(word.value for word in Visibility), "default"]),
    help='Who may read; "default": as its class or the configuration says.',
)
@click.pass_context
def set_(
    context: click.Context,
    globs: tuple[str, ...],
    class_name: str | None,
    interval: float | None,
    objective: float | None,
    visibility: str | None,
) -> None:
    """Change class, schedule or visibility of mirrors."""
    if class_name is None and interval is None and objective is None and visibility is None:
        raise UsageError("nothing to change was named", remedy="give --class, --interval, --objective or --visibility")
    word: Visibility | Literal[""] | None = None
    if visibility is not None:
        word = "" if visibility == "default" else Visibility(visibility)
    out = Output(told(context))
    with opened(context) as app:
        documents = choosing.chosen(app, globs)
        for document in documents:
            app.change(
                document["name"],
                class_name="" if class_name == "none" else class_name,
                interval=interval,
                objective=objective,
                visibility=word,
            )
        changed = [app.mirror_status(document["name"]) for document in documents]
    _tell(out, "changed", changed)


@click.command(cls=Command, examples=("mirror-sync pause 'github.com/acme/*' --reason 'disk is being moved'",))
@click.argument("globs", nargs=-1, required=True, metavar="GLOB...", shell_complete=choosing.complete_names)
@click.option("--reason", default="", help="Shown to everybody who asks why.")
@click.pass_context
def pause(context: click.Context, globs: tuple[str, ...], reason: str) -> None:
    """Stop syncing; serving goes on."""
    out = Output(told(context))
    with opened(context) as app:
        documents = choosing.chosen(app, globs)
        for document in documents:
            app.pause(document["name"], reason=reason)
        changed = [app.mirror_status(document["name"]) for document in documents]
    _tell(out, "paused", changed)


@click.command(cls=Command)
@click.argument("globs", nargs=-1, required=True, metavar="GLOB...", shell_complete=choosing.complete_names)
@click.pass_context
def resume(context: click.Context, globs: tuple[str, ...]) -> None:
    """Sync again."""
    out = Output(told(context))
    with opened(context) as app:
        documents = choosing.chosen(app, globs)
        for document in documents:
            app.resume(document["name"])
        changed = [app.mirror_status(document["name"]) for document in documents]
    _tell(out, "resumed", changed)


def _tell(out: Output, what: str, documents: list[dict[str, object]]) -> None:
    if out.json:
        out.document({"items": documents})
        return
    for document in documents:
        out.line(f"{what}{chr(9) if out.plain else ' '}{document['name']}")


@click.command(
    cls=Command,
    examples=("mirror-sync rm github.com/acme/old", "mirror-sync rm 'github.com/acme/*' --keep 7d --confirm 12"),
)
@click.argument("globs", nargs=-1, required=True, metavar="GLOB...", shell_complete=choosing.complete_names)
@click.option("--keep", type=DURATION, help="Keep the data this long, such as 7d; default: storage.removal_delay.")
@click.option("--now", is_flag=True, help="Keep the data no longer: the worker deletes it next.")
@click.option("--confirm", type=click.IntRange(min=1), metavar="N", help="Yes, N mirrors are meant.")
@click.pass_context
def rm(context: click.Context, globs: tuple[str, ...], keep: float | None, now: bool, confirm: int | None) -> None:
    """Remove mirrors.

    They are neither synced nor served from then on.  The worker deletes their data after
    a delay; mirror-sync add takes a mirror back until then.  One that the configuration
    declares is refused: it would come back.
    """
    if now and keep is not None:
        raise UsageError("--now and --keep contradict each other", remedy="give one of them")
    out = Output(told(context))
    with opened(context) as app:
        documents = choosing.chosen(app, globs)
        app.check_removable(document["name"] for document in documents)
        total = app.state.totals().mirrors
        delay = 0.0 if now else keep if keep is not None else app.settings.removal_delay
        _make_sure(told(context), documents, total, delay=delay, confirm=confirm)
        removed = []
        for document in documents:
            app.remove(document["name"], keep_seconds=delay)
            removed.append(app.mirror_status(document["name"]))
        alive = bool(workers_alive(app.state.workers(), app.clock.now()))
    if out.json:
        out.document({"items": removed})
        return
    for document in removed:
        after = "" if out.plain else f"; {_going(delay, running=document['run'] is not None)}"
        out.line(f"removed{chr(9) if out.plain else ' '}{document['name']}{after}")
    back = "them" if len(removed) > 1 else "it"
    out.note(f"until the data is gone, mirror-sync add takes {back} back with it")
    if not alive:
        out.note("no worker is running; nothing is deleted until one does: mirror-sync serve")


def _going(delay: float, *, running: bool) -> str:
    """Return when the data of a mirror goes."""
    if delay:
        return f"the data goes in {span(delay)}"
    return f"the worker deletes the data {'once its present run has ended' if running else 'next'}"


def _make_sure(
    flags: Globals, documents: list[dict[str, object]], total: int, *, delay: float, confirm: int | None
) -> None:
    """Ask before mirrors go; many need their number, so that a wrong glob is noticed."""
    count = len(documents)
    many = count > max(1, int(total * ASK_SHARE))
    if confirm is not None and confirm != count:
        raise UsageError(f"{count} mirrors match, not {confirm}", remedy="look with mirror-sync ls first")
    if confirm == count or (flags.yes and not many):
        return
    held = sum(int(str(document["git_bytes"])) for document in documents)
    question = (
        f"this ends {count} of {total} {'mirror' if total == 1 else 'mirrors'}; "
        f"{size_text(held)} of Git data go {'now' if not delay else f'in {span(delay)}'}"
    )
    if not sys.stdin.isatty():
        remedy = f"--confirm {count}" if many else "-y, or --confirm 1"
        raise UsageError(f"{question}: this wants a confirmation", remedy=f"add {remedy}")
    for document in documents[:20]:
        click.echo(f"  {document['name']}", err=True)
    if count > 20:
        click.echo(f"  and {count - 20} more", err=True)
    if many:
        if click.prompt(f"{question}. Type their number to go on", err=True) != str(count):
            raise click.Abort
    else:
        click.confirm(f"{question}. Remove?", abort=True, err=True)
