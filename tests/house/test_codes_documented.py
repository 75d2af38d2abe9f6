"""Every code of the program has one entry in the runbook and one page, and neither explains what does not exist."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mirror_sync.web.words import CODES

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
_CODE = re.compile(r"\bMS-[A-Z][0-9]{3}\b")
_MADE = re.compile(r"f\"(MS-[A-Z])\{")
_ACTORS = ("the clock", "you", "the owner", "nobody")


def raised() -> set[str]:
    """Codes that the package can tell, the page of explanations aside."""
    texts = [
        path.read_text(encoding="utf-8")
        for path in (ROOT / "mirror_sync").rglob("*.py")
        if path.name != "words.py" and path.parent.name != "testing"
    ]
    return {code for text in texts for code in _CODE.findall(text)}


def entries() -> dict[str, str]:
    parts = re.split(r"^### (.*)$", RUNBOOK, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_code_has_one_entry_and_every_entry_a_code() -> None:
    headings = Counter(re.findall(r"^### (.*)$", RUNBOOK, re.MULTILINE))
    assert [heading for heading, times in headings.items() if times > 1] == []
    assert set(headings) == raised()


def test_every_code_has_its_page_and_every_page_a_code() -> None:
    assert set(CODES) == raised()


def test_codes_put_together_at_run_time_are_written_out_elsewhere() -> None:
    makers = {
        (str(path.relative_to(ROOT)), prefix)
        for path in (ROOT / "mirror_sync").rglob("*.py")
        for prefix in _MADE.findall(path.read_text(encoding="utf-8"))
    }
    assert makers == {("mirror_sync/actions/board.py", "MS-L")}, "write the codes out, or add them here and below"
    assert {"MS-L404", "MS-L410"} <= raised()


@pytest.mark.parametrize("code", sorted(CODES))
def test_the_entry_begins_as_the_page_does_and_says_who_acts_next(code: str) -> None:
    entry = entries()[code]
    assert entry.lstrip().startswith(f"**{CODES[code].title}**")
    (line,) = re.findall(r"^- Next: (.*)\.$", entry, re.MULTILINE)
    assert line.startswith(_ACTORS)
