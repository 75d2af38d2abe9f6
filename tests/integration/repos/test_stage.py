from __future__ import annotations

import os
import subprocess

import pytest

from mirror_sync.clock import SystemClock
from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.errors import AddressRefused, GitFailed, StorageFull, UpstreamStalled
from mirror_sync.ports import GitAccess, PublishRequest
from mirror_sync.repos import Repositories
from mirror_sync.repos.files import Space
from mirror_sync.repos.git import Git
from mirror_sync.repos.stage import Stage
from tests.support.disk_mirror import MAIN, NAME, PLENTY, DiskMirror
from tests.support.small_disk import free_bytes, small_disk
from tests.support.staging import stage_pack
from tests.support.upstream import GitUpstream


@pytest.fixture
def mirror(tmp_path) -> DiskMirror:
    made = DiskMirror(tmp_path)
    made.create()
    return made


def files_in(mirror: DiskMirror) -> list[str]:
    objects = mirror.repository.layout.stage / "objects"
    return sorted(path.name for path in objects.rglob("*") if path.is_file() and path.name != "alternates")


def stage_of(mirror: DiskMirror) -> Stage:
    """Return the stage itself, made if it was not there; the lock is held."""
    layout = mirror.repository.layout
    stage = Stage(layout, Git(layout.stage), space=Space(layout.root, 0))
    stage.ensure(mirror.object_format)
    return stage


def test_only_what_is_new_is_staged(mirror):
    first = mirror.commit(files={"big": os.urandom(500_000)})
    mirror.publish({MAIN: first})
    second = mirror.commit(parents=[first])
    mirror.stage(second, haves=[first])
    assert sum(path.stat().st_size for path in mirror.repository.layout.stage_packs.glob("*.pack")) < 5_000


def test_a_thin_pack_is_completed_from_the_store(mirror):
    text = b"".join(b"line %d\n" % n for n in range(20_000))
    first = mirror.commit(files={"text": text})
    mirror.publish({MAIN: first})
    second = mirror.commit(files={"text": text + b"one more\n"}, parents=[first])
    thin = mirror.history.pack([second], haves=[first])
    assert len(thin) < 3_000
    mirror.publish({MAIN: second})
    mirror.check_served()


@pytest.mark.parametrize("cut", [1, 11, 12, 40, -1, -20, -21])
def test_every_cut_leaves_nothing(mirror, cut):
    tip = mirror.commit(files={"a": os.urandom(3000)})
    data = mirror.history.pack([tip])[:cut]
    with mirror.repository.lock(), pytest.raises(GitFailed):
        stage_pack(mirror.repository, [data], max_bytes=PLENTY)
    assert files_in(mirror) == []


@pytest.mark.parametrize("at", [0, 5, 13, 60, -5])
def test_every_flipped_byte_leaves_nothing(mirror, at):
    tip = mirror.commit(files={"a": os.urandom(3000)})
    data = bytearray(mirror.history.pack([tip]))
    data[at] ^= 0x55
    with mirror.repository.lock(), pytest.raises(GitFailed):
        stage_pack(mirror.repository, [bytes(data)], max_bytes=PLENTY)
    assert files_in(mirror) == []


@pytest.mark.parametrize("data", [b"", b"<html>login</html>", b"PACK", b"\0" * 5000])
def test_what_is_no_pack_leaves_nothing(mirror, data):
    with mirror.repository.lock(), pytest.raises(GitFailed):
        stage_pack(mirror.repository, [data], max_bytes=PLENTY)
    assert files_in(mirror) == []


def test_a_failed_pack_leaves_the_earlier_one(mirror):
    first, second = mirror.commit(), mirror.commit()
    mirror.stage(first)
    before = files_in(mirror)

    def chunks():
        yield mirror.history.pack([second])[:60]
        raise UpstreamStalled

    with mirror.repository.lock(), pytest.raises(UpstreamStalled):
        stage_pack(mirror.repository, chunks(), max_bytes=PLENTY)
    assert files_in(mirror) == before
    assert mirror.repository.missing([first, second]) == {second}


