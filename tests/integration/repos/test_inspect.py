from __future__ import annotations

import json

import pytest

from mirror_sync.domain.names import GitOid, RefName
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.ports import PublishRequest
from mirror_sync.repos.fsck import BENIGN, HARMFUL, understood
from tests.support.disk_mirror import MAIN, PLENTY, DiskMirror
from tests.support.staging import stage_pack

LEGACY = {
    "badTimezone": "author A <a@b> 1700000000 +051800",
    "missingSpaceBeforeDate": "author A <a@b>1700000000 +0000",
    "missingEmail": "author A 1700000000 +0000",
    "missingNameBeforeEmail": "author <a@b> 1700000000 +0000",
    "missingSpaceBeforeEmail": "author A<a@b> 1700000000 +0000",
    "badDateOverflow": "author A <a@b> 18446744073709551617 +0000",
    "zeroPaddedDate": "author A <a@b> 01700000000 +0000",
    "badEmail": "author A <a@b 1700000000 +0000",
    "badName": "author A>B <a@b> 1700000000 +0000",
    "badDate": "author A <a@b> yesterday +0000",
}


@pytest.fixture
def mirror(tmp_path) -> DiskMirror:
    made = DiskMirror(tmp_path)
    made.create()
    return made


def legacy_commit(mirror: DiskMirror, author: str, *, more: str = "") -> str:
    tree = mirror.history.tree([("100644", b"a", mirror.history.blob(b"a\n"))])
    body = f"tree {tree}\n{author}\n{more}committer A <a@b> 1700000000 +0000\n\nold\n"
    return mirror.history.raw("commit", body.encode())


def publish_staged(mirror: DiskMirror, **tips: str) -> None:
    named = {RefName(f"refs/heads/{name}"): GitOid(oid) for name, oid in tips.items()}
    repository = mirror.repository
    with repository.lock():
        repository.promote(sorted(named.values()))
        repository.publish(
            PublishRequest(repository.next_view(), repository.current_view(), RefSnapshot(named, MAIN), ()),
            confirm=lambda: None,
        )
        repository.discard_stage()
    mirror.check_served()


# ---------------------------------------------------------------- old tools, real histories


@pytest.mark.parametrize("fault", sorted(LEGACY))
def test_faults_of_old_tools_pass_with_a_note(mirror, fault):
    commit = legacy_commit(mirror, LEGACY[fault])
    mirror.stage(commit)
    found = mirror.inspect(commit)
    assert found.bad == {}
    assert f"{fault}: 1 object" in found.notes
    publish_staged(mirror, main=commit)


def test_more_legacy_faults(mirror):
    history = mirror.history
    blob = history.blob(b"x\n")
    padded = mirror.commit(tree=history.tree([("0100644", b"a", blob)]))
    twice = legacy_commit(mirror, LEGACY["badTimezone"].replace("+051800", "+0000"), more="author B <b@b> 1 +0000\n")
    tagger = history.raw("tag", f"object {padded}\ntype commit\ntag old\n\nold\n".encode())
    name = history.raw("tag", f"object {padded}\ntype commit\ntag a b\ntagger A <a@b> 1 +0000\n\nold\n".encode())
    mirror.stage(padded, twice, tagger, name)
    found = mirror.inspect(padded, twice, tagger, name)
    assert found.bad == {}
    assert set(found.notes) >= {
        "zeroPaddedFilemode: 1 object",
        "multipleAuthors: 1 object",
        "missingTaggerEntry: 1 object",
        "badTagName: 1 object",
    }
    publish_staged(mirror, main=padded, twice=twice, tagger=tagger, name=name)


def test_legacy_faults_are_counted(mirror):
    commits = [legacy_commit(mirror, f"author A{n} <a@b> 1700000000 +051800") for n in range(3)]
    mirror.stage(*commits)
    assert mirror.inspect(*commits).notes == ("badTimezone: 3 objects",)


# ---------------------------------------------------------------- malice


