"""Training under masks that are given and never change."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bmrpruner._masks import MASK_DTYPE, masks_by_leaf
from bmrpruner._tree import PyTree, is_none, is_numeric, is_prunable, join, keyed_leaves, map_leaves
from bmrpruner.base_updater import BaseUpdater, SparseState


class FixedMasks(BaseUpdater):
    """Train under given masks, such as those of a lottery ticket; they never change.

    The gradient is taken at the parameters that are handed in, so mask the first ones by
    `bmrpruner.apply_masks`. **Copy weights to which you want to return**: where the training step
    donates its arguments, the buffers of the first weights are used again for the trained ones,
    and the first are deleted. The masks are copied by `init`.

    Attributes:
      masks: A mask for each leaf of the parameters, plain or packed; None exempts a leaf.
      use_packed_masks: Store masks as bits, however they are given.
      is_sparse_gradients: Mask the gradients before the inner optimizer sees them.
      mask_updates: As in `BaseUpdater`, but true by default.

    Raises:
      TypeError: If a mask is no array of numbers, for another setting, and, once there are
        parameters, for a mask of a leaf that cannot be pruned.
      ValueError: Once there are parameters, if the masks are for other leaves or shapes.

    Example:
      >>> import bmrpruner, optax
      >>> masks = {'w': jnp.array([1, 0], 'uint8')}
      >>> params = bmrpruner.apply_masks({'w': jnp.array([1.0, 2.0])}, masks)
      >>> tx = FixedMasks(masks).wrap_optax(optax.sgd(1.0))
      >>> updates, state = tx.update({'w': jnp.ones(2)}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)['w'].tolist(), state.masks['w'].tolist()
      ([0.0, 0.0], [1, 0])
    """

    takes_settings: ClassVar[bool] = False

    def __init__(
        self,
        masks: PyTree,
        *,
        use_packed_masks: bool = False,
        is_sparse_gradients: bool = False,
        mask_updates: bool = True,
    ) -> None:
        for key, mask in keyed_leaves(masks):
            if mask is not None and not is_numeric(mask):
                raise TypeError(
                    f"masks: expected an array of numbers or None for leaf "
                    f"{join(key) or '(root)'!r}, got {type(mask).__name__}."
                )
        self.masks = masks
        super().__init__(
            use_packed_masks=use_packed_masks,
            is_sparse_gradients=is_sparse_gradients,
            mask_updates=mask_updates,
        )

    def get_target_sparsities(self, params: PyTree) -> PyTree:
        """The share of zeros in each mask, None where a leaf is exempt."""
        return map_leaves(
            lambda mask: None if mask is None else 1 - jnp.mean(mask, dtype=jnp.float32),
            self._plain(params),
        )

    def get_initial_masks(self, params: PyTree, target_sparsities: PyTree = None) -> PyTree:
        """The given masks."""
        return self._plain(params)

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state as it is."""
        return sparse_state

    def instant_sparsify(
        self, params: PyTree, grads: PyTree = None, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        """The parameters under the given masks, and the masks."""
        masks = self._plain(params)
        return self.apply_masks(params, masks), self._stored(masks, params)

    def _plain(self, params: PyTree) -> PyTree:
        """The masks as a tree like the parameters, uint8 of 0 and 1, in arrays of their own."""
        masks = []
        for (key, leaf), mask in zip(
            keyed_leaves(params), masks_by_leaf(params, self.masks), strict=True
        ):
            if mask is not None and not is_prunable(leaf):
                raise TypeError(
                    f"masks: expected None for leaf {join(key) or '(root)'!r} of {leaf.dtype}, "
                    "which is never pruned, got a mask."
                )
            masks.append(None if mask is None else jnp.asarray(mask != 0, MASK_DTYPE))
        return jax.tree.unflatten(jax.tree.structure(params, is_leaf=is_none), masks)
