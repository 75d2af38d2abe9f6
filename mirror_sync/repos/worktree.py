"""A person's own clone: its directory while it comes to be, and its owner's git at work in it.

Everywhere else git runs in an environment built from nothing.  A clone belongs to the
person who asked for it: templates, filters, credential helpers, line endings, hooks and
the name of the remote are theirs.  So :class:`OwnersGit`, which only the clone command
uses, runs git with the environment it was started in, less the variables that would
point it at another repository.

While it comes to be, everything lies in ``mirror-sync`` in the git directory::

    clone.json      the order, and how far it is
    store/ stage/   Git objects, as a mirror has them, with upstream's refs and HEAD
    lfs/            LFS objects, as a mirror has them
    new/            a local clone of the store, made by the owner's git with the typed URL
    made/           the same once nothing is missing; files are checked out from here

At the end what is in ``made`` is renamed into the git directory, ``HEAD`` last: until
then git says that this is no repository.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from mirror_sync.domain.names import GitOid, RefName, is_git_oid, is_lfs_oid, printable, ref_bytes
from mirror_sync.domain.pointers import MAX_POINTER_BYTES, MIN_POINTER_BYTES, Pointer, PointerBlob, parse_pointer
from mirror_sync.errors import Conflict, GitFailed, LeaseLost, MirrorSyncError, StorageFailed
from mirror_sync.ports import Clock, CloneOrder, CloneReport, Credential, Draft, Standing
from mirror_sync.repos.files import remove_file, remove_tree, replace_file, storage_errors, sync_directory, sync_file
from mirror_sync.repos.git import Git, config_of_variables, no_descriptors
from mirror_sync.repos.layout import Layout
from mirror_sync.repos.lock import MirrorLock
from mirror_sync.repos.objects import ObjectReader
from mirror_sync.repos.repository import Repository

WORK: Final = "mirror-sync"
RECORD: Final = "clone.json"
NEW: Final = "new"
MADE: Final = "made"
LFS: Final = "lfs"
EMPTY: Final = "empty"
PATTERNS: Final = "patterns"
_PIECE: Final = 256 * 1024

RESERVE_BYTES: Final = 64 * 2**20
"""Stays free on a person's disk while bytes arrive; a mirror keeps more."""

ORPHAN_SECONDS: Final = 5.0
"""How long git children of a run that was killed may take to notice."""

CHECKOUT_SECONDS: Final = 7 * 86400.0

_ELSEWHERE: Final = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_DIR", "GIT_GRAFT_FILE",
        "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE",
        "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
    }
)  # fmt: skip
"""Variables that tie git to some repository; git clone forgets them, too."""

_CONFIG_FILES: Final[tuple[str, ...]] = (
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_PARAMETERS",
)


class OwnersGit(Git):
    """Git as its owner would run it, in ``directory``, beside what other children of ours inherit."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *,
        descriptors: Callable[[], tuple[int, ...]] = no_descriptors,
        config: Mapping[str, str] | None = None,
        **variables: str,
    ) -> None:
        super().__init__(directory, descriptors=descriptors)
        kept = {name: value for name, value in environment.items() if name not in _ELSEWHERE}
        own, rest = config_of_variables(kept)
        files = {name: kept[name] for name in _CONFIG_FILES if name in kept}
        self._config = [*own, *(config or {}).items()]
        # what git says is read here, so it speaks plainly
        self._environment = {**rest, **files, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", **variables}

    def setting(self, *words: str) -> str:
        """Return what ``git config words`` answers, or an empty string."""
        raw = self.run(["config", *words], ok=(0, 1, 128))
        return raw.decode("utf-8", "surrogateescape").rstrip("\n")


class GitCredentials:
    """The credential helpers that the owner's git is set up with; implements :class:`mirror_sync.ports.Credentials`."""

    def __init__(self, environment: Mapping[str, str], *, scheme: str, netloc: str, path: str) -> None:
        self._git = OwnersGit(Path("/"), {**environment, "GIT_TERMINAL_PROMPT": "0"})
        self._asked = f"protocol={scheme}\nhost={netloc}\npath={path.lstrip('/')}\n"

    def fill(self) -> Credential | None:
        """Return what a helper knows; ``None`` when none does."""
        try:
            answer = self._git.run(["credential", "fill"], stdin=f"{self._asked}\n".encode())
        except GitFailed:
            return None
        said = dict(line.partition("=")[::2] for line in answer.decode("utf-8", "replace").splitlines())
        if not said.get("password"):
            return None
        return Credential(said.get("username", ""), said["password"])

    def approve(self, credential: Credential) -> None:
        """Let the helpers keep what worked."""
        self._tell("approve", credential)

    def reject(self, credential: Credential) -> None:
        """Let the helpers forget what did not work."""
        self._tell("reject", credential)

    def _tell(self, verb: str, credential: Credential) -> None:
        said = f"{self._asked}username={credential.username}\npassword={credential.password}\n\n"
        with contextlib.suppress(GitFailed):  # a helper that fails is no reason to go without a clone
            self._git.run(["credential", verb], stdin=said.encode())


