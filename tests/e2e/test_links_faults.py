"""What an upstream or a link may do to a mirror, one by one, to a whole sync of real parts.

Each time the same is expected: what is served stays as it was or moves to what upstream
has, nothing else; the run says why with its code; the next good sync converges and leaves
nothing behind.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror_sync.bootstrap import App, build, configure_logs, upgrade_database
from mirror_sync.clock import SystemClock
from mirror_sync.config import load
from mirror_sync.domain.runs import Mirror, Outcome, RunReport
from tests.support.compare import objects_of, refs_of, upstream_refs
from tests.support.crash_world import LEFT_BEHIND
from tests.support.lies import PAGE
from tests.support.mirroring import configuration, view_of
from tests.support.upstream import GitUpstream, pointer_text

HOUR = 3600.0
FETCH = "POST /acme/model[^ ]*/git-upload-pack"
LISTING = "info/refs|git-upload-pack"
DOWNLOAD = "GET /-/lfs/"


class HastyClock(SystemClock):
    """The machine's clock, except that sleeping takes no time: the clock moves on instead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def sleep(self, seconds: float, *, stop: threading.Event | None = None) -> bool:
        self.ahead += max(0.0, seconds - 0.01)
        return super().sleep(min(seconds, 0.01), stop=stop)


class Scene:
    """One upstream, published once, and the App of one worker."""

    def __init__(self, up: GitUpstream, app: App, clock: HastyClock, directory: Path) -> None:
        self.up = up
        self.app = app
        self.clock = clock
        self.directory = directory
        self.repo = up.create("acme/model")
        self.repo.commit({"README": "one"}, lfs={"a.bin": os.urandom(70_000)})
        self.repo.commit({"README": "dev"}, branch="dev", start="main")
        for number in range(20):
            self.repo.tag(f"v{number}")
        self.mirror, _ = app.enrol(self.repo.url)
        assert self.sync().outcome is Outcome.PUBLISHED
        self.before = self.served()

    @property
    def name(self) -> Any:
        return self.mirror.name

    @property
    def view(self) -> Path:
        return view_of(self.directory, self.repo.url)

    def served(self) -> dict[str, str]:
        return refs_of(self.view)

    def move_on(self, *, size: int = 300_000) -> None:
        """Give upstream something new to bring: commits, files, an LFS object, a branch."""
        self.repo.commit({"README": "two", "data": os.urandom(200_000)}, lfs={"b.bin": os.urandom(size)})
        self.repo.commit({"README": "next"}, branch="next", start="dev")

    def sync(self, mirror: Mirror | None = None) -> RunReport:
        """Run one sync, asked for by hand."""
        name = (mirror or self.mirror).name
        self.app.request_sync(name)
        lease = self.app.claim("here")
        assert lease is not None
        assert lease.mirror.name == name
        return self.app.sync(lease, stop=threading.Event())

    def state(self) -> Mirror:
        return self.app.state.mirror(self.name)

    def assert_untouched(self) -> None:
        assert self.served() == self.before
        assert objects_of(self.view)

    def assert_converges(self) -> None:
        """With every fault gone the mirror is what upstream is, and nothing is left of what went wrong."""
        self.up.heal()
        self.clock.ahead += 48 * HOUR
        report = self.sync()
        assert report.outcome in (Outcome.PUBLISHED, Outcome.UNCHANGED), (report.code, report.message)
        assert self.served() == upstream_refs(self.repo)
        assert objects_of(self.view) == objects_of(self.repo.path)
        assert self.state().failures == 0
        assert self.leftovers() == []

    def leftovers(self) -> list[str]:
        found = {
            path for pattern in LEFT_BEHIND for top in ("git", "lfs") for path in (self.directory / top).rglob(pattern)
        }
        found |= set((self.directory / "lfs" / "incomplete").glob("*"))
        return sorted(str(path.relative_to(self.directory)) for path in found)


