"""How values look on a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flask import Flask
from flask_babel import gettext, ngettext
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from mirror_sync import __version__
from mirror_sync.domain.figures import size_text
from mirror_sync.domain.names import printable, ref_bytes
from mirror_sync.web.backend import backend
from mirror_sync.web.language import LANGUAGES, current_language
from mirror_sync.web.words import ACTIVITY, CODES, HEALTH, OUTCOME, WAYS, WORDS, Sign

_DETAIL = re.compile(r"(?P<count>[0-9,]+) (?P<noun>tip|ref|LFS object)s?(?P<rest>(?:, [0-9.]+ [KMGT]?i?B)?)\Z")
"""What the steps of a run say of themselves, put together by ``domain/figures.py``."""


def moment(value: str | float | None) -> float | None:
    """Return Unix seconds of a document's time."""
    if value is None or value == "":
        return None
    if isinstance(value, (int, float)):
        return float(value)
    return datetime.fromisoformat(value).timestamp()


def span(seconds: float) -> str:
    """Return a length of time in at most two units: ``2h14m``, ``6m``, ``40s``, ``3d4h``; in Chinese ``2 小时 14 分钟``."""
    whole = max(0, int(seconds))
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    if days:
        text = gettext("%(days)dd%(hours)dh", days=days, hours=hours) if hours else gettext("%(days)dd", days=days)
    elif hours and minutes:
        text = gettext("%(hours)dh%(minutes)dm", hours=hours, minutes=minutes)
    elif hours:
        text = gettext("%(hours)dh", hours=hours)
    else:
        text = gettext("%(minutes)dm", minutes=minutes) if minutes else gettext("%(seconds)ds", seconds=left)
    return str(text)


def when(value: str | float | None) -> Markup:
    """Return a time as its distance from now, with the exact one behind it for machines and pointers."""
    at = moment(value)
    if at is None:
        return Markup("–")
    exact = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    distance = at - backend().clock.now()
    text = (
        gettext("in %(span)s", span=span(distance)) if distance > 0.5 else gettext("%(span)s ago", span=span(-distance))
    )
    return Markup('<time datetime="{0}" title="{0}">{1}</time>').format(exact, text)


def sign(which: str, kind: str) -> Markup:
    """Return glyph and word of a health, an activity or an outcome."""
    table = {"health": HEALTH, "activity": ACTIVITY, "outcome": OUTCOME}[kind]
    found = table.get(which, Sign("·", "idle", which))
    return Markup('<span class="sign {0}" title="{3}"><span aria-hidden="true">{1}</span> {2}</span>').format(
        found.style, found.glyph, gettext(found.word), gettext(found.meaning) if found.meaning else ""
    )


def word(text: str) -> str:
    """Return one of our words in the visitor's language."""
    return gettext(WORDS[text]) if text in WORDS else text


def detail(text: str) -> str:
    """Return what a step is about, such as ``2 LFS objects, 30.0 MiB``, in the visitor's language."""
    found = _DETAIL.match(text)
    if found is None:
        return text
    number = int(found["count"].replace(",", ""))
    counted = {
        "tip": ngettext("%(count)s tip", "%(count)s tips", number, count=found["count"]),
        "ref": ngettext("%(count)s ref", "%(count)s refs", number, count=found["count"]),
        "LFS object": ngettext("%(count)s LFS object", "%(count)s LFS objects", number, count=found["count"]),
    }[found["noun"]]
    return f"{counted}{found['rest']}"


def way(name: str) -> Markup:
    """Return a way of fetching by its name, with what it is behind it."""
    meaning = gettext(WAYS[name]) if name in WAYS else ""
    return Markup('<code>{0}</code> <span class="quiet">{1}</span>').format(name, meaning)


def sentence(text: str) -> str:
    """Return one of our sentences in the visitor's language; any other text as it is."""
    return gettext(text) if text else ""


def code_title(code: str) -> str:
    """Return what a code means, or an empty string."""
    found = CODES.get(code)
    return gettext(found.title) if found else ""


def code_link(code: str) -> Markup:
    """Return a code that leads to its page."""
    if code not in CODES:
        return escape(code)
    return Markup('<a class="code" href="/errors/{0}">{0}</a>').format(code)


def mirror_url(name: str) -> str:
    """Return the address of a mirror's page."""
    return f"/mirrors/{quote(name, safe='/:[]~@!$()+,;=-._')}"


def ref_query(name: str) -> str:
    """Return a ref name as a query value, whatever bytes it has."""
    return quote(ref_bytes(name), safe="")


def short(oid: str | None) -> str:
    """Return the first digits of an object id."""
    return oid[:10] if oid else "–"


def _context() -> dict[str, Any]:
    language = current_language()
    ui = backend().settings.ui
    return {
        "language": LANGUAGES[language],
        "other_language": "en" if language == "zh" else "zh",
        "other_language_tag": LANGUAGES["en" if language == "zh" else "zh"],
        "site_title": printable(ui.title),
        "contact": printable(ui.contact),
        "version": __version__,
    }


def _each_time(filter_: Callable[..., object]) -> Callable[..., object]:
    """Return the filter as one that Jinja never runs while it compiles: a constant has each visitor's language too."""

    @pass_context
    def run(_context: Context, *arguments: object) -> object:
        return filter_(*arguments)

    return run


def install_filters(app: Flask) -> None:
    """Teach templates these ways of showing."""
    filters: dict[str, Callable[..., object]] = {
        "when": when, "span": span, "size": size_text, "sign": sign, "word": word, "sentence": sentence,
        "code_title": code_title, "code_link": code_link, "mirror_url": mirror_url, "ref_query": ref_query,
        "short": short, "printable": printable, "way": way, "detail": detail,
    }  # fmt: skip
    app.jinja_env.filters.update({name: _each_time(filter_) for name, filter_ in filters.items()})
    app.context_processor(_context)
