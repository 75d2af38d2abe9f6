"""English or Simplified Chinese: which one a visitor reads."""

from __future__ import annotations

from flask import Flask, Response, g, request
from flask_babel import Babel

from mirror_sync.web.backend import backend

LANGUAGES = {"en": "en", "zh": "zh-CN"}
"""Our two languages and the tags that name them on the wire."""

COOKIE = "lang"
COOKIE_SECONDS = 365 * 86400


def known_language(text: str) -> str:
    """Return ``en`` or ``zh`` for a tag such as ``zh-Hans-CN``, or an empty string."""
    head = text.replace("_", "-").partition("-")[0].strip().lower()
    return head if head in LANGUAGES else ""


def chosen_language() -> str:
    """Return the language of this request: ``?lang=``, then the cookie, the configuration, what the browser prefers."""
    asked = known_language(request.args.get("lang", ""))
    if asked:
        return asked
    remembered = known_language(request.cookies.get(COOKIE, ""))
    if remembered:
        return remembered
    configured = backend().settings.ui.language
    if configured != "auto":
        return configured
    for tag, _quality in request.accept_languages:
        preferred = known_language(tag)
        if preferred:
            return preferred
    return "en"


def current_language() -> str:
    """Return the language of this request, decided once."""
    if "language" not in g:
        g.language = chosen_language()
    return str(g.language)


def install(app: Flask) -> None:
    """Let pages speak the visitor's language."""
    Babel(app, default_locale="en", locale_selector=current_language, default_translation_directories="translations")


def mark_language(response: Response) -> Response:
    """Say which language a page has, and remember one that was asked for."""
    response.headers["Content-Language"] = LANGUAGES[current_language()]
    response.vary.update(["Accept-Language", "Cookie"])
    asked = known_language(request.args.get("lang", ""))
    if asked:
        response.set_cookie(
            COOKIE, asked, max_age=COOKIE_SECONDS, samesite="Lax", httponly=True, secure=request.is_secure
        )
    return response
