"""Pages in both languages, with hostile text in every field."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient

from mirror_sync.web.words import CODES
from tests.support.web_world import World

NAME = "git.example/acme/model"
PAGES = [
    "/",
    "/mirrors",
    "/mirrors?health=failing",
    "/mirrors?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    f"/mirrors/{NAME}",
    f"/mirrors/{NAME}?prefix=%22%3E%3Cscript%3E",
    "/mirrors/git.example/acme/new",
    "/mirrors/git.example/acme/broken",
    "/mirrors/git.example/acme/asleep",
    "/mirrors/git.example/acme/going",
    "/use",
    "/errors",
    "/errors/MS-A401",
]
ALLOWED = {
    "html", "head", "meta", "title", "link", "body", "a", "header", "main", "footer", "h1", "h2", "p", "section",
    "div", "table", "thead", "tbody", "tr", "th", "td", "span", "code", "pre", "time", "form", "label", "input",
    "select", "option", "button", "nav", "ul", "li", "dl", "dt", "dd", "meter", "q",
}  # fmt: skip
VOID = {"meta", "link", "input"}


class Reader(HTMLParser):
    """Collects what a browser would see, and complains of what it should not."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.labelled: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
            if name in ("href", "src", "action"):
                assert value is not None
                assert not re.match(r"\s*(javascript|data|vbscript):", value, re.IGNORECASE), value
                self.links.append(value)
            if name == "id":
                self.ids.append(value or "")
            if name == "aria-labelledby":
                self.labelled.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_sound_in_both_languages(client: FlaskClient, path: str, language: str) -> None:
    answer = client.get(path, headers={"Accept-Language": language, "Accept": "text/html"})
    assert answer.status_code == 200
    tag = {"en": "en", "zh": "zh-CN"}[language]
    assert answer.headers["Content-Language"] == tag
    assert "Accept-Language" in answer.headers["Vary"]
    assert f'<html lang="{tag}">' in answer.text
    reader = read(answer.text)
    text = "".join(reader.text)
    assert "alert(" not in text or "<" in text  # shown as text, never as a tag
    assert not re.search("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]", answer.text)
    assert len(reader.ids) == len(set(reader.ids))
    assert set(reader.labelled) <= set(reader.ids)
    for link in reader.links:
        assert not link.startswith("//")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers


def test_a_constant_sign_is_in_the_language_of_each_visitor(client: FlaskClient) -> None:
    template = client.application.jinja_env.from_string('{{ "fresh" | sign("health") }}')
    for language, word in (("en", "fresh"), ("zh", "最新"), ("en", "fresh")):
        with client.application.test_request_context("/", headers={"Accept-Language": language}):
            assert word in template.render()


def test_hostile_text_is_shown_as_text(client: FlaskClient) -> None:
    page = client.get(f"/mirrors/{NAME}").text
    assert "refs/heads/&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "refs/heads/old\\u202e" in page
    assert "\\x1b[31m" in page
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;i&gt;connect" in client.get("/mirrors/git.example/acme/broken").text
    assert "&lt;u&gt;holiday" in client.get("/mirrors/git.example/acme/asleep").text


def test_a_mirrors_page_says_what_people_ask(client: FlaskClient) -> None:
    page = client.get(f"/mirrors/{NAME}", headers={"Host": "mirror.example"}).text
    assert f"git clone http://mirror.example/{NAME}" in page
    for word in ("MS-H004", "MS-L404", "refs/heads/main", "refs/tags/v1", "2/4", "5 kB", "Kept old tips", "incomplete"):
        assert word in page, word
    chinese = client.get(f"/mirrors/{NAME}?lang=zh").text
    for word in ("不完整", "该引用需要一个上游自己也没有的 LFS 对象。", "保留的旧提交", "排队中"):
        assert word in chinese, word


def test_refs_are_found_by_prefix_and_page(client: FlaskClient) -> None:
    page = client.get(f"/mirrors/{NAME}?prefix=refs/tags/").text
    section = page[page.index('id="refs"') : page.index('id="runs"')]
    assert "refs/tags/v1" in section
    assert "refs/heads/main" not in section


