"""Pages in both languages, with hostile text in every field."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient

from mirror_sync.domain.figures import objects_text, refs_text, size_text, tips_text
from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Step
from mirror_sync.web import create_app
from mirror_sync.web.words import CODES
from tests.support.upstream import UpstreamRepo
from tests.support.web_world import MirrorSpec, World, make_world, progress_of

LFS_UNDER_WAY = {
    "kind": "lfs", "way": "parts", "done": 61, "total": 198, "received": 61,
    "rate": 1.0, "connections": 1, "cuts": 0, "items": 37, "items_total": 120,
}  # fmt: skip
NAME = "git.example/acme/model"
PAGES = [
    "/",
    "/mirrors",
    "/mirrors?health=failing",
    "/mirrors?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    f"/mirrors/{NAME}",
    f"/mirrors/{NAME}?prefix=%22%3E%3Cscript%3E",
    "/mirrors/git.example/acme/new",
    "/mirrors/git.example/acme/moving",
    "/mirrors/git.example/acme/filling",
    "/mirrors/git.example/acme/silent",
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
    "select", "option", "button", "nav", "ul", "li", "dl", "dt", "dd", "meter", "q", "progress", "strong",
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
    for word in (
        "MS-H004",
        "MS-L404",
        "refs/heads/main",
        "refs/tags/v1",
        "2/4",
        "4.9 KiB",
        "Kept old tips",
        "incomplete",
    ):
        assert word in page, word
    chinese = client.get(f"/mirrors/{NAME}?lang=zh").text
    for word in ("不完整", "该引用需要一个上游自己也没有的 LFS 对象。", "保留的旧提交", "排队中"):
        assert word in chinese, word


def test_a_page_shows_how_far_a_fetch_is(client: FlaskClient) -> None:
    page = client.get("/mirrors/git.example/acme/moving").text
    section = text_of(page[page.index('id="progress"') : page.index('id="why"')])
    assert re.search(r'<progress aria-label="Progress of git.example/acme/moving" max="100" value="25">25 %<', page)
    for told in (
        "25 %",
        "ladder",
        "oldest first",
        "1000/4000",
        "392.9 MiB",
        "2.4 MiB/s",
        "about 3m",
        "<b>near</b>.example",
    ):
        assert told in section, told
    assert re.search(r"Connections\s+1\s+Cuts survived\s+3\s", section)
    assert 'http-equiv="refresh" content="5"' in page
    assert "<b>near" not in page
    chinese = client.get("/mirrors/git.example/acme/moving?lang=zh").text
    for told in ("进度", "git.example/acme/moving 的进度", "逐段取回", "约 3 分钟", "断线后续传次数", "2.4 MiB/s"):
        assert told in chinese, told


def test_a_page_shows_lfs_objects_on_their_way_and_left_out_ones_as_such(client: FlaskClient) -> None:
    page = client.get("/mirrors/git.example/acme/filling").text
    told = text_of(page[page.index('id="progress"') : page.index('id="why"')])
    for figure in ("30 %", "37/120", "56.8 GiB/184.4 GiB", "80.1 MiB/s", "about 27m", "parts"):
        assert figure in told, figure
    assert re.search(r"Connections\s+8\s+Cuts survived\s+2\s", told)
    lfs = text_of(page[page.index('id="lfs"') : page.index('id="missing"')])
    assert re.search(r"missing\s+1\s", lfs)
    assert re.search(r"left out by choice\s+1 \(3.9 KiB\)", lfs)
    assert "L" * 10 not in page
    assert "按设置不取" in client.get("/mirrors/git.example/acme/filling?lang=zh").text


def test_it_says_what_clients_get_where_lfs_objects_are_not_here(
    tmp_path_factory: pytest.TempPathFactory, source: UpstreamRepo
) -> None:
    mirrors = {
        "git.example/a/waiting": MirrorSpec(repository=str(source.path), queued=["q"], left_out=["L" * 4000]),
        "git.example/a/chosen": MirrorSpec(repository=str(source.path), left_out=["L" * 4000, "M" * 4000]),
        "git.example/a/whole": MirrorSpec(repository=str(source.path)),
    }
    with make_world(tmp_path_factory.mktemp("w"), mirrors) as world:
        client = create_app(world).test_client()
        for name, english, chinese in (
            ("waiting", "clone works; 1 LFS object is not here, and git-lfs names one", "1 个 LFS 对象不在此处"),
            (
                "chosen",
                "clone works; 2 LFS objects are left out by choice, and git-lfs stops",
                "2 个 LFS 对象按设置不取",
            ),
            ("whole", "clone works and gets what was confirmed", "得到已确认的内容"),
        ):
            told = client.get(f"/api/v1/mirrors/by-name/git.example/a/{name}/why").json
            assert told is not None
            assert english in told["clients"]
            assert english in client.get(f"/mirrors/git.example/a/{name}?lang=en").text
            assert chinese in client.get(f"/mirrors/git.example/a/{name}?lang=zh").text


def test_a_refused_address_leads_to_the_key_that_allows_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Held refs wait for it too: asking again alone would change nothing."""
    held = [("refs/heads/main", "MS-H005", "1 LFS object is not here")]
    mirrors = {
        "git.example/a/b": MirrorSpec(holds=held, failure=("MS-U403", "lfs.example is asked for over plain http"))
    }
    with make_world(tmp_path_factory.mktemp("w"), mirrors) as world:
        client = create_app(world).test_client()
        told = client.get("/api/v1/mirrors/by-name/git.example/a/b/why").json
        assert told is not None
        assert told["remedies"][0].startswith("if that host is meant: allow_http = true")
        assert "若确要访问该主机" in client.get("/mirrors/git.example/a/b?lang=zh").text


