"""How every benchmark is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro


def start(main: Callable[[Any], None], settings: type) -> None:
    """Read the settings and call `main`; what is wrong with them is one line and exit code 2."""
    try:
        main(tyro.cli(settings))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
