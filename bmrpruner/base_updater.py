"""The base of all algorithms: updaters that keep masks in the optimizer state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from bmrpruner._masks import MASK_DTYPE, pack_tree
from bmrpruner._ranking import masks_of, ranked_leaves
from bmrpruner._scoring import check_keywords, scores_of
from bmrpruner._settings import DENSE, check_sparsity_fields, settle
from bmrpruner._sharding import sharded_like
from bmrpruner._state import stored_masks
from bmrpruner._targets import as_arrays, global_target, layer_targets
from bmrpruner._transformation import pruning_transformation
from bmrpruner._tree import PyTree, check_params, map_leaves
from bmrpruner.registry import register_algorithm
from bmrpruner.sparse_state import SparseState, apply_mask
from bmrpruner.sparsity_distributions import CustomSparsityMapType, FilterFnType
from bmrpruner.sparsity_schedules import NoUpdateSchedule
from bmrpruner.sparsity_types import Block, Group, SparsityType, Unstructured

__all__ = ["BaseUpdater", "NoPruning", "SparseState", "apply_mask"]


@dataclasses.dataclass(eq=False)
class BaseUpdater:
    """Base of every algorithm: subclass it and define `calculate_scores`.

    Hooks call one another through `self`, so each may be overridden or patched.

    How much is pruned has one answer: `sparsity` (or a distribution with one), `threshold`, or an
    N:M pattern. Leaves of integers are never pruned.

    Attributes:
      scheduler: When to refresh the masks, and to what sparsity.
      skip_gradients: Take no gradient step where the masks are refreshed.
      is_sparse_gradients: Mask the gradients before the inner optimizer sees them.
      sparsity_type: What is pruned together: a type, or a string such as `'2:4'`, `'4x4'`. With a
        `Group`, `scope` is `'global'`, and biases that go with a unit have masks too.
      sparsity_distribution_fn: `params -> tree of sparsities`; None leaves are exempt.
      rng_seed: JAX key, or an integer seed, for algorithms that draw noise.
      use_packed_masks: Store masks as bits.
      topk_fn: `(scores, sparsity) -> mask`; by default that of the sparsity type.
      sparsity: Fraction to prune. Short for binding the argument of the distribution.
      mask_updates: Let the emitted update itself keep pruned parameters at zero, so that
        `post_gradient_update` need not be called.
      threshold: Prune what scores at or below it, per weight or group, instead of a given share:
        the sparsity is an outcome.
      scope: `'layer'` ranks each leaf by itself, `'global'` all leaves together. By default the
        class's own, which is `'layer'` for most.
      filter_fn: `(key, param) -> bool` for the leaves to prune; by default those of two axes or
        more.
      custom_sparsity_map: Sparsity by key path, None to exempt a leaf.

    Raises:
      ValueError, TypeError: If two fields contradict each other, or one is impossible.

    Example:
      >>> params = {'kernel': jnp.array([[1., -3.], [2., 0.5]]), 'bias': jnp.ones(2)}
      >>> from bmrpruner.algorithms import MagnitudePruning
      >>> pruned, masks = MagnitudePruning(sparsity=0.5).instant_sparsify(params)
      >>> pruned['kernel'].tolist(), masks['bias']
      ([[0.0, -3.0], [2.0, 0.0]], None)
    """

    # What an algorithm needs or decides; a subclass overrides them.
    needs_training: ClassVar[bool] = False  # cannot prune by parameters and a posterior alone
    reads_posterior: ClassVar[bool] = False
    is_one_shot: ClassVar[bool] = False  # wraps no optimizer; refits what it keeps
    decides_sparsity: ClassVar[bool] = False  # `sparsity` is an upper bound that may be left out
    takes_settings: ClassVar[bool] = True
    ranks_groups: ClassVar[bool] = False  # with scope='global', blocks and channels too
    ranks_units: ClassVar[bool] = True  # of dependency groups
    stores_masks: ClassVar[bool] = True
    state_type: ClassVar[type] = SparseState
    fixed_scope: ClassVar[str | None] = None  # the one scope that it has

    scheduler: Any = dataclasses.field(default_factory=NoUpdateSchedule)
    skip_gradients: bool = False
    is_sparse_gradients: bool = False
    sparsity_type: SparsityType | Group | str = dataclasses.field(default_factory=Unstructured)
    sparsity_distribution_fn: Callable[..., PyTree] | None = DENSE
    rng_seed: Any = None
    use_packed_masks: bool = False
    topk_fn: Callable[..., jax.Array] | None = None
    sparsity: float | None = None
    mask_updates: bool = False
    threshold: float | None = None
    scope: str | None = None
    filter_fn: FilterFnType | None = None
    custom_sparsity_map: CustomSparsityMapType | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Static arguments of jit need a hash, which a plain @dataclass would take away.
        super().__init_subclass__(**kwargs)
        cls.__eq__ = object.__eq__  # type: ignore[method-assign]
        cls.__hash__ = object.__hash__  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        settle(self)

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
        """The masks that keep the highest scores, at one sparsity by leaf or for all together."""
        return masks_of(self, scores, sparsities)

    def get_initial_masks(self, params: PyTree, target_sparsities: PyTree = None) -> PyTree:
        """Masks of ones, sharded as the parameters; None where a leaf is exempt."""
        if not self.stores_masks:
            return map_leaves(lambda param: None, params)
        eligible = target_sparsities
        if self.scope == "global":
            eligible = ranked_leaves(self, params)
        return map_leaves(
            lambda param, target: None if target is None else jnp.ones_like(param, MASK_DTYPE),
            params,
            eligible,
        )

    def init_state(self, params: PyTree) -> SparseState:
        """The state before the first step, without an inner state.

        Raises:
          TypeError: If no leaf of `params` is an array.
          ValueError: If no leaf can be pruned and one should, or one does not fit its type.
        """
        check_params(params)
        targets = self.get_target_sparsities(params)
        masks = self._stored(self.get_initial_masks(params, targets), params)
        return SparseState(masks, None, as_arrays(targets), jnp.zeros([], jnp.int32))

    def get_target_sparsities(self, params: PyTree) -> PyTree:
        """Sparsities by leaf, None if exempt; one with `scope='global'`; None if nothing says."""
        if self.takes_settings:
            check_sparsity_fields(self)
        if self.scope == "global":
            return global_target(self, params)
        return None if self.sparsity_distribution_fn is None else layer_targets(self, params)

    def update_state(
        self, sparse_state: SparseState, params: PyTree, grads: PyTree, **kwargs: Any
    ) -> SparseState:
        """The state with refreshed masks. Only the masks change."""
        if not self.stores_masks:
            return sparse_state
        targets = self.scheduler.get_sparsity_at_step(
            sparse_state.target_sparsities, sparse_state.count
        )
        scores = scores_of(self, params, sparse_state, grads, kwargs)
        return sparse_state._replace(masks=self._stored(self.create_masks(scores, targets), params))

    def apply_masks(self, params: PyTree, masks: PyTree, is_packed: bool | None = False) -> PyTree:
        """The parameters, zero where the masks are; None for `is_packed` asks the field."""
        if is_packed is None:
            is_packed = self.use_packed_masks
        return map_leaves(
            lambda p, m: p if m is None or p is None else apply_mask(p, m, is_packed), params, masks
        )

    def instant_sparsify(
        self, params: PyTree, grads: PyTree = None, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        """Prune what is already trained, once, with no schedule and no state.

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
            raise ValueError("sparsity_distribution_fn: expected one, got None.")
        check_params(params)
        targets = self.get_target_sparsities(params)
        check_keywords(self, kwargs)
        masks = self.create_masks(scores_of(self, params, None, grads, kwargs), targets)
        pruned = self.apply_masks(params, masks, is_packed=False)
        return pruned, self._stored(masks, params)

    def pre_forward_update(self, params: PyTree, opt_state: Any) -> PyTree:
        """The parameters for the forward pass: here, as they are."""
        return params

    def post_gradient_update(self, params: PyTree, sparse_state: Any) -> PyTree:
        """The parameters after an update: here, with the stored masks applied.

        Args:
          params: Any pytree of arrays, or of Flax Variables.
          sparse_state: The `SparseState`, or any optimizer state that holds it, such as the
            `opt_state` of an `nnx.Optimizer`. Leaves that `optax.masked` left out stay as they are.

        Raises:
          ValueError: If there is no `SparseState`, or it has a mask for a leaf that is not there.
        """
        return self.apply_masks(params, stored_masks(sparse_state, params), is_packed=False)

    def wrap_optax(
        self, inner: optax.GradientTransformation, mask_updates: bool | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """An optimizer that takes the inner one's steps and keeps masks in its state.

        Extra keyword arguments of `update` reach `calculate_scores` and the inner transformation,
        as far as they take them.

        The wrapper comes last: clipping, scaling, `optax.ema` and schedule-free optimizers go
        inside. Where something comes after it, in a chain or around it (`optax.lookahead`), call
        `post_gradient_update` on what comes out, on lookahead's slow parameters and on
        `schedule_free_eval_params(state.inner_state, params)` too.

        Args:
          inner: Any Optax optimizer.
          mask_updates: Overrides the field of that name. If true, pruned parameters are exactly
            zero after `optax.apply_updates`; kept ones get the same update either way.

        Returns:
          A transformation whose state is a `SparseState`. Unless it masks its updates, call
          `post_gradient_update(params, state)` after applying them.

        Example:
          >>> import optax
          >>> from bmrpruner import MagnitudePruning, OneShotSchedule
          >>> pruner = MagnitudePruning(sparsity=0.5, scheduler=OneShotSchedule(0))
          >>> tx = pruner.wrap_optax(optax.sgd(0.1), mask_updates=True)
          >>> params = jnp.array([[-2., 1.]])
          >>> updates, state = tx.update(jnp.zeros((1, 2)), tx.init(params), params)
          >>> optax.apply_updates(params, updates).tolist(), state.masks.tolist()
          ([[-2.0, 0.0]], [[1, 0]])
        """
        masks_updates = self.mask_updates if mask_updates is None else mask_updates
        return pruning_transformation(self, inner, masks_updates)

    def _stored(self, masks: PyTree, params: PyTree) -> PyTree:
        """Masks as a state holds them: laid out like the parameters, packed if asked."""
        laid_out = map_leaves(sharded_like, masks, params)
        return pack_tree(laid_out) if self.use_packed_masks else laid_out

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

    def _comparable(self, score: jax.Array) -> jax.Array:
        """A leaf's scores, as they are compared with those of other leaves."""
        return score

    def _unit_scores(self, scores: PyTree, add_up: Callable[[PyTree], jax.Array]) -> jax.Array:
        """The scores of dependency groups' units; `add_up` sums over all that each of them owns."""
        return add_up(scores)


@register_algorithm("no_prune")
@dataclasses.dataclass(eq=False)
class NoPruning(BaseUpdater):
    """Prunes nothing; the wrapped optimizer behaves like the bare one.

    Example:
      >>> NoPruning().instant_sparsify({'w': jnp.ones((2, 2))})[1]
      {'w': None}
    """

    needs_training: ClassVar[bool] = True
    takes_settings: ClassVar[bool] = False
    stores_masks: ClassVar[bool] = False

    sparsity_distribution_fn: Callable[..., PyTree] | None = None

    def instant_sparsify(
        self, params: PyTree, grads: PyTree = None, **kwargs: Any
    ) -> tuple[PyTree, PyTree]:
        """The parameters as they are, and a tree of None."""
        return params, map_leaves(lambda param: None, params)