def test_progress_that_nobody_tells_of_any_more_is_shown_as_such(client: FlaskClient) -> None:
    page = client.get("/mirrors/git.example/acme/silent").text
    told = text_of(page[page.index('id="progress"') : page.index('id="why"')])
    assert re.search(r"nothing heard since:\s+1m ago", told)
    assert "Rate" not in told
    assert "Remaining" not in told
    assert re.search(
        r"此后没有消息：\s*<time[^>]*>1 分钟前</time>", client.get("/mirrors/git.example/acme/silent?lang=zh").text
    )


def test_the_overview_shows_what_is_under_way(client: FlaskClient) -> None:
    page = client.get("/").text
    rows = page[page.index('id="running"') :].split("<tr>")[2:]
    shown = {name: text_of(row) for row in rows for name in re.findall(r'href="/mirrors/git.example/acme/(\w+)"', row)}
    assert set(shown) == {"moving", "filling", "silent"}
    assert re.search(r"25 %\s+1000/4000 commits", shown["moving"])
    assert re.search(r"30 %\s+37/120 LFS objects, 56.8 GiB/184.4 GiB", shown["filling"])
    assert re.search(r"80.1 MiB/s\s+27m", shown["filling"])
    assert "nothing heard since:" in shown["silent"]
    assert page.count("<progress ") == 3
    assert 'http-equiv="refresh" content="10"' in page
    assert "left out by choice" in page
    listed = client.get("/mirrors?q=moving").text
    assert "25 %" in listed


def test_a_step_tells_its_detail_until_progress_tells_it_in_the_language_of_the_page(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with make_world(tmp_path_factory.mktemp("w"), {"git.example/a/b": MirrorSpec(queued=["q"])}) as world:
        mirror = world.memory.mirror(MirrorName("git.example/a/b"))
        lease = world.memory.claim_mirror(mirror.id, "w2", lease_seconds=3600.0, purpose="sync")
        assert lease is not None
        world.memory.note_step(lease, Step.TRANSFER, "1 LFS object, 5.2 MiB")
        client = create_app(world).test_client()
        pages = ("/?lang=zh", "/mirrors/git.example/a/b?lang=zh")
        for page in pages:
            told = client.get(page).text
            assert "正在传输 LFS 对象" in told
            assert "1 个 LFS 对象, 5.2 MiB" in told
        world.memory.note_progress(mirror.id, progress_of(LFS_UNDER_WAY, world.clock.now()))
        for page in pages:
            told = client.get(page).text
            assert "正在传输 LFS 对象" in told
            assert "37/120" in told
            assert "5.2 MiB" not in told


@pytest.mark.parametrize(
    ("text", "english", "chinese"),
    [
        (tips_text(1), "1 tip", "1 个引用末端"),
        (tips_text(12_345), "12,345 tips", "12,345 个引用末端"),
        (refs_text(2), "2 refs", "2 个引用"),
        (f"{objects_text(2)}, {size_text(3 << 30)}", "2 LFS objects, 3.0 GiB", "2 个 LFS 对象, 3.0 GiB"),
        (f"{objects_text(1)}, {size_text(7)}", "1 LFS object, 7 B", "1 个 LFS 对象, 7 B"),
    ],
)
def test_what_steps_say_is_in_the_language_of_the_page(
    client: FlaskClient, text: str, english: str, chinese: str
) -> None:
    for language, expected in (("en", english), ("zh", chinese)):
        with client.application.test_request_context("/", headers={"Accept-Language": language}):
            assert client.application.jinja_env.from_string("{{ text | detail }}").render(text=text) == expected


def test_times_are_in_the_language_of_the_page(client: FlaskClient) -> None:
    for seconds, english, chinese in (
        (40, "40s", "40 秒"),
        (360, "6m", "6 分钟"),
        (8040, "2h14m", "2 小时 14 分钟"),
        (7200, "2h", "2 小时"),
        (3 * 86400 + 4 * 3600, "3d4h", "3 天 4 小时"),
        (86400, "1d", "1 天"),
    ):
        for language, expected in (("en", english), ("zh", chinese)):
            with client.application.test_request_context("/", headers={"Accept-Language": language}):
                assert client.application.jinja_env.from_string("{{ s | span }}").render(s=seconds) == expected


def text_of(fragment: str) -> str:
    """The text that a browser shows of a piece of a page."""
    return html.unescape(re.sub(r"<[^>]*>?", " ", fragment))


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
