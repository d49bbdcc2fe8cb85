"""The command `bmrpruner`, from before its package is imported."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Import the package and run its command line; an interrupt meanwhile ends in one line."""
    try:
        from bmrpruner.__main__ import main as run
    except KeyboardInterrupt:
        print("bmrpruner: interrupted.", file=sys.stderr, flush=True)
        os._exit(2)
    run()
