"""You live here if you know argv, stdout and exit status.

Nothing heavy is imported before it is needed: ``mirror-sync --help`` pays for click alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status (``docs/commands.md``)."""
    from mirror_sync.cli.entry import run

    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))


__all__ = ["main"]
