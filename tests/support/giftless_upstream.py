"""An upstream whose LFS server is giftless, a program that nobody here wrote.

Git comes from :class:`tests.support.upstream.GitUpstream`; what it is asked under
``.git/info/lfs/`` goes to a giftless process and back, so both share one origin as on a
real forge.  Objects live where the shelf puts them: ``repo.commit(..., lfs=...)`` and
``repo.lfs.put`` work as ever; its knobs (errors, expiry, faults in the batch) do not.

    with giftless_upstream(tmp_path / "up") as up:
        repo = up.create("acme/model")
        repo.commit({}, lfs={"weights.bin": b"..."})

Repository names are ``owner/name``, as giftless has them.  It runs from
``.venv-giftless`` beside the checkout's ``pyproject.toml`` (``giftless-requirements.txt``), or from the
interpreter that the environment variable ``MIRROR_SYNC_TEST_GIFTLESS_PYTHON`` names.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.upstream import GitUpstream

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
from giftless.app import init_app
from werkzeug.serving import WSGIRequestHandler, make_server

class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    def log(self, *args):
        pass

app = init_app(additional_config={
    "LEGACY_ENDPOINTS": False,
    "AUTH_PROVIDERS": ["giftless.auth.allow_anon:read_write"],
    "TRANSFER_ADAPTERS": {"basic": {
        "factory": "giftless.transfer.basic_streaming:factory",
        "options": {
            "storage_class": "giftless.storage.local_storage:LocalStorage",
            "storage_options": {"path": sys.argv[1]},
            "action_lifetime": 900,
        },
    }},
})
server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
print(server.server_port, flush=True)
server.serve_forever()
"""


def giftless_python() -> Path | None:
    """The interpreter that has giftless, or ``None``."""
    named = os.environ.get("MIRROR_SYNC_TEST_GIFTLESS_PYTHON")
    python = Path(named) if named else ROOT / ".venv-giftless/bin/python"
    return python if python.exists() else None


@contextlib.contextmanager
def giftless_upstream(directory: Path, *, address: str = "127.0.0.1", port: int = 0) -> Iterator[GitUpstream]:
    """Serve git and giftless on one origin; skips the test, with a reason, where giftless is not installed."""
    python = giftless_python()
    if python is None:
        pytest.skip("giftless is not installed: see tests/support/giftless-requirements.txt")
    upstream = GitUpstream(directory, address=address, port=port)
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory / "home"), "PYTHONWARNINGS": "ignore"}
    child = subprocess.Popen(
        [str(python), "-c", PROGRAM, str(upstream.shelves)],
        env=environment,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=(directory / "giftless.log").open("wb"),
        text=True,
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline().strip()
        assert line.isdigit(), (directory / "giftless.log").read_text()
        _wait_for(int(line))
        upstream.lfs_server = ("127.0.0.1", int(line))
        with upstream:
            yield upstream
    finally:
        child.kill()
        child.wait(10)
        if child.stdout is not None:
            child.stdout.close()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")
