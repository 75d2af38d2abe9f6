"""Clients and the published view: protocols, filters, one snapshot for each request, nothing left behind."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mirror_sync.domain.names import GitOid, MirrorName, RefName, ref_bytes
from mirror_sync.domain.refs import NO_HEAD, ObjectFormat
from mirror_sync.domain.runs import KeptTip, RunId
from mirror_sync.errors import GitFailed, Overloaded, RepositoryDamaged
from mirror_sync.repos import GitServing, Repositories, serving
from mirror_sync.repos.layout import layout_of
from mirror_sync.testing.clock import HandClock
from tests.support.published import NAME, publish
from tests.support.raw_history import History
from tests.support.serving_http import ServingHttp
from tests.support.staging import stage_pack

V2 = "version=2"


@pytest.fixture
def git_dir(tmp_path: Path) -> Path:
    return tmp_path / "git"


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "scratch")


@pytest.fixture
def served(git_dir: Path) -> GitServing:
    return GitServing(git_dir, max_packs=2, wait_seconds=0.2)


def packet(text: str) -> bytes:
    return b"%04x%s" % (len(text) + 4, text.encode())


def listing(prefix: str = "refs/") -> bytes:
    return packet("command=ls-refs\n") + b"0001" + packet("peel\n") + packet(f"ref-prefix {prefix}\n") + b"0000"


def fetch(*wants: str, extra: str = "") -> bytes:
    lines = [packet(f"want {want}\n") for want in wants]
    more = packet(f"{extra}\n") if extra else b""
    return packet("command=fetch\n") + b"0001" + more + b"".join(lines) + packet("done\n") + b"0000"


def answer(served: GitServing, request: bytes, protocol: str = V2, name: MirrorName = NAME) -> bytes:
    pieces = served.upload_pack(name, io.BytesIO(request), protocol=protocol)
    assert pieces is not None
    return b"".join(pieces)


def git(*arguments: str, cwd: Path | None = None) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


def failing(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    return result.stderr


@dataclass(frozen=True)
class Big:
    """A published mirror whose only commit cannot be sent at one go."""

    git_dir: Path
    history: History
    tip: str
    served: GitServing


BIG_BYTES = 6 << 20


@pytest.fixture
def big(tmp_path: Path, git_dir: Path, big_pack: tuple[bytes, str], served: GitServing) -> Big:
    history = History(tmp_path / "scratch")
    pack, tip = big_pack
    history.git("index-pack", "--stdin", stdin=pack)
    publish(git_dir, history, {"refs/heads/main": tip})
    return Big(git_dir, history, tip, served)


@pytest.fixture(scope="module")
def big_pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    history = History(tmp_path_factory.mktemp("big") / "scratch")
    tip = history.commit(files={"f": random.Random(1).randbytes(BIG_BYTES)})
    return history.pack([tip]), tip


# ---------------------------------------------------------------- clients


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("object_format", list(ObjectFormat))
def test_clones_and_fetches(
    git_dir: Path, tmp_path: Path, served: GitServing, protocol: int, object_format: ObjectFormat
) -> None:
    history = History(tmp_path / "scratch", object_format=object_format)
    commits = history.chain(5)
    tag = history.tag("v1", commits[2])
    tips = {"refs/heads/main": commits[3], "refs/tags/v1": tag, "refs/heads/a/b": commits[1]}
    publish(git_dir, history, tips, object_format=object_format)
    clone = tmp_path / "clone"
    option = f"protocol.version={protocol}"
    with ServingHttp(served) as http:
        git("-c", option, "clone", "-q", "--mirror", http.url(NAME), str(clone))
        assert git("for-each-ref", "--format=%(refname) %(objectname)", cwd=clone).splitlines() == [
            f"{ref} {oid}" for ref, oid in sorted(tips.items())
        ]
        assert git("symbolic-ref", "HEAD", cwd=clone) == "refs/heads/main"
        git("fsck", "--strict", cwd=clone)
        publish(git_dir, history, {**tips, "refs/heads/main": commits[4]}, object_format=object_format)
        git("-c", option, "fetch", "-q", "origin", cwd=clone)
        assert git("rev-parse", "main", cwd=clone) == commits[4]
        shallow = tmp_path / "shallow"
        git("-c", option, "clone", "-q", "--depth=2", "--no-tags", http.url(NAME), str(shallow))
        assert git("rev-list", "--count", "HEAD", cwd=shallow) == "2"


@pytest.mark.parametrize("filter_", ["blob:none", "blob:limit=1k", "tree:0"])
def test_partial_clones_work(git_dir: Path, tmp_path: Path, history: History, served: GitServing, filter_: str) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit(files={"a": b"x" * 5000})})
    with ServingHttp(served) as http:
        clone = tmp_path / "clone"
        git("clone", "-q", f"--filter={filter_}", http.url(NAME), str(clone))
        assert (clone / "a").read_bytes() == b"x" * 5000


@pytest.mark.parametrize(
    "filter_", ["tree:5", "tree:999999", "sparse:oid=main:a", "combine:blob:none+tree:5", "object:type=blob"]
)
def test_costly_filters_are_refused_with_a_reason(
    git_dir: Path, tmp_path: Path, history: History, served: GitServing, filter_: str
) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit(files={"a": b"x"})})
    with ServingHttp(served) as http:
        for protocol in (0, 2):
            said = failing(
                "-c", f"protocol.version={protocol}",
                "clone", "-q", f"--filter={filter_}", http.url(NAME), str(tmp_path / "clone"),
            )  # fmt: skip
            assert "filter" in said


def test_an_unborn_head_clones_as_an_empty_repository(
    git_dir: Path, tmp_path: Path, history: History, served: GitServing
) -> None:
    publish(git_dir, history, {}, head="refs/heads/trunk")
    with ServingHttp(served) as http:
        for protocol in (0, 2):
            clone = tmp_path / f"clone{protocol}"
            git("-c", f"protocol.version={protocol}", "clone", "-q", http.url(NAME), str(clone))
        assert git("symbolic-ref", "HEAD", cwd=tmp_path / "clone2") == "refs/heads/trunk"
    assert served.refs(NAME) == (RefName("refs/heads/trunk"), [])


def test_a_mirror_that_was_never_published_has_no_answer(git_dir: Path, served: GitServing) -> None:
    assert served.advertise(NAME, protocol=V2) is None
    assert served.advertise(NAME, protocol="") is None
    assert served.upload_pack(NAME, io.BytesIO(listing()), protocol=V2) is None
    assert served.refs(NAME) == (NO_HEAD, [])


@pytest.mark.parametrize("protocol", ["", V2])
def test_a_client_that_listed_before_a_forced_publish_gets_what_it_saw(
    git_dir: Path, history: History, served: GitServing, protocol: str
) -> None:
    old, new = history.commit("old"), history.commit("new")
    publish(git_dir, history, {"refs/heads/main": old})
    publish(git_dir, history, {"refs/heads/main": new})
    request = fetch(old) if protocol else packet(f"want {old} side-band-64k\n") + b"0000" + packet("done\n")
    assert b"PACK" in answer(served, request, protocol)


# ---------------------------------------------------------------- listings


def test_a_listing_is_one_snapshot(git_dir: Path, history: History, served: GitServing) -> None:
    first, second = history.chain(2)
    for oid in (first, second):
        publish(git_dir, history, {"refs/heads/main": oid, "refs/heads/twin": oid})
        listed = answer(served, listing())
        assert listed.count(oid.encode()) == 2
        assert oid.encode() in (served.advertise(NAME, protocol="") or b"")


def test_version_2_capabilities_are_computed_once(
    git_dir: Path, history: History, served: GitServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit()})
    first = served.advertise(NAME, protocol=V2)
    assert first is not None
    assert first.startswith(b"000eversion 2\n")
    assert b"fetch=shallow" in first
    assert b"filter" in first
    assert b"object-format=sha1" in first
    monkeypatch.setattr(serving, "_advertisement", lambda *_: pytest.fail("asked git again"))
    publish(git_dir, history, {"refs/heads/main": history.commit()})
    assert served.advertise(NAME, protocol=V2) == first


def test_older_listings_begin_with_the_service(git_dir: Path, history: History, served: GitServing) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit()})
    for protocol in ("", "version=0", "version=1"):
        body = served.advertise(NAME, protocol=protocol)
        assert body is not None
        assert body.startswith(b"001e# service=git-upload-pack\n0000")
        assert b"allow-tip-sha1-in-want" in body


@pytest.mark.parametrize("protocol", ["version=3", "version=2:x", "version=2\n", "core.pager=x", "version=02"])
def test_other_words_never_reach_git(git_dir: Path, history: History, served: GitServing, protocol: str) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit()})
    assert (served.advertise(NAME, protocol=protocol) or b"").startswith(b"001e#")


def test_own_refs_are_not_listed(git_dir: Path, history: History, served: GitServing) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit()})
    listed = answer(served, listing("refs/mirror-sync/"))
    assert listed == b"0000"


def test_pages_of_refs(git_dir: Path, history: History, served: GitServing) -> None:
    commits = history.chain(3)
    tag = history.tag("t", commits[0])
    chance = random.Random(5)
    names = {f"refs/heads/{chance.choice('abcz')}{number}" for number in range(300)}
    names |= {f"refs/tags/v{number}" for number in range(300)} | {"refs/heads/caf\udce9", "refs/notes/\u4e2d"}
    tips = {name: tag if "/tags/" in name else chance.choice(commits) for name in names}
    publish(git_dir, history, {"refs/heads/main": commits[0], **tips})
    every = [
        (name, {"refs/heads/main": commits[0], **tips}[name])
        for name in sorted({*names, "refs/heads/main"}, key=ref_bytes)
    ]
    for limit in (1, 7, 100, 10_000):
        found: list[tuple[str, str]] = []
        while page := served.refs(NAME, after=found[-1][0] if found else "", limit=limit)[1]:
            assert len(page) <= limit
            found += page
        assert found == every
    for prefix in ("refs/tags/v1", "refs/heads/", "refs/none/", "refs/notes/\u4e2d", "refs/", "zzz"):
        expected = [item for item in every if item[0].startswith(prefix)]
        head, found = served.refs(NAME, prefix=prefix, limit=10_000)
        assert (head, found) == ("refs/heads/main", expected)
    assert served.refs(NAME, prefix="refs/tags/", after="refs/tags/v150", limit=2)[1] == [
        ("refs/tags/v151", tag), ("refs/tags/v152", tag)
    ]  # fmt: skip
    assert served.refs(NAME, prefix="refs/tags/", after="refs/heads/a", limit=1)[1] == [("refs/tags/v0", tag)]
    assert served.refs(NAME, prefix="refs/heads/", after="refs/tags/")[1] == []


# ---------------------------------------------------------------- requests and children


def test_takes_any_kind_of_spooled_file(git_dir: Path, history: History, served: GitServing, tmp_path: Path) -> None:
    tip = history.commit()
    publish(git_dir, history, {"refs/heads/main": tip})
    plain = tmp_path / "body"
    plain.write_bytes(b"skipped" + listing())
    with (
        plain.open("rb") as buffered,
        tempfile.SpooledTemporaryFile(max_size=10) as rolled,
        tempfile.SpooledTemporaryFile(max_size=10_000) as small,
    ):
        for body in (rolled, small):
            body.write(b"skipped" + listing())
            body.seek(7)
        assert buffered.read(7) == b"skipped"
        for request in (io.BytesIO(listing()), buffered, rolled, small):
            pieces = served.upload_pack(NAME, request, protocol=V2)
            assert pieces is not None
            assert tip.encode() in b"".join(pieces)


def test_a_refused_want_is_an_answer(git_dir: Path, history: History, served: GitServing) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit()})
    assert b"ERR upload-pack: not our ref" in answer(served, fetch("1" * 40))


def v0_fetch(want: str) -> bytes:
    return packet(f"want {want} side-band-64k ofs-delta\n") + b"0000" + packet("done\n")


def test_by_its_id_comes_what_is_published_or_kept_and_nothing_else(
    git_dir: Path, history: History, served: GitServing
) -> None:
    """Old tips are kept to be fetched; what waits in the stage, and what other mirrors have, is not here."""
    old, new = history.commit("old"), history.commit("new")
    publish(git_dir, history, {"refs/heads/main": old})
    repository = Repositories(git_dir, clock=HandClock(), reserve_bytes=0).open(NAME)
    publish(
        git_dir,
        history,
        {"refs/heads/main": new},
        kept=(KeptTip(RunId(1), RefName("refs/heads/main"), GitOid(old), 0, 1),),
    )
    staged = history.commit("waits for an LFS object", files={"secret": b"of the stage"})
    with repository.lock():
        stage_pack(repository, [history.pack([staged])], max_bytes=2**40)
        repository.inspect([GitOid(staged)])
    foreign = history.commit("of another mirror", files={"secret": b"of another"})
    publish(git_dir, history, {"refs/heads/main": foreign}, name=MirrorName("git.example.org/acme/other"))
    blobs = {commit: history.git("rev-parse", f"{commit}:secret").decode().strip() for commit in (staged, foreign)}
    tree = history.git("rev-parse", f"{new}^{{tree}}").decode().strip()
    for protocol, ask in ((V2, fetch), ("", v0_fetch)):
        for oid in (new, old, tree):
            assert b"PACK" in answer(served, ask(oid), protocol), (protocol, oid)
        for oid in (staged, foreign, *blobs.values(), "1" * 40, "0" * 40):
            told = answer(served, ask(oid), protocol)
            assert b"not our ref" in told, (protocol, oid)
            assert b"PACK" not in told


@pytest.mark.parametrize(
    "body",
    [
        packet("command=fetch\n") + b"0001" + packet("want zzz\n") + packet("done\n") + b"0000",
        packet("command=fetch\n") + b"0001" + packet("want " + "1" * 4000 + "\n") + packet("done\n") + b"0000",
        packet("command=push\n") + b"0000",
        packet("command=bundle-uri\n") + b"0000",
        packet("command=object-info\n") + b"0001" + packet("size\n") + b"0000",
        b"fffe" + b"x" * 100,
        b"zzzz",
        b"0003",
        b"\0" * 4000,
        packet("command=fetch\n") + b"0001" + packet("deepen -1\n") + packet("done\n") + b"0000",
        packet("command=fetch\n") + b"0001" + packet("filter combine:" + "+".join(["blob:none"] * 4000) + "\n") + b"0000",
        packet("command=fetch\n") + b"0001" + packet("want-ref refs/mirror-sync/kept/1/refs/heads/main\n") + b"0000",
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [V2, "version=1", ""])
def test_nonsense_gets_no_pack_and_leaves_nothing_running(
    git_dir: Path, history: History, served: GitServing, body: bytes, protocol: str
) -> None:
    publish(git_dir, history, {"refs/heads/main": history.commit()})
    try:
        told = answer(served, body, protocol)
    except GitFailed:
        told = b""  # git said nothing that a client could be shown
    assert b"PACK" not in told
    assert served.load() == (0, 0)


def test_a_child_without_an_answer_is_an_error(git_dir: Path, history: History, served: GitServing) -> None:
    number = publish(git_dir, history, {"refs/heads/main": history.commit()})
    (layout_of(git_dir, NAME).view(number) / "HEAD").unlink()
    with pytest.raises(GitFailed):
        answer(served, listing())


def test_a_view_that_is_not_there_is_damage(git_dir: Path, history: History, served: GitServing) -> None:
    number = publish(git_dir, history, {"refs/heads/main": history.commit()})
    shutil.rmtree(layout_of(git_dir, NAME).view(number))
    for ask in (
        lambda: served.advertise(NAME, protocol=V2),
        lambda: served.upload_pack(NAME, io.BytesIO(listing()), protocol=V2),
        lambda: served.refs(NAME),
    ):
        with pytest.raises(RepositoryDamaged):
            ask()


@pytest.mark.parametrize("content", [b"", b"# x", b"# pack-refs with: peeled fully-peeled sorted \nxx\n"])
def test_damaged_refs_are_told(git_dir: Path, history: History, served: GitServing, content: bytes) -> None:
    number = publish(git_dir, history, {"refs/heads/main": history.commit()})
    (layout_of(git_dir, NAME).view(number) / "packed-refs").write_bytes(content)
    with pytest.raises(RepositoryDamaged):
        served.refs(NAME)


def alive(group: int) -> list[str]:
    """Return the command lines of a process group's members; those only waiting to be reaped are gone."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(its_group) == group and state != "Z":
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "took too long"
        time.sleep(0.01)


