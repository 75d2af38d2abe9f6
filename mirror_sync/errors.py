"""Every way things go wrong, and who acts next.

::

    MirrorSyncError
    ├── ConfigError               operator   exit; key path and file named
    ├── UsageError                operator   the call itself was wrong
    ├── NotFound                  operator   no such mirror, run or ref
    ├── UpstreamUnavailable       the clock  backoff with jitter
    │   ├── UpstreamStalled       the clock  no bytes for the stall time-out
    │   └── UpstreamDeclined      the clock  the server itself reports that it will not
    │       └── UpstreamLacks     the clock  it has not, or does not give, an object wanted
    ├── RateLimited (until)       the clock  due = until
    │   └── HostResting           the clock  due = until, nothing was asked
    ├── UpstreamRefused           operator   credential missing or rejected
    ├── UpstreamGone              operator   404, 410, 451: still served
    ├── UpstreamInvalid           the clock  the answer is not what the protocol says
    ├── AddressRefused            operator   the address or URL is not allowed
    ├── GitFailed                 the clock  a git child exited badly
    ├── GitOutOfMemory            operator   a git child wants more memory than it may take
    ├── RepositoryDamaged         operator   stop publishing, keep serving if safe
    ├── PublishConflict           nobody     observe again at once
    ├── ObjectMissingUpstream     policy     hold or publish
    ├── ObjectCorrupt             the clock  discard incomplete, quarantine at rest
    ├── ObjectBusy                the clock  another process is fetching it
    ├── LeaseLost                 nobody     end the run quietly
    ├── Interrupted               nobody     the process is stopping
    ├── Preempted                 nobody     makes way for another sync; goes on behind
    ├── SchemaOutdated            operator   refuse to start
    ├── StateUnavailable          the clock  the database does not answer
    ├── StorageForeign            operator   storage belongs to another host or database
    ├── StorageFailed             operator   the disk or file system answers with an error
    ├── StorageFull               operator   pause transfers, keep serving
    └── Overloaded (retry_after)  the clock  the client asks again

Each class has a stable ``code`` that ``docs/runbook.md`` explains; an instance may
carry a narrower one from the same table.  The first line of a class docstring is its
default message.  Lower rooms raise; the worker, the command line and the web each
turn an error into an outcome in exactly one place.
"""

from __future__ import annotations

from enum import StrEnum


class Actor(StrEnum):
    """Who acts next after an error."""

    NOBODY = "nobody"
    CLOCK = "clock"
    OPERATOR = "operator"
    POLICY = "policy"


class MirrorSyncError(Exception):
    """Something went wrong in mirror_sync.

    ``message`` says what happened, ``why`` the reason as far as it is known,
    ``remedy`` what to do next (often a command).  None of them ever holds a secret.
    """

    code: str = "MS-X000"
    actor: Actor = Actor.OPERATOR

    def __init__(self, message: str = "", *, why: str = "", remedy: str = "", code: str = "") -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.why = why
        self.remedy = remedy
        if code:
            self.code = code
        super().__init__(self.message if not why else f"{self.message}: {why}")


class ConfigError(MirrorSyncError):
    """The configuration is not valid."""

    code = "MS-C002"

    def __init__(
        self, message: str = "", *, problems: tuple[str, ...] = (), why: str = "", remedy: str = "", code: str = ""
    ) -> None:
        self.problems = problems
        super().__init__(message, why=why, remedy=remedy, code=code)


class UsageError(MirrorSyncError):
    """The call was not understood."""

    code = "MS-C001"


class NotFound(MirrorSyncError):
    """No such mirror."""

    code = "MS-N404"


class Conflict(MirrorSyncError):
    """The request conflicts with what is already here."""

    code = "MS-N409"


class UpstreamUnavailable(MirrorSyncError):
    """Upstream cannot be reached or answered with a server error."""

    code = "MS-U503"
    actor = Actor.CLOCK


class UpstreamStalled(UpstreamUnavailable):
    """Upstream sent nothing for longer than the stall time-out."""

    code = "MS-U504"


class UpstreamDeclined(UpstreamUnavailable):
    """Upstream's git server reported that it cannot do what was asked."""


class UpstreamLacks(UpstreamDeclined):
    """Upstream's git server has not, or does not give, an object that was asked for."""

    code = "MS-U409"


class RateLimited(MirrorSyncError):
    """Upstream asked us to wait.

    ``until`` is the Unix time in seconds at which asking again is welcome.
    """

    code = "MS-U429"
    actor = Actor.CLOCK

    def __init__(self, message: str = "", *, until: float, why: str = "", remedy: str = "", code: str = "") -> None:
        self.until = until
        super().__init__(message, why=why, remedy=remedy, code=code)


