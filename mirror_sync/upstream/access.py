"""How one upstream host may be reached, and with which credential."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mirror_sync import __version__
from mirror_sync.errors import ConfigError

DEFAULT_USER_AGENT = f"git/mirror-sync/{__version__}"
"""Begins with ``git/`` as every git client's does: some servers choose their answer by it."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rule for one host: what is allowed, the way out, and the credential.

    ``token`` is called at each use, so a rotated secret is picked up; it returns
    ``None`` when there is none.  ``stall_timeout`` is in seconds; ``concurrency`` is
    the number of transfers that may run against the host at once (short questions
    have as many places of their own).  ``raw_url`` is where single files of a commit are:
    a URL with ``{path}``, ``{commit}`` and ``{file}``, ``none``, or empty for what is
    known of the host.  Once ``stop`` is set nothing more is asked and whatever is being
    waited for breaks off.
    """

    allow_http: bool = False
    allow_private: bool = False
    token: Callable[[], str | None] | None = field(default=None, repr=False)
    username: str = "x-access-token"
    proxy: str = field(default="", repr=False)
    ca_file: str = ""
    concurrency: int = 32
    stall_timeout: float = 60.0
    raw_url: str = ""
    user_agent: str = DEFAULT_USER_AGENT
    stop: threading.Event | None = field(default=None, repr=False, compare=False)

    def credential(self) -> str:
        """Return the ``Authorization`` value for the host itself, or an empty string.

        Basic, with the token as password: the one form that GitHub, GitLab, Gitea and
        Hugging Face all take for git and LFS.  Raises :class:`ConfigError` when the
        token cannot be a header's value.
        """
        token = (self.token() or "").strip() if self.token is not None else ""
        if not token:
            return ""
        if not token.isascii() or not token.isprintable() or ":" in self.username:
            raise ConfigError(
                "the upstream credential is not usable",
                why="a token is one line of printable ASCII characters, a user name has no colon",
                remedy="write the token alone into its file",
            )
        return "Basic " + base64.b64encode(f"{self.username}:{token}".encode()).decode("ascii")

    def elsewhere(self) -> Access:
        """Return the rule for a host that nobody configured: https, public, no credential, the same way out."""
        return replace(self, allow_http=False, allow_private=False, token=None, ca_file="", raw_url="")


Rules = Callable[[str], Access]
"""Returns the rule for a ``host`` or ``host:port`` (the port when it is not the scheme's own)."""


def rules_for(own: str, access: Access, rules: Rules | None) -> Rules:
    """Return rules that answer ``access`` for the upstream's own host and ask ``rules`` about every other."""
    stranger = access.elsewhere()

    def rule(netloc: str) -> Access:
        if netloc == own:
            return access
        return stranger if rules is None else rules(netloc)

    return rule


def stopped_by(rules: Rules, stop: threading.Event) -> Rules:
    """Return the same rules for one whose requests end once ``stop`` is set."""
    return lambda netloc: replace(rules(netloc), stop=stop)


def without(headers: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return ``headers`` less those named (in any case)."""
    dropped = {name.lower() for name in names}
    return {name: value for name, value in headers.items() if name.lower() not in dropped}
