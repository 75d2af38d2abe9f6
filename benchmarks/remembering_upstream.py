"""A git upstream that asks git once and answers again from memory: ``python -m benchmarks.remembering_upstream REPO [PORT]``.

Every path ``/ANY/NAME(.git)`` is the same bare repository.  Answers are real git's, kept
by request, so that a thousand mirrors' upstream takes little of the machine that is
being measured.  Prints its origin.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path

Key = tuple[str, str, bytes]
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
RESULT = "application/x-git-upload-pack-result"


class Upstream:
    """One repository's answers."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._known: dict[Key, bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await self._body(reader, headers)
                writer.write(await self._answer(head[0].split(" ")[1], headers, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "") == "chunked":
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body

    async def _answer(self, target: str, headers: dict[str, str], body: bytes) -> bytes:
        listing = target.endswith("/info/refs?service=git-upload-pack")
        if not listing and not target.endswith("/git-upload-pack"):
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        key = ("advertise" if listing else "ask", headers.get("git-protocol", ""), body)
        if key not in self._known:
            self._known[key] = await self._git(*key)
        return self._known[key]

    async def _git(self, kind: str, protocol: str, body: bytes) -> bytes:
        options = ["--advertise-refs"] if kind == "advertise" else []
        process = await asyncio.create_subprocess_exec(
            "git", "upload-pack", "--stateless-rpc", *options, str(self._repository),
            env={"PATH": "/usr/bin:/bin:/usr/local/bin", "GIT_PROTOCOL": protocol, "GIT_CONFIG_GLOBAL": "/dev/null"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await process.communicate(body)
        if kind == "advertise" and "version=2" not in protocol:
            said = b"001e# service=git-upload-pack\n0000" + said
        media = ADVERTISEMENT if kind == "advertise" else RESULT
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\nContent-Length: {len(said)}\r\nCache-Control: no-cache\r\n\r\n"
        return head.encode() + said


async def main(repository: Path, port: int) -> None:
    """Serve until killed."""
    server = await asyncio.start_server(Upstream(repository).serve, "127.0.0.1", port, limit=1 << 20)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
