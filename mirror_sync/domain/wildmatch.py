"""Git's wildcards: ``*``, ``?``, ``[classes]`` and ``**``, as ``gitignore(5)`` and Git's own tests have them.

Matching takes time proportional to text times pattern, whatever an upstream writes:
all positions of the pattern are followed at once, as the bits of one integer.
"""

from __future__ import annotations

SLASH = 0x2F
SPECIAL = frozenset(b"*?[\\")
ANY_BUT_SLASH = ((1 << 256) - 1) & ~(1 << SLASH)


def _members(*codes: int) -> int:
    return sum(1 << code for code in codes)


_ALPHA = _members(*range(0x41, 0x5B), *range(0x61, 0x7B))
_DIGIT = _members(*range(0x30, 0x3A))
_GRAPH = _members(*range(0x21, 0x7F))
_CLASSES = {
    b"alnum": _ALPHA | _DIGIT,
    b"alpha": _ALPHA,
    b"blank": _members(0x20, 0x09),
    b"cntrl": _members(*range(0x20), 0x7F),
    b"digit": _DIGIT,
    b"graph": _GRAPH,
    b"lower": _members(*range(0x61, 0x7B)),
    b"print": _GRAPH | _members(0x20),
    b"punct": _GRAPH & ~(_ALPHA | _DIGIT),
    b"space": _members(0x20, 0x09, 0x0A, 0x0D),  # Git's own: neither vertical tab nor form feed
    b"upper": _members(*range(0x41, 0x5B)),
    b"xdigit": _DIGIT | _members(*range(0x41, 0x47), *range(0x61, 0x67)),
}


class Wildcard:
    """One compiled pattern, matched against a whole path or file name.

    ``*``, ``?`` and classes never match a slash; on text without slashes that is also
    what Git does for patterns without them.  A malformed pattern matches nothing.
    """

    __slots__ = (
        "_end",
        "_first",
        "_last",
        "_least",
        "_loops",
        "_masks",
        "_skips",
        "_stars",
        "_tokens",
        "size",
        "sound",
    )

    def __init__(self, pattern: bytes) -> None:
        self._tokens: list[int] = []
        """What each position consumes, as a set of bytes (bits); 0 for positions that only lead on."""
        self._stars = 0
        """Positions that stay on any byte but a slash, and lead on without consuming."""
        self._loops = 0
        """Positions that stay on every byte."""
        self._skips = 0
        """Positions that lead to the next and to the one after it: the entrance of ``**/``."""
        sound = self._compile(pattern)
        self.sound = sound
        """Whether the pattern is well formed."""
        self.size = len(self._tokens)
        """How much work a match is for each byte of text, in relation to other patterns."""
        self._end = 1 << self.size if sound else 0
        self._masks: dict[int, int] = {}
        plain = not (self._stars | self._skips) & 1
        self._first = self._tokens[0] if plain and self._tokens else -1
        self._last = self._tokens[-1] if self._tokens and self._tokens[-1] else -1
        self._least = sum(
            1 for position, token in enumerate(self._tokens) if token and not (self._loops >> position) & 1
        )

    def could_match(self, text: bytes) -> bool:
        """Tell in one step whether matching ``text`` is worth the work."""
        if not self._end or len(text) < self._least:
            return False
        return not text or bool((self._first >> text[0]) & (self._last >> text[-1]) & 1)

    def matches(self, text: bytes) -> bool:
        """Tell whether the pattern matches all of ``text``."""
        if not self.could_match(text):
            return False
        state = self._closure(1)
        masks = self._masks
        for byte in text:
            mask = masks.get(byte)
            if mask is None:
                mask = masks[byte] = self._mask(byte)
            stay = self._loops if byte == SLASH else self._loops | self._stars
            state = self._closure(((state & mask) << 1) | (state & stay))
            if not state:
                return False
        return state & self._end != 0

    def _closure(self, state: int) -> int:
        """Add the positions reached without consuming; no more than two follow one another."""
        skips, free = self._skips, self._skips | self._stars
        for _ in range(2):
            state |= ((state & free) << 1) | ((state & skips) << 2)
        return state

    def _mask(self, byte: int) -> int:
        bits = 0
        for position, token in enumerate(self._tokens):
            if (token >> byte) & 1:
                bits |= 1 << position
        return bits

    def _compile(self, pattern: bytes) -> bool:
        at, length = 0, len(pattern)
        while at < length:
            byte = pattern[at]
            if byte == 0x2A:  # *
                at = self._add_stars(pattern, at)
            elif byte == 0x3F:  # ?
                self._tokens.append(ANY_BUT_SLASH)
                at += 1
            elif byte == 0x5B:  # [
                found = _read_class(pattern, at + 1)
                if found is None:
                    return False
                self._tokens.append(found[0] & ANY_BUT_SLASH)
                at = found[1]
            elif byte == 0x5C:  # backslash
                if at + 1 == length:
                    return False
                self._tokens.append(1 << pattern[at + 1])
                at += 2
            else:
                self._tokens.append(1 << byte)
                at += 1
        return True

    def _add_stars(self, pattern: bytes, start: int) -> int:
        """Add the run of stars at ``start`` and return where reading goes on."""
        end = start
        while pattern[end : end + 1] == b"*":
            end += 1
        after = pattern[end : end + 2]
        whole = end - start > 1 and (start == 0 or pattern[start - 1] == SLASH)
        if not whole or not (after == b"" or after[0] == SLASH or after == b"\\/"):
            self._add(stars=True)
        elif after[:1] != b"/":
            self._add(stars=True, loops=True)
        else:
            position = len(self._tokens)
            if not (position > 1 and (self._skips >> (position - 2)) & 1):  # **/**/ says no more than **/
                self._add(skips=True)
                self._add(token=1 << SLASH, loops=True)
            end += 1
        return end

    def _add(self, *, token: int = 0, stars: bool = False, loops: bool = False, skips: bool = False) -> None:
        bit = 1 << len(self._tokens)
        self._tokens.append(token)
        self._stars |= bit if stars else 0
        self._loops |= bit if loops else 0
        self._skips |= bit if skips else 0