class OwnersSettings:
    """What the owner's git configuration says of the way to one URL."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._git = OwnersGit(Path("/"), environment)

    def rewritten(self, url: str) -> str:
        """Return where the owner's ``url.*.insteadOf`` rules lead; the URL itself when none applies."""
        return self._git.run(["ls-remote", "--get-url", "--", url]).decode("utf-8", "replace").strip()

    def proxy(self, url: str) -> str:
        """Return ``http.proxy`` for ``url``, or an empty string."""
        return self._git.setting("--get-urlmatch", "http.proxy", url)

    def ca_file(self, url: str) -> str:
        """Return the file of certificate authorities that git would trust, or an empty string."""
        return self._environment.get("GIT_SSL_CAINFO") or self._git.setting(
            "--type=path", "--get-urlmatch", "http.sslCAInfo", url
        )


class CloneDirectory:
    """One clone on disk; implements :class:`mirror_sync.ports.ClonePlace`."""

    def __init__(self, directory: Path, order: CloneOrder, *, environment: Mapping[str, str], clock: Clock) -> None:
        self.directory = directory.absolute()
        self.order = order
        self._git_dir = self.directory if order.bare else self.directory / ".git"
        self.work = self._git_dir / WORK
        self._layout = Layout(self.work)
        self._clock = clock
        self._environment = environment
        self._repository = Repository(
            self._layout, top=self.work, clock=clock, reserve_bytes=RESERVE_BYTES, child_memory=0
        )
        self._lock = MirrorLock(self.work / "clone.lock")

    @property
    def repository(self) -> Repository:
        """Where Git objects come in."""
        return self._repository

    @property
    def lfs_directory(self) -> Path:
        """Where LFS objects come in."""
        return self.work / LFS

    # ------------------------------------------------------------ whose place this is

    def standing(self) -> Standing:
        """Tell how far the clone is; raises :class:`Conflict`."""
        if not os.path.lexists(self.directory):
            return Standing.FRESH
        if not self.directory.is_dir():
            raise Conflict(f"{_shown(self.directory)} is there and no directory", remedy="name another directory")
        record = self._read_record()
        if record is None:
            return self._standing_without_record()
        self._check_record(record)
        if (self.work / MADE).is_dir() or (self._git_dir / "HEAD").exists():
            return Standing.MADE
        return Standing.BEGUN

    def _standing_without_record(self) -> Standing:
        """Tell an empty directory, and one that a killed run had only just made, from everything else."""
        if self._left_empty():
            return Standing.MADE
        ours = {self._git_dir.name} if not self.order.bare else {WORK}
        if not _names(self.directory) <= ours or not _names(self._git_dir) <= {WORK}:
            other = self.directory / ".git" / WORK if self.order.bare else self.directory / WORK
            if (other / RECORD).exists():
                with_or_without = "without" if self.order.bare else "with"
                raise Conflict(
                    f"an unfinished clone of another kind is in {_shown(self.directory)}",
                    remedy=f"go on with it {with_or_without} --bare, or remove the directory",
                )
            raise Conflict(
                f"{_shown(self.directory)} is there and not empty",
                why="no unfinished clone is in it",
                remedy="name another directory, or remove this one",
            )
        if not _names(self.work) <= _LOCKS | {f"tmp_{RECORD}"}:
            raise Conflict(
                f"{_shown(self.work)} holds something that is not understood",
                remedy=f"remove {_shown(self.directory)} and begin again",
            )
        return Standing.FRESH

    def _left_empty(self) -> bool:
        """Tell whether a run was killed at the very last, when nothing but an empty workshop was left."""
        if not (self._git_dir / "HEAD").exists() or not self.work.is_dir() or _names(self.work) - _LOCKS:
            return False
        urls = self._owners(self.directory, GIT_DIR=str(self._git_dir)).setting("--get-regexp", r"^remote\..*\.url$")
        return any(line.endswith(f" {self.order.url}") for line in urls.splitlines())

    def _check_record(self, record: Mapping[str, Any]) -> None:
        if record["url"] != self.order.url:
            raise Conflict(
                f"{_shown(self.directory)} holds an unfinished clone of another repository",
                why=f"of {printable(str(record['url']))}",
                remedy="finish that one with its own URL, name another directory, or remove this one",
            )
        if not (self.work / MADE).exists() and not (self._git_dir / "HEAD").exists():
            return
        before = {name: record[name] for name in _OPTIONS}
        if before != _options(self.order):
            raise Conflict(
                f"the clone in {_shown(self.directory)} is at its last step, and was begun with other options",
                why=", ".join(f"{name}: {printable(str(value))}" for name, value in before.items()),
                remedy="finish it as it was begun, then change it with git",
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Be the only one at work here; raises :class:`Conflict`."""
        with self._errors():
            for path in (self.directory, self._git_dir, self.work):
                path.mkdir(parents=True, exist_ok=True)
        with self._acquired(self._lock.hold), self._acquired(self._repository.lock), self._errors():
            yield

    @contextlib.contextmanager
    def _acquired(self, hold: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
        """Hold a lock; children of a run that was killed get a moment to notice."""
        ends = self._clock.monotonic() + ORPHAN_SECONDS
        while True:
            try:
                held = hold()
                held.__enter__()
                break
            except LeaseLost as error:
                if self._clock.monotonic() >= ends:
                    raise Conflict(
                        f"another mirror-sync is at work on {_shown(self.directory)}",
                        remedy="let it finish, or end it",
                    ) from error
                self._clock.sleep(0.1)
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    def begin(self) -> None:
        """Write the order down, durably."""
        record = self._read_record()
        wanted = {"version": 1, "url": self.order.url, **_options(self.order)}
        if record is None or any(record.get(name) != value for name, value in wanted.items()):
            self._write_record({**(record or {}), **wanted})

    # ------------------------------------------------------------ what git makes of it

    def show_head(self, head: RefName, detached: GitOid | None) -> None:
        """Let the store's HEAD be upstream's, durably."""
        text = f"{detached}\n".encode() if detached is not None else b"ref: " + ref_bytes(head) + b"\n"
        replace_file(self._layout.store / "HEAD", text)

    def draft(self, *, stop: threading.Event) -> Draft:
        """Let the owner's git clone the store, as if it were the URL; objects are linked, not copied."""
        new = self.work / NEW
        remove_tree(new)
        git = self._owners(
            self.work,
            config={
                f"url.{self._layout.store}.insteadOf": self.order.url,
                "protocol.file.allow": "always",
                "clone.rejectShallow": "false",
                "submodule.recurse": "false",
                "core.fsmonitor": "false",
            },
        )
        leads = (
            git.run(["ls-remote", "--get-url", "--", self.order.url]).decode("utf-8", "surrogateescape").rstrip("\n")
        )
        if leads != str(self._layout.store):
            raise Conflict(
                "your git configuration rewrites exactly this URL",
                why=f"url.*.insteadOf leads to {printable(leads)}",
                remedy="clone that address instead, or take the rule away",
            )
        order = self.order
        remarks: list[str] = []
        git.run(
            [
                "clone",
                "--quiet",
                "--local",
                "--no-checkout",
                *(["--bare"] if order.bare else []),
                *(["--branch", order.branch] if order.branch else []),
                *(["--origin", order.origin] if order.origin else []),
                "--",
                order.url,
                NEW,
            ],
            stop=stop,
            timeout=CHECKOUT_SECONDS,
            on_error_line=lambda line: _remark(line, remarks),
        )
        tip = self._head(new)
        return Draft(tip, tuple(remarks))

    def _head(self, made: Path) -> GitOid | None:
        """Return the commit that HEAD names."""
        git = self._owners(self.work, GIT_DIR=str(self._inner(made)))
        answer = git.run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], ok=(0, 1, 128)).decode("ascii").strip()
        return GitOid(answer) if is_git_oid(answer) else None

    def pointers(self, tip: GitOid) -> list[PointerBlob]:
        """Return the pointers in the tree of ``tip``, less those that git-lfs is told to leave out."""
        git = Git(self._layout.store, descriptors=self._lock.descriptors)
        blobs: dict[GitOid, list[bytes]] = {}
        with git.stream(["ls-tree", "-r", "-l", "-z", "--full-tree", tip]) as child:
            for entry in _records(child.stdout):
                about, _, path = entry.partition(b"\t")
                fields = about.split()
                regular = len(fields) == 4 and fields[0].startswith(b"100")
                if regular and fields[3].isdigit() and MIN_POINTER_BYTES <= int(fields[3]) <= MAX_POINTER_BYTES:
                    blobs.setdefault(GitOid(fields[2].decode("ascii")), []).append(path)
        found: list[PointerBlob] = []
        with ObjectReader(git) as reader:
            for oid, _, content in reader.read(blobs, limit=MAX_POINTER_BYTES):
                pointer = parse_pointer(content) if content is not None else None
                if pointer is not None and pointer.size > 0:
                    found.append(PointerBlob(oid, pointer))
        left_out = self._left_out(tip, [path for item in found for path in blobs[item.blob]])
        return [item for item in found if not left_out.issuperset(blobs[item.blob])]

    def _left_out(self, tip: GitOid, paths: Collection[bytes]) -> set[bytes]:
        """Return those of ``paths`` that ``lfs.fetchinclude`` and ``lfs.fetchexclude`` leave out."""
        include, exclude = (self._named(tip, f"lfs.fetch{kind}") for kind in ("include", "exclude"))
        chosen = self._matching(include, paths) if include else set(paths)
        return set(paths) - (chosen - (self._matching(exclude, paths) if exclude else set()))

    def _matching(self, patterns: str, paths: Collection[bytes]) -> set[bytes]:
        """Return those of ``paths`` that match one of ``patterns``, which are written as in a ``.gitignore``."""
        empty, listed = self.work / EMPTY, self.work / PATTERNS
        empty.mkdir(exist_ok=True)
        listed.write_text("\n".join(part.strip() for part in patterns.split(",")) + "\n", errors="surrogateescape")
        git = Git(
            self._layout.store,
            descriptors=self._lock.descriptors,
            config={"core.excludesFile": str(listed)},
            environment={"GIT_WORK_TREE": str(empty)},
        )
        asked = b"".join(path + b"\0" for path in paths)
        answer = git.run(["check-ignore", "--no-index", "-z", "--stdin"], stdin=asked, ok=(0, 1))
        return set(answer.split(b"\0")) - {b""}

    # ------------------------------------------------------------ git-lfs

    def lfs_program(self) -> str:
        """Return the version of the installed git-lfs, or an empty string."""
        try:
            return self._owners(self.work).run(["lfs", "version"]).decode("utf-8", "replace").strip()
        except GitFailed:
            return ""

    def lfs_url(self, tip: GitOid) -> str:
        """Return the LFS server that is named somewhere, as git-lfs looks for it."""
        remote = self._drafted().run(["remote"]).decode("utf-8", "surrogateescape").split("\n")[0]
        return self._named(tip, "lfs.url") or self._named(tip, f"remote.{remote}.lfsurl")

    def _named(self, tip: GitOid, name: str) -> str:
        """Return a setting of git-lfs: the owner's, or what the tip's ``.lfsconfig`` says."""
        own = self._drafted().setting("--get", name)
        if own:
            return own
        inside = Git(self._layout.store, descriptors=self._lock.descriptors)
        answer = inside.run(["config", "--blob", f"{tip}:.lfsconfig", "--get", name], ok=(0, 1, 128, 255))
        return answer.decode("utf-8", "replace").rstrip("\n")

    def _drafted(self) -> OwnersGit:
        return self._owners(self.work, GIT_DIR=str(self._inner(self.work / NEW)))

    def lfs_present(self, pointers: Iterable[Pointer]) -> set[Pointer]:
        """Return those that git-lfs has already where it will look for them."""
        media = self._media(self.work / NEW)
        return {pointer for pointer in pointers if _size(_shelf(media, pointer.oid)) == pointer.size}

    def _media(self, made: Path) -> Path:
        """Return the directory of git-lfs's objects: in the git directory, or where ``lfs.storage`` puts it."""
        inner = self._inner(made)
        storage = self._owners(self.work, GIT_DIR=str(inner)).setting("--type=path", "--get", "lfs.storage")
        return (inner / (storage or "lfs")) / "objects"

    # ------------------------------------------------------------ the end

    def settle(self, report: CloneReport, *, uses_lfs: bool, partial: bool) -> None:
        """Note durably that the draft stands and all that it needs is here."""
        said = {"missing": list(report.missing), "notes": list(report.notes)}
        self._write_record({**(self._read_record() or {}), **said, "uses_lfs": uses_lfs, "partial": partial})
        (self.work / NEW).rename(self.work / MADE)
        sync_directory(self.work)

    def finish(self, *, stop: threading.Event) -> CloneReport:
        """Check out, put everything in its place, and return what was reported; idempotent."""
        record = self._read_record() or {}
        made = self.work / MADE
        if made.is_dir() and not (self._git_dir / "HEAD").exists():
            self._place_lfs_objects(made)
            if self.order.checkout and not self.order.bare:
                self._check_out(made, record, stop=stop)
            self._place(made)
        failed = self._run_hook(stop=stop)
        self._clear()
        return CloneReport((*record.get("missing", ()), *failed), tuple(record.get("notes", ())))

    def _place_lfs_objects(self, made: Path) -> None:
        """Move verified LFS objects to where git-lfs keeps its own, with the rights it gives them."""
        source = self.lfs_directory / "objects"
        found = [path for path in source.glob("??/??/*") if is_lfs_oid(path.name)] if source.is_dir() else []
        if not found:
            return
        media = self._media(made)
        mode = 0o666 & ~_umask()
        for path in found:
            target = _shelf(media, path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
            _move(path, target)
        for directory in {_shelf(media, path.name).parent for path in found}:
            sync_directory(directory)

    def _check_out(self, made: Path, record: Mapping[str, Any], *, stop: threading.Event) -> None:
        """Write the files by the owner's git, filters and all; anew from the start after a kill."""
        if record.get("checked_out") or self._head(made) is None:
            return
        if not record.get("checking_out"):
            strange = _names(self.directory) - {self._git_dir.name}
            if strange:
                raise Conflict(
                    f"{_shown(self.directory)} has files that this clone did not bring",
                    why=", ".join(printable(name) for name in sorted(strange)[:5]),
                    remedy="move them away and run the same command again",
                )
            self._write_record({**record, "checking_out": True})
        inner = self._inner(made)
        git = self._owners(
            self.directory,
            config={"submodule.recurse": "false", "core.fsmonitor": "false", **self._without_filter()},
            GIT_DIR=str(inner),
            GIT_WORK_TREE=str(self.directory),
        )
        lfs = bool(record.get("uses_lfs"))
        if lfs and not git.setting("filter.lfs.process"):
            git.run(["lfs", "install", "--local"], stop=stop)
        for name in ("index", "index.lock"):
            remove_file(inner / name)
        partial = bool(record.get("partial"))
        skip = {"GIT_LFS_SKIP_SMUDGE": "1"} if partial or not self.order.lfs else {}
        git.run(["read-tree", "--reset", "-u", "HEAD"], environment=skip, stop=stop, timeout=CHECKOUT_SECONDS)
        if lfs and partial:
            git.run(["lfs", "checkout"], stop=stop, timeout=CHECKOUT_SECONDS)
        self._write_record({**(self._read_record() or {}), "checked_out": True})

    def _without_filter(self) -> dict[str, str]:
        """Return what keeps git from calling a git-lfs that it is set up for and that is not installed."""
        if self.lfs_program():
            return {}
        return {"filter.lfs.process": "", "filter.lfs.smudge": "", "filter.lfs.required": "false"}

    def _place(self, made: Path) -> None:
        """Rename what git made into the git directory, HEAD last."""
        inner = self._inner(made)
        shutil.copymode(inner, self._git_dir)
        for name in sorted(_names(inner), key=lambda name: (name == "HEAD", name)):
            if name == "HEAD":
                _sync_tree(self._git_dir, but=(WORK, "objects", "lfs"))
            (inner / name).rename(self._git_dir / name)
        sync_directory(self._git_dir)

    def _run_hook(self, *, stop: threading.Event) -> tuple[str, ...]:
        """Run the hook that a clone's checkout runs, and return its complaint."""
        if self.order.bare or not self.order.checkout:
            return ()
        git = self._owners(self.directory)
        tip = git.run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], ok=(0, 1, 128)).decode("ascii").strip()
        if not is_git_oid(tip):
            return ()
        try:
            git.run(
                ["hook", "run", "--ignore-missing", "post-checkout", "--", "0" * len(tip), tip, "1"],
                stop=stop,
                timeout=CHECKOUT_SECONDS,
            )
        except GitFailed as error:
            return (f"the post-checkout hook failed: {error.why or error.message}",)
        return ()

    def _clear(self) -> None:
        """Take the workshop away, the record last."""
        for name in sorted(_names(self.work) - _LOCKS - {RECORD}):
            path = self.work / name
            remove_tree(path) if path.is_dir() and not path.is_symlink() else remove_file(path)
        for name in (*_LOCKS, RECORD):
            remove_file(self.work / name)
        self.work.rmdir()
        sync_directory(self._git_dir)

    # ------------------------------------------------------------ inside

    def _inner(self, made: Path) -> Path:
        """Return the git directory of a clone that git made at ``made``."""
        return made if self.order.bare else made / ".git"

    def _owners(self, directory: Path, *, config: Mapping[str, str] | None = None, **variables: str) -> OwnersGit:
        # a repository around this one is none of a clone's business
        ceiling = {"GIT_CEILING_DIRECTORIES": str(self.directory.parent)}
        return OwnersGit(
            directory, self._environment, descriptors=self._lock.descriptors, config=config, **ceiling, **variables
        )

    def _read_record(self) -> dict[str, Any] | None:
        try:
            record = json.loads((self.work / RECORD).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise Conflict(
                f"{_shown(self.work / RECORD)} is damaged",
                why=str(error),
                remedy="remove the directory and begin again",
            ) from error
        if not isinstance(record, dict) or record.get("version") != 1:
            raise Conflict(
                f"{_shown(self.work / RECORD)} was written by another version of mirror-sync",
                remedy="finish the clone with that version, or remove the directory and begin again",
            )
        return record

    def _write_record(self, record: Mapping[str, Any]) -> None:
        replace_file(self.work / RECORD, json.dumps(record, indent=1).encode() + b"\n")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with storage_errors(self.directory):
                yield
        except MirrorSyncError:
            raise
        except OSError as error:
            raise StorageFailed(
                f"{_shown(self.directory)} cannot be used",
                why=f"{error.strerror or error}: {_shown(error.filename)}" if error.filename else str(error),
                remedy="check rights and file system, or name another directory",
            ) from error


_LOCKS: Final = frozenset({"clone.lock", "lock"})
_OPTIONS: Final = ("branch", "origin", "bare", "checkout", "lfs")


def _options(order: CloneOrder) -> dict[str, Any]:
    return {name: getattr(order, name) for name in _OPTIONS}


def _names(directory: Path) -> set[str]:
    try:
        return {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return set()


def _shown(path: object) -> str:
    return printable(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else str(path)


def _records(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield what a NUL ends, read in large pieces."""
    rest = b""
    while data := stream.read(_PIECE):
        *whole, rest = (rest + data).split(b"\0")
        yield from whole


def _shelf(media: Path, oid: str) -> Path:
    return media / oid[:2] / oid[2:4] / oid


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _move(source: Path, target: Path) -> None:
    """Move a file, by copying where the target is on another file system."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        passing = target.with_name(f"{target.name}.mirror-sync")
        shutil.copyfile(source, passing)
        passing.chmod(source.stat().st_mode & 0o777)
        passing.replace(target)
        source.unlink()


def _sync_tree(directory: Path, *, but: Iterable[str]) -> None:
    """Make files and names below ``directory`` durable, except for what lies in ``but``; those are by themselves."""
    for path in directory.iterdir():
        if path.name in but or path.is_symlink():
            continue
        if path.is_dir():
            _sync_tree(path, but=())
        else:
            sync_file(path)
    sync_directory(directory)


def _umask() -> int:
    """Return the process's umask without a moment in which it is another one."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def _remark(line: bytes, remarks: list[str]) -> None:
    text = printable(line.decode("utf-8", "replace").strip())
    if text.startswith("warning: "):
        remarks.append(text.removeprefix("warning: "))
