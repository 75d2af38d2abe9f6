"""Which paths of a tree a checkout would send through LFS: the tree's own ``.gitattributes``, read as Git reads them.

This is our own reader (Git's has had memory faults, and content we mirror is not
ours), following ``gitattributes(5)`` and compared with ``git check-attr`` in tests.
Paths and contents are bytes; directories have no trailing slash, the top is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from mirror_sync.domain.wildmatch import Wildcard, plain_length

ATTRIBUTES_NAME = b".gitattributes"
MAX_LINE_BYTES = 2047
"""Git passes over longer lines."""

MAX_FILE_BYTES = 100 * 1024 * 1024 - 1
"""Git passes over larger files."""

WORK_LIMIT = 50_000_000
"""Steps of reading and matching, each about a microsecond at worst, after which every further path counts as marked.

Holding a ref too many is the safe side.
"""

_BLANKS = b" \t\r\n"
_MACRO = b"[attr]"
_FILTER = b"filter"
_ATTRIBUTE_NAME = re.compile(rb"[A-Za-z0-9_.][-A-Za-z0-9_.]*\Z")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPES = dict(zip(b'abfnrtv\\"', b'\a\b\f\n\r\t\v\\"', strict=True))
_OCTAL = re.compile(rb"[0-3][0-7][0-7]")
_QUOTED_RUN = re.compile(rb'[^"\\]*')


class _Value(Enum):
    """What an attribute is set to, as far as it matters for LFS."""

    TRUE = "true"
    LFS = "lfs"
    OTHER = "other"


_States = tuple[tuple[bytes, _Value], ...]


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of an attributes file: a pattern or, for a macro, its name; and what it sets."""

    subject: bytes
    macro: bool
    states: _States


@dataclass(slots=True)
class Work:
    """Steps of reading and matching that may still be taken; shared by all attributes that one question asks."""

    steps: int = WORK_LIMIT


# ---------------------------------------------------------------- deciding


@dataclass(slots=True)
class _File:
    """The lines of one attributes file that can decide anything about LFS, ready to be asked by path.

    Lines are known by their number; a later one wins.
    """

    states: list[_States] = field(default_factory=list)
    names: dict[bytes, list[int]] = field(default_factory=dict)
    """Patterns that are a plain file name."""
    endings: dict[bytes, list[int]] = field(default_factory=dict)
    """Patterns that are a star and a plain ending."""
    lengths: list[int] = field(default_factory=list)
    paths: dict[bytes, list[int]] = field(default_factory=dict)
    """Patterns that are a plain path."""
    wild: list[tuple[int, bool, bytes, Wildcard]] = field(default_factory=list)
    """All others: number, whether the file name alone is matched, plain beginning, the rest."""


