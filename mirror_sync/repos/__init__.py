"""Git's command line and bare repositories on disk."""

from __future__ import annotations

from mirror_sync.repos.repository import Repositories, Repository
from mirror_sync.repos.serving import GitServing

__all__ = ["GitServing", "Repositories", "Repository"]
