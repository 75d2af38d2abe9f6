"""token: what lets clients read mirrors that are not for everybody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirror_sync.cli.opening import opened, told
from mirror_sync.cli.options import Group
from mirror_sync.cli.output import Output
from mirror_sync.domain.readers import CloneToken, TokenId
from mirror_sync.domain.runs import Visibility
from mirror_sync.errors import Conflict, StorageFailed
from mirror_sync.ports import MirrorFilter

if TYPE_CHECKING:
    from mirror_sync.bootstrap import App

NEVER = "never"


class Lasting(click.ParamType[float]):
    """Seconds written with a unit, or ``never``, which is 0."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        from mirror_sync.cli.keep import DURATION

        return 0.0 if value == NEVER else DURATION.convert(value, param, ctx)


@click.group(cls=Group)
def token() -> None:
    """Make, list and revoke tokens by which clients read mirrors."""


@token.command(
    "create",
    examples=(
        "mirror-sync token create --mirror 'github.com/acme/*' --expires 30d --note 'build farm'",
        "mirror-sync token create --mirror huggingface.co/acme/weights --out clone-token",
    ),
)
@click.option(
    "--mirror", "globs", multiple=True, required=True, metavar="GLOB", help="Mirrors it opens; may be repeated."
)
@click.option(
    "--expires", type=Lasting(), help='How long it counts, such as 30d, or "never"; default: access.token_ttl.'
)
@click.option("--note", default="", help="What it is for; shown by token ls.")
@click.option(
    "--out", "out_file", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this new file, mode 0600."
)
@click.pass_context
def create(
    context: click.Context, globs: tuple[str, ...], expires: float | None, note: str, out_file: Path | None
) -> None:
    """Make a token and show it, this once."""
    from mirror_sync.config import write_secret

    out = Output(told(context))
    with opened(context) as app:
        lasts = app.settings.access.token_ttl if expires is None else expires or None
        if out_file is not None and out_file.exists():
            raise _taken(out_file)
        secret, made = app.create_token(globs, lasts=lasts, note=note)
        if out_file is not None:
            _write(app, made, out_file, secret, write_secret)
        remarks = [remark for glob in made.globs if (remark := _remark(app, glob))]
        document = _document(made, app.clock.now())
    if out.json:
        out.document(document | ({} if out_file is not None else {"token": secret}))
    elif out_file is None:
        out.line(secret)
    out.note(f"token {made.id} for {', '.join(made.globs)}; expires: {document['expires_at'] or NEVER}")
    out.note("git asks for it as the password, with any user name; it is not shown again")
    for remark in remarks:
        out.note(remark)


def _taken(path: Path) -> Conflict:
    return Conflict(f"{path} is there already", remedy="name a new file")


def _write(app: App, made: CloneToken, path: Path, secret: str, write: Any) -> None:
    """Write the token to its file, or revoke it: one that nobody has must open nothing."""
    try:
        written = write(path, secret)
    except OSError as error:
        app.state.revoke_token(made.id)
        raise StorageFailed(f"{path} cannot be written", why=error.strerror or type(error).__name__) from error
    if not written:
        app.state.revoke_token(made.id)
        raise _taken(path)


def _remark(app: App, glob: str) -> str:
    """Return what is odd about a glob at the moment, or an empty text."""
    found = app.list_status(MirrorFilter(glob=glob), limit=500)["items"]
    if not found:
        return f"no mirror matches {glob} yet"
    if not any(document["visibility"] == Visibility.TOKEN.value for document in found):
        return f"no mirror that matches {glob} is read by tokens yet: mirror-sync set '{glob}' --visibility token"
    return ""


@token.command("ls")
@click.pass_context
def ls(context: click.Context) -> None:
    """List tokens, never the tokens themselves."""
    out = Output(told(context))
    with opened(context) as app:
        now = app.clock.now()
        documents = [_document(found, now) for found in app.state.tokens()]
    if out.json:
        out.document({"items": documents})
        return
    if not documents and not out.plain:
        out.note("no tokens; mirror-sync token create makes one")
        return
    out.table(
        ("ID", "STATE", "MIRRORS", "CREATED", "EXPIRES", "NOTE"),
        [
            (
                str(document["id"]),
                document["state"],
                ",".join(document["mirrors"]),
                document["created_at"],
                document["expires_at"] or NEVER,
                document["note"],
            )
            for document in documents
        ],
    )


@token.command("revoke")
@click.argument("numbers", nargs=-1, required=True, type=click.IntRange(min=1), metavar="ID...")
@click.pass_context
def revoke(context: click.Context, numbers: tuple[int, ...]) -> None:
    """Let tokens open nothing from now on."""
    out = Output(told(context))
    with opened(context) as app:
        now = app.clock.now()
        documents = [_document(app.state.revoke_token(TokenId(number)), now) for number in dict.fromkeys(numbers)]
    if out.json:
        out.document({"items": documents})
        return
    for document in documents:
        out.line(f"revoked{chr(9) if out.plain else ' '}{document['id']}")
    out.note("links to LFS objects that it was given count until they expire (access.link_ttl)")


@token.command("rotate-links")
@click.pass_context
def rotate_links(context: click.Context) -> None:
    """Sign links to LFS objects with a new key."""
    out = Output(told(context))
    with opened(context) as app:
        from mirror_sync.web.signing import LinkKeys

        path = app.settings.link_keys()
        rotated = LinkKeys(path, app.clock).rotate()
    if out.json:
        out.document({"file": str(path), "rotated": rotated})
        return
    out.line(f"{'rotated' if rotated else 'made'}{chr(9) if out.plain else ' '}{path}")
    out.note("links of the key before count until they expire; twice at once ends all links")


def _document(found: CloneToken, now: float) -> dict[str, Any]:
    from mirror_sync.actions.status import rfc3339

    state = "revoked" if found.revoked_at is not None else "good" if found.is_good(now) else "expired"
    return {
        "id": found.id,
        "state": state,
        "mirrors": list(found.globs),
        "created_at": rfc3339(found.created_at),
        "expires_at": rfc3339(found.expires_at),
        "revoked_at": rfc3339(found.revoked_at),
        "note": found.note,
    }
