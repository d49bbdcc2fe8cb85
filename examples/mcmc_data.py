"""The data sets of the sampling study, split and standardised by the training rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

HIDDEN = {"iris": 12, "ionosphere": 50, "lazer": 5, "sunspots": 5, "abalone": 12, "diabetes": 8}
CLASSES = {"iris": 3, "ionosphere": 2}
BUNDLED = ("iris", "diabetes")  # what scikit-learn brings along


class Problem(NamedTuple):
    """Inputs (n, features) and targets (n,): class labels, or standardised numbers."""

    name: str
    sizes: tuple[int, int, int]
    x: Any
    y: Any
    x_test: Any
    y_test: Any
    shift: float  # of the targets: what is predicted is `shift + scale * output`
    scale: float

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers."""
        return self.name not in CLASSES


def load(name: str, directory: Path | None, seed: int) -> Problem:
    """Three fifths of the rows, chosen at random, are for training.

    Raises:
      ValueError: If the name is of no data set that is known, or not of one at hand.
      OSError: If the file is not there.
    """
    known = BUNDLED if directory is None else tuple(n for n in HIDDEN if n != "diabetes")
    if name not in known:
        raise ValueError(f"--names: expected some of {', '.join(known)}, got {name!r}.")
    rows = _bundled(name) if directory is None else _read(directory / f"{name}.csv")
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = len(rows) * 3 // 5
    train, test = rows[order[:cut]], rows[np.sort(order[cut:])]
    mean, std = train.mean(0), train.std(0)
    std[std == 0] = 1
    is_class = name in CLASSES
    if is_class:
        mean[-1], std[-1] = rows[:, -1].min(), 1
    x, x_test = (jnp.asarray((r - mean) / std, jnp.float32) for r in (train, test))
    outputs = CLASSES.get(name, 1)
    dtype = jnp.int32 if is_class else jnp.float32
    return Problem(
        name,
        (rows.shape[1] - 1, HIDDEN[name], outputs),
        x[:, :-1],
        x[:, -1].astype(dtype),
        x_test[:, :-1],
        x_test[:, -1].astype(dtype),
        float(mean[-1]),
        float(std[-1]),
    )


def _read(path: Path) -> np.ndarray:
    text = path.read_text()
    return np.array([line.replace(";", ",").split(",") for line in text.split()], np.float64)


def _bundled(name: str) -> np.ndarray:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return np.column_stack([x, y])
