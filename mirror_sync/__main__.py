"""``python -m mirror_sync`` is the ``mirror-sync`` command."""

from mirror_sync.cli import main

if __name__ == "__main__":
    main()
