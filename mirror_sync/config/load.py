"""From files, environment and flags to frozen settings, or to every problem at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mirror_sync.config import environment as env
from mirror_sync.config.sources import environment_layer, file_layer, flag_layer, read_files
from mirror_sync.config.telling import Teller
from mirror_sync.config.values import Settings
from mirror_sync.errors import ConfigError

CONFIG_NAME = "config.toml"


def find(
    path: Path | None = None, *, directory: Path | None = None, environ: Mapping[str, str] | None = None
) -> Path | None:
    """Return the configuration file to use: the one named, ``DIR/config.toml``, or the first that exists.

    ``None`` when none was named and none exists but ``MIRROR_SYNC__*`` configures everything.
    Raises :class:`ConfigError` when the named one is missing, or there is nothing at all.
    """
    environ = env.process_environment() if environ is None else environ
    named = path or (directory / CONFIG_NAME if directory else None)
    if named is not None:
        if not named.is_file():
            raise ConfigError(
                f"there is no configuration file {named}",
                remedy="mirror-sync quickstart --dir DIR URL makes one; or name another with -c",
                code="MS-C003",
            )
        return named.absolute()
    candidates = env.config_candidates(environ)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if any(name.startswith(env.PREFIX) for name in environ):
        return None
    raise ConfigError(
        "there is no configuration",
        why="looked for " + ", ".join(str(candidate) for candidate in candidates),
        remedy="name one with -c FILE or --dir DIR, or begin with: mirror-sync quickstart URL",
        code="MS-C003",
    )


def load(
    path: Path | None = None,
    *,
    directory: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the configuration; ``overrides`` (dotted key to value) come from flags and win.

    Raises :class:`ConfigError` with every problem in ``problems``.
    """
    environ = env.process_environment() if environ is None else environ
    found = find(path, directory=directory, environ=environ)
    try:
        files = read_files(found) if found else []
    except OSError as error:
        raise ConfigError(
            f"{error.filename or found} cannot be read", why=error.strerror or type(error).__name__, code="MS-C003"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{found} or a file in config.d is not UTF-8 text", code="MS-C003") from error
    return _build(files, path=found, overrides=overrides or {}, environ=environ)


def load_text(
    text: str,
    *,
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read one TOML text as though it stood in ``path``; without ``environ`` the environment is taken as empty."""
    return _build(
        [(path.name if path else CONFIG_NAME, text)], path=path, overrides=overrides or {}, environ=environ or {}
    )


def _build(
    files: list[tuple[str, str]], *, path: Path | None, overrides: Mapping[str, object], environ: Mapping[str, str]
) -> Settings:
    from mirror_sync.config import schema, tree
    from mirror_sync.config.making import Maker

    names = {
        section: tuple(info.alias or name for name, info in model.model_fields.items())
        for section, model in schema.SECTIONS.items()
    }
    in_files, problems = file_layer(files)
    variables, in_environment, wrong = environment_layer(environ, names)
    in_flags = flag_layer(overrides)
    secrets = frozenset((key.section, key.name) for key in schema.listing() if key.secret)
    teller = Teller((in_flags, in_environment, in_files), names, secrets)
    parsed, errors, stopped = tree.parse(in_flags.tree, variables, in_files.tree)
    problems += wrong + [teller.tell(error) for error in errors] + ([stopped] if stopped else [])
    if parsed is None:
        raise refusal(problems, path)
    maker = Maker(parsed, teller, path=path, environ=environ)
    settings = maker.settings()
    problems += maker.problems
    if problems:
        raise refusal(problems, path)
    return settings


def refusal(problems: list[str], path: Path | None) -> ConfigError:
    """Return the error that lists every problem."""
    count = len(problems)
    return ConfigError(
        f"{path or 'the configuration'} has {'a problem' if count == 1 else f'{count} problems'}",
        problems=tuple(problems),
        why="; ".join(problems),
        remedy="correct what is listed; mirror-sync config validate checks again without applying",
    )