def test_closing_kills_the_child_group(big: Big) -> None:
    pieces = big.served.upload_pack(NAME, io.BytesIO(fetch(big.tip)), protocol=V2)
    assert pieces is not None
    assert pieces._child is not None
    group = pieces._child.pid
    next(pieces)
    assert alive(group)
    pieces.close()
    pieces.close()
    wait_until(lambda: not alive(group))
    assert list(pieces) == []


def test_a_dropped_stream_ends_as_well(big: Big) -> None:
    pieces = big.served.upload_pack(NAME, io.BytesIO(fetch(big.tip)), protocol=V2)
    assert pieces is not None
    assert pieces._child is not None
    group = pieces._child.pid
    del pieces
    wait_until(lambda: not alive(group))


def serving_children(big: Big) -> list[str]:
    """Return the process ids of ``upload-pack`` over the current view."""
    marker = str(layout_of(big.git_dir, NAME).current_view()).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"upload-pack" in command and marker in command:
                found.append(entry.name)
    return found


def states(group: int) -> list[str]:
    """Return the states of a process group's members, as ``/proc`` names them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group:
                found.append(state)
    return found


def test_a_client_that_vanishes_takes_its_children_with_it(big: Big) -> None:
    with ServingHttp(big.served) as http, socket.socket() as client:
        # It reads so little that the pack, larger than all buffers on the way, cannot have been sent when it is gone.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        where = urlsplit(http.url(NAME))
        client.connect((where.hostname, where.port))
        body = fetch(big.tip)
        head = f"POST {where.path}/git-upload-pack HTTP/1.1\r\nHost: {where.netloc}\r\nGit-Protocol: {V2}\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert client.recv(12).startswith(b"HTTP/1.")
        assert serving_children(big)
        client.close()
        wait_until(lambda: not serving_children(big))


def test_a_killed_child_never_looks_like_an_answer(big: Big) -> None:
    pieces = big.served.upload_pack(NAME, io.BytesIO(fetch(big.tip)), protocol=V2)
    assert pieces is not None
    assert pieces._child is not None
    os.killpg(pieces._child.pid, signal.SIGKILL)
    with pytest.raises(GitFailed):
        for _ in pieces:
            pass


def test_a_stream_begun_before_a_publish_ends_with_what_it_began(big: Big) -> None:
    old = layout_of(big.git_dir, NAME).current_view()
    assert old is not None
    pieces = big.served.upload_pack(NAME, io.BytesIO(fetch(big.tip)), protocol=V2)
    assert pieces is not None
    body = next(pieces)
    publish(big.git_dir, big.history, {"refs/heads/main": big.history.commit("new")})
    shutil.rmtree(old)
    body += b"".join(pieces)
    assert body.endswith(b"0000")
    assert len(body) > BIG_BYTES


# ---------------------------------------------------------------- overload


def test_packs_wait_for_their_turn_and_listings_do_not(big: Big) -> None:
    served = GitServing(big.git_dir, max_packs=1, wait_seconds=0.2)
    tip = big.tip
    busy = served._turns.take()
    with pytest.raises(Overloaded):
        served.upload_pack(NAME, io.BytesIO(fetch(tip)), protocol=V2)
    assert tip.encode() in answer(served, listing())
    assert tip.encode() in (served.advertise(NAME, protocol="") or b"")
    busy.end()
    assert answer(served, fetch(tip)).endswith(b"0000")
    assert answer(served, fetch("1" * 40)).startswith(b"0049ERR")
    assert answer(served, fetch(tip)).endswith(b"0000")


def test_a_slow_client_lets_others_begin(big: Big, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SLOW_SECONDS", 0.3)
    served = GitServing(big.git_dir, max_packs=1, wait_seconds=0.2)
    tip = big.tip
    slow = served.upload_pack(NAME, io.BytesIO(fetch(tip)), protocol=V2)
    assert slow is not None
    body = next(slow)
    ends = time.monotonic() + 20
    while slow._turn is not None and slow._turn._turns is not None:
        assert time.monotonic() < ends
        time.sleep(0.4)
        body += next(slow)
    assert answer(served, fetch(tip)).endswith(b"0000")
    body += b"".join(slow)
    assert body.endswith(b"0000")
    assert served._turns.running() == 0


class Clients:
    """Real git clients that run at the same time, each called something."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.running: list[subprocess.Popen[str]] = []

    def start(self, client: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["git", "-c", f"http.extraHeader=X-Client: {client}", *arguments], text=True, stderr=subprocess.PIPE
        )
        self.running.append(process)
        return process

    def clone(self, client: str) -> subprocess.Popen[str]:
        where = str(self.directory / f"{client}-{len(self.running)}")
        return self.start(client, "clone", "-q", "--bare", self.url, where)

    def all_end_well(self) -> None:
        for process in self.running:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said