class HostResting(RateLimited):
    """Another mirror of this host was asked to wait, so this one waits too.

    Nothing was asked of upstream; ``until`` as in :class:`RateLimited`.
    """


class UpstreamRefused(MirrorSyncError):
    """Upstream refused the credential, or wants one."""

    code = "MS-A401"


class UpstreamGone(MirrorSyncError):
    """Upstream answers that the repository is not there.

    ``for_everybody`` tells that upstream says so of the repository itself (410, 451);
    a 404 may as well mean that it is not shown to whoever asked.
    """

    code = "MS-U404"

    def __init__(
        self, message: str = "", *, for_everybody: bool = False, why: str = "", remedy: str = "", code: str = ""
    ) -> None:
        self.for_everybody = for_everybody
        super().__init__(message, why=why, remedy=remedy, code=code)


class UpstreamInvalid(MirrorSyncError):
    """Upstream's answer does not follow the protocol."""

    code = "MS-U502"
    actor = Actor.CLOCK


class AddressRefused(MirrorSyncError):
    """The upstream address is not allowed here."""

    code = "MS-U403"


class GitFailed(MirrorSyncError):
    """A git child failed.

    ``argv`` is redacted, ``status`` the exit status (negative: signal),
    ``stderr`` the cleaned tail of what git said.
    """

    code = "MS-G128"
    actor = Actor.CLOCK

    def __init__(
        self, message: str = "", *, argv: tuple[str, ...] = (), status: int = 0, stderr: str = "", code: str = ""
    ) -> None:
        self.argv = argv
        self.status = status
        self.stderr = stderr
        super().__init__(message or f"git {argv[0] if argv else ''} exited with {status}", why=stderr[-400:], code=code)


class GitOutOfMemory(MirrorSyncError):
    """A git command wants more memory than it may take.

    No :class:`GitFailed`: it says nothing about the bytes that git was given, and
    trying again brings nothing.
    """

    code = "MS-G507"


class RepositoryDamaged(MirrorSyncError):
    """The mirror's repository on disk is damaged."""

    code = "MS-G500"


class PublishConflict(MirrorSyncError):
    """The published refs changed while this run was preparing to move them."""

    code = "MS-G409"
    actor = Actor.NOBODY


class ObjectMissingUpstream(MirrorSyncError):
    """Upstream says it lacks an LFS object."""

    code = "MS-L404"
    actor = Actor.POLICY


WRONG_SIZE = "MS-L423"
"""A pointer claims a size that its LFS object has not."""

KNOWN_MISSING_CODES = frozenset({"MS-L404", "MS-L410", WRONG_SIZE})
"""What is recorded of LFS objects that upstream itself says it lacks, or that nobody can have."""


class ObjectCorrupt(MirrorSyncError):
    """An LFS object's bytes do not match its SHA-256 or size."""

    code = "MS-L422"
    actor = Actor.CLOCK

    def __init__(self, message: str = "", *, expected: str, actual: str, why: str = "", remedy: str = "") -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(message, why=why or f"expected {expected}, got {actual}", remedy=remedy)


class ObjectBusy(MirrorSyncError):
    """Another process is fetching this LFS object."""

    code = "MS-L409"
    actor = Actor.CLOCK


class LeaseLost(MirrorSyncError):
    """Another worker has taken over this mirror."""

    code = "MS-R409"
    actor = Actor.NOBODY


class Interrupted(MirrorSyncError):
    """The process is stopping; the run goes on from here at the next start."""

    code = "MS-R503"
    actor = Actor.NOBODY


class Preempted(MirrorSyncError):
    """The run makes way for another sync; LFS objects go on behind."""

    code = "MS-H007"
    actor = Actor.NOBODY


class SchemaOutdated(MirrorSyncError):
    """The database schema is not the one this version needs."""

    code = "MS-D002"


class StateUnavailable(MirrorSyncError):
    """The database does not answer."""

    code = "MS-D003"
    actor = Actor.CLOCK


class StorageForeign(MirrorSyncError):
    """The storage directory belongs to another host or database."""

    code = "MS-S403"


class StorageFailed(MirrorSyncError):
    """The file system answered with an error."""

    code = "MS-S500"


class StorageFull(MirrorSyncError):
    """Not enough free space above the reserve."""

    code = "MS-S507"


class Overloaded(MirrorSyncError):
    """Too many packs are being computed here; ask again in a moment.

    ``retry_after`` is in how many seconds asking again is welcome.
    """

    code = "MS-V429"
    actor = Actor.CLOCK

    def __init__(self, message: str = "", *, retry_after: float, why: str = "", remedy: str = "") -> None:
        self.retry_after = retry_after
        super().__init__(message, why=why, remedy=remedy)
