from __future__ import annotations

import json

import pytest

from mirror_sync.domain.names import LfsOid, parse_upstream_url
from mirror_sync.domain.pointers import Pointer
from mirror_sync.errors import UpstreamInvalid
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream.access import Access, rules_for
from mirror_sync.upstream.connections import Connections
from mirror_sync.upstream.lfs_batch import BatchReader, endpoint, safe_header
from mirror_sync.upstream.place import Place
from tests.support.upstream_client import Heard

NOW = 1_700_000_000.0
ONE, TWO = Pointer(LfsOid("1" * 64), 10), Pointer(LfsOid("2" * 64), 20)
URL = parse_upstream_url("https://git.test/acme/model.git")


@pytest.fixture
def reader():
    access = Access(token=lambda: "canary")
    connections = Connections(clock=HandClock(), telemetry=Heard())
    place = Place(URL, access, rules_for(URL.netloc, access, None), connections)
    return BatchReader(place, URL, asked_at=NOW, skew=0.0)


def read(reader, *objects, pointers=(ONE,), **more):
    return reader.read(json.dumps({"objects": list(objects), **more}).encode(), pointers)


def download(href="https://cdn.test/x", **more):
    return {"oid": ONE.oid, "size": 10, "actions": {"download": {"href": href, **more}}}


def test_the_endpoint_is_where_git_lfs_looks():
    assert endpoint(URL) == "https://git.test/acme/model.git/info/lfs"
    assert endpoint(parse_upstream_url("https://git.test/acme/model/")) == "https://git.test/acme/model.git/info/lfs"


def test_answers_go_with_their_object_whatever_the_order(reader):
    answers = read(
        reader, {"oid": "f" * 64, "size": 1}, download() | {"oid": TWO.oid, "size": 20}, download(), pointers=(ONE, TWO)
    )
    assert [answer.pointer for answer in answers] == [ONE, TWO]
    assert all(answer.action for answer in answers)


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (None, 0),
        ({"oid": ONE.oid, "size": 10}, 0),
        ({"oid": ONE.oid, "size": 10, "actions": {}}, 0),
        ({"oid": ONE.oid, "size": 10, "actions": None}, 0),
        ({"oid": ONE.oid, "size": 10, "actions": ["download"]}, 0),
        ({"oid": ONE.oid, "size": 11, "actions": {"download": {"href": "https://cdn.test/x"}}}, 422),
        ({"oid": ONE.oid, "size": -10, "actions": {"download": {"href": "https://cdn.test/x"}}}, 422),
        ({"oid": ONE.oid, "size": "10", "actions": {"download": {"href": "https://cdn.test/x"}}}, 422),
        ({"oid": ONE.oid, "size": 10.0, "actions": {"download": {"href": "https://cdn.test/x"}}}, 422),
        (download() | {"error": {"code": 410, "message": "removed"}}, 410),
        ({"oid": ONE.oid, "error": {"code": 404, "message": "no"}}, 404),
        ({"oid": ONE.oid, "error": {"code": "404"}}, 422),
        ({"oid": ONE.oid, "error": {"code": True}}, 422),
        ({"oid": ONE.oid, "error": {"code": 0}}, 422),
        ({"oid": ONE.oid, "error": "broken"}, 422),
        (download(href=None), 422),
        (download(href="file:///etc/passwd"), 422),
        (download(href="/relative"), 422),
        (download(href="https://u:p@cdn.test/x"), 422),
        (download(href="https://cdn.test/x\r\nHost: evil"), 422),
        (download(href=["https://cdn.test/x"]), 422),
        ({"oid": ONE.oid, "size": 10, "actions": {"download": "https://cdn.test/x"}}, 422),
    ],
)
def test_an_object_that_cannot_be_had_says_why(reader, item, code):
    (answer,) = read(reader, *([] if item is None else [item]))
    assert answer.action is None
    assert answer.error_code == code
    assert answer.error_message


def test_legacy_links_and_a_missing_size_are_read(reader):
    (answer,) = read(reader, {"oid": ONE.oid, "_links": {"download": {"href": "https://cdn.test/x"}}})
    assert answer.action is not None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"null", b"<html>", b'{"objects": {}}', b'{"objects": null}', b"\xff", b"[" * 100_000,
        b'{"objects": [], "hash_algo": "sha512"}', b'{"objects": [], "transfer": "tus"}',
    ],
)  # fmt: skip
def test_a_document_that_cannot_be_used_is_refused(reader, body):
    with pytest.raises(UpstreamInvalid):
        reader.read(body, [ONE])


def test_strange_members_do_no_harm(reader):
    (answer,) = read(reader, None, 5, "x", [], {"oid": 5}, {"oid": None}, {"oid": {}}, download())
    assert answer.action is not None


@pytest.mark.parametrize(
    ("times", "expires"),
    [
        ({}, None),
        ({"expires_in": 300}, NOW + 300),
        ({"expires_in": 300, "expires_at": "2030-01-01T00:00:00Z"}, NOW + 300),
        ({"expires_in": 0, "expires_at": "2023-11-14T22:14:20Z"}, NOW + 60),
        ({"expires_in": -5}, NOW),
        ({"expires_in": True}, None),
        ({"expires_in": "300"}, None),
        ({"expires_in": 1e300}, NOW + 1e9),
        ({"expires_in": 10**400}, NOW + 1e9),
        ({"expires_in": -(10**400)}, NOW),
        ({"expires_at": "2023-11-14T22:14:20Z"}, NOW + 60),
        ({"expires_at": "0001-01-01T00:00:00Z"}, None),
        ({"expires_at": "soon"}, None),
        ({"expires_at": 5}, None),
    ],
)
def test_expiry(reader, times, expires):
    (answer,) = read(reader, download(**times))
    assert answer.action.expires_at == expires


def test_our_credential_goes_to_our_origin_only(reader):
    def headers(href, *, authenticated=None, **given):
        item = download(href, header=given)
        if authenticated is not None:
            item["authenticated"] = authenticated
        (answer,) = read(reader, item)
        assert "canary" not in repr(answer)
        return dict(answer.action.header)

    own = Access(token=lambda: "canary").credential()
    assert headers("https://git.test/x") == {"Authorization": own}
    assert headers("https://git.test/x", authenticated=False, Extra="1") == {"Extra": "1", "Authorization": own}
    assert headers("https://git.test/x", authenticated=True) == {}
    assert headers("https://git.test/x", authorization="RemoteAuth abc") == {"authorization": "RemoteAuth abc"}
    for other in ("https://cdn.test/x", "http://git.test/x", "https://git.test:8443/x", "https://git.test.evil/x"):
        assert headers(other) == {}


def test_dangerous_headers_are_dropped():
    given = {
        "Authorization": "Bearer x", "X-Amz-Date": "20230101", "Host": "evil", "content-length": "5", "Range": "bytes=0-1",
        "Transfer-Encoding": "chunked", "Connection": "close", "Accept-Encoding": "gzip", "X": "a\r\nY: b", "Y\r\nZ": "v",
        "": "v", "N": None, "U": "snow☃", "Nul": "a\0b", "Sp ace": "x",
    }  # fmt: skip
    assert safe_header(given) == {"Authorization": "Bearer x", "X-Amz-Date": "20230101"}
    assert safe_header(None) == safe_header(["a"]) == {}
