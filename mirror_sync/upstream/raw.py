"""Single files of a commit, where a forge gives them by themselves and from any byte on."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from mirror_sync.domain.names import GitOid, UpstreamUrl
from mirror_sync.errors import MirrorSyncError, ObjectMissingUpstream, UpstreamInvalid, UpstreamUnavailable
from mirror_sync.upstream.addresses import Target, parse_target
from mirror_sync.upstream.answers import clean, failure, media_type
from mirror_sync.upstream.connections import Answer
from mirror_sync.upstream.download import CONTENT_RANGE, follow
from mirror_sync.upstream.place import Place

NOWHERE = "none"
TEMPLATES = {
    "github.com": "https://raw.githubusercontent.com/{path}/{commit}/{file}",
    "gitlab.com": "https://gitlab.com/{path}/-/raw/{commit}/{file}",
    "huggingface.co": "https://huggingface.co/{path}/resolve/{commit}/{file}",
    "codeberg.org": "https://codeberg.org/{path}/raw/commit/{commit}/{file}",
    "gitea.com": "https://gitea.com/{path}/raw/commit/{commit}/{file}",
    "bitbucket.org": "https://bitbucket.org/{path}/raw/{commit}/{file}",
}
"""Where hosts everybody knows keep single files."""

_UNTOUCHED = "/:~@!$&()+,;=-._"


class HttpBlobBody:
    """An answer that is one file's bytes from ``start`` on; implements :class:`mirror_sync.ports.BlobBody`."""

    def __init__(self, answer: Answer, *, start: int, size: int | None, empty: bool = False) -> None:
        self.start = start
        self.size = size
        self._answer = answer
        self._empty = empty

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes up to the file's end; see :meth:`mirror_sync.ports.BlobBody.chunks`."""
        at, host = self.start, self._answer.target.netloc
        try:
            for piece in () if self._empty else self._answer.pieces():
                at += len(piece)
                if self.size is not None and at > self.size:
                    raise UpstreamInvalid(f"{host} sends more bytes than the file has", why=f"it says {self.size}")
                yield piece
            if self.size is not None and at < self.size:
                raise UpstreamUnavailable(
                    f"{host} broke off in the middle of a file", why=f"{at} of {self.size} bytes are here"
                )
        finally:
            self.close()

    def close(self) -> None:
        """Drop the connection."""
        self._answer.close()


def open_blob(place: Place, commit: GitOid, path: bytes, *, start: int) -> HttpBlobBody | None:
    """Ask for a file from byte ``start`` on; see :meth:`mirror_sync.ports.Upstream.open_blob`."""
    template = place.access.raw_url or TEMPLATES.get(place.url.netloc, NOWHERE)
    if template == NOWHERE or any(part in (b"", b".", b"..") for part in path.split(b"/")):
        # Such a name in a hostile tree would lead out of the repository on its host.
        return None
    known = place.connections.memory.capabilities(str(place.url))
    url = raw_address(template, known.base if known is not None else place.url, commit, path)
    headers = _authorization(place, parse_target(url))
    if start:
        headers["Range"] = f"bytes={start}-"
    answer = follow(place, url, headers, operation="blob", what="a file", fresh=True)
    try:
        return _opened(place, answer, start=start)
    except BaseException:
        answer.close()
        raise


def raw_address(template: str, repository: UpstreamUrl, commit: GitOid, path: bytes) -> str:
    """Return the URL that ``template`` gives for a file; every byte of its name that could mean something is encoded."""
    there = quote(repository.path.removesuffix(".git").strip("/"), safe=_UNTOUCHED)
    file = quote(path, safe="/-._~")
    return template.replace("{path}", there).replace("{commit}", commit).replace("{file}", file)


def _authorization(place: Place, target: Target) -> dict[str, str]:
    """Return the credential for ``target``: upstream's own on its own host, elsewhere what is configured for that host."""
    if target.netloc == place.url.netloc:
        return place.authorization(UpstreamUrl(target.scheme, target.host, target.port, place.url.path))
    credential = place.rule(target.netloc).credential()
    return {"Authorization": credential} if credential else {}


def _opened(place: Place, answer: Answer, *, start: int) -> HttpBlobBody:
    host = answer.target.netloc
    raw = answer.headers.get("content-range", "").strip()
    if answer.status == 416 and raw == f"bytes */{start}":
        # Every byte came the last time.
        return HttpBlobBody(answer, start=start, size=start, empty=True)
    if answer.status not in (200, 206):
        raise _refusal(place, answer)
    match = CONTENT_RANGE.match(raw)
    if match is not None:
        first, last, total = int(match[1]), int(match[2]), match[3]
        if first != start or last < first or (total != "*" and last >= int(total)):
            raise UpstreamInvalid(
                f"{host} sends another part of a file than asked for", why=f"{clean(raw)} for bytes from {start} on"
            )
        return HttpBlobBody(answer, start=first, size=None if total == "*" else int(total))
    if answer.status == 206 or raw:
        raise UpstreamInvalid(
            f"{host} sends a part of a file without saying which", why=f"Content-Range {clean(raw)!r}"
        )
    if start and media_type(answer.headers) == "text/html":
        raise UpstreamInvalid(
            f"{host} answered with a page where the rest of a file was asked for",
            why="a login page, a portal or a proxy may stand in between",
        )
    length = answer.headers.get("content-length", "").strip()
    return HttpBlobBody(answer, start=0, size=int(length) if length.isascii() and length.isdigit() else None)


def _refusal(place: Place, answer: Answer) -> MirrorSyncError:
    host, status = answer.target.netloc, answer.status
    body, now = answer.head_of_body(), place.connections.clock.now()
    if status in (404, 410):
        return ObjectMissingUpstream(
            f"{host} has no such file", why=f"HTTP {status}. {clean(body)}".rstrip(), code="MS-U409"
        )
    return failure(status, answer.headers, body, host=host, what="a file", now=now, credential=place.has_credential())
