"""Who may read: real clients against the web over a real upstream."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mirror_sync.domain.runs import Outcome, Visibility
from mirror_sync.errors import NotFound
from tests.support.access_world import LFS, OURS, AccessWorld, access_world
from tests.support.upstream import UpstreamRepo

PASSWORD = "a-readers-own-upstream-password"
WITH_LFS = (
    "-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.clean=git-lfs clean -- %f",
    "-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.required=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AccessWorld]:
    """Mirrors of every visibility; a test that changes one makes its own."""
    with access_world(tmp_path_factory.mktemp("access")) as made:
        for word in Visibility:
            made.keep(made.repo(f"acme/{word.value}"), word)
        yield made


def name_of(world: AccessWorld, word: Visibility | str) -> str:
    return f"{urlsplit(world.up.origin).netloc}/acme/{word}"


def lfs_of(world: AccessWorld, word: Visibility | str) -> tuple[str, int]:
    repo = world.up.repos[f"acme/{word}"]
    (oid,) = repo.lfs.oids()
    return oid, (repo.lfs.directory / oid).stat().st_size


def comparable(reply_body: bytes, name: str) -> bytes:
    return reply_body.replace(name.encode(), b"NAME")


# ------------------------------------------------------------ nobody known


@pytest.mark.parametrize("word", [Visibility.PUBLIC, Visibility.OPEN])
def test_everybody_reads_what_is_for_everybody(world: AccessWorld, word: Visibility) -> None:
    name = name_of(world, word)
    answer = world.refs(name)
    assert answer.status == 200
    assert "Authorization" not in answer.headers.get("Vary", "")
    assert world.get(f"/api/v1/mirrors/by-name/{name}").json()["visibility"] == word.value
    oid, size = lfs_of(world, word)
    href = world.batch(name, oid, size).json()["objects"][0]["actions"]["download"]["href"]
    assert not urlsplit(href).query
    given = world.get(href)
    assert len(given.body) == size
    assert "public" in given.headers["Cache-Control"]


@pytest.mark.parametrize("word", [Visibility.TOKEN, Visibility.UPSTREAM])
def test_git_and_lfs_are_asked_for_credentials(world: AccessWorld, word: Visibility) -> None:
    name = name_of(world, word)
    answer = world.refs(name)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')
    oid, size = lfs_of(world, word)
    for asked in (world.batch(name, oid, size), world.get(f"/{name}.git/info/lfs/objects/{oid}")):
        assert asked.status == 401
        assert asked.headers["LFS-Authenticate"].startswith('Basic realm="')
        assert "message" in asked.json()


ADDRESSES = [
    "/{name}.git/info/refs?service=git-upload-pack",
    "/{name}.git/HEAD",
    "/{name}.git/info/lfs/objects/batch",
    "/{name}.git/info/lfs/objects/{oid}",
    "/{name}.git/info/lfs/locks",
    "/{name}",
    "/mirrors/{name}",
    "/api/v1/mirrors/by-name/{name}",
    "/api/v1/mirrors/by-name/{name}/refs",
    "/api/v1/mirrors/by-name/{name}/why",
    "/api/v1/mirrors/by-name/{name}/runs",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("with_token", [False, True], ids=["nobody", "token"])
def test_a_mirror_that_nobody_reads_is_answered_as_one_that_is_not_here(
    world: AccessWorld, address: str, with_token: bool
) -> None:
    oid, _ = lfs_of(world, Visibility.NONE)
    bearer = world.token("*") if with_token else ""
    answers = []
    for name in (name_of(world, Visibility.NONE), name_of(world, "nope")):
        answer = world.get(address.format(name=name, oid=oid), bearer=bearer)
        headers = {key: value for key, value in answer.headers.items() if key not in ("Date", "Content-Length")}
        answers.append((answer.status, comparable(answer.body, name), headers))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


@pytest.mark.parametrize("address", [text for text in ADDRESSES if text.startswith(("/mirrors", "/api"))])
@pytest.mark.parametrize("word", [Visibility.TOKEN, Visibility.UPSTREAM])
def test_pages_and_api_never_ask_and_never_tell(world: AccessWorld, address: str, word: Visibility) -> None:
    answers = []
    for name in (name_of(world, word), name_of(world, "nope")):
        answer = world.get(address.format(name=name), headers={"Accept": "text/html"})
        answers.append((answer.status, comparable(answer.body, name)))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


def test_lists_and_metrics_name_what_everybody_may_read(world: AccessWorld) -> None:
    hidden = [name_of(world, word) for word in (Visibility.TOKEN, Visibility.UPSTREAM, Visibility.NONE)]
    for path in ("/", "/mirrors", "/use", "/api/v1/mirrors", "/api/v1/status", "/metrics", "/metrics/mirrors"):
        body = world.get(path).body.decode()
        assert [name for name in hidden if name in body] == [], path
    listed = {item["name"] for item in world.get("/api/v1/mirrors").json()["items"]}
    assert listed == {name_of(world, Visibility.PUBLIC), name_of(world, Visibility.OPEN)}
    assert name_of(world, Visibility.PUBLIC) in world.get("/metrics/mirrors").body.decode()


# ------------------------------------------------------------ clone tokens


def test_a_token_opens_the_mirrors_it_is_for(world: AccessWorld, tmp_path: Path) -> None:
    name = name_of(world, Visibility.TOKEN)
    token = world.token("*/acme/tok?n")
    clone = tmp_path / "clone"
    world.git(*WITH_LFS, "clone", "-q", f"{world.origin}/{name}", str(clone), password=token)
    _oid, size = lfs_of(world, Visibility.TOKEN)
    assert (clone / "weights.bin").stat().st_size == size
    assert world.refs(name, user=token, password="x-oauth-basic").status == 200
    shown = world.get(f"/api/v1/mirrors/by-name/{name}", bearer=token)
    assert shown.json()["visibility"] == "token"
    assert "private" in shown.headers["Cache-Control"]
    assert "Authorization" in shown.headers["Vary"]
    for path in ("/api/v1/mirrors", "/mirrors", "/metrics/mirrors"):
        body = world.get(path, bearer=token).body.decode()
        assert name in body, path
        assert name_of(world, Visibility.UPSTREAM) not in body


def test_git_without_a_token_ends_plainly(world: AccessWorld) -> None:
    url = f"{world.origin}/{name_of(world, Visibility.TOKEN)}"
    for password in ("", "msy_wrong"):
        done = world.git("ls-remote", url, password=password, check=False)
        assert done.returncode == 128
        assert "refs/heads" not in done.stdout
        assert "Authentication failed" in done.stderr or "terminal prompts disabled" in done.stderr


def test_a_token_for_others_expired_or_revoked_opens_nothing(world: AccessWorld) -> None:
    name = name_of(world, Visibility.TOKEN)
    assert world.refs(name, password=world.token("elsewhere.example/*")).status == 404
    assert world.refs(name, password=world.token("*", lasts=0.000001)).status == 401
    token, kept = world.app.create_token(["*"], lasts=3600.0, note="")
    assert world.refs(name, password=token).status == 200
    world.app.state.revoke_token(kept.id)
    assert world.refs(name, password=token).status == 401
    assert world.refs(name, password="msy_" + "A" * 43).status == 401


def test_a_token_opens_nothing_that_upstream_decides_on_and_never_goes_there(world: AccessWorld) -> None:
    world.up.forget()
    assert world.refs(name_of(world, Visibility.UPSTREAM), password=world.token("*")).status == 401
    assert world.up.seen() == []


def test_a_wrong_credential_does_not_close_what_is_for_everybody(world: AccessWorld) -> None:
    assert world.refs(name_of(world, Visibility.PUBLIC), password="msy_wrong").status == 200


# ------------------------------------------------------------ links to LFS objects


def test_a_link_opens_one_object_of_one_mirror_for_a_while(world: AccessWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    name, token = name_of(world, Visibility.TOKEN), world.token("*")
    oid, size = lfs_of(world, Visibility.TOKEN)
    action = world.batch(name, oid, size, password=token).json()["objects"][0]["actions"]["download"]
    assert action["expires_in"] == 3600
    href = action["href"]
    assert token not in href
    given = world.get(href)
    assert (given.status, len(given.body)) == (200, size)
    assert "private" in given.headers["Cache-Control"]
    assert world.get(href, headers={"Range": "bytes=0-9"}).status == 206
    query = parse_qs(urlsplit(href).query)
    later = str(int(query["expires"][0]) + 1)
    bare = href.partition("?")[0]
    wrong = [
        bare,
        href.replace(f"expires={query['expires'][0]}", f"expires={later}"),
        href[:-1] + ("A" if href[-1] != "A" else "B"),
        f"{bare}?expires={query['expires'][0]}",
        f"{bare}?expires=99999999999&signature=%C3%A9",
        f"{bare}?expires={query['expires'][0]}&signature={query['signature'][0]}&signature=x".replace(
            "signature=", "s=", 1
        ),
        href.replace("acme/token", "acme/upstream"),
        href.replace(oid, lfs_of(world, Visibility.PUBLIC)[0]),
    ]
    assert [world.get(address).status for address in wrong] == [401] * len(wrong)
    assert world.get(href.replace("acme/token", "acme/none")).status == 404
    now = world.app.clock.now
    monkeypatch.setattr(world.app.clock, "now", lambda: now() + 3601.0)
    assert world.get(href).status == 401


def test_the_key_is_kept_in_a_file_of_its_owner_and_can_be_changed(world: AccessWorld) -> None:
    from mirror_sync.web.signing import LinkKeys

    name, token = name_of(world, Visibility.TOKEN), world.token("*")
    oid, size = lfs_of(world, Visibility.TOKEN)

    def link() -> str:
        answer = world.batch(name, oid, size, password=token)
        return str(answer.json()["objects"][0]["actions"]["download"]["href"])

    first = link()
    path = world.app.settings.link_keys()
    assert path.stat().st_mode & 0o777 == 0o600
    keys = LinkKeys(path, world.app.clock)
    assert keys.rotate()
    second = link()
    assert [world.get(href).status for href in (first, second)] == [200, 200]
    assert keys.rotate()
    assert [world.get(href).status for href in (first, second)] == [401, 200]
    assert path.stat().st_mode & 0o777 == 0o600


def test_knowing_an_oid_opens_nothing(world: AccessWorld) -> None:
    """The bytes are here once for all mirrors; each mirror gives only what it refers to, to whom may read it."""
    token = world.token("*")
    secret, size = lfs_of(world, Visibility.TOKEN)
    public = name_of(world, Visibility.PUBLIC)
    for how in ({}, {"password": token}):
        assert world.batch(public, secret, size, **how).json()["objects"][0]["error"]["code"] == 404
        assert world.get(f"/{public}.git/info/lfs/objects/{secret}", **how).status == 404
    assert world.batch(name_of(world, Visibility.TOKEN), secret, size).status == 401
    assert world.get(f"/{name_of(world, Visibility.NONE)}.git/info/lfs/objects/{secret}", password=token).status == 404
    other, other_size = lfs_of(world, Visibility.NONE)
    answer = world.batch(name_of(world, Visibility.TOKEN), other, other_size, password=token)
    assert answer.json()["objects"][0]["error"]["code"] == 404


# ------------------------------------------------------------ upstream decides


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[AccessWorld, UpstreamRepo, str]]:
    with access_world(tmp_path, access='check_ttl = "1h"\nrefusal_ttl = "1h"', ours=True) as world:
        repo = world.repo()
        repo.token = OURS
        yield world, repo, world.keep(repo, Visibility.UPSTREAM)


def test_upstream_says_who_may_read_once_in_a_while(gated: tuple[AccessWorld, UpstreamRepo, str]) -> None:
    world, repo, name = gated
    repo.token = PASSWORD
    world.up.forget()
    for how in ({"password": PASSWORD}, {"bearer": PASSWORD}, {"password": PASSWORD, "user": "other"}):
        for _ in range(3):
            assert world.refs(name, **how).status == 200
    asked = world.up.seen()
    assert len({request.headers["authorization"] for request in asked}) == 3
    before = len(asked)
    for _ in range(3):
        assert world.refs(name, password="wrong").status == 401
    assert len(world.up.seen()) == before + 1
    assert [request for request in world.up.seen() if OURS in str(request.headers)] == []
    shown = world.get(f"/api/v1/mirrors/by-name/{name}", password=PASSWORD)
    assert shown.json()["visibility"] == "upstream"
    assert world.get(f"/api/v1/mirrors/by-name/{name}", password="wrong").status == 404
    assert PASSWORD.encode() not in (world.directory / "state.db").read_bytes()


def test_git_and_lfs_read_with_the_upstreams_password(
    gated: tuple[AccessWorld, UpstreamRepo, str], tmp_path: Path
) -> None:
    world, repo, name = gated
    repo.token = PASSWORD
    clone = tmp_path / "clone"
    world.git(*WITH_LFS, "clone", "-q", f"{world.origin}/{name}", str(clone), password=PASSWORD)
    assert (clone / "weights.bin").stat().st_size > 7000


def test_an_upstream_that_cannot_be_asked_is_no_yes(gated: tuple[AccessWorld, UpstreamRepo, str]) -> None:
    world, repo, name = gated
    (oid,) = repo.lfs.oids()
    world.up.fault("info/refs|git-upload-pack", times=None, status=500)
    assert world.refs(name, password=PASSWORD).status == 503
    assert world.batch(name, oid, 1, password=PASSWORD).status == 429
    world.up.heal()
    repo.token = PASSWORD
    assert world.refs(name, password=PASSWORD).status == 200


def test_whoever_tries_many_passwords_has_to_wait(gated: tuple[AccessWorld, UpstreamRepo, str]) -> None:
    world, repo, name = gated
    repo.token = PASSWORD
    assert world.refs(name, password=PASSWORD).status == 200
    statuses = [world.refs(name, password=f"wrong-{number}").status for number in range(60)]
    assert set(statuses) == {401, 429}
    assert statuses[0] == 401
    # what is known already is not asked for again, so nobody else is kept out
    assert world.refs(name, password=PASSWORD).status == 200


# ------------------------------------------------------------ private upstream


@pytest.mark.parametrize(("ours", "status"), [(True, 401), (False, 404)], ids=["seen-by-us-alone", "seen-by-nobody"])
def test_a_private_flip_closes_the_mirror_at_the_next_look(tmp_path: Path, ours: bool, status: int) -> None:
    with access_world(tmp_path, ours=ours) as world:
        repo = world.repo()
        name = world.keep(repo)
        assert world.refs(name).status == 200
        nobody = world.refs(name_of(world, "nope"))
        if ours:
            repo.token = OURS  # the daemon still sees it, nobody else does
            repo.commit({"README.md": "not for everybody\n"})
        else:
            repo.absent = status
        report = world.sync(name)
        assert (report.outcome is Outcome.PUBLISHED) is ours
        closed = world.refs(name)
        assert (closed.status, comparable(closed.body, name)) == (
            404,
            comparable(nobody.body, name_of(world, "nope")),
        )
        assert world.get("/api/v1/mirrors").json()["items"] == []
        assert world.get("/metrics/mirrors").body.count(name.encode()) == 0
        why = world.app.why(name)
        assert why.cause_code == "MS-V403"
        assert why.clients == "answered as if it were not mirrored"
        assert world.app.mirror_status(name)["closed"] is True
        if not ours:
            assert 0 < report.next_due_at - report.finished_at <= 600
        repo.token, repo.absent = "", None
        world.sync(name)
        assert world.refs(name).status == 200
        assert world.app.mirror_status(name)["closed"] is False


def test_what_only_our_token_sees_is_never_given_to_everybody(tmp_path: Path) -> None:
    with access_world(tmp_path, ours=True) as world:
        repo = world.repo()
        repo.token = OURS
        mirror, _ = world.app.enrol(repo.url)
        during: list[int] = []
        settle = world.app.state.settle_intent

        def watched(*arguments: object, **named: object) -> None:
            during.append(world.refs(mirror.name).status)
            settle(*arguments, **named)  # type: ignore[arg-type]

        world.app.state.settle_intent = watched  # type: ignore[method-assign]
        assert world.sync(mirror.name).outcome is Outcome.PUBLISHED
        assert during == [404]
        assert world.refs(mirror.name).status == 404
        world.app.change(mirror.name, visibility=Visibility.OPEN)
        assert world.refs(mirror.name).status == 200
        world.app.change(mirror.name, visibility=Visibility.TOKEN)
        assert world.refs(mirror.name, password=world.token("*")).status == 200


def test_a_mirror_made_public_is_closed_until_upstream_was_asked(tmp_path: Path) -> None:
    with access_world(tmp_path, ours=True) as world:
        name = world.keep(world.repo(), Visibility.TOKEN)
        world.app.change(name, visibility=Visibility.PUBLIC)
        assert world.refs(name).status == 404
        world.sync(name)
        assert world.refs(name).status == 200


def test_an_upstream_that_is_gone_or_in_trouble_closes_nothing(tmp_path: Path) -> None:
    with access_world(tmp_path) as world:
        repo = world.repo()
        name = world.keep(repo)
        for status in (410, 451, 500, 429):
            repo.absent = status
            assert world.sync(name).outcome in (Outcome.FAILED, Outcome.ABANDONED)
            assert world.refs(name).status == 200, status


# ------------------------------------------------------------ names and networks


def test_with_conceal_git_cannot_tell_what_is_here(tmp_path: Path) -> None:
    with access_world(tmp_path, access="conceal = true") as world:
        secret = world.keep(world.repo(), Visibility.TOKEN)
        gated = world.keep(world.repo("acme/gated"), Visibility.UPSTREAM)
        shut = world.keep(world.repo("acme/shut"), Visibility.NONE)
        elsewhere = world.token("elsewhere.example/*")
        world.up.repos["acme/gated"].token = PASSWORD
        for how in ({}, {"password": "guess"}, {"password": "msy_guess"}, {"password": elsewhere}):
            answers = []
            for name in (secret, gated, shut, name_of(world, "nope")):
                answer = world.refs(name, **how)
                answers.append((answer.status, comparable(answer.body, name), answer.headers.get("WWW-Authenticate")))
            assert answers == answers[:1] * 4, how
            assert answers[0][0] == (404 if how.get("password") == elsewhere else 401)
        assert world.refs(secret, password=world.token("*")).status == 200
        assert world.refs(gated, password=PASSWORD).status == 200


@pytest.mark.parametrize("rule", ['deny = ["127.0.0.0/8"]', 'allow = ["192.0.2.0/24", "2001:db8::/32"]'])
def test_a_network_that_is_not_served_gets_nothing_but_signs_of_life(tmp_path: Path, rule: str) -> None:
    with access_world(tmp_path, access=rule) as world:
        name = world.keep(world.repo())
        for path in ("/", "/api/v1/mirrors", "/metrics", f"/{name}.git/info/refs?service=git-upload-pack", "/mirrors"):
            assert world.get(path).status == 403, path
        oid, size = lfs_of(world, "model")
        refused = world.batch(name, oid, size)
        assert refused.status == 403
        assert name.encode() not in refused.body
        assert world.get("/healthz").status == 200
        assert world.get("/hooks/github").status == 405


def test_a_proxy_that_is_believed_tells_the_client(tmp_path: Path) -> None:
    more = "[server]\ntrusted_proxies = 1"
    with access_world(tmp_path, access='deny = ["192.0.2.66", "2001:db8::/32"]', more=more) as world:
        for client, status in (
            ("192.0.2.65", 200), ("192.0.2.66", 403), ("192.0.2.65, 192.0.2.66", 403), ("192.0.2.66, 192.0.2.65", 200),
            ("2001:db8::1", 403), ("[2001:db8::1]:77", 403), ("::ffff:192.0.2.66", 403), ("192.0.2.66:5000", 403),
            ("nobody", 403),
        ):  # fmt: skip
            assert world.get("/mirrors", headers={"X-Forwarded-For": client}).status == status, client


def test_where_unknown_names_lead_upstream_hidden_ones_do_too(tmp_path: Path) -> None:
    with access_world(tmp_path, rule='unknown = "redirect"') as world:
        shut = world.keep(world.repo(), Visibility.NONE)
        answers = []
        for name in (shut, name_of(world, "nope")):
            connection = http.client.HTTPConnection(urlsplit(world.origin).netloc, timeout=30)
            connection.request("GET", f"/{name}.git/info/refs?service=git-upload-pack")
            answer = connection.getresponse()
            body, headers = answer.read(), dict(answer.getheaders())
            connection.close()
            path = name.partition("/")[2]
            assert headers["Location"] == f"{world.up.origin}/{path}.git/info/refs?service=git-upload-pack"
            answers.append((answer.status, comparable(body, name), set(headers)))
        assert answers[0] == answers[1]
        assert "refs/heads/main" in world.git("ls-remote", f"{world.origin}/{shut}").stdout


# ------------------------------------------------------------ configuration and state


def test_the_configuration_goes_before_the_mirrors_own_word_before_its_class(tmp_path: Path) -> None:
    access = 'visibility = "none"'
    more = '[class."shared"]\nvisibility = "token"\n[class."plain"]'
    with access_world(tmp_path, access=access, more=more) as world:
        names = {}
        for class_name in ("", "shared", "plain"):
            repo = world.repo(f"acme/of-{class_name or 'no'}-class")
            mirror, _ = world.app.enrol(repo.url, class_name=class_name)
            world.sync(mirror.name)
            names[class_name] = mirror.name
        assert {name: world.refs(name).status for name in names.values()} == {
            names[""]: 404, names["shared"]: 401, names["plain"]: 404,
        }  # fmt: skip
        for name in names.values():
            world.app.change(name, visibility=Visibility.PUBLIC)
            assert world.refs(name).status == 200
            world.app.change(name, visibility="")
        assert world.refs(names["shared"]).status == 401


def test_a_mirror_of_a_class_that_is_no_more_is_read_by_nobody(tmp_path: Path) -> None:
    with access_world(tmp_path) as world:
        name = world.keep(world.repo())
        world.app.state.set_class(world.mirror(name).id, "was-private")
        assert world.refs(name).status == 404
        assert world.get("/api/v1/mirrors").json()["items"] == []
        world.app.change(name, visibility=Visibility.OPEN)
        assert world.refs(name).status == 200


def test_tokens_are_kept_as_digests_alone(world: AccessWorld) -> None:
    token = world.token("*")
    assert world.refs(name_of(world, Visibility.TOKEN), password=token).status == 200
    for path in world.directory.glob("state.db*"):
        assert token.encode() not in path.read_bytes()
    assert token not in repr(world.app.state.tokens())
    with pytest.raises(NotFound):
        world.app.state.revoke_token(10**6)  # type: ignore[arg-type]
    assert time.time() >= world.app.state.tokens()[-1].created_at


def test_a_batch_says_what_it_is_in_lfs_words(world: AccessWorld) -> None:
    oid, size = lfs_of(world, Visibility.TOKEN)
    answer = world.batch(name_of(world, Visibility.TOKEN), oid, size)
    assert answer.headers["Content-Type"] == LFS
