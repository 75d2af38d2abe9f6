"""Where the bytes of LFS objects rest: one directory for all mirrors."""

from mirror_sync.lfs_store.arriving import FileArrivals
from mirror_sync.lfs_store.store import FileObjectStore

__all__ = ["FileArrivals", "FileObjectStore"]