def test_a_client_with_many_clones_does_not_keep_another_out(big: Big, tmp_path: Path) -> None:
    served = GitServing(big.git_dir, max_packs=2, per_client=1, wait_seconds=60)
    busy = served._turns.take(client="many")  # a pack of theirs that takes for ever
    with ServingHttp(served) as http:
        clients = Clients(http.url(NAME), tmp_path)
        for _ in range(6):
            clients.clone("many")
        wait_until(lambda: served.load() == (1, 6), 30)
        _, said = (other := clients.clone("other")).communicate(timeout=60)
        assert other.returncode == 0, said
        assert served.load() == (1, 6)
        busy.end()
        clients.all_end_well()
        wait_until(lambda: served.load() == (0, 0))


def test_what_needs_no_pack_waits_for_nobody(big: Big, tmp_path: Path) -> None:
    served = GitServing(big.git_dir, max_packs=1, wait_seconds=60)
    clone = tmp_path / "clone"
    with ServingHttp(served) as http:
        git("clone", "-q", "--bare", http.url(NAME), str(clone))
        busy = served._turns.take()
        for protocol in (0, 2):
            version = f"protocol.version={protocol}"
            assert big.tip in git("-c", version, "ls-remote", http.url(NAME))
            git("-c", version, "fetch", "-q", "origin", "refs/heads/main", cwd=clone)
            assert served.load() == (1, 0)
        busy.end()


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_child_is_held_back_where_its_pack_begins(
    git_dir: Path, history: History, tmp_path: Path, protocol: int
) -> None:
    """What both have in common is talked over at once; only the pack waits."""
    commits = history.chain(40)
    publish(git_dir, history, {"refs/heads/main": commits[30]})
    served = GitServing(git_dir, max_packs=1, wait_seconds=60)
    clone = tmp_path / "clone"
    with ServingHttp(served) as http:
        git("clone", "-q", "--bare", http.url(NAME), str(clone))
        publish(git_dir, history, {"refs/heads/main": commits[39]})
        busy = served._turns.take()
        clients = Clients(http.url(NAME), tmp_path)
        clients.start(
            "one", "-c", f"protocol.version={protocol}", "-C", str(clone), "fetch", "-q", http.url(NAME), "main"
        )
        wait_until(lambda: served.load() == (1, 1), 30)
        busy.end()
        clients.all_end_well()
        assert git("rev-parse", "FETCH_HEAD", cwd=clone) == commits[39]
        wait_until(lambda: served.load() == (0, 0))


