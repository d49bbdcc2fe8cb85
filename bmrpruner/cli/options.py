"""What the options of several commands have in common."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bmrpruner.cli.arguments import comma_separated, maybe, named_number

MODEL = "bmrpruner.study.models:mlp"
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
Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


@dataclasses.dataclass
class Scope:
    """Which weights may go, and which go together."""

    scope: Literal["global", "layer"] | None = None
    """Rank over the whole network, or each leaf by itself; by default the algorithm's own, which is
    layer but for adaptive_bmr and those named global_..."""
    sparsity_type: Annotated[str, tyro.conf.arg(name="type")] = "unstructured"
    """What goes together: unstructured, 2:4, 4x4, channel_-1, ..."""
    include: Words = ()
    """Patterns of names of leaves to prune; by default all of two axes or more."""
    exclude: Words = ()
    """Patterns of names of leaves to leave alone."""


Where = tyro.conf.OmitArgPrefixes[Scope]


@contextlib.contextmanager
def naming(*paths: Path) -> Iterator[None]:
    """Put the names of the files in front of an error that does not name one."""
    try:
        yield
    except ValueError as error:
        if any(str(path) in str(error) for path in paths):
            raise
        raise ValueError(f"{', '.join(map(str, paths))}: {error}") from error
