"""Posteriors found in optimizer states, ours and others'."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner.posteriors import from_opt_state

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}


class ForeignState(NamedTuple):
    """The fields by which other IVON implementations keep their posterior."""

    ess: float
    beta1: float
    weight_decay: float
    momentum: Any
    hess: Any


def test_foreign_states_are_known_by_their_fields():
    hess = {"w": jnp.full((2, 3), 2.0), "b": jnp.full(3, 3.0)}
    state = (optax.EmptyState(), ForeignState(10.0, 0.9, 0.5, PARAMS, hess))
    posterior = from_opt_state(state, PARAMS)
    np.testing.assert_allclose(posterior.precision["w"], 25.0)
    np.testing.assert_allclose(posterior.precision["b"], 35.0)
    assert jax.tree.leaves(posterior.prior_precision) == [5.0, 5.0]


@pytest.mark.parametrize("optimizer", [optax.adam, optax.rmsprop, optax.adabelief, optax.lamb])
def test_second_moments_are_a_laplace_approximation(optimizer):
    tx = optax.chain(optax.clip(10.0), optimizer(0.1))
    grads = jax.tree.map(lambda p: jnp.full_like(p, 2.0), PARAMS)
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    posterior = from_opt_state(state, PARAMS, ess=100, weight_decay=0.1)
    (nu,) = [
        s.nu for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "nu")) if hasattr(s, "nu")
    ]
    np.testing.assert_allclose(
        posterior.precision["w"], 100 * (np.asarray(nu["w"]) + 0.1), rtol=1e-6
    )
    np.testing.assert_allclose(posterior.prior_precision["w"], 10.0, rtol=1e-6)


def test_leaves_without_a_posterior_have_none():
    tx = optax.masked(bmrpruner.ivon(0.1, ess=10), {"w": True, "b": False})
    posterior = from_opt_state(tx.init(PARAMS), PARAMS)
    assert posterior.precision["b"] is None
    assert posterior.std["w"].shape == (2, 3)


def test_masks_of_a_sparse_state_prune():
    tx = bmrpruner.MagnitudePruning(sparsity=0.5, use_packed_masks=True).wrap_optax(
        bmrpruner.ivon(0.1, ess=10)
    )
    mask = np.array([[1, 0, 1], [0, 1, 0]], np.uint8)
    state = tx.init(PARAMS)._replace(masks={"w": jnp.packbits(mask), "b": None})
    posterior = from_opt_state(state, PARAMS)
    np.testing.assert_array_equal(np.asarray(posterior.std["w"]) > 0, mask == 1)
    np.testing.assert_array_equal(posterior.mean["w"], mask)


def test_missing_or_superfluous_numbers_are_named():
    adam = optax.adam(0.1).init(PARAMS)
    ivon = bmrpruner.ivon(0.1, ess=10).init(PARAMS)
    with pytest.raises(ValueError, match="ess"):
        from_opt_state(adam, PARAMS)
    with pytest.raises(ValueError, match="ess"):
        from_opt_state(adam, PARAMS, ess=0, weight_decay=1.0)
    with pytest.raises(ValueError, match="leave them out"):
        from_opt_state(ivon, PARAMS, ess=10)
    with pytest.raises(ValueError, match=r"bmrpruner\.ivon"):
        from_opt_state(optax.sgd(0.1).init(PARAMS), PARAMS)