def negotiation(want: str, have: str) -> bytes:
    return packet("command=fetch\n") + b"0001" + packet(f"want {want}\n") + packet(f"have {have}\n") + b"0000"


def test_a_child_that_is_held_back_computes_nothing_and_goes_with_its_client(big: Big) -> None:
    commit = big.history.commit("next", parents=[big.tip], files={"g": random.Random(2).randbytes(3 << 20)})
    publish(big.git_dir, big.history, {"refs/heads/main": commit})
    served = GitServing(big.git_dir, max_packs=1, wait_seconds=60)
    busy = served._turns.take()
    left = threading.Event()
    body = io.BytesIO(negotiation(commit, big.tip))
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in served.upload_pack(NAME, body, protocol=V2, gone=left.is_set) or ():
                pass
        except ConnectionResetError as error:
            ended.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: served.load() == (1, 1), 30)
    (leader,) = {os.getpgid(int(pid)) for pid in serving_children(big)}
    wait_until(lambda: set(states(leader)) == {"T"})
    left.set()
    asking.join(30)
    assert len(ended) == 1
    wait_until(lambda: not alive(leader))
    assert served.load() == (1, 0)
    busy.end()
    assert served.load() == (0, 0)


def test_a_turn_that_never_comes_is_told_inside_an_answer_that_has_begun(
    git_dir: Path, history: History, tmp_path: Path
) -> None:
    commits = history.chain(4)
    publish(git_dir, history, {"refs/heads/main": commits[1]})
    served = GitServing(git_dir, max_packs=1, wait_seconds=0.05)
    clone = tmp_path / "clone"
    with ServingHttp(served) as http:
        git("clone", "-q", "--bare", http.url(NAME), str(clone))
        publish(git_dir, history, {"refs/heads/main": commits[3]})
        busy = served._turns.take()
        fetching = ("-C", str(clone), "fetch", http.url(NAME), "main")
        said = failing(*fetching)
        assert "MS-V429: Too many packs are being computed here" in said
        assert served.load() == (1, 0)
        busy.end()
        git(*fetching)


