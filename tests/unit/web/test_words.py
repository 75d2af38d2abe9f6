"""Both languages say everything, and every code has its page."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from mirror_sync.actions import status
from mirror_sync.domain.progress import Way
from mirror_sync.domain.refs import Change
from mirror_sync.domain.runs import Activity, Health, Outcome, Step, Trigger
from mirror_sync.web.words import ACTIVITY, CODES, HEALTH, OUTCOME, SENTENCES, WAYS, WORDS

ROOT = Path(__file__).parents[3]
WEB = ROOT / "mirror_sync" / "web"
PO = WEB / "translations" / "zh" / "LC_MESSAGES" / "messages.po"
NO_CHINESE_NEEDED = {"Webhook"}


def catalogue() -> Catalog:
    with PO.open("rb") as file:
        return read_po(file, locale="zh")


def wanted() -> set[str]:
    found: set[str] = set()
    methods = [("**.py", "python"), ("**/templates/**.html", "jinja2")]
    keywords = {"_": None, "gettext": None, "ngettext": (1, 2), "_n": None}
    for _file, _line, message, _comments, _context in extract_from_dir(str(WEB), methods, keywords=keywords):
        found.add(message if isinstance(message, str) else message[0])
    return found


def test_every_message_has_a_chinese_twin() -> None:
    known = {(m.id if isinstance(m.id, str) else m.id[0]): m for m in catalogue() if m.id}
    assert wanted() == set(known)
    for key, message in known.items():
        texts = [message.string] if isinstance(message.string, str) else list(message.string)
        assert all(texts), key
        assert not message.fuzzy, key
        for text in texts:
            assert re.search(r"[\u4e00-\u9fff]", text) or text in NO_CHINESE_NEEDED, key
            assert sorted(re.findall(r"%\(\w+\)[sd]", text)) == sorted(
                set(re.findall(r"%\(\w+\)[sd]", "".join(message.id)))
            ) or ("%(num)d" in text), key


def test_a_space_stands_between_chinese_and_latin_letters() -> None:
    mixed = re.compile(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]")
    for message in catalogue():
        if message.id:
            texts = [message.string] if isinstance(message.string, str) else list(message.string)
            assert not any(mixed.search(re.sub(r"%\(\w+\)[sd]", "", text)) for text in texts), message.string


def test_the_compiled_catalogue_is_the_written_one() -> None:
    out = io.BytesIO()
    write_mo(out, catalogue())
    assert PO.with_suffix(".mo").read_bytes() == out.getvalue(), "run: pybabel compile -d mirror_sync/web/translations"


def test_every_code_has_its_page() -> None:
    used: set[str] = set()
    for path in (ROOT / "mirror_sync").rglob("*.py"):
        if path.parent.name != "web":
            used |= set(re.findall(r"\bMS-[A-Z][0-9]{3}\b", path.read_text(encoding="utf-8")))
    assert used
    assert used <= set(CODES)


@pytest.mark.parametrize(
    ("enumeration", "table"),
    [
        (Health, HEALTH),
        (Activity, ACTIVITY),
        (Outcome, OUTCOME),
        (Trigger, WORDS),
        (Step, WORDS),
        (Change, WORDS),
        (Way, WAYS),
    ],
)
def test_every_word_of_ours_has_its_sign(enumeration: type[Health], table: dict[str, object]) -> None:
    assert {member.value for member in enumeration} <= set(table)


def test_the_sentences_of_the_status_are_the_ones_translated() -> None:
    source = Path(status.__file__).read_text(encoding="utf-8")
    source = source.replace("\\'", "'").replace('\\"', '"')
    missing = [sentence for sentence in SENTENCES if sentence not in source]
    assert missing == []


def test_colours_are_readable_in_both_themes() -> None:
    css = (WEB / "static" / "style.css").read_text()
    light, dark = css.split("@media (prefers-color-scheme: dark)", 1)
    for theme in (light.split("* {", 1)[0], dark.split("* {", 1)[0]):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", theme))
        ground = [colours["page"], colours["card"]]
        words = ("text", "quiet", "link", "fresh", "stale", "failing", "incomplete", "gone", "paused", "syncing")
        for name in words:
            for back in ground:
                assert contrast(colours[name], back) >= 4.5, (name, back)
        assert contrast(colours["link"], colours["code"]) >= 4.5
        assert contrast(colours["text"], colours["code"]) >= 4.5


def contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2."""
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:]
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
