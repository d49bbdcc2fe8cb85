"""The engine: an updater keeps masks in the optimizer state and refreshes them in the step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bmrpruner import _groups, mask_calculator, sparsity_distributions
from bmrpruner._checks import accepted, check_sparsity, did_you_mean
from bmrpruner._masks import MASK_DTYPE, pack_tree, unpack
from bmrpruner._sharding import sharded_like
from bmrpruner._transformation import pruning_transformation
from bmrpruner._tree import (
    Key,
    PyTree,
    check_params,
    is_array,
    is_none,
    join,
    keyed_leaves,
    map_leaves,
    map_with_key,
)
from bmrpruner.registry import register_algorithm
from bmrpruner.sparsity_schedules import NoUpdateSchedule
from bmrpruner.sparsity_types import Block, NByM, SparsityType, Unstructured, check_shape, fits


class SparseState(NamedTuple):
    """State of a wrapped optimizer.

    Attributes:
      masks: A tree like the parameters: uint8 of the parameter's shape (1 keep, 0 pruned), or of
        shape `(ceil(size / 8),)` when packed; None where a leaf is exempt.
      inner_state: The state of the wrapped optimizer.
      target_sparsities: A tree of floats and Nones like the parameters; one number for the global
        algorithms.
      count: int32 scalar, the steps taken.
    """

    masks: PyTree
    inner_state: Any = None
    target_sparsities: PyTree = None
    count: Any = None


@functools.partial(jax.jit, static_argnames=("is_packed",))
def apply_mask(param: Any, mask: Any, is_packed: bool = False) -> Any:
    """The parameter with zeros where its mask is zero.

    Args:
      param: Array.
      mask: uint8 of the same shape, or its packed bits; None leaves the parameter as it is.
      is_packed: Whether the mask is packed. Static.

    Returns:
      Array of the parameter's shape and dtype. NaN and infinities do not survive a zero mask.

    Example:
      >>> apply_mask(jnp.array([1., jnp.nan, 3.]), jnp.array([1, 0, 0], 'uint8'))
      Array([1., 0., 0.], dtype=float32)
    """
    if mask is None:
        return param
    if is_packed:
        mask = sharded_like(unpack(mask, jnp.shape(param)), param)
    return jnp.where(mask, param, jnp.zeros_like(param))


@dataclasses.dataclass(eq=False)
class BaseUpdater:
    """Base of every algorithm: subclass it and define `calculate_scores`.

    Hooks call one another through `self`, so each may be overridden or patched: `init_state`,
    `calculate_scores` → `create_masks` → `update_state`, `wrap_optax`, and around the forward pass
    and the parameter update `pre_forward_update` and `post_gradient_update`.

    Attributes:
      scheduler: When to refresh the masks, and to what sparsity.
      skip_gradients: Take no gradient step where the masks are refreshed.
      is_sparse_gradients: Mask the gradients before the inner optimizer sees them.
      sparsity_type: What is pruned together.
      sparsity_distribution_fn: `params -> tree of sparsities`; None leaves are exempt.
      rng_seed: JAX key, or an integer seed, for algorithms that draw noise.
      use_packed_masks: Store masks as bits.
      topk_fn: `(scores, sparsity) -> mask`; by default that of the sparsity type.
      sparsity: Short for binding the `sparsity` argument of the distribution.
      mask_updates: Let the emitted update itself keep pruned parameters at zero, so that
        `post_gradient_update` need not be called.
      threshold: Prune what scores at or below it, per weight or group, instead of a given share:
        the sparsity is an outcome.

    Example:
      >>> params = {'kernel': jnp.array([[1., -3.], [2., 0.5]]), 'bias': jnp.ones(2)}
      >>> from bmrpruner.algorithms import MagnitudePruning
      >>> pruned, masks = MagnitudePruning(sparsity=0.5).instant_sparsify(params)
      >>> pruned['kernel'].tolist(), masks['bias']
      ([[0.0, -3.0], [2.0, 0.0]], None)
    """

    scheduler: Any = dataclasses.field(default_factory=NoUpdateSchedule)
    skip_gradients: bool = False
    is_sparse_gradients: bool = False
    sparsity_type: SparsityType = dataclasses.field(default_factory=Unstructured)
    sparsity_distribution_fn: Callable[..., PyTree] | None = functools.partial(
        sparsity_distributions.uniform, sparsity=0.0
    )
    rng_seed: Any = None
    use_packed_masks: bool = False
    topk_fn: Callable[..., jax.Array] | None = None
    sparsity: float | None = None
    mask_updates: bool = False
    threshold: float | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # An updater may be a static argument of jit. A subclass decorated with a plain @dataclass
        # would compare by fields and lose its hash.
        super().__init_subclass__(**kwargs)
        cls.__eq__ = object.__eq__  # type: ignore[method-assign]
        cls.__hash__ = object.__hash__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        if self.topk_fn is None:
            self.topk_fn = mask_calculator.get_topk_fn(self.sparsity_type)
        if self.rng_seed is None:
            self.rng_seed = jax.random.PRNGKey(8)
        self._check_sparsity()
        if self.threshold is not None and isinstance(self.sparsity_type, NByM):
            raise ValueError(f"threshold: {self.sparsity_type} keeps N of every M by definition.")

    def calculate_scores(
        self,
        params: PyTree,
        sparse_state: SparseState | None = None,
        grads: PyTree = None,
        **kwargs: Any,
    ) -> PyTree:
        """How much each weight is needed: a tree like `params`, higher is more worth keeping."""
        raise NotImplementedError(f"{type(self).__name__} must define calculate_scores.")

    def create_masks(self, scores: PyTree, sparsities: PyTree) -> PyTree:
        """The masks that keep the highest scores; None where the sparsity is None."""
        map_with_key(_check_scored, sparsities, scores)
        if self.threshold is None and self.topk_fn is mask_calculator.topk_mask_calculator:
            return mask_calculator.topk_masks(scores, sparsities)

        def mask(sparsity: Any, score: Any) -> Any:
            if sparsity is None:
                return None
            if self.threshold is not None:
                return self._threshold_mask(score)
            if isinstance(sparsity, jax.core.Tracer) and not fits(self.sparsity_type, score.shape):
                # Its target is zero, or init_state would have refused it.
                return jnp.ones(score.shape, MASK_DTYPE)
            return self.topk_fn(score, sparsity)  # type: ignore[misc]

        return map_leaves(mask, sparsities, scores)

    def get_initial_masks(self, params: PyTree, target_sparsities: PyTree) -> PyTree:
        """Masks of ones, sharded as the parameters; None where the target is None."""

        def ones(param: Any, target: Any) -> Any:
            return None if target is None else jnp.ones_like(param, MASK_DTYPE)

        return map_leaves(ones, params, target_sparsities)

    def init_state(self, params: PyTree) -> SparseState:
        """The state before the first step, without an inner state.

        Raises:
          TypeError: If no leaf of `params` is an array.
          ValueError: If no leaf is prunable, or one does not fit the sparsity type.
        """
        check_params(params)
        targets = self.get_target_sparsities(params)
        masks = map_leaves(sharded_like, self.get_initial_masks(params, targets), params)
        if self.use_packed_masks:
            masks = pack_tree(masks)
        return SparseState(masks, None, targets, jnp.zeros([], jnp.int32))

    def get_target_sparsities(self, params: PyTree) -> PyTree:
        """What the distribution assigns to each leaf of `params`; None without a distribution."""
        distribution = self.sparsity_distribution_fn
        if distribution is None:
            return None
        if self.sparsity is not None:
            self._check_sparsity()  # the function may have been assigned since
            bound = accepted(distribution, {"sparsity": self.sparsity})
            distribution = functools.partial(distribution, **bound)
        targets = distribution(params)
        self._check_targets(params, targets)
        return targets

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state with refreshed masks. Only the masks change."""
        targets = self.scheduler.get_sparsity_at_step(
            sparse_state.target_sparsities, sparse_state.count
        )
        scores = self.calculate_scores(
            params,
            sparse_state=sparse_state,
            grads=grads,
            **accepted(self.calculate_scores, kwargs),
        )
        masks = map_leaves(sharded_like, self.create_masks(scores, targets), params)
        if self.use_packed_masks:
            masks = pack_tree(masks)
        return sparse_state._replace(masks=masks)

    def apply_masks(self, params: PyTree, masks: PyTree, is_packed: bool | None = False) -> PyTree:
        """The parameters, zero where the masks are; None for `is_packed` asks the field."""
        if is_packed is None:
            is_packed = self.use_packed_masks

        def apply(param: Any, mask: Any) -> Any:
            return param if mask is None or param is None else apply_mask(param, mask, is_packed)

        return map_leaves(apply, params, masks)

    def instant_sparsify(
        self, params: PyTree, grads: PyTree = None, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        """Prune once, to the distribution's sparsity, with no schedule and no state.

        Args:
          params: Any pytree of arrays, or a single array.
          grads: Gradients, for scores that need them.
          **kwargs: What else the scores need, such as `posterior`.

        Returns:
          The pruned parameters and their masks.

        Raises:
          ValueError: If the updater has no distribution, or no leaf is prunable.
          TypeError: For a keyword that no score knows.
        """
        if self.sparsity_distribution_fn is None:
            raise ValueError(f"{type(self).__name__}.sparsity_distribution_fn is None.")
        check_params(params)
        targets = self.get_target_sparsities(params)
        masks = self.create_masks(self._instant_scores(params, grads, kwargs), targets)
        pruned = self.apply_masks(params, masks, is_packed=False)
        return pruned, pack_tree(masks) if self.use_packed_masks else masks

    def pre_forward_update(self, params: PyTree, opt_state: Any) -> PyTree:
        """The parameters for the forward pass: here, as they are."""
        return params

    def post_gradient_update(self, params: PyTree, sparse_state: SparseState) -> PyTree:
        """The parameters after an update: here, with the stored masks applied."""
        return self.apply_masks(params, sparse_state.masks, is_packed=None)

    def wrap_optax(
        self, inner: optax.GradientTransformation, mask_updates: bool | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """An optimizer that takes the inner one's steps and keeps masks in its state.

        Extra keyword arguments of `update` reach `calculate_scores` and the inner transformation,
        as far as they take them.

        Args:
          inner: Any Optax optimizer.
          mask_updates: Overrides the field of that name. If true, pruned parameters are exactly
            zero after `optax.apply_updates`; kept ones get the same update either way.

        Returns:
          A transformation whose state is a `SparseState`. Unless it masks its updates, call
          `post_gradient_update(params, state)` after applying them.

        Example:
          >>> from bmrpruner.algorithms import MagnitudePruning
          >>> from bmrpruner.sparsity_schedules import OneShotSchedule
          >>> pruner = MagnitudePruning(sparsity=0.5, scheduler=OneShotSchedule(0))
          >>> tx = pruner.wrap_optax(optax.sgd(0.5), mask_updates=True)
          >>> params = jnp.array([[1., -3.], [2., 0.5]])
          >>> updates, state = tx.update(jnp.ones((2, 2)), tx.init(params), params)
          >>> optax.apply_updates(params, updates).tolist()
          [[0.0, -3.5], [1.5, 0.0]]
        """
        masks_updates = self.mask_updates if mask_updates is None else mask_updates
        return pruning_transformation(self, inner, masks_updates)

    @property
    def _pooling(self) -> str:
        """How the scores of a group's members make up the group's."""
        if isinstance(self.sparsity_type, Block):
            return "mean" if self.sparsity_type.use_avg_pooling else "max"
        return "sum"

    @property
    def _lowest_kept_score(self) -> Any:
        """The threshold, as a score."""
        return self.threshold

    def _threshold_mask(self, score: jax.Array) -> jax.Array:
        groups = _groups.pool(score, self.sparsity_type, self._pooling)
        keep = (groups > self._lowest_kept_score).astype(MASK_DTYPE)
        return _groups.spread(keep, self.sparsity_type, score.shape)

    def _check_sparsity(self) -> None:
        if self.sparsity is None:
            return
        check_sparsity("sparsity", self.sparsity)
        if self.sparsity_distribution_fn is None:
            raise ValueError("sparsity: there is no sparsity_distribution_fn to bind it to.")
        bound = getattr(self.sparsity_distribution_fn, "keywords", {}).get("sparsity")
        if bound not in (None, 0.0, self.sparsity):
            raise ValueError(
                f"sparsity: {self.sparsity} was given, but sparsity_distribution_fn has {bound}."
            )

    def _check_targets(self, params: PyTree, targets: PyTree) -> None:
        raise_not_prunable(params, bool(jax.tree.leaves(targets)))
        leaves, found = keyed_leaves(params), jax.tree.leaves(targets, is_leaf=is_none)
        if len(leaves) != len(found):
            raise ValueError(
                f"sparsity_distribution_fn: expected a tree like the parameters, of {len(leaves)} "
                f"leaves, got {len(found)}: {targets}."
            )
        for (key, leaf), target in zip(leaves, found, strict=True):
            if target is not None and not (isinstance(target, float | int) and target == 0):
                check_shape(self.sparsity_type, leaf.shape, f"leaf {join(key) or '(root)'!r}")

    def _instant_scores(self, params: PyTree, grads: PyTree, kwargs: dict[str, Any]) -> PyTree:
        """Scores without a state. `posterior`, like `grads`, is offered to all and read by some."""
        taken = accepted(self.calculate_scores, kwargs)
        for name in kwargs.keys() - taken.keys() - {"posterior"}:
            raise TypeError(
                f"{type(self).__name__}.instant_sparsify: unknown keyword {name!r}."
                + did_you_mean(name, ["grads", "posterior"])
            )
        return self.calculate_scores(params, sparse_state=None, grads=grads, **taken)


@register_algorithm("no_prune")
@dataclasses.dataclass(eq=False)
class NoPruning(BaseUpdater):
    """Prunes nothing; the wrapped optimizer behaves like the bare one.

    Example:
      >>> NoPruning().instant_sparsify({'w': jnp.ones((2, 2))})[1]
      {'w': None}
    """

    sparsity_distribution_fn: Callable[..., PyTree] | None = None

    def get_initial_masks(self, params: PyTree, target_sparsities: PyTree = None) -> PyTree:
        """No masks: all None."""
        return map_leaves(lambda param: None, params)

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state, as it is."""
        return sparse_state

    def instant_sparsify(
        self, params: PyTree, grads: PyTree = None, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        """The parameters as they are, and a tree of None."""
        return params, map_leaves(lambda param: None, params)

    def _check_sparsity(self) -> None:
        """Every class takes `sparsity`; this one has no use for it."""


def raise_not_prunable(params: PyTree, any_prunable: bool) -> None:
    """Raise a ValueError if there are arrays, but none to prune."""
    leaves = [(key, leaf) for key, leaf in keyed_leaves(params) if is_array(leaf)]
    if leaves and not any_prunable:
        names = ", ".join(f"{join(key) or '(root)'} {leaf.shape}" for key, leaf in leaves[:5])
        raise ValueError(
            f"params: no leaf is prunable, as filter_fn accepts none of {names}"
            f"{', ...' if len(leaves) > 5 else ''}. "
            "The default filter takes leaves of two or more axes."
        )


def _check_scored(key: Key, sparsity: Any, score: Any) -> None:
    if sparsity is not None and score is None:
        raise ValueError(
            f"scores: leaf {join(key) or '(root)'!r} is to be pruned, but has no score, as its "
            "gradient or its state in the optimizer is missing; exempt it by filter_fn."
        )
