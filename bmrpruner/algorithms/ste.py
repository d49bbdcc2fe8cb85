"""Straight-through pruning: the forward pass is sparse, the stored weights are dense."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from bmrpruner._state import plain_state
from bmrpruner._tree import PyTree
from bmrpruner.algorithms.bmr_pruners import BMRPruning
from bmrpruner.algorithms.pruners import MagnitudePruning, RandomPruning
from bmrpruner.base_updater import SparseState
from bmrpruner.registry import register_algorithm


class SteMixin:
    """Makes a pruner mask the weights of each forward pass anew: `class S(SteMixin, Pruner)`.

    Call `pre_forward_update`, take the gradients at the weights that it returns, and apply them to
    the dense ones. In every step the masks follow the scheduler's sparsity at the state's count,
    whether or not it calls for an update; nothing is stored.

    Example:
      >>> import jax.numpy as jnp
      >>> @dataclasses.dataclass(eq=False)
      ... class SteSmallest(SteMixin, MagnitudePruning):
      ...     def calculate_scores(self, params, sparse_state=None, grads=None):
      ...         return -jnp.abs(params)
      >>> pruner, params = SteSmallest(sparsity=0.5), jnp.array([[1., -3.], [2., 0.5]])
      >>> pruner.pre_forward_update(params, pruner.init_state(params)).tolist()
      [[1.0, 0.0], [0.0, 0.5]]
    """

    stores_masks: ClassVar[bool] = False

    def pre_forward_update(self: Any, params: PyTree, opt_state: SparseState) -> PyTree:
        """The weights for the forward pass, masked by their present scores."""
        opt_state = plain_state(opt_state)
        sparsities = self.scheduler.get_sparsity_at_step(
            opt_state.target_sparsities, opt_state.count
        )
        scores = self.calculate_scores(params, sparse_state=opt_state)
        return self.apply_masks(params, self.create_masks(scores, sparsities), is_packed=False)

    def post_gradient_update(self, params: PyTree, opt_state: SparseState) -> PyTree:
        """The parameters as they are: dense."""
        return params


@register_algorithm("magnitude_ste")
@dataclasses.dataclass(eq=False)
class SteMagnitudePruning(SteMixin, MagnitudePruning):
    """Use the weights of largest magnitude in the forward pass, and train all of them.

    Example:
      >>> import jax.numpy as jnp
      >>> pruner, params = SteMagnitudePruning(sparsity=0.5), jnp.array([[1., -3.], [2., 0.5]])
      >>> pruner.pre_forward_update(params, pruner.init_state(params)).tolist()
      [[0.0, -3.0], [2.0, 0.0]]

    References:
      Bengio et al. 2013, https://arxiv.org/abs/1308.3432, section 4.
    """


@register_algorithm("random_ste")
@dataclasses.dataclass(eq=False)
class SteRandomPruning(SteMixin, RandomPruning):
    """Use random weights in the forward pass, other ones in every step, and train all of them.

    Example:
      >>> import jax.numpy as jnp
      >>> pruner, params = SteRandomPruning(sparsity=0.75, rng_seed=1), jnp.ones((2, 4))
      >>> float(pruner.pre_forward_update(params, pruner.init_state(params)).sum())
      2.0
    """


@register_algorithm("bmr_ste")
@dataclasses.dataclass(eq=False)
class SteBMRPruning(SteMixin, BMRPruning):
    """Use the weights whose removal would cost most evidence in the forward pass, and train all.

    With IVON, take the gradients around the masked weights:
    `noisy_value_and_grad(loss_fn, state, pruner.pre_forward_update(params, state), key)`. The noise
    stays on every weight, so that the posterior tells whether an unused one should come back.

    Example:
      >>> import jax.numpy as jnp
      >>> from bmrpruner.optimizers import ivon
      >>> pruner, params = SteBMRPruning(sparsity=0.5), jnp.array([[1., -3.], [2., 0.5]])
      >>> state = pruner.wrap_optax(ivon(0.1, ess=100)).init(params)
      >>> pruner.pre_forward_update(params, state).tolist()
      [[0.0, -3.0], [2.0, 0.0]]
    """
