"""You live here if you know a thread, a signal or a timer."""

from __future__ import annotations

from mirror_sync.worker.process import run_worker
from mirror_sync.worker.supervise import ChildCommand, role_commands, supervise

__all__ = ["ChildCommand", "role_commands", "run_worker", "supervise"]
