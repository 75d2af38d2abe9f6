"""quickstart: from URLs to a running mirror in one directory, in the foreground."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror_sync.cli import choosing
from mirror_sync.cli.directory import Directory, Wishes, check_port_free
from mirror_sync.cli.keep import being_removed, taken_back
from mirror_sync.cli.opening import told
from mirror_sync.cli.options import Command
from mirror_sync.cli.output import Output
from mirror_sync.domain.names import UpstreamUrl, parse_upstream_url
from mirror_sync.errors import UsageError
from mirror_sync.ports import MirrorFilter

if TYPE_CHECKING:
    from mirror_sync.bootstrap import App
    from mirror_sync.config import Settings
    from mirror_sync.testing.demo_upstream import DemoUpstream

LOG_LEVEL = "MIRROR_SYNC__LOG__LEVEL"


@click.command(
    cls=Command,
    examples=(
        "mirror-sync quickstart https://github.com/acme/model",
        "mirror-sync quickstart https://huggingface.co/acme/weights --dir /srv/mirror --port 9000",
    ),
)
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the web; default 8080, or as before.")
@click.option("--listen", metavar="ADDRESS", help="Address of the web; default 127.0.0.1, or as before.")
@click.option("--no-lfs", is_flag=True, help="Leave LFS objects out.")
@click.pass_context
def quickstart(
    context: click.Context, urls: tuple[str, ...], port: int | None, listen: str | None, no_lfs: bool
) -> int:
    """Run a mirror of these repositories in the foreground.

    Everything is kept in one directory (--dir; default ~/.local/share/mirror-sync),
    with its configuration.  Started again there, it goes on where it stopped; further
    URLs are added.  Hosts named here are trusted as typed.  In a fresh directory and
    without a URL a small demo upstream with LFS objects is made and mirrored.
    """
    from mirror_sync.config import data_home, load, process_environment, scrub

    flags = told(context)
    if flags.config:
        raise UsageError("quickstart keeps everything in one directory", remedy="name it with --dir DIR")
    if flags.json:
        raise UsageError("quickstart has no JSON form", remedy="mirror-sync status --json, in another terminal")
    scrub()
    out = Output(flags)
    wanted = [parse_upstream_url(url) for url in dict.fromkeys(urls)]
    directory = Directory(flags.directory or data_home(process_environment()))
    wishes = Wishes(listen, port, not no_lfs)
    with directory.held(), _demo(directory, wanted) as demo:
        examples = [parse_upstream_url(url) for url in demo.urls] if demo else []
        directory.prepare([*wanted, *examples], wishes)
        environment = dict(process_environment()) | directory.wished(wishes)
        settings = load(directory=directory.path, environ=environment)
        if settings.origins["log.level"] == "default" and not flags.verbose:
            environment[LOG_LEVEL] = "error"  # the terminal belongs to the progress, which tells how runs end
        check_port_free(settings.server.listen_host, settings.server.listen_port)
        _enrol(out, settings, wanted, examples=examples)
        if demo:
            demo.call(f"{settings.server.local_url}/hooks/github", directory.secret)
        command = own_command(directory.path)
        _greet(out, directory, settings, demo=demo, command=command)
        return _serve(out, settings, environment, command=command, verbose=bool(flags.verbose))


def own_command(directory: Path) -> str:
    """Return what to type, in any place, for ``mirror-sync`` on this directory."""
    script = Path(sys.executable).with_name("mirror-sync")
    if shutil.which("mirror-sync") == str(script):
        program = "mirror-sync"
    elif script.exists():
        program = shlex.quote(str(script))
    else:
        program = f"{shlex.quote(sys.executable)} -m mirror_sync"
    return f"{program} --dir {shlex.quote(str(directory))}"


def _demo(directory: Directory, wanted: list[UpstreamUrl]) -> AbstractContextManager[DemoUpstream | None]:
    """Return a small upstream on this machine where nothing else is named, or where there was one before."""
    if directory.demo.is_dir() or (not wanted and not directory.config.exists()):
        from mirror_sync.testing.demo_upstream import DemoUpstream

        return DemoUpstream(directory.demo)
    return nullcontext()


def _enrol(out: Output, settings: Settings, wanted: list[UpstreamUrl], *, examples: list[UpstreamUrl]) -> None:
    from mirror_sync.bootstrap import build, configure_logs, upgrade_database

    configure_logs(settings, level="warning")
    upgrade_database(settings)
    with build(settings, role="cli") as app:
        nothing = not wanted and not settings.mirrors and not any(choosing.matching(app, MirrorFilter()))
        if nothing and not examples:
            raise UsageError(
                "there is nothing to mirror yet",
                remedy="name a repository: mirror-sync quickstart https://github.com/OWNER/NAME",
            )
        for url in examples if nothing else wanted:
            before = being_removed(app, str(url))
            mirror, _ = app.enrol(str(url))
            if before is not None:
                out.note(f"taken back {mirror.name}: {taken_back(before, app.clock.now())}")


def _greet(out: Output, directory: Directory, settings: Settings, *, demo: DemoUpstream | None, command: str) -> None:
    if out.told.quiet:
        return
    upstreams = [("demo upstream", f"{url}  (gets a commit every now and then)") for url in demo.urls] if demo else []
    out.fields(
        [
            *upstreams,
            ("configuration", str(directory.config)),
            ("webhook secret", str(directory.secret)),
            ("commands", f"{command} status"),
            ("status page", f"{settings.server.local_url}/"),
        ]
    )
    sys.stdout.flush()


def _serve(out: Output, settings: Settings, environment: dict[str, str], *, command: str, verbose: bool) -> int:
    from mirror_sync.bootstrap import build
    from mirror_sync.cli.serve import configuration_options
    from mirror_sync.cli.watching import Watcher
    from mirror_sync.worker import role_commands, supervise

    def open_app() -> App:
        return build(settings, role="cli")

    watcher = Watcher(open_app, out, command=command)
    try:
        status = supervise(
            role_commands(configuration_options(settings, verbose=verbose)),
            environment=environment,
            drain_timeout=settings.workers.drain_timeout,
            on_ready=watcher.start,
            on_end=watcher.end,
            hangup_ends=True,
        )
    finally:
        watcher.stop()
    if status == 0:
        out.note("stopped")
    return status
