"""Log lines: events with fields, one shape for our own and foreign records."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, TextIO

import structlog

from mirror_sync.domain.names import printable
from mirror_sync.telemetry.journal import JournalHandler, stderr_is_journal
from mirror_sync.telemetry.scrub import Scrubber

FORMATS = ("auto", "json", "text", "journald")
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_NOISY = ("apscheduler", "urllib3", "alembic", "git", "asyncio", "PIL")
"""Libraries whose every step is not news; they speak from warnings up, or below at level debug."""


def logger(name: str = "mirror_sync") -> Any:
    """Return a logger that takes an event name and fields."""
    return structlog.stdlib.get_logger(name)


def bound(**fields: object) -> AbstractContextManager[object]:
    """Give every line written inside the ``with`` these fields (``mirror``, ``run``)."""
    return structlog.contextvars.bound_contextvars(**fields)


def chosen_format(wanted: str, stream: TextIO) -> str:
    """Return the format that ``auto`` stands for here: journal fields under systemd, text on a terminal, else JSON."""
    if wanted != "auto":
        return wanted
    if stream is sys.stderr and stderr_is_journal():
        return "journald"
    return "text" if stream.isatty() else "json"


def configure_logging(
    *,
    level: str,
    format: str,  # noqa: A002 - the configuration key's own name
    scrubber: Scrubber,
    stream: TextIO | None = None,
) -> None:
    """Send everything that logs to one place, scrubbed; replaces what was configured before.

    ``level`` is one of :data:`LEVELS`, ``format`` one of :data:`FORMATS`.  Lines go to
    ``stream`` (standard error when not given), data on standard output stays clean.
    """
    out = stream if stream is not None else sys.stderr
    kind = chosen_format(format, out)
    numeric = LEVELS[level]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]
    handler: logging.Handler = JournalHandler() if kind == "journald" else logging.StreamHandler(out)
    handler.setFormatter(_ScrubbedFormatter(shared, kind=kind, scrubber=scrubber, colors=out.isatty()))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(numeric)
    for name in _NOISY:
        logging.getLogger(name).setLevel(numeric if numeric == logging.DEBUG else logging.WARNING)
    logging.captureWarnings(capture=True)


_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)  # locals hold secrets in shapes nobody foresees
)


class _ScrubbedFormatter(structlog.stdlib.ProcessorFormatter):
    """Renders, and scrubs twice: field by field before rendering, and the finished line."""

    def __init__(self, shared: list[Any], *, kind: str, scrubber: Scrubber, colors: bool) -> None:
        self._scrubber = scrubber
        self._kind = kind
        renderer: Any
        tail: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
        if kind == "json":
            tail += [_TRACEBACKS, self._scrub]
            renderer = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        elif kind == "journald":
            tail = [structlog.processors.format_exc_info, self._for_journal]
            renderer = _plain_line
        else:
            tail += [structlog.processors.format_exc_info, self._scrub]
            renderer = structlog.dev.ConsoleRenderer(
                colors=colors, timestamp_key="at", pad_event_to=24, exception_formatter=structlog.dev.plain_traceback
            )
        super().__init__(foreign_pre_chain=shared, processors=[*tail, renderer])

    def format(self, record: logging.LogRecord) -> str:
        return self._scrubber.text(super().format(record))

    def _scrub(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return {key: _clean(self._scrubber.value(value, field=key)) for key, value in event.items()}

    def _for_journal(self, logger: object, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        record = event.pop("_record")
        event.pop("_from_structlog", None)
        clean = dict(self._scrub(logger, method, event))
        if isinstance(record, logging.LogRecord):
            # The formatter works on a copy of the record; this dictionary is shared with the handler's.
            getattr(record, "journal_fields", {}).update(clean)
        return clean


def _clean(value: object) -> object:
    """Show control characters of foreign text as escapes; line feeds of tracebacks stay."""
    if isinstance(value, str):
        return "\n".join(printable(line) for line in value.split("\n"))
    return value


def _plain_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """Return ``event key=value ...``; the journal keeps time and level itself."""
    head = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    for key in ("at", "level", "logger"):
        event.pop(key, None)
    line = " ".join([head, *(f"{key}={_quoted(value)}" for key, value in event.items())])
    return f"{line}\n{trace}" if trace else line


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(char.isspace() for char in text) else text
