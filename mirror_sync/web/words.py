"""The words people read, and the signs beside them.

Everything marked here is in the message catalogue; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


def _n(text: str) -> str:
    """Mark a text for the catalogue without translating it yet."""
    return text


@dataclass(frozen=True, slots=True)
class Sign:
    """A glyph, a style and a word: always shown together, so that none has to be known."""

    glyph: str
    style: str
    word: str
    meaning: str = ""


HEALTH: Mapping[str, Sign] = {
    "fresh": Sign("●", "fresh", _n("fresh"), _n("lag within the objective")),
    "stale": Sign("▲", "stale", _n("stale"), _n("beyond the objective, still trying")),
    "failing": Sign("✖", "failing", _n("failing"), _n("the last three runs failed")),
    "incomplete": Sign("◆", "incomplete", _n("incomplete"), _n("served, but LFS objects are missing upstream")),
    "gone": Sign("⊘", "gone", _n("gone"), _n("upstream has vanished; still served")),
    "denied": Sign("⊘", "gone", _n("denied"), _n("upstream refuses us; still served")),
    "paused": Sign("‖", "paused", _n("paused"), _n("by a person; still served")),
    "new": Sign("○", "new", _n("new"), _n("the first fill is not complete")),
}

ACTIVITY: Mapping[str, Sign] = {
    "idle": Sign("·", "idle", _n("idle")),
    "queued": Sign("◌", "queued", _n("queued")),
    "syncing": Sign("↻", "syncing", _n("syncing")),
    "backing-off": Sign("◔", "backing", _n("backing off")),
}

OUTCOME: Mapping[str, Sign] = {
    "unchanged": Sign("●", "fresh", _n("unchanged")),
    "published": Sign("●", "fresh", _n("published")),
    "held": Sign("▲", "stale", _n("held")),
    "failed": Sign("✖", "failing", _n("failed")),
    "abandoned": Sign("‖", "paused", _n("abandoned")),
}

WORDS: Mapping[str, str] = {
    "poll": _n("poll"),
    "webhook": _n("webhook"),
    "operator": _n("operator"),
    "create": _n("created"),
    "fast-forward": _n("fast-forward"),
    "forced": _n("forced"),
    "delete": _n("deleted"),
    "claim": _n("claiming"),
    "observe": _n("observing"),
    "diff": _n("comparing"),
    "fetch": _n("fetching"),
    "classify": _n("classifying"),
    "scan": _n("scanning for LFS pointers"),
    "transfer": _n("transferring LFS objects"),
    "publish": _n("publishing"),
    "record": _n("recording"),
    "public": _n("everybody, as long as upstream shows it to everybody"),
    "open": _n("everybody"),
    "token": _n("who has a clone token for it"),
    "upstream": _n("whom upstream lets read it"),
    "none": _n("nobody"),
}

WAYS: Mapping[str, str] = {
    "plain": _n("everything that is new in one pack"),
    "graph": _n("commits alone, to know what to ask for"),
    "ladder": _n("closed ranges of commits, oldest first"),
    "objects": _n("single objects by their ids"),
    "blob": _n("one large file in parts"),
    "tips": _n("ref by ref, since the server gives nothing else"),
    "stock": _n("ref by ref by an old protocol, since the server speaks no other"),
    "parts": _n("LFS objects in parts"),
}
"""What each way of fetching is; its own name stands beside it."""

SENTENCES: tuple[str, ...] = (
    _n("no observation was confirmed within the objective"),
    _n("the first fill is not complete yet"),
    _n("nothing is wrong"),
    _n('give a token that may read it: token_file under [upstream."HOST"]; changing that file needs no restart'),
    _n("check the address, and whether it takes a token to see it; nothing is deleted here"),
    _n("free space on the volume, or lower storage.reserve"),
    _n('if that host is meant: allow_http = true or allow_private = true under [upstream."HOST"], then reload'),
    _n(
        "name a nearer source of the repository (accelerators) or a place of its single files (raw_url), or use a better link"
    ),
    _n("add the fault to relaxed = [...] of the mirror in the configuration, if it is known to be harmless"),
    _n('known_missing = "publish" for this mirror in the configuration serves the refs without the objects'),
)
"""Whole sentences that ``actions/status.py`` may say."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A code in words: what happened, and what to do."""

    title: str
    remedy: str