def test_the_reserve_stops_a_pack_while_bytes_arrive(mirror):
    tip = mirror.commit(files={"big": os.urandom(12_000_000)})
    data = mirror.history.pack([tip])
    given = 0

    def chunks():
        nonlocal given
        for start in range(0, len(data), 65_536):
            given += 1
            yield data[start : start + 65_536]

    with small_disk(mirror.git_dir):
        reserve = free_bytes(mirror.git_dir) - 2_000_000
        tight = Repositories(mirror.git_dir, clock=SystemClock(), reserve_bytes=reserve).open(NAME)
        with tight.lock(), pytest.raises(StorageFull):
            stage_pack(tight, chunks(), max_bytes=PLENTY)
        assert 0 < given < len(data) / 65_536
        assert files_in(mirror) == []


def test_the_automatic_reserve_is_a_share(tmp_path):
    Space(tmp_path / "not" / "there" / "yet", None).check()
    with pytest.raises(StorageFull):
        Space(tmp_path, None).check(2**62)


def test_a_full_file_system_keeps_what_came_once(tmp_path):
    """ENOSPC inside git, on a file system of 6 MB: git itself leaves its temporary pack behind."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("impossible here: no tmpfs may be mounted (needs root)")
    try:
        history = DiskMirror(tmp_path / "world")
        first = history.commit(files={"a": os.urandom(100_000)})
        huge = history.commit(files={"a": os.urandom(9_000_000)}, parents=[first])
        mirror = history.copy(tmp_path / "copy")
        mirror.git_dir = small
        mirror.repository = mirror.open()
        mirror.publish({MAIN: first})
        free = os.statvfs(small).f_bavail
        with mirror.repository.lock(), pytest.raises(StorageFull):
            stage_pack(mirror.repository, [history.history.pack([huge], haves=[first])], max_bytes=PLENTY)
        assert mirror.served()[0] == {MAIN: first}
        mirror.check_served()
        (came,) = mirror.repository.layout.fill.glob("*.part")
        assert os.statvfs(small).f_bavail > free - 20 - came.stat().st_size // os.statvfs(small).f_bsize
        assert mirror.loose_ends() == []
        second = history.commit(parents=[first])
        mirror.publish({MAIN: second})
        mirror.check_served()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_no_inodes_left_is_a_full_disk(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m,nr_inodes=60", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("impossible here: no tmpfs may be mounted (needs root)")
    try:
        mirror = DiskMirror(tmp_path / "world")
        mirror.git_dir = small
        mirror.repository = mirror.open()
        first, second = mirror.commit(), mirror.commit()
        mirror.publish({MAIN: first})
        fillers = []
        while os.statvfs(small).f_favail:
            fillers.append(small / f"filler{len(fillers)}")
            fillers[-1].touch()
        with pytest.raises(StorageFull):
            mirror.publish({MAIN: second})
        assert mirror.served()[0] == {MAIN: first}
        for filler in fillers:
            filler.unlink()
        mirror.publish({MAIN: second})
        assert mirror.served()[0] == {MAIN: second}
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_stage_that_forgot_its_store_is_mended(mirror):
    first = mirror.commit()
    mirror.publish({MAIN: first})
    second, third = mirror.commit(parents=[first]), mirror.commit(parents=[first])
    mirror.stage(second, haves=[first])
    (mirror.repository.layout.stage / "objects" / "info" / "alternates").write_bytes(b"")
    mirror.stage(third, haves=[first])
    assert mirror.inspect(second, third).bad == {}


# ---------------------------------------------------------------- stock git, for upstreams that speak v0


@pytest.fixture
def upstream(tmp_path):
    with GitUpstream(tmp_path / "served") as server:
        server.protocol = 0
        yield server


def test_stock_git_fetches_exact_objects_and_writes_no_ref(mirror, upstream):
    repo = upstream.create("acme/model")
    first = repo.commit({"a": b"1\n"})
    mirror_repository = mirror.repository
    access = GitAccess(repo.url, {})
    with mirror_repository.lock():
        assert stage_of(mirror).fetch(access, [GitOid(first)], max_bytes=PLENTY) > 0
        assert mirror_repository.inspect([GitOid(first)]).bad == {}
    assert mirror_repository.missing([GitOid(first)]) == set()
    stage = mirror_repository.layout.stage
    assert list((stage / "refs").rglob("*")) == []
    assert not (stage / "FETCH_HEAD").exists()
    assert not (stage / "packed-refs").exists()


def test_stock_git_asks_for_what_is_new_only(mirror, upstream):
    repo = upstream.create("acme/model")
    first = repo.commit({"big": os.urandom(300_000)})
    access = GitAccess(repo.url, {})
    repository = mirror.repository
    with repository.lock():
        stage_of(mirror).fetch(access, [GitOid(first)], max_bytes=PLENTY)
        repository.inspect([GitOid(first)])
        repository.promote([GitOid(first)])
        repository.discard_stage()
        repository.publish(PublishRequest(1, 0, RefSnapshot({MAIN: GitOid(first)}, MAIN), ()), confirm=lambda: None)
        second = repo.commit({"small": b"x\n"})
        assert stage_of(mirror).fetch(access, [GitOid(second)], max_bytes=PLENTY) < 50_000


def test_stock_git_is_bounded(mirror, upstream):
    repo = upstream.create("acme/model")
    tip = repo.commit({"big": os.urandom(8_000_000)})
    with mirror.repository.lock(), pytest.raises(StorageFull):
        stage_of(mirror).fetch(GitAccess(repo.url, {}), [GitOid(tip)], max_bytes=1_000_000)
    assert files_in(mirror) == []


def test_stock_git_that_fails_leaves_nothing(mirror, upstream):
    repo = upstream.create("acme/model")
    repo.commit({"a": b"1\n"})
    with mirror.repository.lock(), pytest.raises(GitFailed):
        stage_of(mirror).fetch(GitAccess(repo.url, {}), [GitOid("1" * 40)], max_bytes=PLENTY)
    assert files_in(mirror) == []


def test_stock_git_shows_no_secret(mirror, upstream):
    repo = upstream.create("acme/model")
    tip = repo.commit({"a": b"1\n"})
    upstream.stop()
    secret = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "http.extraHeader",
        "GIT_CONFIG_VALUE_0": "Authorization: Bearer canary",
    }
    with mirror.repository.lock(), pytest.raises(GitFailed) as caught:
        stage_of(mirror).fetch(GitAccess(repo.url, secret), [GitOid(tip)], max_bytes=PLENTY)
    assert "canary" not in f"{caught.value} {caught.value.argv} {caught.value.stderr} {GitAccess(repo.url, secret)!r}"


@pytest.mark.parametrize(
    "url", ["file:///etc", "ext::sh -c id", "/etc", "--upload-pack=touch", "git://h/x", "ssh://h/x"]
)
def test_stock_git_speaks_http_only(mirror, url):
    with mirror.repository.lock(), pytest.raises(AddressRefused):
        stage_of(mirror).fetch(GitAccess(url, {}), [GitOid("1" * 40)], max_bytes=PLENTY)


def test_a_sha256_upstream(tmp_path):
    mirror = DiskMirror(tmp_path, object_format=ObjectFormat.SHA256)
    mirror.create()
    tip = mirror.commit()
    mirror.stage(tip)
    assert mirror.inspect(tip).bad == {}
    sha1 = DiskMirror(tmp_path / "other")
    foreign = sha1.commit()
    with mirror.repository.lock(), pytest.raises(GitFailed):
        stage_pack(mirror.repository, [sha1.history.pack([foreign])], max_bytes=PLENTY)
