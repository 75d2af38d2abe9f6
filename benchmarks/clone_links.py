"""``mirror-sync clone --bare`` over the links of ``git_links``: the same seeds, figures and options.

python -m benchmarks.clone_links [--seeds 20] [--text PATH|URL ...] [--parts cuts,small,latency,kills]
"""

from __future__ import annotations

import sys

from benchmarks.git_links import main

if __name__ == "__main__":
    sys.exit(main("clone"))
