"""Every algorithm under JAX's strict flags."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner.sparsity_types import Group
from bmrpruner.structure import Group as Family
from tests.conftest import WRAPPING

pytestmark = pytest.mark.slow

PARAMS = {
    "w": jax.random.normal(jax.random.key(0), (4, 8)),
    "deep": jax.random.normal(jax.random.key(1), (2, 4, 8)),
    "b": jnp.ones(8),
}
STRICT = {
    "rank promotion": functools.partial(jax.numpy_rank_promotion, "raise"),
    "dtype promotion": functools.partial(jax.numpy_dtype_promotion, "strict"),
}
CASES = [(name, "unstructured") for name in WRAPPING] + [
    ("magnitude", "2:4"),
    ("iterative_nm", "2:4"),
    ("rigl", "2:4"),
    ("bmr", "2:4"),
    ("magnitude", "2x4"),
    ("bmr", "2x4"),
    ("adaptive_bmr", "2x4"),
    ("snr", "channel_-1"),
    ("adaptive_bmr", "channel_0"),
    ("magnitude", "units"),
    ("random", "units"),
    ("bmr", "parameters"),
    ("adaptive_bmr", "parameters"),
]
ALONE = [case for case in CASES if case[1] in ("unstructured", "units", "parameters")]
EACH = np.arange(8)[:, None]
UNITS = [
    Family(8, tuple(((name,), axis, EACH) for name, axis in (("w", 1), ("deep", 2), ("b", 0))))
]


def make_step(name, kind="unstructured"):
    """The wrapped optimizer, and a step that refreshes the masks."""
    settings = {} if name == "iterative_nm" or kind == "unstructured" else {"sparsity_type": kind}
    if kind in ("units", "parameters"):
        settings["sparsity_type"] = Group(UNITS, kind)
    if name in ("set", "rigl"):
        settings["drop_fraction_fn"] = lambda step: 0.3  # optax's schedules mix dtypes
    pruner = bmrpruner.create_updater_from_config(
        algorithm=name,
        dist_type="uniform",
        sparsity=0.5,
        update_freq=1,
        update_start_step=0,
        update_end_step=4,
        **settings,
    )
    if name == "adam-fisher":
        inner = optax.scale_by_rms()  # optax's Adam itself mixes dtypes
    else:
        inner = bmrpruner.ivon(0.1, ess=100, clip_radius=1.0)
    tx = pruner.wrap_optax(inner, mask_updates=True)

    def step(params, state, key):
        params = pruner.pre_forward_update(params, state)
        grads = params
        if name != "adam-fisher":
            loss = lambda p, key: sum(jnp.sum(leaf**2) for leaf in p.values())  # noqa: E731
            _, grads, state = bmrpruner.noisy_value_and_grad(loss, state, params, key)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return pruner.post_gradient_update(params, state), state

    return tx, step


@pytest.mark.parametrize("flag", STRICT)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_refreshing_step_under_strict_flags(name, kind, flag):
    """Traced, at the arrays' own ranks and dtypes, from `init` on."""
    tx, step = make_step(name, kind)
    with STRICT[flag]():
        key = jax.random.key(2)
        jax.eval_shape(lambda params, key: step(params, tx.init(params), key), PARAMS, key)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "kind"), ALONE)
def test_a_refreshing_step_with_x64(name, kind, dtype):
    """Parameters and state keep their types, wide or not."""
    with jax.enable_x64(True):
        tx, step = make_step(name, kind)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
        carry = params, tx.init(params)
        after = jax.eval_shape(step, *carry, jax.random.key(2))
        chex.assert_trees_all_equal_shapes_and_dtypes(after, carry)


@pytest.mark.parametrize(("name", "kind"), ALONE)
def test_a_refreshing_step_for_real(name, kind):
    """No tracer leaks, no NaN comes out, and nothing moves between host and device."""
    tx, step = make_step(name, kind)
    key = jax.random.key(2)
    carry = PARAMS, tx.init(PARAMS)
    with jax.checking_leaks():
        jax.eval_shape(step, *carry, key)
    compiled = jax.jit(step)
    with jax.debug_nans(True):
        carry = compiled(*carry, key)
    with jax.transfer_guard("disallow"):
        params, state = compiled(*carry, key)
    assert int(state.count) == 2
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in params.values())
