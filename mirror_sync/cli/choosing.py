"""Which mirrors a command line means: names, URLs, globs, ``-`` for standard input."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from mirror_sync.domain.names import MirrorName, parse_mirror_name
from mirror_sync.errors import NotFound, UsageError
from mirror_sync.ports import MirrorFilter

if TYPE_CHECKING:
    from mirror_sync.actions.status import Document
    from mirror_sync.bootstrap import App

PAGE = 500
_GLOB = frozenset("*?")
"""What no name has; brackets mean nothing in a pattern, since IPv6 hosts have them."""


def words(given: Sequence[str]) -> list[str]:
    """Return the words, ``-`` replaced by the lines of standard input; raises :class:`UsageError` when none is left."""
    found: list[str] = []
    for word in given:
        if word == "-":
            found += [line.strip() for line in sys.stdin if line.strip()]
        else:
            found.append(word)
    if not found:
        raise UsageError("no name was given")
    return found


def is_glob(word: str) -> bool:
    """Tell whether a word is a pattern rather than a name."""
    return bool(_GLOB.intersection(word))


def name(word: str) -> MirrorName:
    """Return the mirror name that a word means: host/path or URL, with or without ``.git``."""
    return parse_mirror_name(word)


def known(app: App, word: str) -> MirrorName:
    """Return the name of the mirror that a word means; raises :class:`NotFound`, with the nearest name if one is near."""
    wanted = name(word)
    try:
        app.state.mirror(wanted)
    except NotFound as error:
        near = _nearest(app, wanted)
        remedy = f"did you mean: {near}" if near else "mirror-sync ls lists them; mirror-sync add URL keeps one"
        raise NotFound(error.message, remedy=remedy) from error
    return wanted


def _nearest(app: App, wanted: MirrorName) -> str:
    last = wanted.rpartition("/")[2]
    for which in (MirrorFilter(query=last), MirrorFilter()):
        there = [document["name"] for document in app.list_status(which, limit=PAGE)["items"]]
        ending = [name for name in there if name.endswith(f"/{wanted}")]
        if found := ending or difflib.get_close_matches(wanted, there, n=1):
            return str(found[0])
    return ""


def names(given: Sequence[str]) -> list[MirrorName]:
    """Return the mirror names meant, each once, in order."""
    return list(dict.fromkeys(name(word) for word in words(given)))


def matching(app: App, which: MirrorFilter) -> Iterator[Document]:
    """Yield the documents of all mirrors that match, in name order."""
    cursor = ""
    while True:
        page = app.list_status(which, cursor=cursor, limit=PAGE)
        yield from page["items"]
        cursor = page["next_cursor"] or ""
        if not cursor:
            return


def chosen(app: App, given: Sequence[str]) -> list[Document]:
    """Return the documents of the mirrors that names and globs mean, each once.

    Raises :class:`NotFound` when a word means none.
    """
    found: dict[str, Document] = {}
    for word in words(given):
        if is_glob(word):
            hits = list(matching(app, MirrorFilter(glob=word)))
            if not hits:
                raise NotFound(f"no mirror matches {word!r}", remedy="mirror-sync ls lists them")
            found.update((document["name"], document) for document in hits)
        else:
            document = app.mirror_status(known(app, word))
            found[document["name"]] = document
    return list(found.values())


def complete_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return mirror names for the shell's completion; nothing when the state cannot be read."""
    from mirror_sync.cli.opening import opened
    from mirror_sync.errors import MirrorSyncError

    try:
        with opened(context) as app:
            page = app.list_status(MirrorFilter(glob=f"{incomplete}*"), limit=50)
    except MirrorSyncError:
        return []
    return [document["name"] for document in page["items"]]
