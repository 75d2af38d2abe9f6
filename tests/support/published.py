"""A mirror published from a scratch history, by the repository itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mirror_sync.domain.names import GitOid, MirrorName, RefName
from mirror_sync.domain.refs import ObjectFormat, RefSnapshot
from mirror_sync.domain.runs import KeptTip
from mirror_sync.ports import PublishRequest
from mirror_sync.repos import Repositories
from mirror_sync.testing.clock import HandClock
from tests.support.raw_history import History
from tests.support.staging import stage_pack

NAME = MirrorName("git.example.org/acme/model")


def publish(
    git_dir: Path,
    history: History,
    tips: Mapping[str, str],
    *,
    head: str = "refs/heads/main",
    name: MirrorName = NAME,
    object_format: ObjectFormat = ObjectFormat.SHA1,
    kept: Sequence[KeptTip] = (),
) -> int:
    """Bring ``tips`` of ``history`` into the mirror, publish exactly them, and return the view's number."""
    repository = Repositories(git_dir, clock=HandClock(), reserve_bytes=0).open(name)
    oids = [GitOid(oid) for oid in tips.values()]
    with repository.lock():
        repository.create(object_format)
        absent = sorted(repository.missing(oids))
        if absent:
            stage_pack(repository, [history.pack(absent)], max_bytes=2**40)
            repository.inspect(absent)
            repository.promote(absent)
        request = PublishRequest(
            view=repository.next_view(),
            expected_view=repository.current_view(),
            snapshot=RefSnapshot({RefName(ref): GitOid(oid) for ref, oid in tips.items()}, RefName(head)),
            kept=kept,
        )
        return repository.publish(request, confirm=lambda: None).number
