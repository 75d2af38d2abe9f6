from __future__ import annotations

import base64
import subprocess
import sys

import pytest

from mirror_sync.errors import ConfigError
from mirror_sync.upstream.access import Access, rules_for


def test_a_credential_is_read_at_each_use():
    tokens = iter(["first\n", None, "second"])
    access = Access(token=lambda: next(tokens), username="bot")
    assert base64.b64decode(access.credential().removeprefix("Basic ")) == b"bot:first"
    assert access.credential() == ""
    assert base64.b64decode(access.credential().removeprefix("Basic ")) == b"bot:second"


@pytest.mark.parametrize("token", ["two\nlines", "tab\there", "naïve", "nul\0"])
def test_a_token_that_is_no_header_is_refused_without_being_shown(token):
    with pytest.raises(ConfigError) as caught:
        Access(token=lambda: token).credential()
    assert token not in str(caught.value)


def test_no_secret_is_shown():
    access = Access(token=lambda: "canary", proxy="http://user:canary@proxy:3128")
    assert "canary" not in repr(access)


def test_a_strange_host_gets_neither_permission_nor_credential():
    own = Access(allow_http=True, allow_private=True, token=lambda: "canary", proxy="http://p:1", ca_file="/ca")
    rule = rules_for("git.test:9000", own, None)
    assert rule("git.test:9000") is own
    for other in ("git.test", "git.test:9001", "cdn.test"):
        strange = rule(other)
        assert (strange.allow_http, strange.allow_private, strange.ca_file, strange.credential()) == (
            False,
            False,
            "",
            "",
        )
        assert strange.proxy == own.proxy


def test_the_room_opens_without_the_http_library():
    code = "import sys, mirror_sync.upstream; assert 'requests' not in sys.modules and 'urllib3' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
