"""The read side of Hugging Face's HTTP interface, for clients with ``HF_ENDPOINT=http://mirror/hf``.

What they ask for is in ``huggingface_hub`` (``hf_api.py``, ``file_download.py``).  Nothing
here names Xet storage, so they take plain HTTP, and every address given is our own.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode

from flask import Response, g, request

from mirror_sync.domain.names import MirrorName, parse_mirror_name, printable, ref_from_bytes
from mirror_sync.domain.pointers import Pointer
from mirror_sync.domain.runs import Mirror
from mirror_sync.domain.trees import EntryKind, FileEntry, path_text
from mirror_sync.errors import UsageError
from mirror_sync.ports import FileView, Revision
from mirror_sync.web.backend import backend, limits
from mirror_sync.web.bodies import leave_body, small_body
from mirror_sync.web.door import for_everybody, served_mirror
from mirror_sync.web.files import COMMIT, file_answer, find_entry, objects_of, opened, place, split_revision
from mirror_sync.web.git_http import BUSY
from mirror_sync.web.lfs import public_base
from mirror_sync.web.paths import MAX_TARGET_BYTES, wire_path, words_of
from mirror_sync.web.queries import number
from mirror_sync.web.replies import RETRY_SECONDS, Refused, json_answer

PREFIX: Final = "/hf/"
HUB: Final = "huggingface.co"
"""Where models, datasets and spaces of one name are different repositories."""

PAGE_ENTRIES: Final = 1000
MOST_SIBLINGS: Final = 50_001
"""Files listed with a repository.  Clients take a list of more than 50,000 for cut off, and ask for the tree."""

SIBLINGS_STEP: Final = 5000
MOST_REFS: Final = 50_000
MOST_PATHS: Final = 1000
MAX_BODY_BYTES: Final = 1024 * 1024
BODY_SECONDS: Final = 20.0
DEFAULT_BRANCH: Final = b"main"
"""What clients ask for when their user names no revision, whatever the repository's own HEAD is."""

_KINDS: Final = {b"models": "", b"datasets": "datasets/", b"spaces": "spaces/"}
_SHOWN: Final = (EntryKind.FILE, EntryKind.LINK, EntryKind.DIRECTORY)


class Missing(Refused):
    """Something that clients have a name for is not here."""

    def __init__(self, code: str, reason: str, *, commit: str = "") -> None:
        self.code = code
        self.commit = commit
        super().__init__(404, reason)


def speaks_hub() -> bool:
    """Tell whether the request is for this interface, and so its errors are told as these clients show them."""
    return request.path.startswith(PREFIX)


def hub_refusal(
    status: int, reason: str, *, retry_after: float | None = None, error: Exception | None = None
) -> Response:
    """Return a refusal: clients raise by ``X-Error-Code`` and show ``X-Error-Message``."""
    response = json_answer({"error": reason}, status=status)
    told = printable(" ".join(reason.split()))
    response.headers["X-Error-Message"] = told.encode("ascii", "backslashreplace").decode()[:1000]
    if isinstance(error, Missing):
        response.headers["X-Error-Code"] = error.code
        if error.commit:
            response.headers[COMMIT] = error.commit
    if retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    response.headers["Cache-Control"] = "no-cache"
    return response


@dataclass(frozen=True, slots=True)
class _Asked:
    """One way to read the path of a request: a repository, what is asked of it, and the words behind."""

    kind: bytes
    repository: str
    operation: bytes
    words: tuple[bytes, ...]