_WAIT = _n("Nothing to do: it is tried again by itself.")

CODES: Mapping[str, Explanation] = {
    "MS-A401": Explanation(
        _n("Upstream refused the credential, or wants one."),
        _n("Put a valid token into the token_file of the host. No restart is needed."),
    ),
    "MS-C001": Explanation(_n("The call was not understood."), _n("See the help of the command.")),
    "MS-C002": Explanation(
        _n("The configuration is not valid."),
        _n("Correct the key that is named; the old configuration stays in force."),
    ),
    "MS-C003": Explanation(_n("The configuration file cannot be read."), _n("Check its path, rights and syntax.")),
    "MS-C004": Explanation(
        _n("A file that holds a secret cannot be used."), _n("Check that it exists and has mode 0600.")
    ),
    "MS-C005": Explanation(
        _n("The address or port to listen on cannot be used."), _n("Choose another port, or end what listens there.")
    ),
    "MS-D001": Explanation(_n("No worker is running."), _n("Start the service: systemctl start mirror-sync.")),
    "MS-D002": Explanation(
        _n("The database schema is not the one this version needs."), _n("Run mirror-sync db upgrade.")
    ),
    "MS-D003": Explanation(
        _n("The database does not answer."), _n("Check the database; work goes on when it is back.")
    ),
    "MS-D004": Explanation(
        _n("The database file is damaged."),
        _n("Restore it from a backup; refs and LFS objects on disk are not affected."),
    ),
    "MS-D009": Explanation(_n("The time given to wait is over."), _n("The work goes on; ask for the status later.")),
    "MS-G128": Explanation(_n("A git command failed."), _WAIT),
    "MS-G409": Explanation(_n("The published refs changed while a run was preparing to move them."), _WAIT),
    "MS-G500": Explanation(
        _n("The mirror's repository on disk is damaged."),
        _n("Check the disk; the mirror is served as far as that is safe and nothing new is published."),
    ),
    "MS-G507": Explanation(
        _n("A git command wants more memory than it may take."),
        _n("Raise git.max_memory if a repository of this size is wanted."),
    ),
    "MS-H001": Explanation(
        _n("Upstream deleted unusually many refs at once; the whole change waits."),
        _n("It passes after three equal observations, or release it by hand if it is meant."),
    ),
    "MS-H002": Explanation(
        _n("Upstream rewrote a ref, and this mirror holds forced updates."),
        _n('If the rewrite is meant, let the mirror follow: forced = "follow-and-keep".'),
    ),
    "MS-H003": Explanation(
        _n("The ref's objects do not pass the strict check."),
        _n("If the fault is known to be harmless, list it under relaxed for this mirror."),
    ),
    "MS-H004": Explanation(
        _n("The ref needs an LFS object that upstream itself lacks."),
        _n("Ask the owner to upload it, or publish without it for this mirror."),
    ),
    "MS-H005": Explanation(_n("The ref waits for LFS objects that are not here yet."), _WAIT),
    "MS-H006": Explanation(_n("The ref waits for another ref that cannot exist beside it."), _WAIT),
    "MS-H007": Explanation(
        _n("The run made way for others; what arrived is kept and the rest goes on by itself."), _WAIT
    ),
    "MS-H008": Explanation(
        _n("Upstream has a ref whose name no client could hold; it is left out."), _n("Rename the ref upstream.")
    ),
    "MS-H009": Explanation(
        _n("A Git object is too large for this link."),
        _n("Name a nearer source of the repository or a place of its single files, or use a better link."),
    ),
    "MS-L400": Explanation(_n("The LFS server refuses an object."), _WAIT),
    "MS-L401": Explanation(
        _n("The LFS server refused the credential, or wants one."),
        _n("Put a valid token into the token_file of the host. No restart is needed."),
    ),
    "MS-L403": Explanation(_n("The download of an LFS object was refused; its link may have expired."), _WAIT),
    "MS-L404": Explanation(
        _n("Upstream says it lacks an LFS object."),
        _n("Ask the owner to upload it; it is asked for again from time to time."),
    ),
    "MS-L409": Explanation(_n("Another process is fetching this LFS object."), _WAIT),
    "MS-L410": Explanation(_n("Upstream says an LFS object was removed."), _n("Ask the owner to upload it again.")),
    "MS-L416": Explanation(_n("The LFS server refused the part asked for."), _WAIT),
    "MS-L422": Explanation(
        _n("An LFS object's bytes do not match its SHA-256 or size."),
        _n("It is fetched again; report it to the owner if it stays."),
    ),
    "MS-L423": Explanation(
        _n("A pointer claims a size that its LFS object has not."),
        _n("Ask the owner to commit the file again; nobody can have what the pointer names."),
    ),
    "MS-L501": Explanation(_n("The host offers no LFS here."), _n("Check whether LFS is enabled for the repository.")),
    "MS-L509": Explanation(
        _n("The LFS budget of the repository is used up."),
        _n("Its owner can raise the budget; it is asked again later."),
    ),
    "MS-N404": Explanation(_n("There is no such mirror."), _n("Check the name, or add the mirror.")),
    "MS-N409": Explanation(
        _n("The request conflicts with what is already here."), _n("Read the message; it names the conflict.")
    ),
    "MS-R409": Explanation(_n("Another worker has taken over this mirror."), _WAIT),
    "MS-R500": Explanation(
        _n("The worker died during the run."), _n("It is tried again by itself; look at the log for the reason.")
    ),
    "MS-R503": Explanation(_n("The process was stopping; the run goes on from there at the next start."), _WAIT),
    "MS-S403": Explanation(
        _n("The storage directory belongs to another host or database."),
        _n("Give each installation its own directory."),
    ),
    "MS-S413": Explanation(
        _n("The pack is larger than this mirror takes."), _n("Raise git.max_pack if the repository is wanted.")
    ),
    "MS-S500": Explanation(
        _n("The storage directory cannot be written or read."), _n("Check the disk and its rights.")
    ),
    "MS-S507": Explanation(
        _n("Not enough free space above the reserve."), _n("Free space on the volume, or lower storage.reserve.")
    ),
    "MS-U301": Explanation(
        _n("Upstream redirects to another host, which is not followed."), _n("Enrol the repository by its new address.")
    ),
    "MS-U302": Explanation(
        _n("Upstream redirects to a place that is not followed."), _n("Enrol the repository by its new address.")
    ),
    "MS-U403": Explanation(
        _n("The upstream address is not allowed here."),
        _n("Allow private addresses or plain http for this host in the configuration, if that is meant."),
    ),
    "MS-U404": Explanation(
        _n("Upstream answers that the repository is not there."),
        _n("Check the address. What is here is still served and nothing is deleted."),
    ),
    "MS-U407": Explanation(_n("The proxy does not lead to the host."), _n("Check the proxy in the configuration.")),
    "MS-U409": Explanation(
        _n("Upstream has not, or does not give, an object that its ref list named."),
        _n(
            "Nothing at first; if it stays, name a nearer source of the same repository, or a proxy with a better link."
        ),
    ),
    "MS-U410": Explanation(
        _n("Upstream changed the hash it names its objects by."),
        _n("Remove the mirror and add it again; until then the old content is served."),
    ),
    "MS-U429": Explanation(_n("Upstream asked us to wait."), _n("Wait, or add a credential for the host.")),
    "MS-U495": Explanation(
        _n("The TLS connection to upstream failed."), _n("Check the certificate, the clock and ca_file.")
    ),
    "MS-U502": Explanation(_n("Upstream's answer does not follow the protocol."), _WAIT),
    "MS-U503": Explanation(_n("Upstream cannot be reached or answered with a server error."), _WAIT),
    "MS-U504": Explanation(_n("Upstream sent nothing for longer than the stall time-out."), _WAIT),
    "MS-U512": Explanation(
        _n("Upstream is itself a shallow repository, so no complete mirror of it can be made."),
        _n("Mirror the repository it was cloned from."),
    ),
    "MS-U530": Explanation(_n("The upstream host's name does not resolve."), _n("Check the name and the resolver.")),
    "MS-V403": Explanation(
        _n("Upstream does not show this repository to everybody."),
        _n("Say who may read the mirror here: mirror-sync set --visibility."),
    ),
    "MS-V429": Explanation(_n("This mirror is serving as many clients as it can."), _n("Try again in a moment.")),
    "MS-W401": Explanation(
        _n("A webhook delivery has a wrong signature."), _n("Give the sender the secret that is configured here.")
    ),
    "MS-X000": Explanation(_n("Something unexpected went wrong."), _n("Look at the log, and report it with the code.")),
}
