"""Kinds of options that several commands have, and what they do with names of files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from bmrpruner.cli.arguments import comma_separated, maybe, named_number

Words = Annotated[tuple[str, ...], comma_separated(str, "A,B,...")]
Numbers = Annotated[tuple[float, ...], comma_separated(float, "X,Y,...")]
Thresholds = Annotated[tuple[tuple[str, float], ...], comma_separated(named_number, "A=X,...")]
Number = Annotated[float | None, maybe(float, "X")]
Count = Annotated[int | None, maybe(int, "N")]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Prior = Annotated[
    float | None,
    maybe(float, "X"),
    tyro.conf.arg(help="Precision of the prior; by default what the file says, or 1."),
]
Sizes = Annotated[tuple[int, ...], comma_separated(int, "N,M,...")]


@contextlib.contextmanager
def naming(*paths: Path) -> Iterator[None]:
    """Put the names of the files in front of an error that does not name one."""
    try:
        yield
    except ValueError as error:
        if any(str(path) in str(error) for path in paths):
            raise
        raise ValueError(f"{', '.join(map(str, paths))}: {error}") from error
