"""What every Upstream promises, as far as it can be seen from outside.

A subclass supplies a ``world``: an upstream together with the means to change it.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Protocol

import pytest

from mirror_sync.domain.names import GitOid, LfsOid, RefName
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import (
    ObjectMissingUpstream,
    UpstreamDeclined,
    UpstreamInvalid,
    UpstreamLacks,
    UpstreamUnavailable,
)
from mirror_sync.ports import Clock, FetchRequest, Upstream

MAIN = RefName("refs/heads/main")
TAG = RefName("refs/tags/v1")
PULL = RefName("refs/pull/1/head")
ALL = ("refs/*",)


class World(Protocol):
    """An upstream that a test can change."""

    upstream: Upstream
    clock: Clock

    def commit(self, ref: RefName) -> GitOid:
        """Move ``ref`` to a new commit, create it when absent, and return the tip; ``main`` is the default branch."""

    def tag(self, name: RefName, target: GitOid) -> GitOid:
        """Make an annotated tag and return its id."""

    def file(self, path: bytes, data: bytes) -> GitOid:
        """Commit a file and return the commit; its host gives it by itself."""

    def cut_file(self, after: int) -> None:
        """Let the next download of a single file break after ``after`` bytes."""

    def offer_no_files(self) -> Upstream:
        """Return the same upstream as a host that gives no single files."""

    def take_no_filters(self) -> Upstream:
        """Return the same upstream as a server without filters."""

    def put(self, data: bytes) -> Pointer:
        """Place an LFS object."""

    def cut_next(self, pointer: Pointer, after: int) -> None:
        """Let the next download of this object break after ``after`` bytes."""


def absent(text: str) -> Pointer:
    data = text.encode()
    return Pointer(LfsOid(hashlib.sha256(data).hexdigest()), len(data))


DATA = bytes(range(256)) * 1000


class UpstreamContract:
    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    # -- refs

    def test_observing_finds_the_refs_and_the_default_branch(self, world):
        tips = {MAIN: world.commit(MAIN), TAG: world.commit(TAG)}
        before = world.clock.now()
        observation = world.upstream.observe(ALL)
        assert dict(observation.snapshot.tips) == tips
        assert observation.snapshot.head == MAIN
        assert before <= observation.started_at <= world.clock.now()
        assert observation.digest

    def test_only_selected_refs_are_found(self, world):
        tips = {name: world.commit(name) for name in (MAIN, TAG, PULL)}
        assert dict(world.upstream.observe(("refs/heads/*", str(TAG))).snapshot.tips) == {
            MAIN: tips[MAIN],
            TAG: tips[TAG],
        }

    def test_the_same_answer_is_not_told_twice(self, world):
        world.commit(MAIN)
        observation = world.upstream.observe(ALL)
        assert world.upstream.observe(ALL, known_digest=observation.digest) is None
        assert world.upstream.observe(ALL, known_digest="another").snapshot == observation.snapshot

    def test_a_change_has_another_digest(self, world):
        world.commit(MAIN)
        first = world.upstream.observe(ALL)
        moved = world.commit(MAIN)
        second = world.upstream.observe(ALL, known_digest=first.digest)
        assert second is not None
        assert second.snapshot.tips[MAIN] == moved
        assert second.digest != first.digest

    def test_a_fetch_yields_bytes(self, world):
        tip = world.commit(MAIN)
        observation = world.upstream.observe(ALL)
        request = FetchRequest(observation.object_format, wants=(tip,), haves=())
        assert len(b"".join(world.upstream.fetch(request))) > 0

    def test_what_selected_tags_stand_for_is_told(self, world):
        tip = world.commit(MAIN)
        tag = world.tag(TAG, tip)
        assert dict(world.upstream.observe(ALL).peeled) == {tag: tip}
        assert dict(world.upstream.observe(("refs/heads/*",)).peeled) == {}

    def test_the_source_has_a_name(self, world):
        assert world.upstream.host
        assert "/" not in world.upstream.host

    def test_the_server_tells_what_it_can_do(self, world):
        world.commit(MAIN)
        able = world.upstream.abilities()
        assert (able.protocol, able.object_format, able.filters) == (2, ObjectFormat.SHA1, True)

    def test_a_server_without_filters_says_so_and_declines_them(self, world):
        tip = world.commit(MAIN)
        upstream = world.take_no_filters()
        assert not upstream.abilities().filters
        with pytest.raises(UpstreamDeclined):
            list(upstream.fetch(FetchRequest(ObjectFormat.SHA1, (tip,), (), filter="tree:0")))

    def test_commits_alone_can_be_asked_for(self, world):
        tip = world.commit(MAIN)
        request = FetchRequest(ObjectFormat.SHA1, (tip,), (), filter="tree:0", thin=False)
        assert len(b"".join(world.upstream.fetch(request))) > 0

    def test_an_object_that_is_not_there_is_told(self, world):
        world.commit(MAIN)
        with pytest.raises(UpstreamLacks) as caught:
            list(world.upstream.fetch(FetchRequest(ObjectFormat.SHA1, (GitOid("1" * 40),), ())))
        assert caught.value.code == "MS-U409"

    # -- single files

    @pytest.mark.parametrize("path", [b"big", b"a dir/b#c?d%e\xff&+.bin"])
    @pytest.mark.parametrize("start", [0, 1, len(DATA) - 1, len(DATA)])
    def test_a_file_arrives_from_any_byte_on(self, world, path, start):
        commit = world.file(path, DATA)
        body = world.upstream.open_blob(commit, path, start=start)
        assert (body.start, body.size) == (start, len(DATA))
        assert b"".join(body.chunks()) == DATA[start:]
        body.close()

    def test_a_file_that_breaks_off_is_told_and_what_came_is_right(self, world):
        commit = world.file(b"big", DATA)
        world.cut_file(100_000)
        body = world.upstream.open_blob(commit, b"big", start=500)
        came = bytearray()
        with pytest.raises(UpstreamUnavailable):  # noqa: PT012 - the loop is the statement: bytes first, then the break
            for chunk in body.chunks():
                came += chunk
        body.close()
        assert 0 < len(came) <= 100_000
        assert DATA[500:].startswith(came)

    def test_a_file_that_is_not_there_is_told(self, world):
        commit = world.file(b"big", DATA)
        with pytest.raises(ObjectMissingUpstream):
            world.upstream.open_blob(commit, b"small", start=0)
        with pytest.raises(UpstreamInvalid):
            world.upstream.open_blob(commit, b"big", start=len(DATA) + 1)

    def test_a_host_without_single_files_says_so(self, world):
        commit = world.file(b"big", DATA)
        assert world.offer_no_files().open_blob(commit, b"big", start=0) is None

    def test_git_access_names_no_secret_in_its_url(self, world):
        access = world.upstream.git_access()
        assert "@" not in access.url
        secrets = [value for value in access.environment.values() if "authorization" in value.lower()]
        assert not any(secret in repr(access) for secret in secrets)

    # -- LFS

    def test_a_batch_answers_for_each_object_in_order(self, world):
        pointers = [world.put(f"object {number}".encode()) for number in range(5)]
        pointers.insert(2, absent("nobody has this"))
        answers = world.upstream.batch(pointers)
        assert [answer.pointer for answer in answers] == pointers
        assert [answer.error_code for answer in answers] == [0, 0, 404, 0, 0, 0]
        assert [answer.action is None for answer in answers] == [False, False, True, False, False, False]

    def test_more_than_a_hundred_objects_are_answered(self, world):
        pointers = [world.put(f"object {number}".encode()) for number in range(230)]
        answers = world.upstream.batch(pointers)
        assert [answer.pointer for answer in answers] == pointers
        assert all(answer.action for answer in answers)

    def test_an_empty_batch_has_no_answers(self, world):
        assert world.upstream.batch([]) == []

    @pytest.mark.parametrize(("start", "end"), [(0, len(DATA)), (0, 1), (1000, 70_000), (len(DATA) - 1, len(DATA))])
    def test_the_bytes_asked_for_arrive(self, world, start, end):
        pointer = world.put(DATA)
        (answer,) = world.upstream.batch([pointer])
        body = world.upstream.open_object(pointer, answer.action, start=start, end=end)
        try:
            chunks = list(body.chunks())
        finally:
            body.close()
        assert body.start == start
        assert b"".join(chunks) == DATA[start:end]
        assert all(0 < len(chunk) <= 1 << 20 for chunk in chunks)

    def test_a_broken_stream_is_told_and_what_came_is_right(self, world):
        pointer = world.put(DATA)
        world.cut_next(pointer, 100_000)
        (answer,) = world.upstream.batch([pointer])
        body = world.upstream.open_object(pointer, answer.action, start=0, end=len(DATA))
        came = bytearray()
        with pytest.raises(UpstreamUnavailable):  # noqa: PT012 - the loop is the statement: bytes first, then the break
            for chunk in body.chunks():
                came += chunk
        body.close()
        assert len(came) <= 100_000
        assert DATA.startswith(came)

    def test_a_body_may_be_abandoned_while_it_is_read(self, world):
        pointer = world.put(DATA * 20)
        (answer,) = world.upstream.batch([pointer])
        body = world.upstream.open_object(pointer, answer.action, start=0, end=pointer.size)
        came = 0
        with pytest.raises(UpstreamUnavailable):  # noqa: PT012 - the loop is the statement
            for chunk in body.chunks():
                came += len(chunk)
                other = threading.Thread(target=body.abandon)
                other.start()
                other.join()
        body.close()
        assert 0 < came < pointer.size
        body.abandon()

    def test_a_body_may_be_closed_before_its_end(self, world):
        pointer = world.put(DATA)
        (answer,) = world.upstream.batch([pointer])
        body = world.upstream.open_object(pointer, answer.action, start=0, end=len(DATA))
        next(iter(body.chunks()))
        body.close()
        again = world.upstream.open_object(pointer, answer.action, start=0, end=len(DATA))
        assert b"".join(again.chunks()) == DATA
        again.close()

    def test_closing_twice_is_harmless(self, world):
        world.upstream.close()
        world.upstream.close()