def test_a_client_that_leaves_while_git_computes_takes_the_child_along(big: Big) -> None:
    left = threading.Event()
    stream = big.served.upload_pack(NAME, io.BytesIO(fetch(big.tip)), protocol=V2, gone=left.is_set)
    assert stream is not None
    assert stream._child is not None
    group = stream._child.pid
    os.killpg(group, signal.SIGSTOP)  # it has nothing to say for as long as anybody waits
    left.set()
    with pytest.raises(ConnectionResetError):
        for _ in stream:
            pass
    stream.close()
    wait_until(lambda: not alive(group))
    assert big.served.load() == (0, 0)


def test_a_pack_on_its_way_lets_the_next_be_computed(big: Big) -> None:
    served = GitServing(big.git_dir, max_packs=1, wait_seconds=30)
    first = served.upload_pack(NAME, io.BytesIO(fetch(big.tip)), protocol=V2)
    assert first is not None
    told = b""
    while len(told) < 1 << 20:  # far into the pack, and far from its end
        told += next(first)
    assert answer(served, fetch(big.tip)).endswith(b"0000")
    assert served.load() == (1, 0)
    first.close()
    assert served.load() == (0, 0)


# ---------------------------------------------------------------- what clients are told


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize("extra", [[], ["--depth=1"], ["--filter=blob:none"], ["--quiet"], ["--progress"]])
def test_a_notice_stands_in_the_output_of_git(big: Big, tmp_path: Path, protocol: int, extra: list[str]) -> None:
    clone = tmp_path / "clone"
    with ServingHttp(big.served, notice="acme/model is 2h14m behind its upstream") as http:
        command = ["git", "-c", f"protocol.version={protocol}", "clone", "--bare", *extra, http.url(NAME), str(clone)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("remote: acme/model is 2h14m behind its upstream") == 1
        git("fsck", "--connectivity-only", cwd=clone)
        again = subprocess.run(
            ["git", "fetch", "origin"], cwd=clone, capture_output=True, text=True, timeout=60, check=True
        )
        assert "behind" not in again.stderr  # nothing was sent