def answer_hub(anything: str) -> Response:  # noqa: ARG001 - read from the wire, where an escaped slash is still one
    """Answer one request of a Hugging Face client."""
    g.files = True
    path = wire_path(request.environ.get("RAW_URI", request.path))
    words = words_of(path.removeprefix(PREFIX)) if len(path) <= MAX_TARGET_BYTES else ()
    if words[:1] == (b"api",):
        asked, mirror = _found(list(_api_readings(words[1:])))
        if request.method not in (("POST",) if asked.operation == b"paths-info" else ("GET", "HEAD")):
            raise _read_only(mirror)
        answer = _ANSWERS[asked.operation]
    else:
        asked, mirror = _found(list(_file_readings(words)))
        if request.method not in ("GET", "HEAD"):
            raise _read_only(mirror)
        answer = _resolve
    with opened(mirror) as view:
        question = _Question(asked, mirror, view)
        if answer is _resolve:
            return _resolve(question)
        with place():
            return answer(question)


# ---------------------------------------------------------------- what is asked


def _api_readings(words: Sequence[bytes]) -> Iterator[_Asked]:
    if not words or words[0] not in _KINDS:
        return
    for length in _lengths(words[1:]):
        rest = words[1 + length :]
        operation = rest[0] if rest else b""
        if operation in _ANSWERS:
            yield _Asked(words[0], _text(b"/".join(words[1 : 1 + length])), operation, tuple(rest[1:]))


def _file_readings(words: Sequence[bytes]) -> Iterator[_Asked]:
    kind = words[0] if words and words[0] in _KINDS else b"models"
    words = words[1:] if words and words[0] in _KINDS else words
    for length in _lengths(words):
        if words[length : length + 1] == (b"resolve",):
            yield _Asked(kind, _text(b"/".join(words[:length])), b"resolve", tuple(words[length + 1 :]))


def _lengths(words: Sequence[bytes]) -> list[int]:
    """Return how many words a repository's name may have: two as a rule, one, or more when it is a mirror's whole name."""
    whole = any(mark in word for word in words[:1] for mark in (b".", b":"))
    return [length for length in ((2, 1, 3, 4, 5, 6) if whole else (2, 1)) if length <= len(words)]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _found(readings: Sequence[_Asked]) -> tuple[_Asked, Mirror]:
    """Return the first reading whose repository is mirrored, with the mirror; raises :class:`Refused`."""
    if not readings and request.method not in ("GET", "HEAD"):
        leave_body(request.environ)
        raise Refused(403, "Mirrors are read-only; push to the upstream.")
    if not readings:
        raise Refused(404, "This is not a part of the interface that mirrors answer.")
    refused: Refused | None = None
    for asked in readings:
        for name in _names(asked):
            try:
                return asked, served_mirror(name)
            except Refused as error:
                refused = refused if refused is not None and refused.status != 404 else error
    if refused is not None and refused.status not in (404, 410):
        raise refused
    shown = printable(readings[0].repository)
    raise Missing("RepoNotFound", f"No mirror here answers for {shown}.")


def _names(asked: _Asked) -> Iterator[MirrorName]:
    """Yield the mirrors that may answer for a repository, the first that exists does."""
    below = _KINDS[asked.kind]
    texts: list[str] = []
    for host in backend().settings.huggingface.hosts:
        texts.append(f"{host}/{below}{asked.repository}")
        if below and host != HUB:
            texts.append(f"{host}/{asked.repository}")
    if asked.repository.count("/") > 1:
        texts.append(asked.repository)
    for text in texts:
        try:
            yield parse_mirror_name(text)
        except UsageError:
            continue