def malicious_trees(mirror: DiskMirror) -> dict[str, str]:
    history = mirror.history
    blob = history.blob(b"x\n")
    inner = history.tree([("100644", b"config", blob)])
    modules = history.blob(b'[submodule "a"]\n\turl = -u./payload\n\tpath = a\n')
    escaping = history.blob(b'[submodule "../../x"]\n\turl = https://example.org/x\n\tpath = a\n')
    updating = history.blob(b'[submodule "a"]\n\turl = https://example.org/x\n\tupdate = !touch pwned\n')
    link = history.blob(b"/etc/passwd")
    return {
        "hasDotgit": history.tree([("40000", b".git", inner)]),
        "hasDot": history.tree([("40000", b".", inner)]),
        "hasDotdot": history.tree([("40000", b"..", inner)]),
        "fullPathname": history.tree([("100644", b"a/b", blob)]),
        "nullSha1": history.tree([("160000", b"a", "0" * 40)]),
        "treeNotSorted": history.tree([("100644", b"b", blob), ("100644", b"a", blob)]),
        "duplicateEntries": history.tree([("100644", b"a", blob), ("100644", b"a", blob)]),
        "gitmodulesUrl": history.tree([("100644", b".gitmodules", modules)]),
        "gitmodulesName": history.tree([("100644", b".gitmodules", escaping)]),
        "gitmodulesUpdate": history.tree([("100644", b".gitmodules", updating)]),
        "gitmodulesSymlink": history.tree([("120000", b".gitmodules", link)]),
    }


def test_every_malicious_tree_is_held_and_good_refs_go_on(mirror):
    history = mirror.history
    good = mirror.commit("good")
    tips: dict[str, str] = {}
    for fault, tree in malicious_trees(mirror).items():
        bad = mirror.commit(fault, tree=tree, parents=[good])
        tips[mirror.commit(f"on top of {fault}", parents=[bad])] = fault
    deep = history.tree([("40000", b"d", history.tree([("40000", b"e", malicious_trees(mirror)["hasDotgit"])]))])
    tips[mirror.commit("deep", tree=deep)] = "hasDotgit"
    tips[history.tag("bad-tag", next(iter(tips)))] = next(iter(tips.values()))
    later = mirror.commit("later", parents=[good])
    mirror.stage(later, *tips)
    found = mirror.inspect(later, *tips)
    assert set(found.bad) == set(tips)
    for tip, fault in tips.items():
        assert found.bad[tip].startswith(fault), (fault, found.bad[tip])
    publish_staged(mirror, main=later)
    everything = mirror.history.git("rev-list", "--objects", "--no-object-names", *tips).decode().split()
    wholesome = mirror.history.git("rev-list", "--objects", "--no-object-names", later).decode().split()
    assert mirror.repository.missing(set(everything) | set(wholesome)) == set(everything) - set(wholesome)


def test_a_bad_gitmodules_that_came_earlier_under_another_name(mirror):
    """The blob is in the store already, as an ordinary file; only the new tree makes it dangerous."""
    history = mirror.history
    text = b'[submodule "a"]\n\turl = -u./payload\n\tpath = a\n'
    first = mirror.commit(files={"harmless.txt": text})
    mirror.publish({MAIN: first})
    bad = mirror.commit(tree=history.tree([("100644", b".gitmodules", history.blob(text))]), parents=[first])
    mirror.stage(bad, haves=[first])
    assert mirror.inspect(bad).bad[bad].startswith("gitmodulesUrl")


def test_an_object_git_cannot_parse(mirror):
    history = mirror.history
    good = mirror.commit("good")
    tree = history.git("rev-parse", f"{good}^{{tree}}").decode().strip()
    bogus = history.raw("commit", f"tree {tree}\0x\nauthor A <a@b> 1 +0000\n".encode())
    mods = history.blob(b'[submodule "a"]\n\turl = -u./x\n\tpath = a\n')
    evil = mirror.commit(tree=history.tree([("100644", b".gitmodules", mods)]))
    old = legacy_commit(mirror, LEGACY["badTimezone"])
    nameless = history.tree([("100644", b"", history.blob(b"x"))])
    unwalkable = mirror.commit(tree=nameless)
    listed = history.git("rev-list", "--objects", "--no-object-names", good, evil, old).decode().split()
    with mirror.repository.lock():
        stage_pack(
            mirror.repository,
            [history.pack_of([*listed, bogus, nameless, unwalkable, history.blob(b"x")])],
            max_bytes=PLENTY,
        )
    found = mirror.inspect(good, bogus, evil, old, unwalkable)
    assert set(found.bad) == {bogus, evil, unwalkable}
    assert found.bad[unwalkable].startswith(("emptyName", "unreadable", "badTree"))
    assert found.bad[bogus].startswith("unreadable")
    assert found.bad[evil].startswith("gitmodulesUrl")
    assert "badTimezone: 1 object" in found.notes
    publish_staged(mirror, main=good, old=old)


