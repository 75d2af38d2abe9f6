"""On which line of a TOML file each key stands; ``tomllib`` does not tell."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

KeyPath = tuple[str | int, ...]


def key_lines(text: str) -> Mapping[KeyPath, int]:
    """Return the line, counted from 1, of every key and table header of a *valid* TOML document.

    Entries of arrays of tables have their index in the path: ``("mirror", 0, "url")``.
    Keys inside inline tables are not listed; their table's key is.
    """
    return _Scanner(text.replace("\r\n", "\n")).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.table: KeyPath = ()
        self.counts: dict[KeyPath, int] = {}
        self.found: dict[KeyPath, int] = {}

    def scan(self) -> Mapping[KeyPath, int]:
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\n":
                self.step()
            elif char == "#":
                self.skip_comment()
            elif char == "[":
                self.header()
            else:
                self.assignment()
        return self.found

    def step(self, count: int = 1) -> None:
        self.line += self.text.count("\n", self.at, self.at + count)
        self.at += count

    def skip_comment(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end == -1 else end

    def header(self) -> None:
        array = self.text.startswith("[[", self.at)
        line = self.line
        self.step(2 if array else 1)
        keys = self.keys("]")
        self.step(2 if array else 1)
        path = self.resolve(keys[:-1]) + keys[-1:]
        if array:
            index = self.counts.get(path, -1) + 1
            self.counts[path] = index
            self.found.setdefault(path, line)
            path = (*path, index)
        self.table = path if array else self.resolve(keys)
        self.found.setdefault(self.table, line)

    def resolve(self, keys: tuple[str, ...]) -> KeyPath:
        """A header inside an array of tables belongs to the array's latest entry."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            if path in self.counts:
                path = (*path, self.counts[path])
        return path

    def assignment(self) -> None:
        line = self.line
        path = self.table + self.keys("=")
        self.step()
        for length in range(len(self.table) + 1, len(path) + 1):
            self.found.setdefault(path[:length], line)
        self.skip_value()

    def keys(self, end: str) -> tuple[str, ...]:
        """Read a dotted key up to, not including, the character ``end``."""
        keys: list[str] = []
        bare = ""
        while (char := self.text[self.at]) != end:
            if char in "\"'":
                start = self.at
                self.skip_string()
                # One string is read by tomllib itself, escapes and all.
                keys.append(str(tomllib.loads("k = " + self.text[start : self.at])["k"]))
            elif char in ". \t":
                if bare:
                    keys.append(bare)
                bare = ""
                self.step()
            else:
                bare += char
                self.step()
        return (*keys, bare) if bare else tuple(keys)

    def skip_value(self) -> None:
        depth = 0
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in "\"'":
                self.skip_string()
                continue
            if char == "#":
                self.skip_comment()
                continue
            if char == "\n" and depth == 0:
                return
            depth += (char in "[{") - (char in "]}")
            self.step()

    def skip_string(self) -> None:
        quote = self.text[self.at]
        long = self.text.startswith(quote * 3, self.at)
        mark = quote * 3 if long else quote
        self.step(len(mark))
        while not self.text.startswith(mark, self.at):
            self.step(2 if quote == '"' and self.text[self.at] == "\\" else 1)
        self.step(len(mark))
        while long and self.text.startswith(quote, self.at):
            self.step()  # up to two quotation marks may stand just before the closing three
