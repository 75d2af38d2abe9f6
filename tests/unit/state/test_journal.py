from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.domain.names import GitOid, ref_from_bytes
from mirror_sync.domain.refs import Change, Hold
from mirror_sync.domain.runs import RefJournalEntry
from mirror_sync.state.journal import PACK_ENTRIES, pack_tips, packs, unpack, unpack_tips
from mirror_sync.state.records import dump_holds, dump_refs, load_holds, load_refs

oids = st.binary(min_size=20, max_size=20).map(lambda raw: GitOid(raw.hex())) | st.binary(min_size=32, max_size=32).map(
    lambda raw: GitOid(raw.hex())
)
names = st.binary(max_size=60).map(lambda raw: ref_from_bytes(b"refs/heads/" + raw.replace(b"\0", b"")))
entries = st.builds(
    RefJournalEntry, ref=names, old=st.none() | oids, new=st.none() | oids, change=st.sampled_from(Change)
)


@given(st.lists(entries, max_size=30))
def test_entries_come_back(some):
    assert [entry for _, pack in packs(some) for entry in unpack(pack)] == some


def test_packs_are_of_bounded_size():
    some = [RefJournalEntry(ref_from_bytes(b"refs/heads/%d" % n), None, None, Change.DELETE) for n in range(1201)]
    found = list(packs(some))
    assert [start for start, _ in found] == [0, PACK_ENTRIES, 2 * PACK_ENTRIES]
    assert [len(unpack(pack)) for _, pack in found] == [500, 500, 201]


@given(st.frozensets(st.binary(min_size=20, max_size=20).map(lambda raw: GitOid(raw.hex())), max_size=20))
def test_tips_come_back(tips):
    assert unpack_tips(pack_tips(tips)) == tips


@given(st.lists(names, max_size=5))
def test_refs_and_holds_come_back(some):
    assert load_refs(dump_refs(some)) == tuple(some)
    holds = tuple(Hold(name, "MS-L404", name) for name in some)
    assert load_holds(dump_holds(holds)) == holds if holds else dump_holds(holds) == ""
