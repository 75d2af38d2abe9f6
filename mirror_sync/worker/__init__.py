"""You live here if you know a thread, a signal or a timer.

``run_worker`` is loaded on first use: a supervisor needs nothing of what its worker needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror_sync.worker.supervise import ChildCommand, role_commands, supervise

if TYPE_CHECKING:
    from mirror_sync.worker.process import run_worker

__all__ = ["ChildCommand", "role_commands", "run_worker", "supervise"]


def __getattr__(name: str) -> object:
    if name == "run_worker":
        from mirror_sync.worker.process import run_worker

        return run_worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
