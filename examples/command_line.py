"""What the command lines of the examples share: checks of settings, and errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import tyro


def run(main: Callable[[Any], None], checked: Callable[[Any], Any], settings: type) -> None:
    """Read the settings, check them and run; a bad one ends in one line and exit status 2."""
    try:
        main(checked(tyro.cli(settings)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def check_sparsities(sparsities: tuple[float, ...]) -> None:
    """Raise a ValueError unless all are in [0, 1)."""
    for sparsity in sparsities:
        if not 0 <= sparsity < 1:
            raise ValueError(f"--sparsities: expected numbers in [0, 1), got {sparsity}.")


def check_positive(name: str, *values: int | None) -> None:
    """Raise a ValueError unless all are at least 1, or None."""
    for value in values:
        if value is not None and value < 1:
            raise ValueError(f"--{name}: expected positive numbers, got {value}.")
