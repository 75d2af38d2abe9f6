"""The one door to mirrors: whatever shows or serves one finds it here, and nowhere else.

A route gives the mirror's name; who asks is read from the request.
"""

from __future__ import annotations

from mirror_sync.domain.names import MirrorName
from mirror_sync.domain.runs import Mirror
from mirror_sync.errors import NotFound
from mirror_sync.web.backend import backend
from mirror_sync.web.replies import Refused, unknown_mirror


def served_mirror(name: MirrorName) -> Mirror:
    """Return a mirror whose bytes this request may be given: git, LFS, files.

    Raises :class:`Refused` for one that is unknown or being removed.  Paused, stale and
    gone mirrors are served: what is here stays useful.
    """
    try:
        mirror = backend().state.mirror(name)
    except NotFound:
        raise unknown_mirror(name) from None
    if mirror.removing_at is not None:
        raise Refused(410, f"{name} is no longer mirrored here.\nIts upstream is {mirror.upstream}")
    return mirror


def shown_mirror(name: MirrorName) -> Mirror:
    """Return a mirror that this request may be told of: pages and API.

    Raises :class:`NotFound` for one that is unknown.  One being removed is shown as such.
    """
    return backend().state.mirror(name)
