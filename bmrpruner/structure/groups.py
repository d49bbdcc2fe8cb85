"""Dependency groups: the families of units of a model that can only go together."""

from __future__ import annotations

import dataclasses

import numpy as np

from bmrpruner._tree import Key


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Parallel units of a model, each of which goes as a whole or not at all.

    Attributes:
      size: How many units the group has: 64 for a layer of 64 hidden neurons.
      members: For each axis of a parameter leaf that the units own a part of: the leaf's key path
        (a tuple of strings), the axis, and integer indices of shape (size, k). Row u holds the
        indices of that axis that unit u owns.
      frozen: None where units may go, or why they cannot: `'input'`, `'output'`, or the name of
        the primitive that needs them.

    Example:
      >>> rows = np.arange(3)[:, None]
      >>> group = Group(3, ((("w",), 1, rows), (("b",), 0, rows)), None)
      >>> [(key, axis, indices.shape) for key, axis, indices in group.members]
      [(('w',), 1, (3, 1)), (('b',), 0, (3, 1))]
    """

    size: int
    members: tuple[tuple[Key, int, np.ndarray], ...]
    frozen: str | None = None
