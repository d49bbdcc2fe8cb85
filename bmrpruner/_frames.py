"""Trees that hold more than arrays, as arguments of compiled functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from bmrpruner._tree import PyTree, is_array


class Frame(NamedTuple):
    """What a tree is besides its arrays; hashable, so that it can be a static argument."""

    structure: Any
    rest: tuple[tuple[int, Any], ...]  # leaves that are no arrays, with their places

    def whole(self, arrays: list[Any]) -> PyTree:
        """The tree with these arrays, in leaf order."""
        rest, left = dict(self.rest), iter(arrays)
        count = self.structure.num_leaves
        return self.structure.unflatten(
            [rest[i] if i in rest else next(left) for i in range(count)]
        )


def framed(tree: PyTree) -> tuple[Frame, list[Any]]:
    """A tree in two parts: all that is no array, and the arrays in leaf order."""
    structure: Any
    leaves, structure = jax.tree.flatten(tree)
    rest = tuple((i, leaf) for i, leaf in enumerate(leaves) if not is_array(leaf))
    return Frame(structure, rest), [leaf for leaf in leaves if is_array(leaf)]
