"""Where configured values come from: flags, environment, files; and which of them won."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirror_sync.config.environment import PREFIX
from mirror_sync.config.lines import KeyPath, key_lines

SECRET_WORDS = re.compile(r"(?:token|secret|password|passwd|credential|api_?key)s?\Z", re.IGNORECASE)
_TOML_PLACE = re.compile(r"(.*?) ?\(at (?:line (\d+), column \d+|end of document)\)\Z", re.DOTALL)

KEPT = object()


@dataclass(slots=True)
class Layer:
    """Merged tables and where each of their keys was written."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Return where ``path``, or the nearest table around it, was written; empty when nowhere here."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return ""

    def has(self, path: KeyPath) -> bool:
        """Tell whether this layer gives a value for exactly ``path``."""
        return self.given(path) is not KEPT

    def given(self, path: KeyPath) -> object:
        """Return the value as written, or :data:`KEPT`."""
        at: Any = self.tree
        for key in path:
            in_table = isinstance(at, Mapping) and key in at
            if not in_table and not (isinstance(at, list) and isinstance(key, int) and key < len(at)):
                return KEPT
            at = at[key]
        return at


def file_layer(files: Iterable[tuple[str, str]]) -> tuple[Layer, list[str]]:
    """Merge TOML texts, later ones winning, and return what is wrong with their form.

    ``files`` are pairs of a label for messages and the text.  Tables merge key by key,
    arrays of tables append, everything else replaces.
    """
    merged = Layer()
    problems: list[str] = []
    for label, text in files:
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = _TOML_PLACE.match(str(error))
            line = (found.group(2) if found else None) or str(text.count("\n") + (not text.endswith("\n")))
            reason = found.group(1) if found else str(error)
            problems.append(f"{label}:{line} is not TOML: {reason[:1].lower()}{reason[1:]}")
            continue
        _merge(merged, tree, label, key_lines(text))
    return merged, problems


def _merge(into: Layer, tree: Mapping[str, Any], label: str, lines: Mapping[KeyPath, int]) -> None:
    def visit(target: dict[str, Any], source: Mapping[str, Any], old: KeyPath, new: KeyPath) -> None:
        for key, value in source.items():
            here = lines.get((*old, key))
            path = (*new, key)
            if here is not None:
                into.places[path] = f"{label}:{here}"
            if isinstance(value, dict) and isinstance(target.get(key), dict):
                visit(target[key], value, (*old, key), path)
            elif isinstance(value, dict):
                target[key] = {}
                visit(target[key], value, (*old, key), path)
            elif _is_tables(value) and _is_tables(target.get(key, [{}])):
                entries = target.setdefault(key, [])
                for index, entry in enumerate(value):
                    entries.append({})
                    at = (*path, len(entries) - 1)
                    line = lines.get((*old, key, index), here)
                    into.places[at] = f"{label}:{line}"
                    visit(entries[-1], entry, (*old, key, index), at)
            else:
                target[key] = value

    visit(into.tree, tree, (), ())


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def environment_layer(
    environ: Mapping[str, str], sections: Mapping[str, Iterable[str]]
) -> tuple[dict[str, str], Layer, list[str]]:
    """Sort out ``MIRROR_SYNC__*``.

    Returns the variables that name a key, the same as a layer (for telling where a value
    came from), and what is wrong with the others.  A misspelt variable would otherwise
    be passed over in silence.
    """
    layer = Layer()
    problems: list[str] = []
    good: dict[str, str] = {}
    known = {
        f"{PREFIX}{section}__{key}".upper() for section, keys in sections.items() if section != "class" for key in keys
    }
    for name in sorted(environ):
        if not name.upper().startswith(PREFIX):
            continue
        path = tuple(part.lower() for part in name[len(PREFIX) :].split("__"))
        section, leaf = path[0], path[-1]
        wanted = 3 if section == "upstream" else 2
        if path == ("mirror",):
            good[name] = environ[name]
            layer.places[path] = f"environment {name}"
        elif section not in ("class", "mirror") and len(path) == wanted and leaf in sections.get(section, ()):
            good[name] = environ[name]
            layer.places[path] = f"environment {name}"
            at = layer.tree
            for key in path[:-1]:
                at = at.setdefault(key, {})
            at[leaf] = environ[name]
        elif SECRET_WORDS.search(leaf):
            problems.append(
                f"environment {name}: a secret is never given in the environment; put it in a file and set {name}_FILE"
            )
        else:
            near = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.75)
            problems.append(
                f"environment {name}: there is no such key" + (f"; did you mean {near[0]}?" if near else "")
            )
    return good, layer, problems


def flag_layer(overrides: Mapping[str, object]) -> Layer:
    """Turn ``{"server.listen": "..."}`` from the command line into a layer."""
    layer = Layer()
    for dotted, value in overrides.items():
        path = tuple(dotted.split("."))
        at = layer.tree
        for key in path[:-1]:
            at = at.setdefault(key, {})
        at[path[-1]] = value
        layer.places[path] = "flag"
    return layer


def read_files(path: Path) -> list[tuple[str, str]]:
    """Return ``(label, text)`` of a configuration file and of ``config.d/*.toml`` beside it, in name order.

    Raises ``OSError`` or ``UnicodeDecodeError`` of whichever cannot be read.
    """
    found = [(path.name, path.read_text(encoding="utf-8"))]
    extra = path.parent / "config.d"
    if extra.is_dir():
        found += [
            (f"config.d/{each.name}", each.read_text(encoding="utf-8"))
            for each in sorted(extra.iterdir(), key=lambda each: each.name)
            if each.suffix == ".toml" and not each.name.startswith(".")
        ]
    return found