def test_relaxing_for_one_mirror(mirror):
    tree = malicious_trees(mirror)["treeNotSorted"]
    tip = mirror.commit(tree=tree)
    other = mirror.commit(tree=malicious_trees(mirror)["hasDotgit"])
    mirror.stage(tip, other)
    found = mirror.inspect(tip, other, relaxed=["treeNotSorted"])
    assert set(found.bad) == {other}
    assert "treeNotSorted: 1 object" in found.notes
    publish_staged(mirror, main=tip)


def test_an_unknown_relaxation_is_said(mirror):
    tip = mirror.commit()
    mirror.stage(tip)
    assert any("noSuchThing" in note for note in mirror.inspect(tip, relaxed=["noSuchThing", "a,b=c"]).notes)


def test_every_id_is_known_to_this_git():
    assert not BENIGN & HARMFUL
    assert not understood.__wrapped__("noSuchThing")
    for name in sorted(BENIGN | HARMFUL):
        assert understood(name), name


# ---------------------------------------------------------------- closure


def test_missing_blobs_trees_and_parents_are_told_per_tip(mirror):
    history = mirror.history
    whole = mirror.commit("whole")
    no_parent = mirror.commit("no parent", parents=[mirror.commit("absent")])
    lost_blob = history.blob(b"lost\n")
    no_blob = mirror.commit("no blob", tree=history.tree([("100644", b"a", lost_blob)]))
    lost_tree = history.tree([("100644", b"b", history.blob(b"b\n"))])
    no_tree = mirror.commit("no tree", tree=history.tree([("40000", b"d", lost_tree)]))
    module = mirror.commit("submodule", tree=history.tree([("160000", b"m", "1" * 40)]))
    tag = history.tag("on-no-blob", no_blob)
    wanted = (
        history.git("rev-list", "--objects", "--no-object-names", whole, no_blob, no_tree, module, tag).decode().split()
    )
    wanted = [oid for oid in wanted if oid not in (lost_blob, lost_tree)] + [
        no_parent,
        history.git("rev-parse", f"{no_parent}^{{tree}}").decode().strip(),
        history.git("rev-parse", f"{no_parent}:counter").decode().strip(),
    ]
    with mirror.repository.lock():
        stage_pack(mirror.repository, [history.pack_of(dict.fromkeys(wanted))], max_bytes=PLENTY)
    found = mirror.inspect(whole, no_parent, no_blob, no_tree, module, tag)
    assert set(found.bad) == {no_parent, no_blob, no_tree, tag}
    publish_staged(mirror, main=whole, module=module)


def test_leftovers_in_the_store_do_not_count_as_whole(mirror):
    """A commit lies in the store unprotected and without its parent: it must not be believed."""
    first = mirror.commit()
    mirror.publish({MAIN: first})
    absent = mirror.commit()
    orphan = mirror.commit(parents=[absent])
    listed = [orphan, *mirror.history.git("ls-tree", "-t", "--format=%(objectname)", orphan).decode().split()]
    listed.append(mirror.history.git("rev-parse", f"{orphan}^{{tree}}").decode().strip())
    data = mirror.history.pack_of(listed)
    mirror.history.git(f"--git-dir={mirror.repository.layout.store}", "index-pack", "--stdin", stdin=data)
    assert mirror.repository.missing([orphan]) == set()
    top = mirror.commit(parents=[orphan])
    mirror.stage(top, haves=[orphan])
    assert set(mirror.inspect(top, orphan).bad) == {top, orphan}


def test_tips_of_every_type(mirror):
    history = mirror.history
    commit = mirror.commit()
    blob = history.blob(b"a tip\n")
    tree = history.tree([("100644", b"a", blob)])
    tags = [history.tag("b", blob, "blob"), history.tag("t", tree, "tree")]
    nested = history.tag("n", tags[0], "tag")
    mirror.stage(commit, blob, tree, *tags, nested)
    assert mirror.inspect(commit, blob, tree, *tags, nested).bad == {}
    publish_staged(mirror, main=commit, blob=blob, tree=tree, tag=tags[1], nested=nested)
    assert mirror.repository.peel([nested]) == {nested: blob}


