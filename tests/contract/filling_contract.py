"""What every Filling promises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.refs import ObjectFormat
from mirror_sync.errors import GitFailed, StorageFull, UpstreamLacks, UpstreamUnavailable
from mirror_sync.ports.filling import Goal, Stretch
from tests.support.staging import stage_pack

PLENTY = 2**40
NOBODYS = "1"


class FillingScene(Protocol):
    """A repository with its store made and its lock held, and an upstream that packs what is asked for."""

    repository: Any
    object_format: ObjectFormat

    def chain(self, commits: int, *, parents: Sequence[GitOid] = ()) -> list[GitOid]:
        """Return new commits upstream in a line, oldest first, each with files of its own."""

    def commit(self, *, parents: Sequence[GitOid] = (), files: dict[str, bytes] | None = None) -> GitOid: ...

    def tag(self, name: str, target: GitOid, kind: str = "commit") -> GitOid: ...

    def blob_at(self, commit: GitOid, path: str) -> GitOid: ...

    def content(self, blob: GitOid) -> bytes: ...

    def pack(self, wants: Sequence[GitOid], *, haves: Sequence[GitOid] = ()) -> bytes:
        """Return the thin pack that an upstream sends."""

    def commits_pack(self, commits: Sequence[GitOid]) -> bytes:
        """Return a pack of just these commits or tags."""

    def reached(self, tips: Sequence[GitOid]) -> set[GitOid]:
        """Return every object that ``tips`` reach upstream."""

    def publish(self, tip: GitOid) -> None:
        """Bring all that ``tip`` reaches into the store and publish it."""

    def here(self, oids: Sequence[GitOid]) -> set[GitOid]:
        """Return those of ``oids`` that are in the store or the stage."""


def breaking_off(data: bytes, error: Exception | None = None, *, piece: int = 100) -> Iterator[bytes]:
    for at in range(0, len(data), piece):
        yield data[at : at + piece]
    raise error or UpstreamUnavailable("the connection was cut")


def goal_of(scene: FillingScene, *tips: GitOid, **more: Any) -> Goal:
    return Goal(scene.object_format, list(tips), **more)


class FillingContract:
    @pytest.fixture
    def scene(self) -> FillingScene:
        raise NotImplementedError

    def fill(self, scene: FillingScene) -> Any:
        return scene.repository.filling()

    def graph(self, scene: FillingScene, commits: Sequence[GitOid]) -> None:
        taken = self.fill(scene).take([scene.commits_pack(commits)], graph=True, max_bytes=PLENTY)
        assert taken.complete

    def bring(self, scene: FillingScene, stretch: Stretch) -> None:
        """Bring a stretch whole and note it."""
        pack = scene.pack(stretch.wants, haves=stretch.haves)
        assert self.fill(scene).take([pack], max_bytes=PLENTY).complete
        self.fill(scene).advance(stretch)

    # -- begin and end
    def test_nothing_is_begun_at_first(self, scene):
        filling = self.fill(scene)
        assert not filling.begun()
        assert not filling.frozen()
        assert filling.place() == (0, 0)
        assert not filling.interrupted()
        assert filling.given_up() == {}
        filling.drop()
        assert filling.finish() == 0

    def test_a_filling_is_not_an_empty_stage_and_is_kept_when_the_stage_is_emptied(self, scene):
        commits = scene.chain(2)
        self.fill(scene).begin(goal_of(scene, commits[-1]))
        assert not scene.repository.stage_is_empty()
        self.graph(scene, commits)
        scene.repository.discard_stage()
        assert self.fill(scene).begun()
        assert self.fill(scene).gap(wants=10, haves=10) is None

    def test_dropped_it_is_as_if_it_had_never_been(self, scene):
        commits = scene.chain(2)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.pack(commits)], max_bytes=PLENTY)
        filling.drop()
        assert not filling.begun()
        assert scene.here(commits) == set()
        assert scene.repository.stage_is_empty()

    # -- packs
    def test_a_whole_pack_is_taken(self, scene):
        commits = scene.chain(3)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        pack = scene.pack([commits[-1]])
        taken = filling.take([pack[:50], pack[50:]], max_bytes=PLENTY)
        assert taken.complete
        assert taken.error is None
        assert not taken.stopped
        assert taken.received == len(pack)
        assert taken.objects == taken.announced == len(scene.reached([commits[-1]]))
        assert scene.here(commits) == set(commits)
        assert filling.lacking(None, limit=10) == []
        assert filling.salvage() is None

    def test_of_a_pack_that_is_cut_the_whole_objects_stay(self, scene):
        commits = scene.chain(10)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        pack = scene.pack([commits[-1]])
        error = UpstreamLacks("not this")
        taken = filling.take(breaking_off(pack[: len(pack) // 2], error), max_bytes=PLENTY)
        assert not taken.complete
        assert taken.error is error
        assert 0 < taken.objects < taken.announced
        assert taken.received == len(pack) // 2
        assert 0 < taken.late_size * taken.objects < taken.received
        assert len(scene.here(sorted(scene.reached([commits[-1]])))) == taken.objects

    def test_what_is_lacking_is_told_while_the_last_pack_is_still_worked_on(self, scene):
        commits = scene.chain(10)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        everything = scene.reached(commits[-1:])
        for share in (0.3, 0.6, 1.0):
            asked = filling.lacking(None, limit=1000)
            while asked and set(asked) <= set(commits):
                assert filling.take([scene.commits_pack(asked)], behind=True, max_bytes=PLENTY).complete
                asked = filling.lacking(None, limit=1000)
            if not asked:
                break
            pack = scene.commits_pack(asked)
            taken = filling.take(breaking_off(pack[: int(len(pack) * share)]), behind=True, max_bytes=PLENTY)
            assert (taken.complete, taken.announced) == (False, len(asked))
            assert set(filling.lacking(None, limit=1000)) <= everything
        while asked := filling.lacking(None, limit=1000):
            assert filling.take([scene.commits_pack(asked)], behind=True, max_bytes=PLENTY).complete
        filling.settle()
        assert scene.here(sorted(everything)) == everything
        filling.finish()
        assert not filling.begun()

    @pytest.mark.parametrize("behind", [False, True])
    def test_the_rest_of_a_range_that_broke_off_follows(self, scene, behind):
        commits = scene.chain(12)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        self.graph(scene, commits)
        filling.freeze()
        asked = 0
        while (stretch := filling.stretch(3)) is not None:
            asked += 1
            pack = scene.pack(stretch.wants, haves=stretch.haves)
            if asked % 3 == 2:
                taken = filling.take(breaking_off(pack[: len(pack) * 3 // 4]), behind=behind, max_bytes=PLENTY)
                assert not taken.complete
                continue
            assert filling.take([pack], behind=behind, max_bytes=PLENTY).complete
            filling.advance(stretch)
        assert asked == 6
        assert filling.lacking(None, limit=10) == []
        filling.finish()
        assert scene.here(sorted(scene.reached(commits[-1:]))) == scene.reached(commits[-1:])

    @pytest.mark.parametrize("bytes_before", [0, 3, 12, 13])
    def test_of_a_pack_cut_at_its_head_nothing_stays(self, scene, bytes_before):
        tip = scene.chain(1)[0]
        filling = self.fill(scene)
        filling.begin(goal_of(scene, tip))
        taken = filling.take(breaking_off(scene.pack([tip])[:bytes_before]), max_bytes=PLENTY)
        assert (taken.complete, taken.objects, taken.received) == (False, 0, bytes_before)
        assert isinstance(taken.error, UpstreamUnavailable)

    def test_a_pack_with_an_error_behind_its_end_is_kept_whole(self, scene):
        tip = scene.chain(3)[-1]
        filling = self.fill(scene)
        filling.begin(goal_of(scene, tip))
        taken = filling.take(breaking_off(scene.pack([tip])), max_bytes=PLENTY)
        assert not taken.complete
        assert taken.objects == taken.announced
        assert filling.lacking(None, limit=10) == []

    def test_a_pack_damaged_on_the_way_keeps_what_came_before(self, scene):
        commits = scene.chain(10)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        pack = bytearray(scene.pack([commits[-1]]))
        pack[len(pack) // 2] ^= 0x55
        taken = filling.take([bytes(pack)], max_bytes=PLENTY)
        assert not taken.complete
        assert isinstance(taken.error, GitFailed)
        assert 0 < taken.objects < taken.announced
        assert scene.here(sorted(scene.reached([commits[-1]])))

    def test_a_pack_of_nothing_is_whole(self, scene):
        tip = scene.chain(1)[0]
        filling = self.fill(scene)
        filling.begin(goal_of(scene, tip))
        empty = scene.commits_pack([])
        taken = filling.take([empty[:5], empty[5:14], empty[14:]], max_bytes=PLENTY)
        assert (taken.complete, taken.objects, taken.announced) == (True, 0, 0)
        taken = filling.take([empty[:-1]], max_bytes=PLENTY)
        assert not taken.complete
        assert isinstance(taken.error, GitFailed)

    def test_the_size_of_what_was_cut_is_told(self, scene):
        tip = scene.commit(files={"big": scene_bytes(300_000)})
        filling = self.fill(scene)
        filling.begin(goal_of(scene, tip))
        taken = filling.take(breaking_off(scene.pack([tip])[:-5000]), max_bytes=PLENTY)
        assert taken.cut_size == 300_000

    def test_it_stops_where_the_commits_end(self, scene):
        commits = scene.chain(6)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        taken = filling.take(breaking_off(scene.pack([commits[-1]])), graph=True, until_trees=True, max_bytes=PLENTY)
        assert taken.stopped
        assert not taken.complete
        assert taken.error is None
        assert taken.objects == 6
        assert filling.gap(wants=10, haves=10) is None

    def test_a_pack_beyond_its_bound_is_refused_and_can_be_salvaged(self, scene):
        commits = scene.chain(10)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        pack = scene.pack([commits[-1]])
        with pytest.raises(StorageFull):
            filling.take(breaking_off(pack), max_bytes=len(pack) * 3 // 4)
        taken = filling.salvage()
        assert taken is not None
        assert 0 < taken.objects < taken.announced
        assert len(scene.here(sorted(scene.reached([commits[-1]])))) == taken.objects
        assert filling.salvage() is None

    def test_errors_that_are_no_upstreams_pass_and_can_be_salvaged(self, scene):
        commits = scene.chain(10)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        with pytest.raises(KeyError):
            filling.take(breaking_off(scene.pack([commits[-1]])[:-100], KeyError("ours")), max_bytes=PLENTY)
        taken = scene.repository.filling().salvage()
        assert taken is not None
        assert taken.objects > 0

    def test_a_pack_needs_no_beginning(self, scene):
        commits = scene.chain(10)
        filling = self.fill(scene)
        pack = scene.pack([commits[-1]])
        taken = filling.take(breaking_off(pack[: len(pack) // 2]), max_bytes=PLENTY)
        assert (taken.complete, taken.objects) == (False, 0)
        assert scene.here(commits) == set()  # nothing may look complete while nothing says that the rest is missing
        scene.repository.recover()
        assert filling.interrupted()
        with pytest.raises(KeyError):
            filling.take(breaking_off(pack[:-100], KeyError("ours")), max_bytes=PLENTY)
        scene.repository.recover()
        assert filling.interrupted()
        assert not filling.begun()
        filling.begin(goal_of(scene, commits[-1]))
        taken = filling.salvage()
        assert taken is not None
        assert taken.objects > 0
        assert not filling.interrupted()
        assert filling.take([pack], max_bytes=PLENTY).complete
        assert filling.lacking(None, limit=10) == []
        filling.finish()
        self.check_whole(scene, commits[-1])

    def test_a_whole_pack_before_any_beginning_is_staged_like_any_other(self, scene):
        tip = scene.chain(2)[-1]
        filling = self.fill(scene)
        assert filling.take([scene.pack([tip])], max_bytes=PLENTY).complete
        assert not filling.begun()
        self.check_whole(scene, tip)
        assert scene.repository.stage_is_empty()

    def test_commits_end_where_trees_begin(self, scene):
        commits = scene.chain(3)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        taken = filling.take(breaking_off(scene.pack([commits[-1]])), graph=True, until_trees=True, max_bytes=PLENTY)
        assert (taken.stopped, taken.objects) == (True, 3)
        assert filling.gap(wants=10, haves=10) is None

    # -- the graph
    def test_without_anything_here_the_tips_are_wanted(self, scene):
        commits = scene.chain(3)
        tag = scene.tag("v1", commits[0])
        bare = scene.tag("v2", commits[1])
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1], tag, bare, peeled={tag: commits[0]}))
        gap = filling.gap(wants=10, haves=10)
        assert set(gap.wants) == {commits[-1], commits[0], bare}
        assert gap.shallow == []
        assert gap.haves == []

    def test_holes_are_told_as_a_shallow_client_tells_them(self, scene):
        commits = scene.chain(9)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        self.graph(scene, [*commits[6:], *commits[2:4]])
        gap = filling.gap(wants=10, haves=10)
        assert set(gap.wants) == {commits[5], commits[1]}
        assert filling.gap(wants=10, haves=10, strict=True).wants == [commits[5]], "the other is not on the way yet"
        assert gap.wants[: gap.needed] == [commits[5]]
        assert set(gap.shallow) == {commits[6], commits[2]}
        assert set(gap.haves) == {commits[8], commits[3]}
        self.graph(scene, commits[4:6])
        gap = filling.gap(wants=10, haves=10)
        assert set(gap.wants) == {commits[1]}
        assert set(gap.shallow) == {commits[2]}
        assert set(gap.haves) == {commits[8]}
        self.graph(scene, commits[:2])
        assert filling.gap(wants=10, haves=10) is None

    def test_no_more_than_asked_for_is_told_but_every_hole(self, scene):
        tips = [scene.commit(parents=[parent]) for parent in scene.chain(5)]
        filling = self.fill(scene)
        filling.begin(goal_of(scene, *tips))
        self.graph(scene, tips)
        gap = filling.gap(wants=2, haves=3)
        assert (len(gap.wants), len(gap.haves), len(gap.shallow)) == (2, 3, 5)

    def test_merges_need_all_their_parents(self, scene):
        left, right = scene.commit(), scene.commit()
        merge = scene.commit(parents=[left, right])
        filling = self.fill(scene)
        filling.begin(goal_of(scene, merge))
        self.graph(scene, [merge, left])
        gap = filling.gap(wants=10, haves=10)
        assert (gap.wants, gap.shallow) == ([right], [merge])

    def test_what_the_boundary_reaches_counts_as_here(self, scene):
        old = scene.chain(4)
        scene.publish(old[-1])
        new = scene.chain(3, parents=[old[1]])
        filling = self.fill(scene)
        filling.begin(goal_of(scene, new[-1], boundary=[old[-1]]))
        gap = filling.gap(wants=10, haves=10)
        assert (gap.wants, gap.haves) == ([new[-1]], [old[-1]])
        self.graph(scene, new[1:])
        gap = filling.gap(wants=10, haves=10)
        assert (gap.wants, gap.shallow) == ([new[0]], [new[1]])
        assert set(gap.haves) == {new[-1], old[-1]}
        self.graph(scene, new[:1])
        assert filling.gap(wants=10, haves=10) is None
        filling.freeze()
        assert filling.place() == (0, 3)
        stretch = filling.stretch(10)
        assert (stretch.wants, stretch.haves) == ([new[-1]], [old[1]])

    def test_tips_need_not_be_commits(self, scene):
        commit = scene.commit(files={"a": b"content\n"})
        blob = scene.blob_at(commit, "a")
        tag = scene.tag("blob", blob, "blob")
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commit, tag, blob))
        assert set(filling.gap(wants=10, haves=10).wants) == {commit, tag, blob}
        self.graph(scene, [commit, tag])
        assert filling.gap(wants=10, haves=10).wants == [blob]
        filling.take([scene.commits_pack([blob])], max_bytes=PLENTY)
        assert filling.gap(wants=10, haves=10) is None

    # -- the ladder
    def test_the_ladder_brings_it_all_in_closed_ranges(self, scene):
        base = scene.chain(5)
        side = scene.chain(4, parents=[base[1]])
        merge = scene.commit(parents=[base[-1], side[-1]])
        tip = scene.commit(parents=[merge])
        filling = self.fill(scene)
        filling.begin(goal_of(scene, tip, side[2]))
        self.graph(scene, [*base, *side, merge, tip])
        assert not filling.frozen()
        filling.freeze()
        assert filling.frozen()
        assert filling.place() == (0, 11)
        seen = 0
        while (stretch := filling.stretch(3)) is not None:
            assert filling.lacking(stretch, limit=100)
            self.bring(scene, stretch)
            assert filling.lacking(stretch, limit=100) == []
            seen += stretch.commits
            assert filling.place() == (seen, 11)
        assert seen == 11
        assert filling.lacking(None, limit=10) == []
        assert filling.finish() > 0
        self.check_whole(scene, tip, side[2])

    def test_a_range_can_be_asked_for_again_smaller(self, scene):
        commits = scene.chain(6)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        self.graph(scene, commits)
        filling.freeze()
        assert filling.stretch(4).wants == [commits[3]]
        assert filling.stretch(2).wants == [commits[1]]
        self.bring(scene, filling.stretch(2))
        stretch = filling.stretch(100)
        assert (stretch.commits, stretch.wants, stretch.haves) == (4, [commits[5]], [commits[1]])
        again = scene.repository.filling()
        assert again.stretch(100) == stretch
        again.advance(stretch)
        again.advance(stretch)
        assert again.place() == (6, 6)
        assert again.stretch(1) is None
        assert commits[-1] in again.closed()

    def test_the_same_goal_goes_on_and_another_keeps_what_is_closed(self, scene):
        commits = scene.chain(6)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        self.graph(scene, commits)
        filling.freeze()
        self.bring(scene, filling.stretch(4))
        filling.give_up(commits[5], "for the test")
        filling.begin(goal_of(scene, commits[-1]))
        assert filling.frozen()
        assert filling.place() == (4, 6)
        assert filling.given_up() == {}
        other = scene.commit(parents=[commits[4]])
        filling.begin(goal_of(scene, other))
        assert not filling.frozen()
        assert commits[3] in filling.closed()
        assert filling.gap(wants=10, haves=10).wants == [other]
        self.graph(scene, [other])
        filling.freeze()
        assert filling.place() == (0, 2)
        stretch = filling.stretch(10)
        assert (stretch.wants, stretch.haves) == ([other], [commits[3]])
        self.bring(scene, stretch)
        filling.finish()
        self.check_whole(scene, other)

    def test_what_is_noted_as_closed_is_not_in_the_order(self, scene):
        commits = scene.chain(5)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        assert filling.take([scene.pack([commits[2]])], max_bytes=PLENTY).complete
        filling.note_closed([commits[2]])
        self.graph(scene, commits[3:])
        assert filling.gap(wants=10, haves=10) is None
        filling.freeze()
        assert filling.place() == (0, 2)

    # -- single objects
    def test_single_objects_complete_a_range(self, scene):
        commits = scene.chain(3)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        self.graph(scene, commits)
        filling.freeze()
        stretch = filling.stretch(10)
        assert set(filling.lacking(stretch, limit=10)) == set(commits), "commits come first and alone"
        filling.copy_commits(stretch)
        filling.copy_commits(stretch)
        assert scene.here(commits) == set(commits)
        rounds = 0
        while lacking := filling.lacking(stretch, limit=4):
            assert len(lacking) <= 4
            assert not scene.here(lacking)
            assert filling.take([scene.commits_pack(lacking)], max_bytes=PLENTY).complete
            rounds += 1
        assert rounds > 1
        filling.advance(stretch)
        filling.finish()
        self.check_whole(scene, commits[-1])

    def test_tips_that_are_absent_are_lacking_first_and_alone(self, scene):
        commits = scene.chain(2)
        tag = scene.tag("v1", commits[0])
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1], tag, peeled={tag: commits[0]}))
        filling.take([scene.commits_pack([commits[1]])], max_bytes=PLENTY)
        assert filling.lacking(None, limit=10) == [tag]
        filling.take([scene.commits_pack([tag])], max_bytes=PLENTY)
        assert filling.lacking(None, limit=10) == [commits[0]], "what a tag stands for"
        filling.take([scene.commits_pack([commits[0]])], max_bytes=PLENTY)
        assert len(filling.lacking(None, limit=10)) == 2, "the trees"
        assert len(filling.lacking(None, limit=1)) == 1

    def test_a_commit_missing_in_the_middle_is_found(self, scene):
        commits = scene.chain(5)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.commits_pack([commits[4], commits[3], commits[1]])], max_bytes=PLENTY)
        assert filling.lacking(None, limit=10) == [commits[2]]

    def test_a_blob_is_located(self, scene):
        first = scene.commit(files={"a": b"one\n", "dir with space/b": b"two\n", "dir with space/c\u00e9": b"three\n"})
        second = scene.commit(parents=[first], files={"a": b"one\n", "dir with space/b": b"other\n"})
        filling = self.fill(scene)
        filling.begin(goal_of(scene, second))
        gone = {
            scene.blob_at(first, "dir with space/b"),
            scene.blob_at(first, "dir with space/c\u00e9"),
            scene.blob_at(first, "a"),
        }
        rest = scene.reached([second]) - gone
        filling.take([scene.commits_pack(sorted(rest))], max_bytes=PLENTY)
        assert set(filling.lacking(None, limit=10)) == gone
        assert filling.locate(scene.blob_at(first, "dir with space/b")) == (first, b"dir with space/b")
        assert filling.locate(scene.blob_at(first, "dir with space/c\u00e9")) == (
            first,
            "dir with space/c\u00e9".encode(),
        )
        assert filling.locate(scene.blob_at(first, "a")) == (second, b"a"), "the newest"
        assert filling.locate(GitOid(NOBODYS * len(first))) is None

    def test_a_blob_comes_in_pieces(self, scene):
        commit = scene.commit(files={"big": scene_bytes(100_000)})
        blob = scene.blob_at(commit, "big")
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commit))
        filling.take([scene.commits_pack(sorted(scene.reached([commit]) - {blob}))], max_bytes=PLENTY)
        assert filling.lacking(None, limit=10) == [blob]
        part = filling.blob(blob)
        assert part.here() == 0
        part.write(scene.content(blob)[:60_000])
        assert scene.repository.filling().blob(blob).here() == 60_000
        part.write(b"x" * 40_000)
        assert not part.keep()
        assert part.here() == 0, "wrong bytes are forgotten"
        part.write(b"y")
        part.restart()
        assert part.here() == 0
        part.write(scene.content(blob))
        assert part.keep()
        assert filling.lacking(None, limit=10) == []
        filling.finish()
        self.check_whole(scene, commit)

    def test_what_is_given_up_is_left_out_and_holds_only_what_needs_it(self, scene):
        sound = scene.chain(3)
        bad = scene.commit(parents=[sound[-1]], files={"big": scene_bytes(5000)})
        blob = scene.blob_at(bad, "big")
        filling = self.fill(scene)
        filling.begin(goal_of(scene, bad, sound[-1]))
        filling.take([scene.commits_pack(sorted(scene.reached([bad]) - {blob}))], max_bytes=PLENTY)
        with pytest.raises(GitFailed, match=r"1 objects? did not come"):
            filling.finish()
        filling.give_up(blob, "it does not fit")
        assert filling.given_up() == {blob: "it does not fit"}
        assert filling.lacking(None, limit=10) == []
        filling.finish()
        assert filling.begun()
        found = scene.repository.inspect([bad, sound[-1]])
        assert set(found.bad) == {bad}
        scene.repository.promote([sound[-1]])
        filling.begin(goal_of(scene, bad, sound[-1]))
        assert filling.lacking(None, limit=10) == [blob]
        filling.take([scene.commits_pack([blob])], max_bytes=PLENTY)
        filling.finish()
        assert not filling.begun()
        self.check_whole(scene, bad, sound[-1])

    def test_a_commit_given_up_does_not_hide_what_else_is_lacking(self, scene):
        commits = scene.chain(4)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.commits_pack(sorted(scene.reached([commits[-1]]) - {commits[1]}))], max_bytes=PLENTY)
        filling.give_up(commits[1], "nobody has it")
        assert filling.lacking(None, limit=10) == []
        filling.finish()
        assert filling.begun()
        assert set(scene.repository.inspect([commits[-1]]).bad) == {commits[-1]}

    # -- finish
    def test_finish_refuses_while_something_is_missing_and_then_doubts_what_was_closed(self, scene):
        commits = scene.chain(3)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        self.graph(scene, commits)
        filling.freeze()
        stretch = filling.stretch(10)
        everything = scene.reached([commits[-1]])
        blob = scene.blob_at(commits[1], "counter")
        filling.take([scene.commits_pack(sorted(everything - {blob}))], max_bytes=PLENTY)
        filling.advance(stretch)
        assert filling.lacking(None, limit=10) == [], "closed is believed"
        with pytest.raises(GitFailed):
            filling.finish()
        assert filling.begun()
        assert filling.lacking(None, limit=10) == [blob]
        filling.take([scene.commits_pack([blob])], max_bytes=PLENTY)
        filling.finish()
        self.check_whole(scene, commits[-1])

    def test_what_was_noted_before_a_doubt_is_not_told_as_closed(self, scene):
        commits = scene.chain(3)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[0], commits[-1]))
        filling.note_closed([commits[0], commits[-1]])
        with pytest.raises(GitFailed):
            filling.finish()
        assert filling.closed() == frozenset()
        filling.take([scene.pack([commits[0]])], max_bytes=PLENTY)
        filling.note_closed([commits[0]])
        assert self.fill(scene).closed() == {commits[0]}
        filling.take([scene.pack([commits[-1]], haves=[commits[0]])], max_bytes=PLENTY)
        filling.finish()
        self.check_whole(scene, commits[-1])

    def test_finish_gathers_and_may_be_interrupted(self, scene):
        class Enough(Exception):
            pass

        def stop() -> None:
            raise Enough

        commits = scene.chain(8)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        for index, commit in enumerate(commits):
            assert filling.take([scene.pack([commit], haves=commits[index - 1 : index])], max_bytes=PLENTY).complete
        with pytest.raises(Enough):
            filling.finish(tick=stop)
        assert filling.begun()
        assert filling.finish() > 0
        assert not filling.begun()
        assert filling.finish() == 0
        self.check_whole(scene, commits[-1])

    def test_going_by_objects_is_remembered_for_this_goal_alone(self, scene):
        commits = scene.chain(3)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        assert not filling.by_objects()
        filling.go_by_objects()
        scene.repository.recover()
        assert self.fill(scene).by_objects()
        filling.begin(goal_of(scene, commits[-1]))
        assert filling.by_objects()
        filling.begin(goal_of(scene, commits[0]))
        assert not filling.by_objects()
        filling.go_by_objects()
        filling.drop()
        assert not filling.by_objects()

    def test_what_was_staged_before_survives(self, scene):
        held = scene.chain(2)
        stage_pack(scene.repository, [scene.pack([held[-1]])], max_bytes=PLENTY)
        commits = scene.chain(4)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        for index, commit in enumerate(commits):
            filling.take([scene.pack([commit], haves=commits[index - 1 : index])], max_bytes=PLENTY)
        filling.finish()
        assert scene.here(held) == set(held)
        self.check_whole(scene, commits[-1], held[-1])

    def test_nothing_unfinished_reaches_the_store(self, scene):
        commits = scene.chain(4)
        filling = self.fill(scene)
        filling.begin(goal_of(scene, commits[-1]))
        filling.take([scene.commits_pack(commits[2:])], max_bytes=PLENTY)
        other = scene.chain(1)[0]
        scene.publish(other)
        assert filling.begun()
        scene.repository.recover()
        assert scene.here(commits[2:]) == set(commits[2:])
        filling.drop()
        assert scene.here(commits) == set()
        assert scene.here([other]) == {other}

    def check_whole(self, scene: FillingScene, *tips: GitOid) -> None:
        """Fail unless the filling is over and everything can be published from the stage."""
        assert not scene.repository.filling().begun()
        assert scene.repository.inspect(list(tips)).bad == {}
        scene.repository.promote(list(tips))
        scene.repository.discard_stage()
        everything = sorted(scene.reached(list(tips)))
        assert scene.here(everything) == set(everything)


def scene_bytes(size: int) -> bytes:
    """Return bytes that do not compress, the same ones every time."""
    import random

    return random.Random(size).randbytes(size)