def plain_length(pattern: bytes) -> int:
    """Return how many bytes ``pattern`` has before its first special one."""
    for at, byte in enumerate(pattern):
        if byte in SPECIAL:
            return at
    return len(pattern)


def _read_class(pattern: bytes, at: int) -> tuple[int, int] | None:
    """Return the members of the class that begins after its bracket and where reading goes on; ``None``: malformed."""
    negated = pattern[at : at + 1] in {b"!", b"^"}
    at += negated
    members = 0
    previous = 0
    first = True
    while first or pattern[at : at + 1] != b"]":
        first = False
        byte = pattern[at : at + 1]
        if byte == b"\\":
            at += 1
            if at >= len(pattern):
                return None
            members |= 1 << pattern[at]
            previous = pattern[at]
        elif byte == b"-" and previous and pattern[at + 1 : at + 2] not in {b"", b"]"}:
            at += 1
            if pattern[at] == 0x5C:
                at += 1
            if at >= len(pattern):
                return None
            members |= _members(*range(previous, pattern[at] + 1))
            previous = 0
        elif byte == b"[" and pattern[at + 1 : at + 2] == b":":
            close = pattern.find(b"]", at + 2)
            if close == -1:
                return None
            if close > at + 2 and pattern[close - 1] == 0x3A:
                named = _CLASSES.get(pattern[at + 2 : close - 1])
                if named is None:
                    return None
                members |= named
                previous = 0
                at = close
            else:
                members |= 1 << 0x5B
                previous = 0x5B
        elif not byte:
            return None
        else:
            members |= 1 << byte[0]
            previous = byte[0]
        at += 1
    return (~members if negated else members) & ((1 << 256) - 1), at + 1
