"""Whether a state is one that an updater could have made for these parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._ranking import ranked_leaves
from bmrpruner._tree import PyTree, is_none, join, keyed_leaves


def check_state(updater: Any, state: Any, params: PyTree) -> None:
    """Raise unless a state has the form of those that the updater makes.

    Only structures and shapes are compared, so that the check costs nothing in a compiled step.

    Args:
      updater: Whose state it should be.
      state: What was handed to `update`.
      params: The parameters.

    Raises:
      TypeError: If it is no state of a pruner, or one of another kind.
      ValueError: If it is for other leaves, or its masks or targets are stored in another way.
    """
    name, expected = type(updater).__name__, updater.state_type
    is_other_kind = type(state).__module__ == expected.__module__ and type(state) is not expected
    if not hasattr(state, "masks") or is_other_kind:
        raise TypeError(
            f"state: expected the {expected.__name__} that {name} makes, got a "
            f"{type(state).__name__}."
        )
    targets = state.target_sparsities
    if updater.scope == "global":
        if targets is not None and not jax.tree_util.all_leaves([targets]):
            raise _foreign(name, "target_sparsities", "one number for the whole network", targets)
        targets = ranked_leaves(updater, params)
    elif updater.sparsity_distribution_fn is None:
        return
    leaves = keyed_leaves(params)
    columns = [jax.tree.leaves(tree, is_leaf=is_none) for tree in (state.masks, targets)]
    for field, column in zip(("masks", "target_sparsities"), columns, strict=True):
        if len(column) != len(leaves):
            text = f"{len(leaves)} leaves, as the parameters have"
            raise _foreign(name, field, text, f"{len(column)} leaves")
    for (key, leaf), mask, target in zip(leaves, *columns, strict=True):
        stored = updater.stores_masks and target is not None
        shape = jnp.shape(leaf) if stored else None
        if stored and updater.use_packed_masks:
            shape = (-(-leaf.size // 8),)
        found = None if mask is None else jnp.shape(mask)
        if found != shape:
            text = "no mask" if shape is None else f"a mask of shape {shape}"
            raise _foreign(name, "masks", f"{text} for leaf {join(key) or '(root)'!r}", found)


def _foreign(name: str, field: str, expected: str, found: Any) -> ValueError:
    return ValueError(
        f"state.{field}: expected {expected}, got {found}; a state belongs to the pruner that made "
        f"it, here {name}."
    )
