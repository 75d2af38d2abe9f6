"""The pages in a real browser: no console message, nothing refused by the policy, nothing from outside."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.daemon import Daemon
from tests.support.tools import require
from tests.support.upstream import GitUpstream
from tests.support.web_world import MirrorSpec, Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAME = "git.example/acme/model"
MOVING = "git.example/acme/moving"
PATHS = [
    "/",
    "/mirrors",
    "/mirrors?health=failing",
    f"/mirrors/{NAME}",
    "/mirrors/git.example/acme/new",
    "/mirrors/git.example/acme/moving",
    "/mirrors/git.example/acme/filling",
    "/use",
    "/errors",
    "/nowhere",
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with GitUpstream(tmp_path_factory.mktemp("source")) as upstream:
        repo = upstream.create("acme/model")
        first = repo.commit({"README.md": "hello\n"}, lfs={"w.bin": b"W" * 5000})
        repo.update("refs/heads/<script>document.title='owned'</script>", first)
        repo.update("refs/heads/" + "very-long-" * 20, first)
        mirrors = {
            NAME: MirrorSpec(
                repository=str(repo.path),
                objects=["W" * 5000],
                queued=["q"],
                known_missing=["k"],
                holds=[
                    ("refs/heads/<img src=x onerror=\"document.title='owned'\">", "MS-H004", "<svg onload=alert(1)>")
                ],
                notes=["<b>note</b>"],
                kept=[("refs/heads/old", "2" * 40)],
            ),
            "git.example/acme/new": MirrorSpec(),
            MOVING: MirrorSpec(
                progress={
                    "kind": "git",
                    "way": "ladder",
                    "done": 1000,
                    "total": 4000,
                    "received": 412_000_000,
                    "rate": 2_500_000.0,
                    "connections": 1,
                    "cuts": 3,
                    "sources": ["a-very-long-name." * 9 + "example"],
                }
            ),
            "git.example/acme/filling": MirrorSpec(
                left_out=["L"],
                progress={
                    "kind": "lfs",
                    "way": "parts",
                    "done": 61 << 30,
                    "total": None,
                    "received": 62 << 30,
                    "rate": 84_000_000.0,
                    "connections": 8,
                    "cuts": 2,
                    "items": 37,
                    "items_total": 120,
                },
            ),
            "git.example/acme/broken": MirrorSpec(failure=("MS-U503", "no route")),
        }
        with Served(tmp_path_factory.mktemp("served"), mirrors) as served:
            yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = require("chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_render_without_a_complaint(served: Served, browser: Browser, language: str, scheme: Any) -> None:
    context = browser.new_context(locale=language, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    for path in PATHS:
        answer = page.goto(served.url + path)
        assert answer is not None
        assert page.locator("html").get_attribute("lang") == language
        assert page.locator("h1").count() == 1
        assert "owned" not in page.title()
        assert page.evaluate("getComputedStyle(document.body).maxWidth") != "none", "the style sheet was not applied"
        headline = page.locator("main").inner_text()
        if language == "zh-CN":
            assert re.search("[\u4e00-\u9fff]", headline), path
    complaints = [text for text in said if "404" not in text]
    assert complaints == []
    assert {url.split("/")[2] for url in asked} == {f"127.0.0.1:{served.port}"}
    context.close()


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(served: Served, browser: Browser, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    for path in PATHS:
        page.goto(served.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    context.close()


def test_everything_works_without_scripts_and_by_keyboard(served: Served, browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(java_script_enabled=False, locale="en")
    page = context.new_page()
    page.goto(f"{served.url}/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#content")
    page.goto(f"{served.url}/mirrors")
    page.locator("input[name=q]").fill("model")
    page.locator("input[name=q]").press("Enter")
    page.get_by_role("link", name=NAME).click()
    assert page.url == f"{served.url}/mirrors/{NAME}"
    page.get_by_role("link", name="中文").click()
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.goto(f"{served.url}/")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.screenshot(path=str(tmp_path / "page.png"))
    context.close()


@pytest.mark.parametrize(("language", "label"), [("en", f"Progress of {MOVING}"), ("zh-CN", f"{MOVING} 的进度")])
def test_progress_is_a_bar_with_a_name_for_those_who_do_not_see_it(
    served: Served, browser: Browser, language: str, label: str
) -> None:
    context = browser.new_context(java_script_enabled=False, locale=language)
    page = context.new_page()
    for path in ("/", f"/mirrors/{MOVING}"):
        page.goto(served.url + path)
        bar = page.get_by_role("progressbar", name=label)
        assert bar.count() == 1
        assert bar.is_visible()
        assert bar.get_attribute("value") == "25"
        assert bar.get_attribute("max") == "100"
        assert "25 %" in page.locator("main").inner_text()
        assert page.locator("meta[http-equiv=refresh]").count() == 1
    page.goto(f"{served.url}/mirrors/git.example/acme/filling")
    assert page.get_by_role("progressbar").get_attribute("value") is None, "of how much is not known"
    context.close()


def test_a_transfer_is_seen_to_move_without_scripts(browser: Browser, tmp_path: Path) -> None:
    """From the wire to the screen: the page renews itself while an LFS object comes in drop by drop."""
    from playwright.sync_api import expect

    with GitUpstream(tmp_path / "upstream") as upstream, Daemon(tmp_path / "mirror") as daemon:
        repo = upstream.create("acme/model")
        repo.commit({"README.md": "hello\n"}, lfs={"w.bin": random.Random(1).randbytes(48 << 20)})
        upstream.fault(r"^GET /-/lfs/", times=None, drip=(4 << 10, 0.1))
        name = daemon.name(repo.url)
        daemon.start(repo.url)
        context = browser.new_context(java_script_enabled=False, locale="en")
        page = context.new_page()
        daemon.wait_until(lambda: daemon.json(f"/api/v1/mirrors/by-name/{name}")["progress"], "progress is told")
        page.goto(f"{daemon.origin}/mirrors/{name}")
        bar = page.get_by_role("progressbar", name=f"Progress of {name}")
        bar.wait_for(timeout=60_000)
        told = page.locator("section", has=page.get_by_role("heading", name="Progress")).inner_text()
        assert "parts" in told
        assert "48.0 MiB" in told
        seen = bar.get_attribute("value")
        assert seen is not None
        expect(bar).not_to_have_attribute("value", seen, timeout=60_000)
        page.goto(f"{daemon.origin}/")
        assert page.get_by_role("progressbar", name=f"Progress of {name}").is_visible()
        progress = daemon.json(f"/api/v1/mirrors/by-name/{name}")["progress"]
        assert progress["total"] == 48 << 20
        assert 0 < progress["received_bytes"] < 48 << 20
        assert "lfs by parts: " in daemon.cli("show", name).stdout
        metrics = daemon.get("/metrics")[1].decode()
        assert 'mirror_sync_transfers{kind="lfs",way="parts"} 1.0' in metrics
        context.close()
