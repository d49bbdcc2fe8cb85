"""`python -m bmrpruner`, and the command `bmrpruner`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line, or say which extra it needs."""
    try:
        from bmrpruner.cli import run
    except ImportError as error:
        print(
            f"bmrpruner: the command line needs {error.name}: pip install 'bmrpruner[cli]'.",
            file=sys.stderr,
        )
        sys.exit(2)
    code = run(sys.argv[1:])
    if code:
        # After Ctrl-C a computation may still be running, and to tear JAX down under it crashes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
