"""mirror_sync keeps Git/LFS repositories mirrored and serves them."""

__version__ = "0.1.0"
