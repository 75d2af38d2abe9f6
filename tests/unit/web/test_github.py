from __future__ import annotations

import hashlib
import hmac

import pytest

from mirror_sync.web.github import PayloadRefused, check_headers, delivery_of, matching_secret

# GitHub's published vector ("Validating webhook deliveries").
SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
SIGNATURE = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

REPOSITORY = {"id": 12, "full_name": "acme/model", "clone_url": "https://github.com/acme/model.git"}


def test_the_published_vector_matches() -> None:
    assert matching_secret(BODY, SIGNATURE, [("current", SECRET)]) == "current"


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"sha256=",
        SIGNATURE[:-1] + b"8",
        SIGNATURE.upper(),
        b"sha1=" + SIGNATURE[7:],
        "sha256=é".encode("latin-1"),
        SIGNATURE + b"0",
    ],
)
def test_anything_else_does_not(signature: bytes) -> None:
    assert matching_secret(BODY, signature, [("current", SECRET)]) is None


def test_every_flipped_bit_of_the_body_is_noticed() -> None:
    for index in range(len(BODY) * 8):
        changed = bytearray(BODY)
        changed[index // 8] ^= 1 << (index % 8)
        assert matching_secret(bytes(changed), SIGNATURE, [("current", SECRET)]) is None


def test_two_secrets_hold_during_a_rotation() -> None:
    both = [("current", b"new-secret"), ("previous", SECRET)]
    assert matching_secret(BODY, SIGNATURE, both) == "previous"
    fresh = b"sha256=" + hmac.new(b"new-secret", BODY, hashlib.sha256).hexdigest().encode()
    assert matching_secret(BODY, fresh, both) == "current"


@pytest.mark.parametrize(
    ("event", "delivery"), [("", "x"), ("push", ""), ("Push!", "x"), ("push", "a b"), ("push", "x" * 101)]
)
def test_headers_must_be_what_github_sends(event: str, delivery: str) -> None:
    with pytest.raises(PayloadRefused):
        check_headers(event, delivery)


@pytest.mark.parametrize(
    ("event", "payload", "refs", "deleted"),
    [
        ("push", {"ref": "refs/heads/main"}, ("refs/heads/main",), ()),
        ("push", {"ref": "refs/heads/x", "deleted": True}, ("refs/heads/x",), ("refs/heads/x",)),
        ("push", {"ref": "refs/heads/x", "deleted": "yes"}, ("refs/heads/x",), ()),
        ("push", {"ref": "main"}, (), ()),
        ("push", {"ref": 7}, (), ()),
        ("create", {"ref": "v1", "ref_type": "tag"}, ("refs/tags/v1",), ()),
        ("create", {"ref": None, "ref_type": "repository"}, (), ()),
        ("delete", {"ref": "old", "ref_type": "branch"}, ("refs/heads/old",), ("refs/heads/old",)),
        ("delete", {"ref": "old", "ref_type": "moon"}, (), ()),
        ("release", {"release": {"tag_name": "v2"}}, ("refs/tags/v2",), ()),
        ("repository", {"action": "renamed"}, (), ()),
    ],
)
def test_what_events_say(
    event: str, payload: dict[str, object], refs: tuple[str, ...], deleted: tuple[str, ...]
) -> None:
    delivery = delivery_of(event, "id-1", payload | {"repository": REPOSITORY}, received_at=5.0)
    assert delivery.refs == refs
    assert delivery.deleted_refs == deleted
    assert delivery.repository_id == "12"
    assert delivery.clone_url == "https://github.com/acme/model.git"
    assert delivery.received_at == 5.0
    assert delivery.action == payload.get("action", "")


@pytest.mark.parametrize("payload", [[], None, "x", {}, {"repository": None}, {"repository": []}])
def test_a_payload_without_a_repository_is_refused(payload: object) -> None:
    with pytest.raises(PayloadRefused):
        delivery_of("push", "id-1", payload, received_at=0)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "https://u:p@github.com/a/b", "x" * 5000, 7, None, "ext::sh -c x"]
)
def test_a_clone_url_that_could_not_be_mirrored_is_left_out(url: object) -> None:
    repository = {"id": True, "clone_url": url}
    delivery = delivery_of("push", "id-1", {"repository": repository}, received_at=0)
    assert delivery.clone_url == ""
    assert delivery.repository_id == ""
