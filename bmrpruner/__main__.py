"""The entry point of `python -m bmrpruner` and of the command `bmrpruner`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; end in one line on stderr if a package is missing, or after Ctrl-C."""
    try:
        from bmrpruner.cli import run

        code = run(sys.argv[1:])
    except ImportError as error:
        needed = f"the command line needs {error.name or error}: pip install 'bmrpruner[cli]'."
        print(f"bmrpruner: {needed}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("bmrpruner: interrupted.", file=sys.stderr)
        code = 2
    if code:
        # After Ctrl-C a computation may still be running, and to tear JAX down under it crashes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