@pytest.mark.parametrize(
    ("query", "cookie", "accept", "language"),
    [
        ("", "", "", "en"),
        ("", "", "zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("", "", "fr,de;q=0.9,zh-Hant;q=0.5,en;q=0.3", "zh-CN"),
        ("", "", "fr", "en"),
        ("", "zh", "en", "zh-CN"),
        ("?lang=en", "zh", "zh", "en"),
        ("?lang=zh", "", "en", "zh-CN"),
        ("?lang=klingon", "", "zh", "zh-CN"),
    ],
)
def test_the_language_is_chosen_by_query_then_cookie_then_browser(
    world: World, query: str, cookie: str, accept: str, language: str
) -> None:
    from mirror_sync.web import create_app

    client = create_app(world).test_client()
    if cookie:
        client.set_cookie("lang", cookie)
    answer = client.get(f"/use{query}", headers={"Accept-Language": accept} if accept else {})
    assert answer.headers["Content-Language"] == language
    if query in ("?lang=en", "?lang=zh"):
        assert f"lang={query[-2:]}" in answer.headers["Set-Cookie"]
        assert "SameSite=Lax" in answer.headers["Set-Cookie"]
        assert client.get("/use").headers["Content-Language"] == language


def test_the_language_link_keeps_the_question(client: FlaskClient) -> None:
    page = client.get("/mirrors?q=acme&health=fresh").text
    assert "?q=acme&amp;health=fresh&amp;lang=zh" in page


def test_a_browser_that_opens_a_clone_address_lands_on_the_page(client: FlaskClient) -> None:
    answer = client.get(f"/{NAME}.git", headers={"Accept": "text/html"})
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/mirrors/{NAME}"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/git.example/acme/absent", 404),
        ("/mirrors/git.example/acme/absent", 404),
        ("/mirrors/nonsense", 404),
        ("/mirrors/git.example/%2e%2e/%2e%2e/etc", 404),
        ("/errors/MS-Z999", 404),
        ("/nothing", 404),
        ("/git.example/acme/going", 410),
        (f"/mirrors/{NAME}?runs=x", 400),
    ],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_errors_are_pages_for_people_and_text_for_programs(
    client: FlaskClient, path: str, status: int, language: str
) -> None:
    page = client.get(path, headers={"Accept": "text/html", "Accept-Language": language})
    assert page.status_code == status
    read(page.text)
    program = client.get(path)
    assert program.status_code == status
    assert program.content_type.startswith("text/")
    assert "Traceback" not in page.text + program.text


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_has_a_page_in_both_languages(client: FlaskClient, code: str) -> None:
    english, chinese = (client.get(f"/errors/{code}?lang={lang}").text for lang in ("en", "zh"))
    assert CODES[code].title in html.unescape(english)
    assert re.search("[\u4e00-\u9fff]", chinese[chinese.index("<main") : chinese.index("</main>")])


def test_assets_are_ours_and_may_be_kept(client: FlaskClient) -> None:
    page = client.get("/").text
    style = re.search(r'href="(/static/style\.css\?v=\w+)"', page)
    assert style is not None
    answer = client.get(style[1])
    assert answer.content_type.startswith("text/css")
    assert "max-age=86400" in answer.headers["Cache-Control"]
    assert client.get("/static/icon.svg").content_type.startswith("image/svg+xml")
    assert client.get("/favicon.ico").status_code == 301
    assert "url(" not in answer.text
    assert "@import" not in answer.text


def test_an_error_of_ours_is_a_plain_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mirror_sync.errors import StateUnavailable
    from mirror_sync.web import create_app

    def down(*_arguments: object, **_named: object) -> None:
        raise StateUnavailable("no answer")

    def burst(*_arguments: object, **_named: object) -> None:
        raise ZeroDivisionError("never shown")

    client = create_app(world).test_client()
    monkeypatch.setattr(world.memory, "totals", down)
    answer = client.get("/", headers={"Accept": "text/html"})
    assert answer.status_code == 503
    assert "MS-D003" in answer.text
    assert client.get("/api/v1/status").content_type == "application/problem+json"
    monkeypatch.setattr(world.memory, "totals", burst)
    for path in ("/", "/api/v1/status"):
        answer = client.get(path, headers={"Accept": "text/html"})
        assert answer.status_code == 500
        assert "never shown" not in answer.text
