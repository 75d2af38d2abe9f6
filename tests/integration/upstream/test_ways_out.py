"""Names, certificates and proxies: where a connection may go, and that it goes there."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from mirror_sync.errors import AddressRefused, ConfigError, UpstreamStalled, UpstreamUnavailable
from mirror_sync.ports import FetchRequest
from mirror_sync.testing.clock import HandClock
from mirror_sync.upstream import Access
from tests.support.upstream import GitUpstream
from tests.support.upstream_client import client, names

USUAL = ["refs/heads/*"]


@pytest.fixture
def secure(tmp_path, authority):
    """An https upstream known as git.test."""
    with GitUpstream(tmp_path / "tls", tls=authority.server("git.test"), name="git.test") as upstream:
        upstream.create("acme/model").commit({"a": "b"}, lfs={"w.bin": b"weights"})
        yield upstream


def trusting(authority, **more):
    return Access(allow_private=True, ca_file=str(authority.certificate), **more)


HERE = names({"git.test": "127.0.0.1", "evil.test": "127.0.0.1"})

# ---------------------------------------------------------------- certificates


def test_a_checked_address_is_used_with_the_names_certificate(secure, authority):
    with client(f"{secure.origin}/acme/model", rule=trusting(authority), lookup=HERE) as upstream:
        seen = upstream.observe(USUAL)
        tip = seen.snapshot.tips["refs/heads/main"]
        assert b"".join(upstream.fetch(FetchRequest(seen.object_format, [tip], []))).startswith(b"PACK")
    assert {item.headers["host"] for item in secure.seen()} == {f"git.test:{secure.port}"}


def test_an_unknown_authority_or_another_name_is_refused(secure, authority):
    for url, rule in (
        (f"{secure.origin}/acme/model", Access(allow_private=True)),
        (f"https://evil.test:{secure.port}/acme/model", trusting(authority)),
    ):
        with client(url, rule=rule, lookup=HERE) as upstream, pytest.raises(UpstreamUnavailable) as caught:
            upstream.observe(USUAL)
        assert caught.value.code == "MS-U495"
        assert caught.value.why
    assert secure.seen() == []


def test_a_plain_server_behind_https_is_told(up, authority):
    with client(f"https://git.test:{up.port}/a/b", rule=trusting(authority), lookup=HERE) as upstream:
        with pytest.raises(UpstreamUnavailable) as caught:
            upstream.observe(USUAL)
        assert caught.value.code == "MS-U495"


def test_an_unreadable_authority_is_a_configuration_error(secure, tmp_path):
    (tmp_path / "junk.pem").write_text("no certificate")
    for path in ("missing.pem", "junk.pem"):
        rule = Access(allow_private=True, ca_file=str(tmp_path / path))
        with client(f"{secure.origin}/acme/model", rule=rule, lookup=HERE) as upstream, pytest.raises(ConfigError):
            upstream.observe(USUAL)


def test_https_does_not_lead_down_to_http(secure, up, authority):
    plain = up.create("acme/model")
    oid, size = plain.lfs.put(b"weights")
    from mirror_sync.domain.pointers import Pointer

    def rules(netloc):
        return Access(allow_private=True, allow_http=netloc == permitted)

    secure.fault("GET /-/lfs", times=None, redirect=f"{up.origin}/-/lfs/acme/model/{oid}")
    for permitted in ("nobody", f"127.0.0.1:{up.port}"):
        url = f"{secure.origin}/acme/model"
        with client(url, rule=trusting(authority), rules=rules, lookup=HERE) as upstream:
            (answer,) = upstream.batch([Pointer(oid, size)])
            if permitted == "nobody":
                with pytest.raises(AddressRefused, match="plain http"):
                    upstream.open_object(answer.pointer, answer.action, start=0, end=size)
                assert up.seen() == []
            else:
                body = upstream.open_object(answer.pointer, answer.action, start=0, end=size)
                assert b"".join(body.chunks()) == b"weights"


# ---------------------------------------------------------------- names


def test_a_name_that_turns_private_reaches_nobody(up):
    """The answer changes from public to loopback between polls, as in a rebinding attack."""
    answers = iter([["93.184.216.34"], ["127.0.0.1"], ["93.184.216.34", "127.0.0.1"]])
    clock = HandClock()
    url = f"http://rebind.test:{up.port}/acme/model"
    with client(url, rule=Access(allow_http=True), lookup=lambda *_: next(answers), clock=clock) as upstream:
        for expected in (UpstreamUnavailable, UpstreamUnavailable, AddressRefused, AddressRefused):
            # The public address is one that tests may not connect to; the second poll uses what was kept.
            with pytest.raises(expected):
                upstream.observe(USUAL)
            clock.advance(31)
    assert up.seen() == []


def test_a_name_is_resolved_once_for_each_connection(up):
    asked = []

    def lookup(host, port):
        asked.append((host, port))
        return ["127.0.0.3", "127.0.0.1"]

    up.create("acme/model").commit({"a": "b"})
    rule = Access(allow_http=True, allow_private=True)
    with client(f"http://many.test:{up.port}/acme/model", rule=rule, lookup=lookup) as upstream:
        for _ in range(3):
            upstream.observe(USUAL)
    assert asked == [("many.test", up.port)], "an address that does not answer is passed over"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "127.1", "0177.0.0.1"])
def test_no_way_of_writing_loopback_gets_there(up, host):
    up.create("acme/model").commit({"a": "b"})
    url = f"http://{host}:{up.port}/acme/model"
    with client(url, rule=Access(allow_http=True)) as upstream, pytest.raises(AddressRefused):
        upstream.observe(USUAL)
    assert up.seen() == []


# ---------------------------------------------------------------- proxies


class Proxy:
    """A forward proxy on loopback that knows where names lead; counts who asked for what."""

    def __init__(self, table):
        self.table = table
        self.asked = []
        self.credentials = []
        self.status = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            first, _, rest = head.partition(b"\r\n")
            method, target, _ = first.decode().split(" ")
            self.asked.append(f"{method} {target}")
            headers = rest.partition(b"\r\n\r\n")[0]
            self.credentials += [
                line.split(b": ")[1].decode()
                for line in headers.split(b"\r\n")
                if line.lower().startswith(b"proxy-auth")
            ]
            if self.status:
                connection.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self.status)
                return
            if method == "CONNECT":
                beyond = socket.create_connection(self.table[target])
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                host, _, path = target.removeprefix("http://").partition("/")
                beyond = socket.create_connection(self.table[host])
                beyond.sendall(f"{method} /{path} HTTP/1.1\r\nConnection: close\r\n".encode() + rest)
            with beyond:
                back = threading.Thread(target=self._pipe, args=(beyond, connection), daemon=True)
                back.start()
                self._pipe(connection, beyond)
                back.join(10)

    @staticmethod
    def _pipe(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def proxy(secure, up):
    proxy = Proxy(
        {f"git.test:{secure.port}": ("127.0.0.1", secure.port), f"plain.test:{up.port}": ("127.0.0.1", up.port)}
    )
    yield proxy
    proxy.close()


def nowhere(*_):
    raise AssertionError("behind a proxy nothing is resolved here")


def test_https_goes_through_a_tunnel(secure, proxy, authority):
    rule = trusting(authority, proxy=f"http://bot:canary@127.0.0.1:{proxy.port}", token=lambda: "secret")
    with client(f"{secure.origin}/acme/model", rule=rule, lookup=nowhere) as upstream:
        assert upstream.observe(USUAL).snapshot.tips
    assert proxy.asked == [f"CONNECT git.test:{secure.port}"]
    assert proxy.credentials == ["Basic Ym90OmNhbmFyeQ=="]
    assert all("proxy-authorization" not in item.headers for item in secure.seen())


def test_plain_http_goes_through_too(up, proxy):
    up.create("acme/model").commit({"a": "b"})
    rule = Access(allow_http=True, allow_private=True, proxy=f"http://127.0.0.1:{proxy.port}")
    with client(f"http://plain.test:{up.port}/acme/model", rule=rule, lookup=nowhere) as upstream:
        assert upstream.observe(USUAL).snapshot.tips
        assert f"127.0.0.1:{proxy.port}" in upstream.git_access().environment["GIT_CONFIG_VALUE_7"]
    assert proxy.asked[0] == f"GET http://plain.test:{up.port}/acme/model/info/refs?service=git-upload-pack"


def test_a_literal_address_is_checked_behind_a_proxy_as_well(secure, proxy, authority):
    rule = Access(ca_file=str(authority.certificate), proxy=f"http://127.0.0.1:{proxy.port}")
    with client(f"https://127.0.0.1:{secure.port}/acme/model", rule=rule) as upstream, pytest.raises(AddressRefused):
        upstream.observe(USUAL)
    assert proxy.asked == []


def test_a_proxy_that_refuses_is_named_without_its_password(secure, proxy, authority):
    proxy.status = 407
    rule = trusting(authority, proxy=f"http://bot:canary@127.0.0.1:{proxy.port}")
    with client(f"{secure.origin}/acme/model", rule=rule, lookup=nowhere) as upstream:
        with pytest.raises(UpstreamUnavailable) as caught:
            upstream.observe(USUAL)
        assert caught.value.code == "MS-U407"
        proxy.close()
        with pytest.raises(UpstreamUnavailable) as gone:
            upstream.observe(USUAL)
    for error in (caught.value, gone.value):
        assert "canary" not in f"{error} {error.why} {error.remedy} {error!r}"


def test_the_environments_proxy_is_not_used(secure, proxy, authority, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    with client(f"{secure.origin}/acme/model", rule=trusting(authority), lookup=HERE) as upstream:
        assert upstream.observe(USUAL).snapshot.tips
    assert proxy.asked == []


# ---------------------------------------------------------------- slow heads


@contextlib.contextmanager
def trickling(head, rest):
    """A server that sends ``head`` at once and ``rest`` byte by byte; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def trickle():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(head)
                    for byte in rest:
                        connection.sendall(bytes([byte]))
                        if done.wait(0.05):
                            return

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        done.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def test_a_head_that_trickles_in_does_not_hold_a_place_for_ever():
    rule = Access(allow_http=True, allow_private=True, stall_timeout=0.3)
    with (
        trickling(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x" * 1000) as port,
        client(f"http://127.0.0.1:{port}/a/b", rule=rule) as upstream,
        pytest.raises(UpstreamStalled),
    ):
        upstream.observe(USUAL)


def test_neither_does_a_handshake(monkeypatch):
    monkeypatch.setattr("mirror_sync.upstream.pinned.HANDSHAKE_SECONDS", 0.3)
    with (
        trickling(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"x" * 1000) as port,
        client(f"https://127.0.0.1:{port}/a/b", rule=Access(allow_private=True)) as upstream,
        pytest.raises(UpstreamUnavailable),
    ):
        upstream.observe(USUAL)
