"""The main job's settings, and the sizes that follow from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from command_line import check_positive, check_sparsities
from data import Dataset


@dataclasses.dataclass
class Settings:
    """Compare pruning by evidence with pruning by magnitude."""

    data: Path | None = None
    """Directory with MNIST-format IDX files; without it, scikit-learn's digits."""
    out: Path = Path("results")
    """Directory for results.json and the pictures."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98)
    """Fractions of the weights to prune; of whole units, fractions of all parameters."""
    seeds: int = 3
    """How many random seeds to run; the table shows mean ± standard deviation."""
    epochs: int | None = None
    """Passes through the training data; by default 20 for IDX files, 160 for the digits."""
    quick: bool = False
    """A short form for a first check: one seed, one sparsity, few epochs."""


class Plan(NamedTuple):
    """Sizes of the task."""

    layers: tuple[int, ...]
    examples: int
    batch_size: int
    epochs: int
    coldness: float  # of IVON's posterior: how often each example counts

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return self.epochs * (self.examples // self.batch_size)


def make_plan(settings: Settings, data: Dataset) -> Plan:
    """LeCun's 784-300-100-10 for IDX files, and something smaller for the digits."""
    examples, pixels = data.train_images.shape
    if settings.data is None:
        return Plan((pixels, 128, 64, 10), examples, 64, settings.epochs or 160, coldness=20)
    return Plan((pixels, 300, 100, 10), examples, 100, settings.epochs or 20, coldness=10)


def checked(settings: Settings) -> Settings:
    """The settings, or a ValueError that names the one that is impossible."""
    check_sparsities(settings.sparsities)
    check_positive("seeds", settings.seeds)
    check_positive("epochs", settings.epochs)
    if settings.quick:
        return dataclasses.replace(
            settings, seeds=1, sparsities=settings.sparsities[-1:], epochs=settings.epochs or 4
        )
    return settings
