"""Train sparse from the first step: a fixed random network, or one that drops and grows."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmrpruner import _groups, selection
from bmrpruner._masks import MASK_DTYPE, pack_tree, plain_tree
from bmrpruner._state import restart_accumulators
from bmrpruner._tree import PyTree, is_none, is_prunable, map_arrays, map_leaves
from bmrpruner.algorithms.pruners import as_key, generate_random_scores, random_unit_scores
from bmrpruner.base_updater import BaseUpdater, SparseState
from bmrpruner.mask_calculator import is_default_topk_fn, topk_n_by_m_mask_calculator
from bmrpruner.registry import register_algorithm
from bmrpruner.sparsity_types import NByM, Unstructured, fits

__all__ = ["SET", "RigL", "StaticRandomSparse", "restart_inner_state"]


@register_algorithm("static_sparse")
@dataclasses.dataclass(eq=False)
class StaticRandomSparse(BaseUpdater):
    """Train a random sparse network; its masks are drawn once and never change.

    The weights become sparse at the first `post_gradient_update`, or at the first update with
    `mask_updates=True`.

    Example:
      >>> state = StaticRandomSparse(sparsity=0.75).init_state({'w': jnp.ones((4, 4))})
      >>> int(state.masks['w'].sum())
      4
    """

    needs_training: ClassVar[bool] = True

    is_sparse_gradients: bool = True

    def get_initial_masks(self, params: PyTree, target_sparsities: PyTree) -> PyTree:
        """Random masks of the target sparsities; None where the target is None."""
        scores = generate_random_scores(params, self.rng_seed)
        return self.create_masks(scores, target_sparsities)

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state, as it is."""
        return sparse_state

    def _unit_scores(self, scores: PyTree, add_up: Callable[[PyTree], jax.Array]) -> jax.Array:
        """Noise of the same distribution for all units."""
        return random_unit_scores(scores, add_up)

    def instant_sparsify(
        self, params: PyTree, grads: PyTree = None, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        """Not defined: there is nothing trained to sparsify.

        Raises:
          RuntimeError: Always.
        """
        raise RuntimeError(
            f"{type(self).__name__} trains a sparse network from the start and cannot sparsify a "
            "trained one; use RandomPruning or MagnitudePruning."
        )


@register_algorithm("set")
@dataclasses.dataclass(eq=False)
class SET(StaticRandomSparse):
    """Sparse evolutionary training: drop the smallest connections, grow as many random ones.

    The scheduler decides when; the number of connections never changes. The accumulators of the
    inner optimizer start anew for a connection that is grown. Blocks and channels are dropped and
    grown whole, and N:M groups keep their N. A `topk_fn` of your own chooses both what stays and
    what grows; -inf then stands for what is not active, and inf for what stays.

    Attributes:
      eps: Not needed here, as connections are ranked without an offset; kept for subclasses.
      drop_fraction_fn: Step → the fraction of a leaf's connections to drop.
      is_debug: Assert at each update that what was not dropped stays.

    Example:
      >>> pruner = SET(sparsity=0.5, drop_fraction_fn=lambda step: 0.5)
      >>> params = {'w': jnp.arange(16.).reshape(4, 4)}
      >>> state = pruner.init_state(params)
      >>> int(pruner.update_state(state, params, grads=None).masks['w'].sum())
      8

    References:
      Mocanu et al. 2018, https://arxiv.org/abs/1707.04780, algorithm 1.
    """

    default_drop_fraction: ClassVar[float] = 0.1  # of a configuration that names none
    ranks_units: ClassVar[bool] = False

    skip_gradients: bool = True
    eps: float = 1e-5
    drop_fraction_fn: Callable[[Any], Any] = dataclasses.field(
        default_factory=lambda: optax.constant_schedule(0.3)
    )
    is_debug: bool = False

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state with masks rewired, and the inner state restarted where they are new."""
        old = plain_tree(sparse_state.masks, params)
        new = self._update_all_masks(
            old,
            self._get_drop_scores(sparse_state, params, grads),
            self._get_grow_scores(sparse_state, params, grads),
            self.drop_fraction_fn(sparse_state.count),
        )
        activated = map_leaves(
            lambda before, now: None if before is None else (before == 0) & (now != 0), old, new
        )
        return sparse_state._replace(
            masks=pack_tree(new) if self.use_packed_masks else new,
            inner_state=restart_inner_state(sparse_state.inner_state, activated),
        )

    def _get_drop_scores(self, sparse_state: SparseState, params: PyTree, grads: PyTree) -> PyTree:
        """|w|: the active connections with the lowest are dropped."""
        return map_arrays(jnp.abs, params)

    def _get_grow_scores(self, sparse_state: SparseState, params: PyTree, grads: PyTree) -> PyTree:
        """Uniform noise: the free connections with the highest are grown."""
        key = jax.random.fold_in(as_key(self.rng_seed), sparse_state.count)
        return generate_random_scores(params, key)

    def _update_masks(
        self, old_mask: jax.Array, drop_score: jax.Array, grow_score: jax.Array, drop_fraction: Any
    ) -> jax.Array:
        """The new mask of one leaf."""
        return self._rewire([old_mask], [drop_score], [grow_score], drop_fraction)[0]

    def _update_all_masks(self, masks: PyTree, drop: PyTree, grow: PyTree, fraction: Any) -> PyTree:
        """`_update_masks` of every leaf with a mask; all in one search unless it is overridden."""
        structure: Any = jax.tree.structure(masks, is_leaf=is_none)
        columns = (structure.flatten_up_to(tree) for tree in (masks, drop, grow))
        leaves = [row for row in zip(*columns, strict=True) if row[0] is not None]
        if getattr(self._update_masks, "__func__", None) is SET._update_masks:
            old, drop_scores, grow_scores = ([row[i] for row in leaves] for i in range(3))
            new = iter(self._rewire(old, drop_scores, grow_scores, fraction))
        else:
            new = iter([self._update_masks(m, d, g, fraction) for m, d, g in leaves])
        return map_leaves(lambda mask: None if mask is None else next(new), masks)

    def _rewire(
        self, masks: list[Any], drop: list[Any], grow: list[Any], fraction: Any
    ) -> list[jax.Array]:
        if is_default_topk_fn(self.topk_fn, self.sparsity_type):
            kind, how = self.sparsity_type, self._pooling
            kept, new = _drop_and_grow(masks, drop, grow, fraction, kind, how)
        else:
            kept, new = _drop_and_grow_by(self.topk_fn, masks, drop, grow, fraction)
        if self.is_debug:
            jax.debug.callback(_check_kept, kept, masks, new)
        return new


@register_algorithm("rigl")
@dataclasses.dataclass(eq=False)
class RigL(SET):
    """Rigging the lottery: drop the smallest connections, grow those of largest gradient.

    The gradients must be those of the dense network at the sparse weights. `noisy_value_and_grad`
    gives none where a weight is pruned; take SET with it, or plain gradients.

    Example:
      >>> pruner = RigL(sparsity=0.5, drop_fraction_fn=lambda step: 0.5)
      >>> params, grads = jnp.ones((1, 4)), jnp.array([[4., 3., 2., 1.]])
      >>> state = pruner.init_state(params)._replace(masks=jnp.array([[0, 0, 1, 1]], 'uint8'))
      >>> pruner.update_state(state, params, grads).masks.tolist()
      [[1, 0, 1, 0]]

    References:
      Evci et al. 2020, https://arxiv.org/abs/1911.11134, algorithm 1.
    """

    default_drop_fraction: ClassVar[float] = 0.1

    def _get_grow_scores(self, sparse_state: SparseState, params: PyTree, grads: PyTree) -> PyTree:
        """|g|, of the gradient of the dense network."""
        if grads is None:
            raise ValueError("grads: expected gradients, as RigL grows by them, got None.")
        return map_leaves(lambda g: jnp.abs(g) if is_prunable(g) else None, grads)


def restart_inner_state(optimizer_state: Any, activated: PyTree) -> Any:
    """The optimizer state with its accumulators zeroed where a connection is new.

    Accumulators are recognised by lying under the path of their weight and having its shape, in any
    optimizer and any wrapper. Step counts, hyperparameters and factored accumulators stay, and so
    does the Hessian of a variational optimizer, for which zero would not be a start.

    Args:
      optimizer_state: Any Optax state.
      activated: Like the parameters, nonzero where a connection is new; None where exempt.

    Returns:
      The state, of the same structure, shapes and dtypes.

    Example:
      >>> state = optax.trace(0.9).init({'w': jnp.ones(2)})._replace(trace={'w': jnp.ones(2)})
      >>> restart_inner_state(state, {'w': jnp.array([1, 0])}).trace['w'].tolist()
      [0.0, 1.0]
    """
    return restart_accumulators(optimizer_state, activated)


def _restart_using_mask(target_tree: PyTree, masks: PyTree) -> PyTree:
    """`target_tree` with zeros where its mask is nonzero; a mask of None changes nothing."""

    def restart(leaf: Any, mask: Any) -> Any:
        return leaf if mask is None or leaf is None else jnp.where(mask, jnp.zeros_like(leaf), leaf)

    return map_leaves(restart, target_tree, masks)


def _drop_and_grow(
    masks: list[Any], drop: list[Any], grow: list[Any], fraction: Any, sparsity_type: Any, how: str
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Masks of what is not dropped, and the new masks, of as many groups as the old.

    What is active ranks before what is not, and what was kept before what may grow; only then do
    scores count. Whatever is not kept may grow, a connection dropped just now included.
    """
    groups = Unstructured() if isinstance(sparsity_type, NByM) else sparsity_type
    active = [_groups.pool(mask, groups, "max") != 0 for mask in masks]
    sizes = [jnp.sum(leaf, dtype=jnp.int32) for leaf in active]
    staying = [
        jnp.maximum(1, jnp.round(n.astype(jnp.float32) * (1 - fraction)).astype(jnp.int32))
        for n in sizes
    ]
    worth = [
        jnp.where(leaf, _order(_groups.pool(score, groups, how)) + 1, 0)
        for leaf, score in zip(active, drop, strict=True)
    ]
    kept = selection.top_masks(worth, staying)
    promise = [_order(_groups.pool(score, groups, how)) for score in grow]
    ranked = [
        jnp.where(leaf, np.array(np.iinfo(order.dtype).max, order.dtype), order)
        for leaf, order in zip(kept, promise, strict=True)
    ]
    new = selection.top_masks(ranked, sizes)
    if isinstance(sparsity_type, NByM):
        new = [_fill_groups(*row, sparsity_type) for row in zip(ranked, new, sizes, strict=True)]
    shapes = [mask.shape for mask in masks]
    spread = functools.partial(map, lambda mask, shape: _groups.spread(mask, groups, shape))
    return list(spread(kept, shapes)), list(spread(new, shapes))


def _drop_and_grow_by(
    topk_fn: Any, masks: list[Any], drop: list[Any], grow: list[Any], fraction: Any
) -> tuple[list[jax.Array], list[jax.Array]]:
    """`_drop_and_grow` by a function `(scores, sparsity) -> mask`, leaf by leaf."""
    kept, new = [], []
    for mask, worth, promise in zip(masks, drop, grow, strict=True):
        density = jnp.sum(mask != 0, dtype=jnp.float32) / mask.size
        worth = jnp.where(mask, worth, jnp.full_like(worth, -jnp.inf))
        kept.append(topk_fn(worth, 1 - density * (1 - fraction)).astype(MASK_DTYPE))
        promise = jnp.where(kept[-1], jnp.full_like(promise, jnp.inf), promise)
        new.append(topk_fn(promise, 1 - density).astype(MASK_DTYPE))
    return kept, new


def _order(scores: jax.Array) -> jax.Array:
    """Unsigned integers in the order of the scores, with room for one more above them."""
    is_float = jnp.issubdtype(scores.dtype, jnp.floating)
    return selection.order_key(scores if is_float else scores.astype(jnp.float32))


def _fill_groups(ranked: jax.Array, new: jax.Array, size: Any, sparsity_type: NByM) -> jax.Array:
    """The first N of each group; `new` for a leaf that is exempt from the pattern, being dense."""
    if not fits(sparsity_type, ranked.shape):
        return new
    is_sparse = (size < ranked.size).astype(jnp.int32)
    return topk_n_by_m_mask_calculator(ranked, is_sparse, sparsity_type)


def _check_kept(kept: list[Any], old: list[Any], new: list[Any]) -> None:
    for stays, before, after in zip(kept, old, new, strict=True):
        if np.any(stays > before) or np.any(stays > after):
            raise AssertionError(
                "masks: expected what is kept in the old and the new mask, got more."
            )