class Attributes:
    """The attributes files of one tree, or those on the way to one directory.

    ``files`` maps a directory to the content of its ``.gitattributes``.  Malformed
    lines count as Git counts them: not at all.  ``fold`` matches patterns as Git does
    under ``core.ignoreCase``, the default on Windows and macOS.
    """

    def __init__(self, files: Mapping[bytes, bytes], *, work: Work | None = None, fold: bool = False) -> None:
        self._work = work or Work()
        self._given = files
        self._fold = fold
        self._folded: Attributes | None = None
        files = {directory: content for directory, content in files.items() if len(content) <= MAX_FILE_BYTES}
        top = list(_read_lines(files.get(b"", b""), macros=True))
        self._macros: dict[bytes, _States] = {}
        for line in top:
            if line.macro:
                self._macros[line.subject] = line.states
        self._relevant = _deciding(self._macros)
        self._files: dict[bytes, _File] = {}
        for directory, content in files.items():
            self._work.steps -= len(content)
            if self._work.steps <= 0:
                return
            lines = _read_lines(content, macros=False) if directory else top
            file = self._index(line for line in lines if not line.macro)
            if file.states:
                self._files[directory] = file

    def marks(self, path: bytes) -> bool:
        """Tell whether the attribute ``filter`` of ``path`` is ``lfs``."""
        assigned: dict[bytes, _Value] = {}
        text = path.lower() if self._fold else path
        end = path.rfind(b"/")
        name = text[end + 1 :]
        while True:
            directory = path[:end] if end > 0 else b""
            file = self._files.get(directory)
            if file is not None:
                below = text[len(directory) + 1 :] if directory else text
                for number in self._matching(file, below, name):
                    self._assign(file.states[number], assigned)
                    if _FILTER in assigned:
                        return assigned[_FILTER] is _Value.LFS
            if self._work.steps <= 0:
                return True
            if end <= 0:
                return False
            end = path.rfind(b"/", 0, end)

    def marks_anywhere(self, path: bytes) -> bool:
        """Tell whether :meth:`marks` holds on some system: where letter case counts, or where it does not."""
        if self.marks(path):
            return True
        if self._folded is None:
            self._folded = Attributes(self._given, work=self._work, fold=True)
        return self._folded.marks(path)

    def _assign(self, states: _States, assigned: dict[bytes, _Value]) -> None:
        """Set what is not set yet, the last of a line first; a macro that becomes true sets its own at once."""
        pending = [iter(reversed(states))]
        while pending:
            for attribute, value in pending[-1]:
                if attribute in assigned:
                    continue
                assigned[attribute] = value
                macro = self._macros.get(attribute)
                if value is _Value.TRUE and macro is not None:
                    pending.append(iter(reversed(macro)))
                    break
            else:
                pending.pop()

    def _matching(self, file: _File, path: bytes, name: bytes) -> Iterator[int]:
        """Yield the numbers of the lines that match, the last first."""
        plain = [*file.names.get(name, ()), *file.paths.get(path, ())]
        for length in file.lengths:
            if length <= len(name):
                plain += file.endings.get(name[len(name) - length :], ())
        self._work.steps -= len(file.lengths) + len(plain) + 1
        plain.sort()
        for number, by_name, beginning, wildcard in reversed(file.wild):
            while plain and plain[-1] > number:
                yield plain.pop()
            if self._work.steps <= 0:
                return
            text = name if by_name else path
            self._work.steps -= 1
            if text.startswith(beginning):
                rest = text[len(beginning) :]
                if wildcard.could_match(rest):
                    self._work.steps -= len(rest) * (1 + wildcard.size // 128)
                    if wildcard.matches(rest):
                        yield number
        while plain:
            yield plain.pop()

    def _index(self, lines: Iterable[_Line]) -> _File:
        file = _File()
        for line in lines:
            states = tuple(state for state in line.states if state[0] in self._relevant)
            if states:
                self._add(file, line.subject, states)
        file.lengths = sorted({len(ending) for ending in file.endings})
        return file

    def _add(self, file: _File, pattern: bytes, states: _States) -> None:
        if self._fold:
            pattern = pattern.lower().replace(b"[:upper:]", b"[:lower:]")
        number = len(file.states)
        by_name = b"/" not in pattern
        pattern = pattern.removeprefix(b"/")
        length = plain_length(pattern)
        decides = any(attribute == _FILTER for attribute, _ in states)
        if length == len(pattern):
            _note(file.names if by_name else file.paths, pattern, number, decides=decides)
        elif by_name and pattern[:1] == b"*" and plain_length(pattern[1:]) == len(pattern) - 1:
            _note(file.endings, pattern[1:], number, decides=decides)
        else:
            # Git cuts the plain beginning off before it looks at stars, so foo**/bar means foo + **/bar
            wild_from = 0 if by_name else length
            file.wild.append((number, by_name, pattern[:wild_from], Wildcard(pattern[wild_from:])))
        file.states.append(states)


def _note(table: dict[bytes, list[int]], key: bytes, number: int, *, decides: bool) -> None:
    """Remember one more line for ``key``; lines before one that decides are never asked."""
    if decides:
        table[key] = [number]
    else:
        table.setdefault(key, []).append(number)


def _deciding(macros: Mapping[bytes, _States]) -> set[bytes]:
    """Return the attributes that can decide about LFS: ``filter``, and macros that lead to it."""
    leading: dict[bytes, set[bytes]] = {}
    for name, states in macros.items():
        for attribute, _ in states:
            leading.setdefault(attribute, set()).add(name)
    found = {_FILTER}
    pending = [_FILTER]
    while pending:
        for name in leading.get(pending.pop(), ()):
            if name not in found:
                found.add(name)
                pending.append(name)
    return found


# ---------------------------------------------------------------- reading


def _read_lines(content: bytes, *, macros: bool) -> Iterator[_Line]:
    # Git reads a file with a byte order mark in two ways, by where it finds it; marking more is the safe side
    for text in content.partition(b"\0")[0].removeprefix(_BYTE_ORDER_MARK).split(b"\n"):
        line = _read_line(text)
        if line is not None and (macros or not line.macro):
            yield line


def _read_line(text: bytes) -> _Line | None:
    """Return what a line says, or ``None`` for a comment, an empty line and whatever Git passes over."""
    stripped = text.lstrip(_BLANKS)
    if not stripped or stripped.startswith(b"#") or len(text) > MAX_LINE_BYTES:
        return None
    quoted = _unquote(stripped) if stripped.startswith(b'"') else None
    if quoted is not None:
        subject, rest = quoted
    else:
        subject = re.split(rb"[ \t\r\n]", stripped, maxsplit=1)[0]
        rest = stripped[len(subject) :]
    macro = len(subject) > len(_MACRO) and subject.startswith(_MACRO)
    if macro:
        subject = re.split(rb"[ \t\r\n]", subject[len(_MACRO) :].lstrip(_BLANKS), maxsplit=1)[0]
        if _ATTRIBUTE_NAME.match(subject) is None:
            return None
    states = _read_states(rest)
    if states is None or (not macro and not _can_match_files(subject)):
        return None
    return _Line(subject, macro, states)


def _can_match_files(pattern: bytes) -> bool:
    """Tell whether a pattern is one that Git asks about files: neither negated nor for directories only."""
    return not pattern.startswith(b"!") and not pattern.endswith(b"/") and pattern != b""


def _read_states(text: bytes) -> _States | None:
    """Return what each word sets, or ``None`` when one names no attribute: then Git passes over the line."""
    states: list[tuple[bytes, _Value]] = []
    for word in re.split(rb"[ \t\r\n]+", text):
        if not word:
            continue
        name, equals, value = word.partition(b"=")
        if word[:1] in {b"-", b"!"}:
            name, kind = name[1:], _Value.OTHER
        elif not equals:
            kind = _Value.TRUE
        else:
            kind = _Value.LFS if value == b"lfs" else _Value.OTHER
        if _ATTRIBUTE_NAME.match(name) is None:
            return None
        states.append((name, kind))
    return tuple(states)


def _unquote(text: bytes) -> tuple[bytes, bytes] | None:
    r"""Return the pattern in C-style quotes and what follows it; ``None`` when the quoting is broken.

    A NUL written as ``\000`` ends the pattern, as it does in Git.
    """
    out = bytearray()
    at = 1
    while True:
        run = _QUOTED_RUN.match(text, at)
        assert run is not None
        out += run[0]
        at = run.end() + 1
        closing = text[run.end() : at]
        if closing == b'"':
            return bytes(out).partition(b"\0")[0], text[at:]
        octal = _OCTAL.match(text, at)
        if closing == b"\\" and octal is not None:
            out.append(int(octal[0], 8))
            at += 3
        elif closing == b"\\" and text[at : at + 1] and text[at] in _ESCAPES:
            out.append(_ESCAPES[text[at]])
            at += 1
        else:
            return None