@contextlib.contextmanager
def scene_at(tmp_path: Path) -> Iterator[Scene]:
    with GitUpstream(tmp_path / "up") as up:
        directory = tmp_path / "mirror"
        settings = load(configuration(directory, up.url("acme/model"), stall="1s"), environ={})
        configure_logs(settings, level="error")
        upgrade_database(settings)
        with build(settings, role="worker") as app:
            clock = app.clock = HastyClock()
            app.recover_all()
            yield Scene(up, app, clock, directory)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with scene_at(tmp_path) as made:
        yield made


# --- the whole answer is wrong


@pytest.mark.parametrize("status", [500, 503])
def test_row_24_an_upstream_in_trouble_is_asked_later_and_later(scene: Scene, status: int) -> None:
    scene.move_on()
    scene.up.fault(LISTING, times=None, status=status)
    waits = []
    for _ in range(4):
        report = scene.sync()
        assert (report.outcome, report.code) == (Outcome.FAILED, "MS-U503")
        scene.assert_untouched()
        waits.append(report.next_due_at - report.finished_at)
    assert waits[-1] > waits[0] > 0
    scene.assert_converges()


@pytest.mark.parametrize("status", [429, 403])
def test_row_25_a_wish_to_wait_is_obeyed_for_the_host_and_no_other(scene: Scene, tmp_path: Path, status: int) -> None:
    scene.move_on()
    scene.up.fault(LISTING, times=None, status=status, headers={"Retry-After": "90"})
    began = scene.clock.now()
    report = scene.sync()
    assert report.code == "MS-U429"
    assert report.next_due_at >= began + 90
    scene.assert_untouched()
    scene.up.forget()
    sister = scene.up.create("acme/sister")
    sister.commit({"README": "x"})
    second, _ = scene.app.enrol(sister.url)
    assert scene.sync(second).code == "MS-U429"
    assert scene.up.seen() == []
    scene.assert_converges()


@pytest.mark.parametrize(("status", "code"), [(401, "MS-A401"), (404, "MS-U404")])
def test_row_26_a_door_that_closes_keeps_what_is_here(scene: Scene, status: int, code: str) -> None:
    scene.move_on()
    scene.repo.absent = status
    for _ in range(4):
        report = scene.sync()
        assert (report.outcome, report.code) == (Outcome.FAILED, code)
        scene.assert_untouched()
        scene.clock.ahead += 25 * HOUR
    scene.repo.absent = None
    scene.assert_converges()


@pytest.mark.parametrize("body", [PAGE, b"", gzip.compress(PAGE)], ids=["page", "nothing", "compressed"])
def test_row_27_a_page_is_no_list(scene: Scene, body: bytes) -> None:
    scene.move_on()
    scene.up.fault(LISTING, times=None, body=body)
    report = scene.sync()
    assert (report.outcome, report.code) == (Outcome.FAILED, "MS-U502")
    scene.assert_untouched()
    scene.assert_converges()


def test_row_28_a_list_cut_short_is_no_list(scene: Scene) -> None:
    scene.move_on()
    for share in (0.2, 0.5, 0.9, 0.99):
        scene.up.fault(FETCH, times=None, rewrite=lambda body, share=share: body[: int(len(body) * share)])
        assert scene.sync().outcome is Outcome.FAILED
        scene.assert_untouched()
        scene.up.heal()
    scene.assert_converges()


def test_row_29_a_list_that_lacks_nearly_everything_waits(scene: Scene) -> None:
    scene.repo.commit({"README": "two"})
    for ref in upstream_refs(scene.repo):
        if ref != "refs/heads/main":
            scene.repo.delete(ref)
    report = scene.sync()
    assert report.outcome is Outcome.HELD
    assert scene.served().keys() == scene.before.keys()
    assert {hold.code for hold in scene.state().holds} == {"MS-H001"}
    assert scene.app.release_guard(scene.name)
    scene.assert_converges()


