"""Every configuration key: its kind, its default as one would write it, and what it is for.

This is the only module that knows pydantic.  The models parse; nothing else reads them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue
from pydantic_settings import NoDecode

from mirror_sync.config.units import Unfit, parse_duration, parse_hours, parse_rate, parse_size
from mirror_sync.domain import budget
from mirror_sync.domain.names import parse_upstream_url, refname_fault
from mirror_sync.domain.readers import Network
from mirror_sync.domain.selection import PathPattern
from mirror_sync.errors import MirrorSyncError

_FSCK_ID = re.compile(r"[A-Za-z][A-Za-z0-9]+\Z")
_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_HOST_KEY = re.compile(r"(?:\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?)(?::[0-9]{1,5})?\Z")
MAX_THREADS = 1024
MOST_HUB_HOSTS = 16
LEAST_MEMORY = 256 << 20

VisibilityWord = Literal["public", "open", "token", "upstream", "none"]


def _duration(unit: str, *, zero: bool = False, optional: bool = False) -> Callable[[object], float | None]:
    """A reader of durations that suggests ``unit`` for a bare number."""

    def read(value: object) -> float | None:
        if value is None and optional:
            return None
        seconds = parse_duration(value, unit=unit)
        if seconds <= 0 and not zero:
            raise Unfit("must be longer than nothing")
        return seconds

    return read


def _size(value: object) -> int:
    size = parse_size(value)
    if size == 0:
        raise Unfit("must be larger than nothing")
    return size


def _limit(value: object) -> int | None:
    if value in (None, "none"):
        return None
    size = parse_size(value, unit="GiB")
    if size == 0:
        raise Unfit('must be larger than nothing; "none" means no limit')
    return size


def _own_limit(value: object) -> int | None:
    """Read a limit that stands instead of a general one; 0 is none."""
    return None if value is None else _limit(value) or 0


def _age(value: object) -> float | None:
    if value in (None, "none"):
        return None
    seconds = parse_duration(value, unit="d")
    if seconds <= 0:
        raise Unfit('must be longer than nothing; "none" means all of history')
    return seconds


def _own_age(value: object) -> float | None:
    """Read an age that stands instead of a general one; 0 is all of history."""
    return None if value is None else _age(value) or 0.0


def _path_patterns(value: object) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        if word.startswith("!"):
            raise Unfit(f"{word!r} begins with !; what is left out stands in exclude")
        if not PathPattern(word).sound:
            raise Unfit(
                f'{word!r} is no path pattern; write them as in .gitignore, such as "*.safetensors" or "/data/"'
            )
    return words


def _own_path_patterns(value: object) -> tuple[str, ...] | None:
    return None if value is None else _path_patterns(value)


def _class_name(value: object) -> str:
    text = _text(value)
    if text and not _CLASS_NAME.match(text):
        raise Unfit('a class has a name of letters, digits, "_", "-" and ".", such as [class."models"]')
    return text


def _class_key(value: object) -> str:
    text = _class_name(value)
    if not text or text == "none":
        raise Unfit('a class has a name other than "none", such as [class."models"]')
    return text


def _reserve(value: object) -> int | None:
    if value in (None, "auto"):
        return None
    return 0 if value == "none" else parse_size(value, unit="GiB")


def _memory(value: object) -> int | None:
    """Read a bound of memory: ``None`` is worked out from the machine, 0 is no bound."""
    if value in (None, "auto"):
        return None
    if value == "none":
        return 0
    size = parse_size(value, unit="GiB")
    if size < LEAST_MEMORY:
        raise Unfit('must be at least "256MiB", which git needs for ordinary repositories; "none" means no limit')
    return size


def _whole(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unfit("must be a whole number, without quotation marks")
    return value


def _share(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]*\.?[0-9]+", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 0.5:
        raise Unfit("must be a number from 0 to 0.5")
    return float(value)


def _fill_share(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(r"[0-9]*\.?[0-9]+", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.05 <= value <= 1:
        raise Unfit("must be a number from 0.05 to 1")
    return float(value)


def _hours(value: object) -> tuple[budget.Hours, ...]:
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise Unfit('must be a list of texts, such as ["08:00-18:00 5MB/s", "22:00-06:00 none"]')
    return tuple(parse_hours(item) for item in value)


def _flag(value: object) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise Unfit("must be true or false, without quotation marks")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise Unfit('must be text in quotation marks ("...")')
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise Unfit("has a control character")
    return value.strip()


def _path(value: object) -> str:
    text = _text(value)
    if not text:
        raise Unfit("must name a path")
    return text


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [word for word in re.split(r"[,\s]+", value) if word]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise Unfit('must be a list of texts, such as ["a", "b"]')
    return tuple(value)


def _patterns(value: object) -> tuple[str, ...]:
    words = _words(value)
    if not words:
        raise Unfit("must name at least one ref pattern")
    for word in words:
        stem = word.removesuffix("*")
        probe = stem + "x" if stem.endswith("/") or stem != word else stem
        if "*" in stem or refname_fault(probe):
            raise Unfit(f'{word!r} is no ref pattern; write a full name or a prefix and "*", such as "refs/heads/*"')
    return words


def _fsck_ids(value: object) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        if not _FSCK_ID.match(word):
            raise Unfit(f"{word!r} is no fsck message id; they look like missingSpaceBeforeDate")
    return words


def _listen(value: object) -> tuple[str, int]:
    text = _text(value)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or (":" in host and not bracketed):
        raise Unfit('must be "address:port", such as "127.0.0.1:8080" or "[::]:8080"')
    return (host[1:-1] if bracketed else host or "0.0.0.0", int(port))  # noqa: S104 - the operator left the address out


def _internal_location(value: object) -> str:
    text = _text(value)
    if text and not re.fullmatch(r"/(?:[A-Za-z0-9_-]+/)+", text):
        raise ValueError('must be empty or a path such as "/_lfs/", beginning and ending with a slash')
    return text


def _public_url(value: object) -> str:
    text = _text(value)
    if text and not re.fullmatch(
        r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?(?:/[^\s?#@]*)?", text
    ):
        raise Unfit('must be an http or https URL without query, such as "https://mirror.example.edu"')
    return text.rstrip("/")


def _networks(value: object) -> tuple[Network, ...]:
    found: list[Network] = []
    for word in _words(value):
        try:
            found.append(ipaddress.ip_network(word))
        except ValueError as error:
            fault = "has bits set behind its prefix" if "host bits" in str(error) else "is no network"
            raise Unfit(
                f'{word!r} {fault}; write networks as "192.0.2.0/24", "2001:db8::/32" or "192.0.2.7"'
            ) from error
    return tuple(found)


def _expiry(value: object) -> float | None:
    if value in (None, "none"):
        return None
    seconds = parse_duration(value, unit="d")
    if seconds <= 0:
        raise Unfit('must be longer than nothing; "none" means that they do not expire')
    return seconds


def _database(value: object) -> str:
    text = _path(value)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return text
    if scheme == "sqlite":
        raise Unfit('for SQLite write the path of the file alone, such as "/var/lib/mirror-sync/state.db"')
    if scheme not in ("postgresql", "postgresql+psycopg"):
        raise Unfit('must be a path (SQLite) or "postgresql://user@host/database"')
    user = rest.split("/")[0].rpartition("@")[0]
    if ":" in user or re.search(r"[?&](?:password|sslpassword|passfile)=", rest):
        raise Unfit("a password never stands in the URL; put it in a file and name it: password_file")
    return text


def _proxy(value: object) -> str:
    text = _text(value)
    if text in ("", "none"):
        return text
    if not re.fullmatch(r"(?:https?|socks5h?)://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?/?", text):
        raise Unfit('must be "http://host:port" or "socks5h://host:port" without user name, or "none"')
    return text.rstrip("/")


def _mirror_url(value: object) -> str:
    text = _text(value)
    if "@" in text.partition("://")[2].partition("/")[0]:
        # Said here because the general refusal repeats the URL.
        raise Unfit('a URL holds no user name or password; put the token in a file: [upstream."HOST"] token_file')
    try:
        return str(parse_upstream_url(text))
    except MirrorSyncError as error:
        raise Unfit(f"{error.message}{'; ' + error.remedy if error.remedy else ''}") from error


def _template(text: str, fields: tuple[str, ...], example: str, *, may: tuple[str, ...] = ()) -> str:
    """Return an http(s) URL that names each of ``fields`` in braces, some that it ``may``, and no other field."""
    scheme, separator, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    if scheme not in ("https", "http") or not separator or not host or not slash:
        raise Unfit(f'must be a URL such as "{example}"')
    if "@" in host:
        raise Unfit('a URL holds no user name or password; put the token in a file: [upstream."HOST"] token_file')
    if "{" in host or not re.fullmatch(r"[!-~]+", text) or "#" in text:
        raise Unfit(f'must be a URL whose path alone has fields, such as "{example}"')
    found = re.findall(r"\{[^{}]*\}", path)
    missing = [name for name in fields if f"{{{name}}}" not in found]
    strange = [name for name in found if name[1:-1] not in (*fields, *may)]
    if missing or strange or len(found) != path.count("{") or len(found) != path.count("}"):
        raise Unfit(f'must name {", ".join(f"{{{name}}}" for name in fields)} and no other field, such as "{example}"')
    return text


def _raw_url(value: object) -> str:
    text = _text(value)
    if text in ("", "none"):
        return text
    return _template(text, ("path", "commit", "file"), "https://raw.example.org/{path}/{commit}/{file}")


def _near_templates(value: object) -> tuple[str, ...]:
    example = "https://near.example.org/{host}/{path}"
    found = tuple(_template(word, ("path",), example, may=("host",)) for word in _words(value))
    for text in found:
        _mirror_url(text.replace("{host}", "git.example.org").replace("{path}", "acme/model"))
    return found


def _near_urls(value: object) -> tuple[str, ...]:
    return tuple(_mirror_url(word) for word in _words(value))


def _globs(value: object) -> tuple[str, ...]:
    words = _words(value)
    for word in words:
        if not word.strip("/") or word.startswith("/") or "://" in word or ".." in word.split("/"):
            raise Unfit(f'{word!r} is no path of a repository; write such as "acme/*" or "acme/model"')
    return words


def _host_key(value: object) -> str:
    text = _text(value).lower()
    if not _HOST_KEY.match(text):
        raise Unfit('an upstream is named by its host alone, such as [upstream."github.com"], with its port if unusual')
    return text


def _hub_hosts(value: object) -> tuple[str, ...]:
    words = tuple(word.lower() for word in _words(value))
    for word in words:
        if not _HOST_KEY.match(word):
            raise Unfit(f'{word!r} is no host; write hosts alone, such as ["huggingface.co", "git.example.org:8443"]')
    if len(set(words)) != len(words):
        raise Unfit("names a host twice")
    if len(words) > MOST_HUB_HOSTS:
        raise Unfit(f"has more than {MOST_HUB_HOSTS} hosts, and each is looked up for every request")
    return words


Seconds = Annotated[float, BeforeValidator(_duration("s"))]
Minutes = Annotated[float, BeforeValidator(_duration("m"))]
Hours = Annotated[float, BeforeValidator(_duration("h"))]
Days = Annotated[float, BeforeValidator(_duration("d", zero=True))]
MinutesOrNone = Annotated[float | None, BeforeValidator(_duration("m", optional=True))]
HoursOrNone = Annotated[float | None, BeforeValidator(_duration("h", optional=True))]
Size = Annotated[int, BeforeValidator(_size)]
Limit = Annotated[int | None, BeforeValidator(_limit)]
Reserve = Annotated[int | None, BeforeValidator(_reserve)]
Memory = Annotated[int | None, BeforeValidator(_memory)]
Whole = Annotated[int, BeforeValidator(_whole)]
Rate = Annotated[float | None, BeforeValidator(parse_rate)]
DayHours = Annotated[tuple[budget.Hours, ...], NoDecode, BeforeValidator(_hours)]
FillShare = Annotated[float, BeforeValidator(_fill_share)]
Share = Annotated[float, BeforeValidator(_share)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]
PathText = Annotated[str, BeforeValidator(_path)]

Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_patterns)]
FsckIds = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_fsck_ids)]
Listen = Annotated[tuple[str, int], NoDecode, BeforeValidator(_listen)]
PublicUrl = Annotated[str, BeforeValidator(_public_url)]
InternalLocation = Annotated[str, BeforeValidator(_internal_location)]
DatabaseUrl = Annotated[str, BeforeValidator(_database)]
Proxy = Annotated[str, BeforeValidator(_proxy)]
MirrorUrl = Annotated[str, BeforeValidator(_mirror_url)]
NearTemplates = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_near_templates)]
NearUrls = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_near_urls)]
RawUrl = Annotated[str, BeforeValidator(_raw_url)]
HubHosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hub_hosts)]
HostKey = Annotated[str, BeforeValidator(_host_key)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
Expiry = Annotated[float | None, BeforeValidator(_expiry)]
Globs = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_globs)]
Wait = Annotated[float, BeforeValidator(_duration("s", zero=True))]
Age = Annotated[float | None, BeforeValidator(_age)]
PathPatterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_path_patterns)]
OwnLimit = Annotated[int | None, BeforeValidator(_own_limit)]
OwnAge = Annotated[float | None, BeforeValidator(_own_age)]
OwnPathPatterns = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_own_path_patterns)]
ClassName = Annotated[str, BeforeValidator(_class_name)]
ClassKey = Annotated[str, BeforeValidator(_class_key)]


def _key(
    default: object,
    purpose: str,
    *,
    restart: bool = False,
    secret: bool = False,
    least: int | None = None,
    most: int | None = None,
    alias: str | None = None,
) -> Any:
    """One key: its default as one would write it, what it is for, whether a reload can apply it."""
    extra: dict[str, JsonValue] = {"restart": restart, "secret": secret}
    return Field(
        default, validate_default=True, description=purpose, json_schema_extra=extra, ge=least, le=most, alias=alias
    )


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, protected_namespaces=())


class Server(_Section):
    """Where the web listens."""

    listen: Listen = _key("127.0.0.1:8080", "Address and port of the web.", restart=True)
    public_url: PublicUrl = _key("", "URL by which clients reach this mirror; empty: the address they used.")
    trusted_proxies: Whole = _key(
        0,
        "How many proxies in front of the web are believed about the client's address.",
        restart=True,
        least=0,
        most=8,
    )
    accel_redirect: InternalLocation = _key(
        "", "Internal location of nginx that has the LFS objects, so that it sends them itself; empty: the web does."
    )


class Database(_Section):
    """Where the state is kept."""

    url: DatabaseUrl = _key(
        "/var/lib/mirror-sync/state.db",
        'A path means SQLite; or "postgresql://user@host/database".',
        restart=True,
    )
    password_file: Text = _key("", 'File with the Postgres password, or "credential:NAME".', restart=True, secret=True)


class Storage(_Section):
    """Where the bytes are kept."""

    git_dir: PathText = _key("/var/lib/mirror-sync/git", "Directory of the Git repositories.", restart=True)
    lfs_dir: PathText = _key("/var/lib/mirror-sync/lfs", "Directory of the LFS objects.", restart=True)
    run_dir: PathText = _key(
        "/run/mirror-sync", "Directory of the socket by which processes wake each other.", restart=True
    )
    reserve: Reserve = _key(
        "auto", 'Free space that is left alone; "auto": the smaller of 100 GiB and 5 %.', restart=True
    )
    orphan_grace: Days = _key("30d", "How long an LFS object that nothing refers to is kept.")
    removal_delay: Days = _key("30d", "How long the data of a removed mirror is kept.")


class Workers(_Section):
    """How much is done at once."""

    git: Whole = _key(8, "Mirrors synced at the same time.", restart=True, least=1, most=256)
    lfs: Whole = _key(32, "Connections for LFS objects at the same time.", restart=True, least=1, most=256)
    drain_timeout: Seconds = _key("60s", "How long a stopping worker lets runs come to a good end.", restart=True)
    lease: Seconds = _key("60s", "How long a mirror stays with a worker that no longer answers.", restart=True)


class Git(_Section):
    """What is fetched and how it is judged."""

    stall_timeout: Minutes = _key("5m", "An upstream that sends nothing for this long is given up for this run.")
    refs: Patterns = _key(
        ["refs/heads/*", "refs/tags/*", "refs/notes/*"], "Refs to mirror: full names, or prefixes ending in *."
    )
    forced: Literal["follow-and-keep", "hold"] = _key(
        "follow-and-keep", "What a forced update does: follow and keep the old tip, or hold."
    )
    keep_forced: Days = _key("90d", "How long the old tips of forced and deleted refs are kept.")
    relaxed: FsckIds = _key([], "Further fsck message ids that are let pass in every mirror.")
    max_pack: Limit = _key("none", "Largest pack that is taken from upstream in one fetch.")
    max_memory: Memory = _key(
        "auto",
        'Most memory that one git command takes; "auto": half of the machine\'s, at least 1 GiB.',
        restart=True,
    )


class Lfs(_Section):
    """Whether LFS objects are mirrored."""

    enabled: Flag = _key(True, "Mirror LFS objects.")
    known_missing: Literal["hold", "publish"] = _key(
        "hold", "What a ref does that needs an LFS object upstream itself lacks."
    )
    max_object: Limit = _key("none", "Largest LFS object that is kept.")
    include: PathPatterns = _key([], "Paths whose LFS objects are kept, as in .gitignore; empty: all.")
    exclude: PathPatterns = _key([], "Paths among those whose LFS objects are left out.")
    recent: Age = _key("none", "Age of the oldest commits, beside the tips, whose LFS objects are kept.")
    pull_through: Flag = _key(True, "Fetch an LFS object that is not here yet at once when a client asks for it.")


class Schedule(_Section):
    """How often upstream is asked."""

    interval: Minutes = _key("30m", "Time between two polls of a mirror; for mirrors added from then on.")
    objective: Hours = _key(
        "2h", "The sync lag to stay within, at least twice the interval; for mirrors added from then on."
    )
    jitter: Share = _key(0.1, "Share of the interval by which polls are spread.")
    backoff_max: Hours = _key("6h", "Longest wait after failures.")


class Link(_Section):
    """How fast bytes are fetched."""

    rate: Rate = _key("none", "Most that is fetched in a second from all hosts together.")
    hours: DayHours = _key([], "Rates for hours of the day, local time; the first that hold go before rate.")
    fill_share: FillShare = _key(
        0.8, "Largest share of a cap that first fills and history may use while updates want some."
    )


class Upstream(_Section):
    """How one upstream host is reached."""

    allow_http: Flag = _key(False, "Plain http is allowed.")
    allow_private: Flag = _key(False, "Loopback and private addresses are allowed.")
    token_file: Text = _key("", 'File with the access token, or "credential:NAME".', secret=True)
    username: Text = _key("x-access-token", "User name sent with the token.")
    proxy: Proxy = _key("", 'Proxy to use; empty: HTTPS_PROXY and NO_PROXY; "none": none.')
    ca_file: Text = _key("", "Certificates to trust instead of the system's.")
    concurrency: Whole = _key(32, "Connections to this host at the same time.", least=1, most=256)
    raw_url: RawUrl = _key("", 'URL of one file of a commit; empty: as is known of the host; "none": there is none.')
    accelerators: NearTemplates = _key([], "Nearer places of this host's repositories: URLs with {path}, and {host}.")
    unknown: Literal["explain", "redirect", "add-on-demand"] = _key(
        "explain", "What clients get that ask for a repository of this host which is not mirrored here."
    )
    on_demand: Globs = _key([], "Paths that may be added on demand, such as acme/*.")
    on_demand_class: ClassName = _key("", "The class of mirrors that are added on demand.")
    on_demand_hourly: Whole = _key(10, "Mirrors of this host that are added on demand within an hour.", least=1)
    on_demand_wait: Wait = _key("30s", "How long a client waits for the first publish of such a mirror.")
    rate: Rate = _key("none", "Most that is fetched in a second from this host.")
    hours: DayHours = _key([], "Rates for hours of the day, local time; the first that hold go before rate.")


class Class(_Section):
    """What mirrors of one class have in common."""

    interval: MinutesOrNone = _key(None, "Instead of schedule.interval; for mirrors added from then on.")
    objective: HoursOrNone = _key(None, "Instead of schedule.objective; for mirrors added from then on.")
    known_missing: Literal["hold", "publish"] | None = _key(None, "Instead of lfs.known_missing.")
    max_pack: OwnLimit = _key(None, "Instead of git.max_pack.")
    max_object: OwnLimit = _key(None, "Instead of lfs.max_object.")
    include: OwnPathPatterns = _key(None, "Instead of lfs.include.")
    exclude: OwnPathPatterns = _key(None, "Instead of lfs.exclude.")
    recent: OwnAge = _key(None, "Instead of lfs.recent.")
    visibility: VisibilityWord | None = _key(None, "Instead of access.visibility.")


class Mirror(_Section):
    """A mirror that the configuration wants."""

    url: MirrorUrl = Field(description="Upstream URL of a repository to mirror.", json_schema_extra={"restart": False})
    interval: MinutesOrNone = _key(None, "Instead of schedule.interval.")
    objective: HoursOrNone = _key(None, "Instead of schedule.objective.")
    known_missing: Literal["hold", "publish"] | None = _key(None, "Instead of lfs.known_missing.")
    relaxed: FsckIds = _key([], "Further fsck message ids that are let pass in this mirror.")
    forced: Literal["follow-and-keep", "hold"] | None = _key(None, "Instead of git.forced.")
    accelerators: NearUrls = _key([], "Nearer places of this repository, before those of its host.")
    class_: ClassName = _key("", "The class whose settings it takes.", alias="class")
    max_object: OwnLimit = _key(None, "Instead of lfs.max_object and that of its class.")
    include: OwnPathPatterns = _key(None, "Instead of lfs.include and that of its class.")
    exclude: OwnPathPatterns = _key(None, "Instead of lfs.exclude and that of its class.")
    recent: OwnAge = _key(None, "Instead of lfs.recent and that of its class.")
    visibility: VisibilityWord | None = _key(None, "Instead of access.visibility and that of its class.")


class Webhooks(_Section):
    """Who may tell of changes."""

    secret_file: Text = _key(
        "", 'File with the webhook secret, or "credential:NAME"; empty: deliveries are refused.', secret=True
    )
    previous_secret_file: Text = _key(
        "", "File with the secret before, accepted as well while a rotation lasts.", secret=True
    )
    max_body: Size = _key("25MiB", "Largest delivery that is read.", restart=True)
    keep_deliveries: Days = _key("90d", "How long delivery ids are remembered.")


class AccessRules(_Section):
    """Who may read."""

    visibility: VisibilityWord = _key("public", "Who may read a mirror that says nothing else.")
    conceal: Flag = _key(
        False, "Ask for credentials at unknown names too, so that git tells nobody which mirrors exist."
    )
    allow: Networks = _key([], "Networks whose clients are served; empty: all.")
    deny: Networks = _key([], "Networks whose clients are not served, also where allow has them.")
    token_ttl: Expiry = _key("90d", 'How long a new clone token opens anything; "none": until it is revoked.')
    check_ttl: Seconds = _key("5m", "How long upstream's yes to somebody's credentials counts.")
    refusal_ttl: Seconds = _key("30s", "How long upstream's no counts.")
    link_ttl: Minutes = _key("1h", "How long a link to an LFS object of a mirror that is not for everybody counts.")
    link_key_file: Text = _key(
        "", "File with the keys that sign such links; empty: link-keys in the directory that holds storage.git_dir."
    )


class Serve(_Section):
    """How many clients are served at once."""

    max_streams: Whole = _key(256, "Answers with Git or LFS bytes at the same time.", restart=True, least=1, most=4096)
    max_packs: Whole = _key(4, "Packs computed at the same time.", restart=True, least=1, most=256)
    max_packs_per_mirror: Whole = _key(3, "Packs of one mirror computed at the same time.", restart=True, least=1)
    max_packs_per_client: Whole = _key(
        3, "Packs computed at the same time for one client: a clone token, or an address.", restart=True, least=1
    )
    max_wait: Minutes = _key("10m", "How long a fetch waits for its pack to be computed.", restart=True)
    stale_notice: Flag = _key(True, "Tell those who clone, in git's output, when a mirror is beyond its objective.")
    threads: Whole = _key(64, "Threads of the web.", restart=True, least=2, most=MAX_THREADS)


class HuggingFace(_Section):
    """Which mirrors answer Hugging Face clients."""

    hosts: HubHosts = _key(
        ["huggingface.co"], "Hosts whose mirrors answer for ORG/NAME, the first that has it does; empty: none."
    )


class Metrics(_Section):
    """What a scrape sees."""

    per_mirror: Flag = _key(False, "Series for each mirror at /metrics/mirrors.")


class Log(_Section):
    """How the log looks."""

    format: Literal["auto", "json", "text", "journald"] = _key(
        "auto", 'Form of the log; "auto": text on a terminal, journal fields under systemd, else json.', restart=True
    )
    level: Literal["debug", "info", "warning", "error"] = _key(
        "info", "Least important event that is logged.", restart=True
    )
    keep_runs: Days = _key("90d", "How long the records of finished runs are kept.")
    access: Flag = _key(True, "One event for each request that the web answers.")


class Ui(_Section):
    """What the status page says of itself."""

    language: Literal["auto", "en", "zh"] = _key("auto", 'Language of the pages; "auto": what the browser asks for.')
    title: Text = _key("mirror-sync", "Title of the pages.")
    contact: Text = _key("", "Whom visitors can ask: a mail address or a URL.")


SECTIONS: dict[str, type[_Section]] = {
    "server": Server,
    "database": Database,
    "storage": Storage,
    "workers": Workers,
    "git": Git,
    "lfs": Lfs,
    "schedule": Schedule,
    "link": Link,
    "upstream": Upstream,
    "class": Class,
    "mirror": Mirror,
    "webhooks": Webhooks,
    "access": AccessRules,
    "serve": Serve,
    "huggingface": HuggingFace,
    "metrics": Metrics,
    "log": Log,
    "ui": Ui,
}


@dataclass(frozen=True, slots=True)
class Key:
    """One documented key.  ``default`` is what one would write; ``None`` when leaving it out has no written form."""

    section: str
    name: str
    default: object
    purpose: str
    restart: bool
    secret: bool

    @property
    def path(self) -> str:
        """The key as people write it: ``schedule.interval``, ``upstream."HOST".proxy``, ``mirror[].url``."""
        middle = {"upstream": '."HOST"', "class": '."NAME"', "mirror": "[]"}.get(self.section, "")
        return f"{self.section}{middle}.{self.name}"


def listing() -> Iterator[Key]:
    """Yield every key there is, in the order of the documents."""
    for section, model in SECTIONS.items():
        for name, info in model.model_fields.items():
            extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
            yield Key(
                section,
                info.alias or name,
                None if info.is_required() else info.default,
                info.description or "",
                restart=bool(extra.get("restart")),
                secret=bool(extra.get("secret")),
            )


def choices(section: str, name: str) -> tuple[str, ...]:
    """Return the words a key allows, empty when it is no choice."""
    info = SECTIONS[section].model_fields.get(name)
    return tuple(_literals(info.annotation)) if info else ()


def _literals(annotation: object) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for part in get_args(annotation):
            yield from _literals(part)
