"""Where in history pointers lie, compared with a look into every tree of every commit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mirror_sync.domain.names import GitOid
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import RepositoryDamaged
from mirror_sync.repos.git import Git
from mirror_sync.repos.needs import tip_needs
from mirror_sync.repos.paths import pointer_paths
from tests.support.pointers import pointer_text
from tests.support.raw_history import History

ATTRIBUTES = b"*.bin filter=lfs diff=lfs merge=lfs -text\n"
NAMES = ("a.bin", "data/b.bin", "data/sub/c.bin", "line\nbreak.bin", ":100644 colon", "caf\udce9.bin", "text.txt")


class Web:
    """A random history with merges, forks and a second root; commit n is made at time 1000 * n."""

    def __init__(self, directory: Path, *, seed: int, commits: int = 40) -> None:
        self.history = History(directory)
        chance = random.Random(seed)
        self.known = {
            GitOid(self.history.blob(pointer_text(f"{n:064x}", n + 1))): Pointer(f"{n:064x}", n + 1) for n in range(12)
        }
        others = [self.history.blob(f"text {n}\n".encode()) for n in range(4)]
        self.commits: list[GitOid] = []
        self.trees: dict[GitOid, dict[str, str]] = {}
        self.at: dict[GitOid, int] = {}
        self.parents: dict[GitOid, list[GitOid]] = {}
        for n in range(commits):
            parents = [] if n in (0, commits // 2) else chance.sample(self.commits, min(n, chance.choice((1, 1, 1, 2))))
            files = dict(self.trees[parents[0]]) if parents else {}
            for parent in parents[1:]:
                files |= {k: v for k, v in self.trees[parent].items() if chance.random() < 0.5}
            for name in chance.sample(NAMES, 2):
                if chance.random() < 0.3:
                    files.pop(name, None)
                else:
                    files[name] = chance.choice([*self.known, *others])
            oid = self._commit(self._tree(files), parents, at=1000 * (n + 1))
            self.commits.append(oid)
            self.trees[oid], self.at[oid], self.parents[oid] = files, 1000 * (n + 1), parents

    def _commit(self, tree: str, parents: list[GitOid], *, at: int) -> GitOid:
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents)]
        lines += ["author Ada <ada@example.org> 7 +0000", f"committer Ada <ada@example.org> {at} +0000", "", "text", ""]
        return GitOid(self.history.raw("commit", "\n".join(lines).encode()))

    def _tree(self, files: dict[str, str]) -> str:
        here = {name: oid for name, oid in files.items() if "/" not in name}
        below: dict[str, dict[str, str]] = {}
        for name, oid in files.items():
            head, slash, rest = name.partition("/")
            if slash:
                below.setdefault(head, {})[rest] = oid
        entries = [("100644", name.encode("utf-8", "surrogateescape"), oid) for name, oid in here.items()]
        entries += [("40000", name.encode(), self._tree(inner)) for name, inner in below.items()]
        return self.history.tree(sorted(entries, key=lambda entry: entry[1] + b"/" * (entry[0] == "40000")))

    def reach(self, tips: list[GitOid]) -> set[GitOid]:
        found: set[GitOid] = set()
        todo = list(tips)
        while todo:
            oid = todo.pop()
            if oid not in found:
                found.add(oid)
                todo += self.parents[oid]
        return found

    def places(self, commits: set[GitOid]) -> set[tuple[str, str]]:
        return {(oid, name) for commit in commits for name, oid in self.trees[commit].items() if oid in self.known}

    def asked(self, tips: list[GitOid], *, excluded: tuple[GitOid, ...] = (), since: float | None = None) -> set:
        git = Git(self.history.directory)
        return set(pointer_paths(git, tips, self.known, excluded=excluded, since=since))


@pytest.fixture(scope="module", params=range(3))
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Web:
    return Web(tmp_path_factory.mktemp("web") / "repository.git", seed=request.param)


def test_every_place_in_the_whole_history_is_told(web: Web) -> None:
    tips = web.commits[-6:]
    assert web.asked(tips) == web.places(web.reach(tips))


def test_what_was_looked_through_before_needs_no_second_look(web: Web) -> None:
    before, after = web.commits[15:18], web.commits[-6:]
    found = web.asked(after, excluded=tuple(before))
    assert web.asked(before) | found >= web.places(web.reach(after))
    assert found <= web.places(web.reach(after) - web.reach(before))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_since_a_time_all_that_commits_of_that_age_have_is_told_and_nothing_else(web: Web, share: float) -> None:
    tips = web.commits[-6:]
    since = web.at[web.commits[-1]] * share
    assert web.asked(tips, since=since) == web.places({c for c in web.reach(tips) if web.at[c] >= since})


def test_a_new_commit_on_old_ones_that_were_looked_through_tells_all_it_has(web: Web) -> None:
    old, tips = web.commits[20], [web.commits[-1]]
    new = {c for c in web.reach(tips) - web.reach([old]) if web.at[c] >= 20_500}
    assert web.asked(tips, excluded=(old,), since=20_500.0) == web.places(new)


def test_nothing_is_newer_than_the_future(web: Web) -> None:
    assert web.asked(web.commits[-3:], since=1e12) == set()


def test_tips_that_are_no_commits_and_excluded_ones_that_are_gone(web: Web) -> None:
    blob = next(iter(web.known))
    assert web.asked([blob, web.commits[0]], excluded=(GitOid("9" * 40),)) == web.places({web.commits[0]})
    with pytest.raises(RepositoryDamaged):
        web.asked([GitOid("9" * 40)])
    assert set(pointer_paths(Git(web.history.directory), web.commits, {}, excluded=(), since=None)) == set()


def test_a_reader_that_leaves_early_leaves_no_child_behind(web: Web) -> None:
    asked = pointer_paths(Git(web.history.directory), web.commits, web.known, excluded=(), since=None)
    next(asked)
    asked.close()


def test_a_tip_needs_only_what_lies_at_selected_paths(tmp_path: Path) -> None:
    history = History(tmp_path / "repository.git")
    known = {GitOid(history.blob(pointer_text(f"{n:064x}", n + 1))): Pointer(f"{n:064x}", n + 1) for n in range(3)}
    one, two, both = known
    inner = history.tree([("100644", b"both.bin", both), ("100644", b"two.bin", two)])
    attributes = history.blob(ATTRIBUTES)
    root = history.tree(
        [
            ("100644", b".gitattributes", attributes),
            ("100644", b"both.bin", both),
            ("40000", b"data", inner),
            ("100644", b"one.bin", one),
        ]
    )
    tip = GitOid(history.commit(tree=root))
    git = Git(history.directory)

    def paths(selects) -> set[tuple[int, str]]:
        found = tip_needs(git, [tip], known, selects=selects)
        return {(need.pointer.size, need.path) for need in found.get(tip, [])}

    assert paths(lambda path: not path.startswith("data/")) == {(1, "one.bin"), (3, "both.bin")}
    assert paths(lambda path: path.startswith("data/")) == {(2, "data/two.bin"), (3, "data/both.bin")}
    assert tip_needs(git, [tip], known, selects=lambda _path: False) == {}