# --- what Git sends is wrong


def _garbage(body: bytes) -> bytes:
    return body[:100] + os.urandom(max(0, len(body) - 100))


def _other_trailer(body: bytes) -> bytes:
    return body[:-6] + bytes([body[-6] ^ 1]) + body[-5:]


def _truncated(body: bytes) -> bytes:
    return body[: len(body) // 2]


@pytest.mark.parametrize("wrong", [_garbage, _truncated, _other_trailer], ids=["garbage", "truncated", "other-trailer"])
@pytest.mark.parametrize("times", [1, None], ids=["once", "for-good"])
def test_row_30_a_pack_that_is_wrong(scene: Scene, wrong: Callable[[bytes], bytes], times: int | None) -> None:
    scene.move_on()
    scene.up.fault(FETCH, times=times, after=1, rewrite=wrong)
    report = scene.sync()
    served, theirs = scene.served(), upstream_refs(scene.repo)
    if report.outcome is Outcome.PUBLISHED:
        assert served == theirs
    elif report.outcome is Outcome.HELD:
        assert report.code in {"MS-H003", "MS-H009"}
        assert {ref: oid for ref, oid in served.items() if scene.before.get(ref) != oid}.items() <= theirs.items()
        assert objects_of(scene.view)
    else:
        assert report.code in {"MS-U502", "MS-U503"}
        scene.assert_untouched()
    scene.assert_converges()


# --- what LFS sends is wrong


def test_row_31_lfs_bytes_that_are_wrong_for_good_hold_their_ref_alone(scene: Scene) -> None:
    data = os.urandom(100_000)
    scene.repo.commit({"README": "two"}, lfs={"b.bin": data})
    moved = scene.repo.commit({"README": "dev two"}, branch="dev")
    oid, _ = scene.repo.lfs.put(data)
    scene.repo.lfs.replace(oid, data[:-1] + bytes([data[-1] ^ 1]))
    report = scene.sync()
    assert (report.outcome, report.code) == (Outcome.FAILED, "MS-L422")
    assert scene.served() == scene.before | {"refs/heads/dev": moved}
    assert len(scene.up.seen(oid)) >= 2
    assert not (scene.directory / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).exists()
    scene.repo.lfs.replace(oid, data)
    scene.assert_converges()


@pytest.mark.parametrize("wrong_by", [-30_000, 1_000])
@pytest.mark.parametrize("liar", ["main", "dev"])
def test_row_31_a_pointer_that_claims_another_size_holds_its_ref_alone(scene: Scene, liar: str, wrong_by: int) -> None:
    data, honest = os.urandom(100_000), "dev" if liar == "main" else "main"
    oid, size = scene.repo.lfs.put(data)
    scene.repo.commit({"README": "wrong", "b.bin": pointer_text(oid, size + wrong_by)}, branch=liar)
    moved = scene.repo.commit({"README": "true"}, lfs={"b.bin": data}, branch=honest)
    scene.sync()  # which may have tried the wrong one before the true one came
    assert scene.served() == scene.before | {f"refs/heads/{honest}": moved}
    scene.up.requests.clear()
    report = scene.sync()
    assert (report.outcome, report.code) == (Outcome.HELD, "MS-H004")
    assert scene.served() == scene.before | {f"refs/heads/{honest}": moved}
    assert scene.up.seen(oid) == [], "what nobody can have is not asked for"
    (hold,) = scene.state().holds
    assert (hold.name, hold.code) == (f"refs/heads/{liar}", "MS-H004")
    assert "the pointer is wrong: this object has 100000 bytes" in hold.reason
    scene.repo.commit({"b.bin": pointer_text(oid, size)}, branch=liar)
    scene.assert_converges()


def _longer(body: bytes) -> bytes:
    return body + b"more than there is"


LFS_FAULTS: dict[str, dict[str, Any]] = {
    "short": {"rewrite": _truncated},
    "long": {"rewrite": _longer},
    "another range": {"headers": {"Content-Range": "bytes 5-99/100"}},
    "the whole for a range": {"ignore_range": True},
    "compressed": {"headers": {"Content-Encoding": "gzip"}, "rewrite": gzip.compress},
    "a page": {"body": PAGE, "headers": {"Content-Type": "text/html"}},
    "nothing": {"body": b""},
    "cut": {"cut_after": 1000},
    "dropped": {"drop": True},
    "busy": {"status": 503},
}


@pytest.mark.parametrize("what", LFS_FAULTS)
def test_row_32_lfs_answers_that_are_wrong(scene: Scene, what: str) -> None:
    scene.move_on(size=3_000_000)
    scene.up.fault(DOWNLOAD, cut_after=500_000)
    fault = scene.up.fault(DOWNLOAD, times=2, **LFS_FAULTS[what])
    report = scene.sync()
    assert report.outcome is Outcome.PUBLISHED, (report.code, report.message)
    assert fault.hits >= 1
    scene.assert_converges()


def test_row_33_a_signed_url_that_expires_on_the_way(scene: Scene) -> None:
    scene.move_on(size=3_000_000)
    scene.up.fault(DOWNLOAD, times=2, cut_after=200_000)
    scene.up.fault(DOWNLOAD, times=2, status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
    scene.up.forget()
    assert scene.sync().outcome is Outcome.PUBLISHED
    assert len(scene.up.seen("objects/batch")) >= 2
    scene.assert_converges()


def test_row_34_what_upstream_lacks_holds_the_refs_that_need_it(scene: Scene) -> None:
    data = os.urandom(50_000)
    scene.repo.commit({"README": "two"}, lfs={"gone.bin": data})
    moved = scene.repo.commit({"README": "dev two"}, branch="dev")
    oid, _ = scene.repo.lfs.put(data)
    scene.repo.lfs.remove(oid)
    for _ in range(2):
        assert scene.sync().outcome is Outcome.HELD
        assert scene.served() == scene.before | {"refs/heads/dev": moved}
        assert [hold.name for hold in scene.state().holds] == ["refs/heads/main"]
        scene.clock.ahead += HOUR
    scene.repo.lfs.put(data)
    scene.assert_converges()


# --- slow and elsewhere


@pytest.mark.parametrize("where", [LISTING, f"{FETCH}|unreached", DOWNLOAD], ids=["list", "pack", "lfs"])
def test_row_35_a_trickle_is_given_up(scene: Scene, where: str) -> None:
    scene.move_on()
    scene.up.fault(where, times=1, after=1 if "unreached" in where else 0, pause_after=(1, 30.0))
    report = scene.sync()
    assert report.outcome in (Outcome.FAILED, Outcome.HELD, Outcome.PUBLISHED)
    if report.outcome is Outcome.FAILED:
        assert report.code in {"MS-U503", "MS-U504"}
        scene.assert_untouched()
    scene.assert_converges()


def test_row_36_a_redirect_to_elsewhere_is_refused_at_once(scene: Scene, tmp_path: Path) -> None:
    with GitUpstream(tmp_path / "other", address="127.0.0.2") as other:
        scene.move_on()
        scene.up.fault(LISTING, times=None, redirect=f"{other.origin}/acme/model/info/refs?service=git-upload-pack")
        report = scene.sync()
        assert report.outcome is Outcome.FAILED
        assert report.code == "MS-U302"
        assert other.seen() == []
        scene.assert_untouched()
        scene.up.heal()
        scene.up.fault(LISTING, times=None, redirect=f"{scene.repo.url}/info/refs?service=git-upload-pack")
        scene.up.forget()
        assert scene.sync().outcome is Outcome.FAILED
        assert len(scene.up.seen()) <= 5
        scene.assert_untouched()
    scene.assert_converges()