def _read_only(mirror: Mirror) -> Refused:
    leave_body(request.environ)
    return Refused(403, f"{mirror.name} is a read-only mirror; push to its upstream: {mirror.upstream}")


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True)
class _Question:
    """A request whose mirror is found."""

    asked: _Asked
    mirror: Mirror
    view: FileView

    def revision(self) -> Revision:
        """Return the revision that all words name; none names the default branch."""
        text = b"/".join(self.asked.words) or DEFAULT_BRANCH
        found = self.view.resolve(ref_from_bytes(text))
        if found is None and text == DEFAULT_BRANCH:
            found = self.view.resolve("HEAD")
        if found is None:
            raise self._no_revision(text)
        return found

    def place(self) -> tuple[Revision, bytes]:
        """Return the revision that the first words name, and the path behind it."""
        words = self.asked.words
        found = split_revision(self.view, words)
        if found is None and words[:1] == (DEFAULT_BRANCH,):
            head = self.view.resolve("HEAD")
            found = (head, b"/".join(words[1:])) if head is not None else None
        if found is None:
            raise self._no_revision(b"/".join(words))
        return found

    def entry(self, revision: Revision, path: bytes) -> FileEntry:
        """Return what stands under a path; raises :class:`Missing` for nothing."""
        found = find_entry(self.view, revision, path)
        if found is None:
            raise self.no_entry(revision, path)
        return found

    def no_entry(self, revision: Revision, path: bytes) -> Missing:
        """Return the refusal of a path."""
        shown = path_text(path[:300])
        return Missing("EntryNotFound", f"{shown} is no file at {revision.commit}.", commit=revision.commit)

    def _no_revision(self, text: bytes) -> Missing:
        shown = path_text(text[:300])
        return Missing("RevisionNotFound", f"{self.mirror.name} has no branch, tag or published commit {shown}.")


def _info(question: _Question) -> Response:
    revision = question.revision()
    name = question.asked.repository
    made = datetime.fromtimestamp(max(0.0, question.view.committed_at(revision.commit)), UTC)
    document: dict[str, Any] = {
        "id": name,
        "sha": revision.commit,
        "lastModified": made.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "private": not for_everybody(),
        "gated": False,
        "disabled": False,
        # older clients insist on these; nobody counts here
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": _siblings(question, revision),
    }
    if "/" in name:
        document["author"] = name.partition("/")[0]
    if question.asked.kind == b"models":
        document["modelId"] = name
    return _told(document, revision)


def _siblings(question: _Question, revision: Revision) -> list[dict[str, Any]]:
    with_blobs = _flag("blobs")
    found: list[dict[str, Any]] = []
    after = b""
    while len(found) < MOST_SIBLINGS:
        page = question.view.listing(revision.commit, b"", recursive=True, after=after, limit=SIBLINGS_STEP)
        files = [entry for entry in page or () if entry.kind in (EntryKind.FILE, EntryKind.LINK)]
        objects = objects_of(question.mirror, files) if with_blobs else {}
        found += [_sibling(entry, objects.get(entry.path), with_blobs=with_blobs) for entry in files]
        if not page or len(page) < SIBLINGS_STEP:
            break
        after = page[-1].sort_key
    return found[:MOST_SIBLINGS]


def _sibling(entry: FileEntry, pointer: Pointer | None, *, with_blobs: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"rfilename": path_text(entry.path)}
    if not with_blobs:
        return document
    document |= {"blobId": entry.oid, "size": pointer.size if pointer else entry.size}
    if pointer is not None:
        document["lfs"] = {"sha256": pointer.oid, "size": pointer.size, "pointerSize": entry.size}
    return document


def _tree(question: _Question) -> Response:
    revision, path = question.place()
    limit = number("limit", default=PAGE_ENTRIES, low=1, high=PAGE_ENTRIES)
    recursive = _flag("recursive")
    at = question.entry(revision, path)
    page = question.view.listing(
        revision.commit, at.path, recursive=recursive, after=_cursor(request.args.get("cursor", "")), limit=limit + 1
    )
    if page is None:
        raise question.no_entry(revision, path)
    shown = [entry for entry in page[:limit] if entry.kind in _SHOWN]
    objects = objects_of(question.mirror, shown)
    response = _told([_entry(entry, objects.get(entry.path)) for entry in shown], revision)
    if len(page) > limit:
        # the commit stands in the place of the name, so that all pages are of one
        asked = question.asked
        where = [PREFIX.strip("/"), "api", asked.kind.decode(), *asked.repository.split("/"), "tree", revision.commit]
        words = [*(word.encode() for word in where), *(at.path.split(b"/") if at.path else ())]
        query = {"recursive": str(recursive), "limit": limit, "cursor": _cursor_of(page[limit - 1].sort_key)}
        link = f"{public_base()}/{'/'.join(quote(word, safe='') for word in words)}?{urlencode(query)}"
        response.headers["Link"] = f'<{link}>; rel="next"'
    return response


