"""A line on a terminal that says how far something is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any


def shown(what: str, items: Iterable[Any], unit: str = "batches") -> Iterator[Any]:
    """The items one by one, counted on one line of the terminal; silent where there is none."""
    total = f" of {len(items)}" if isinstance(items, Sized) else ""
    is_shown = sys.stderr.isatty()
    for count, item in enumerate(items, 1):
        yield item
        if is_shown:
            print(f"\r{what}: {count}{total} {unit}", end="", file=sys.stderr, flush=True)
    if is_shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
