"""`python -m bmrpruner`, and the command `bmrpruner`."""

from __future__ import annotations

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
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