def _cursor_of(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode("ascii")


def _cursor(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode(), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error) as error:
        raise UsageError("cursor is not one that was given here") from error


def _entry(entry: FileEntry, pointer: Pointer | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": "directory" if entry.kind is EntryKind.DIRECTORY else "file",
        "oid": entry.oid,
        "size": pointer.size if pointer else entry.size,
        "path": path_text(entry.path),
    }
    if pointer is not None:
        document["lfs"] = {"oid": pointer.oid, "size": pointer.size, "pointerSize": entry.size}
    return document


def _refs(question: _Question) -> Response:
    def listed(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": printable(ref.removeprefix(prefix)), "ref": printable(ref), "targetCommit": commit}
            for ref, commit in question.view.refs(prefix=prefix, limit=MOST_REFS)
        ]

    document: dict[str, Any] = {
        "branches": listed("refs/heads/"), "converts": listed("refs/convert/"), "tags": listed("refs/tags/")
    }  # fmt: skip
    if _flag("include_prs"):
        document["pullRequests"] = listed("refs/pr/")
    return _told(document)


def _paths_info(question: _Question) -> Response:
    revision = question.revision()
    found = [find_entry(question.view, revision, path) for path in _paths_asked()]
    entries = [entry for entry in found if entry is not None and entry.path and entry.kind in _SHOWN]
    objects = objects_of(question.mirror, entries)
    return _told([_entry(entry, objects.get(entry.path)) for entry in entries], revision)


def _paths_asked() -> list[bytes]:
    """Return the paths in the body: a form, or JSON."""
    with limits().body_place(request.content_length) as placed:
        if not placed:
            leave_body(request.environ)
            raise Refused(429, BUSY, retry_after=RETRY_SECONDS)
        body = small_body(request, limit=MAX_BODY_BYTES, seconds=BODY_SECONDS)
    try:
        if request.mimetype == "application/json":
            document = json.loads(body)
            given: Any = document.get("paths") if isinstance(document, dict) else None
            paths: list[Any] = given if isinstance(given, list) else [given]
        else:
            fields = parse_qsl(body.decode("ascii"), max_num_fields=2 * MOST_PATHS, errors="surrogateescape")
            paths = [value for key, value in fields if key in ("paths", "paths[]")]
        if len(paths) > MOST_PATHS:
            raise Refused(413, f"More than {MOST_PATHS} paths are asked for.")
        return [path.encode("utf-8", "surrogateescape").strip(b"/") for path in paths]
    except (ValueError, RecursionError, AttributeError) as error:
        raise Refused(400, "The body is neither a form nor JSON with paths.") from error


def _resolve(question: _Question) -> Response:
    with place():
        revision, path = question.place()
        entry = question.entry(revision, path)
    if entry.kind not in (EntryKind.FILE, EntryKind.LINK):
        raise question.no_entry(revision, path)
    return file_answer(question.mirror, question.view, revision, entry)


_ANSWERS: Final[dict[bytes, Callable[[_Question], Response]]] = {
    b"": _info, b"revision": _info, b"tree": _tree, b"refs": _refs, b"paths-info": _paths_info
}  # fmt: skip


def _told(document: Any, revision: Revision | None = None) -> Response:
    response = json_answer(document)
    response.headers["Cache-Control"] = "no-cache"
    if revision is not None:
        response.headers[COMMIT] = revision.commit
    return response


def _flag(key: str) -> bool:
    return request.args.get(key, "").lower() in ("1", "true")
