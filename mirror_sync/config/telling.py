"""Where a value was written, and what is wrong with it, in one line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirror_sync.config.lines import KeyPath
from mirror_sync.config.sources import KEPT, SECRET_WORDS, Layer

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_SHOWN = 60
MAYBE_PASSWORD = re.compile(r"://[^/]*@|password", re.IGNORECASE)
"""A value like this may hold a password and is not repeated."""


@dataclass(frozen=True, slots=True)
class Teller:
    """Knows every layer, highest first, the keys of each section and which of them name secrets."""

    layers: tuple[Layer, ...]
    names: Mapping[str, tuple[str, ...]]
    secrets: frozenset[tuple[str, str]]

    def winner(self, path: KeyPath) -> Layer | None:
        """Return the layer whose value for ``path`` is in force, ``None`` for the default."""
        return next((layer for layer in self.layers if layer.has(path)), None)

    def given(self, path: KeyPath, default: object) -> object:
        """Return the value in force as it was written."""
        layer = self.winner(path)
        return layer.given(path) if layer else default

    def origin(self, path: KeyPath) -> str:
        """Return where the value in force was written, or ``default``."""
        layer = self.winner(path)
        return layer.place(path) if layer else "default"

    def at(self, path: KeyPath) -> str:
        """Return where to look for ``path``: its own line or that of the table around it."""
        layer = self.winner(path)
        if layer:
            return layer.place(path)
        return next((place for layer in self.layers if (place := layer.place(path))), "the configuration")

    def problem(self, path: KeyPath, text: str, *, show: bool = True) -> str:
        """Return ``file:line key = value: text``; a value that may be secret is not repeated."""
        given = self.given(path, KEPT) if show else KEPT
        shown = ""
        if given is not KEPT and not isinstance(given, (dict, list)) and not self._is_secret(path, given):
            shown = f" = {toml_text(given)}"
        return f"{self.at(path)} {dotted(path)}{shown}: {text}"

    def _is_secret(self, path: KeyPath, value: object) -> bool:
        if (str(path[0]), str(path[-1])) in self.secrets or SECRET_WORDS.search(str(path[-1])):
            return True
        return isinstance(value, str) and MAYBE_PASSWORD.search(value) is not None

    def tell(self, error: ErrorDetails) -> str:
        """Translate one pydantic error."""
        path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
        context: dict[str, Any] = error.get("ctx", {})
        match error["type"]:
            case "extra_forbidden":
                return self._unknown(path)
            case "missing":
                return self.problem(path, "must be given")
            case "value_error":
                return self.problem(path, str(context["error"]), show=error["loc"][-1] != "[key]")
            case "literal_error":
                return self.problem(path, f"must be one of {context['expected']}".replace("'", '"'))
            case "greater_than_equal":
                return self.problem(path, f"must be at least {context['ge']}")
            case "less_than_equal":
                return self.problem(path, f"must be at most {context['le']}")
            case "model_type" | "dict_type":
                return self.problem(path, f"must be a table, such as [{dotted(path)}]", show=False)
            case "tuple_type" | "list_type":
                return self.problem(path, f"must be an array of tables, such as [[{path[0]}]]", show=False)
            case _:
                return self.problem(path, error["msg"][:1].lower() + error["msg"][1:])

    def _unknown(self, path: KeyPath) -> str:
        last = str(path[-1])
        known = tuple(self.names) if len(path) == 1 else self.names.get(str(path[0]), ())
        if SECRET_WORDS.search(last) and f"{last}_file" in known:
            text = f"a secret never stands in the configuration; put it in a file and name it in {last}_file"
            return self.problem(path, text, show=False)
        near = difflib.get_close_matches(last, known, n=1, cutoff=0.6)
        thing = "section" if len(path) == 1 else "key"
        hint = f'; did you mean "{near[0]}"?' if near else f"; there are {', '.join(known)}"
        return self.problem(path, f"there is no such {thing}{hint}", show=False)


def dotted(path: KeyPath) -> str:
    """Return a key path as people write it: ``upstream."github.com".proxy``, ``mirror[0].url``."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
            out += ("." if out else "") + (part if bare else json.dumps(part))
    return out


def toml_text(value: object, *, whole: bool = False) -> str:
    """Return a value as one would write it, cut short when it is long and need not be ``whole``."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if whole or len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