def test_sha256_faults(tmp_path):
    mirror = DiskMirror(tmp_path, object_format=ObjectFormat.SHA256)
    mirror.create()
    good = mirror.commit()
    inner = mirror.history.tree([("100644", b"config", mirror.history.blob(b"x"))])
    bad = mirror.commit(tree=mirror.history.tree([("40000", b".git", inner)]), parents=[good])
    mirror.stage(bad, good)
    assert set(mirror.inspect(good, bad).bad) == {bad}
    publish_staged(mirror, main=good)


def test_a_pack_is_checked_once(mirror):
    tip = mirror.commit(tree=malicious_trees(mirror)["hasDotgit"])
    mirror.stage(tip)
    first = mirror.inspect(tip)
    records = sorted((mirror.repository.layout.stage / "checks").glob("pack-*.json"))
    assert len(records) == 1
    record = json.loads(records[0].read_bytes())
    record["texts"]["hasDotgit"] = "as recorded"
    records[0].write_text(json.dumps(record))
    verdicts = mirror.repository.layout.stage / "checks" / "verdicts.json"
    verdicts.unlink()
    assert first.bad != mirror.inspect(tip).bad == {tip: "hasDotgit: as recorded"}
    records[0].write_bytes(b"{}")
    verdicts.write_bytes(b"torn")
    assert mirror.inspect(tip).bad == first.bad


def test_a_verdict_stands_while_nothing_changes(mirror, monkeypatch):
    good = mirror.commit()
    bad = mirror.commit(tree=malicious_trees(mirror)["hasDotgit"], parents=[good])
    cut = mirror.commit(parents=[mirror.commit("absent")])
    mirror.stage(good, bad)
    mirror.stage(cut, haves=mirror.history.git("rev-parse", f"{cut}^").decode().split())
    first = mirror.inspect(good, bad, cut)
    assert set(first.bad) == {bad, cut}

    def never(*args, **more):
        raise AssertionError("judged again")

    monkeypatch.setattr("mirror_sync.repos.inspect.tainted", never)
    assert mirror.inspect(bad, cut).bad == first.bad
    assert mirror.inspect(good, bad, cut).bad == first.bad
    later = mirror.commit(parents=[good])
    mirror.stage(later, haves=[good])
    assert set(mirror.inspect(later, bad).bad) == {bad}
    monkeypatch.undo()
    mirror.stage(mirror.history.git("rev-parse", f"{cut}^").decode().strip())
    assert set(mirror.inspect(later, bad, cut).bad) == {bad}
    assert mirror.inspect(bad, cut, relaxed=["hasDotgit"]).bad == {}


def test_many_tips_are_one_walk(mirror):
    commits = mirror.history.chain(3000)
    mirror.publish({f"refs/heads/b{n}": oid for n, oid in enumerate(commits)})
    top = mirror.commit(parents=[commits[7]])
    side = mirror.commit(parents=[mirror.commit(parents=[commits[-1]])])
    mirror.stage(top, side, haves=[commits[-1]])
    assert mirror.inspect(top, side, commits[3]).bad == {}
    cut = mirror.commit(parents=[mirror.commit("absent")])
    mirror.stage(cut, haves=mirror.history.git("rev-parse", f"{cut}^").decode().split())
    assert set(mirror.inspect(top, side, cut).bad) == {cut}


def test_a_held_tip_waits_in_the_stage_through_maintenance(mirror):
    good = mirror.commit("good", files={"big": bytes(range(256)) * 100})
    bad = mirror.commit("bad", tree=malicious_trees(mirror)["treeNotSorted"], parents=[good])
    mirror.stage(good, bad)
    assert set(mirror.inspect(good, bad).bad) == {bad}
    repository = mirror.repository
    with repository.lock():
        repository.promote([GitOid(good)])
        repository.publish(PublishRequest(1, 0, RefSnapshot({MAIN: GitOid(good)}, MAIN), ()), confirm=lambda: None)
        repository.maintain(full=True)
        repository.recover()
    assert mirror.repository.missing([good, bad]) == set()
    assert mirror.inspect(bad, relaxed=["treeNotSorted"]).bad == {}
    publish_staged(mirror, main=bad)
    assert mirror.served()[0] == {MAIN: bad}
