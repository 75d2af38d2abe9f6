"""The smallest HTTP server that git clients accept, in front of a Serving: no web room involved."""

from __future__ import annotations

import gzip
import http.server
import io
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from mirror_sync.domain.names import MirrorName
from mirror_sync.errors import MirrorSyncError
from mirror_sync.ports import Serving

INFO_REFS = ".git/info/refs"
UPLOAD_PACK = ".git/git-upload-pack"


class ServingHttp:
    """Serves every mirror at ``url(name)`` while its ``with`` block lasts; a request's client is its header ``X-Client``."""

    def __init__(self, serving: Serving, *, notice: str = "") -> None:
        handler = type("Handler", (_Handler,), {"serving": serving, "notice": notice})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True

    def url(self, name: MirrorName) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}.git"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    serving: Serving
    notice: str

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        body = self.serving.advertise(
            MirrorName(path[1:].removesuffix(INFO_REFS)), protocol=self.headers.get("Git-Protocol", "")
        )
        if body is None:
            self.send_error(404)
            return
        self._begin("advertisement")
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        name = MirrorName(self.path[1:].removesuffix(UPLOAD_PACK))
        try:
            pieces = self.serving.upload_pack(
                name,
                io.BytesIO(body),
                protocol=self.headers.get("Git-Protocol", ""),
                client=self.headers.get("X-Client", ""),
                notice=self.notice,
            )
        except MirrorSyncError as error:
            self.send_error(429, error.code)
            return
        assert pieces is not None
        self._begin("result")
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except ConnectionError:
            pass
        finally:
            pieces.close()

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"application/x-git-upload-pack-{kind}")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass
