"""Data-parallel IVON on four devices; run in a process that has them by test_replicas.py."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

import bmrpruner

STEPS, DEVICES = 35, 4
HUTCHINSON = {"estimator": "hutchinson", "mc_samples": 2}
ALL, EACH = PartitionSpec(), PartitionSpec("batch")
rng = np.random.default_rng(0)
X = rng.standard_normal((STEPS, DEVICES, 8, 6)).astype(np.float32)
Y = np.sin(X.sum(-1, keepdims=True))
START = {
    "first": jnp.asarray(rng.standard_normal((6, 16)) / 2, jnp.float32),
    "second": jnp.asarray(rng.standard_normal((16, 1)) / 2, jnp.float32),
}
TX = bmrpruner.BMRPruning(
    sparsity=0.5, scheduler=bmrpruner.PolynomialSchedule(5, 10, 30), mask_updates=True
).wrap_optax(bmrpruner.ivon(0.1, ess=500, b2=0.9))


def loss_fn(params, x, y, key):
    prediction = jnp.tanh(x @ params["first"]) @ params["second"]
    return jnp.mean((prediction - y) ** 2), (prediction.mean(), 0.5, 3)


def step(carry, x, y, key, axis_name="batch", different_keys=False, **options):
    params, state = carry
    if different_keys:
        key = jax.random.fold_in(key, jax.lax.axis_index("batch"))
    (value, aux), grads, state = bmrpruner.noisy_value_and_grad(
        loss_fn, state, params, key, x, y, has_aux=True, axis_name=axis_name, **options
    )
    updates, state = TX.update(grads, state, params)
    return (optax.apply_updates(params, updates), state), value, aux[0]


def mesh():
    devices = jax.devices()[:DEVICES]
    return jax.make_mesh((DEVICES,), ("batch",), (AxisType.Auto,), devices=devices)


def stacked(tree):
    """The same on every replica, along a first axis of replicas."""
    return jax.tree.map(lambda x: jnp.stack([x] * DEVICES), tree)


def by_pmap(fn):
    return jax.pmap(fn, axis_name="batch", in_axes=(0, 0, 0, None))


def by_vmap(fn):
    return jax.jit(jax.vmap(fn, (0, 0, 0, None), axis_name="batch"))


def by_shard_map(fn):
    """Types unchecked, and parameters of each device's own."""

    def one(carry, x, y, key):
        out = fn(*jax.tree.map(lambda a: a[0], (carry, x, y)), key)
        return jax.tree.map(lambda a: a[None], out)

    specs = {"in_specs": (EACH, EACH, EACH, ALL), "out_specs": EACH}
    return jax.jit(jax.shard_map(one, mesh=mesh(), check_vma=False, **specs))


def by_checked_shard_map(fn):
    """Types checked: parameters are proven to be the same everywhere, before and after."""

    def one(carry, x, y, key):
        return fn(carry, x[0], y[0], key)

    specs = {"in_specs": (ALL, EACH, EACH, ALL), "out_specs": ALL}
    parallel = jax.jit(jax.shard_map(one, mesh=mesh(), **specs))

    def from_and_to_stacks(carry, x, y, key):
        return stacked(parallel(jax.tree.map(lambda a: a[0], carry), x, y, key))

    return from_and_to_stacks


MAPS = {
    "pmap": by_pmap,
    "vmap": by_vmap,
    "shard_map": by_shard_map,
    "checked shard_map": by_checked_shard_map,
}


def train(parallel):
    carry = stacked((START, TX.init(START)))
    values = []
    for i, key in enumerate(jax.random.split(jax.random.key(1), STEPS)):
        carry, value, aux = parallel(carry, X[i], Y[i], key)
        values.append((np.asarray(value), np.asarray(aux)))
    return jax.tree.map(np.asarray, carry), values


@functools.cache
def one_device():
    """Training on whole batches."""
    alone = jax.jit(functools.partial(step, axis_name=None, **HUTCHINSON))
    carry = (START, TX.init(START))
    for i, key in enumerate(jax.random.split(jax.random.key(1), STEPS)):
        carry, *_ = alone(carry, X[i].reshape(-1, 6), Y[i].reshape(-1, 1), key)
    return carry


def assert_replicas_equal(tree):
    for leaf in jax.tree.leaves(tree):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))


def check_equal(name):
    """Different data, different keys: the same parameters, masks and state, bit for bit."""
    (params, state), values = train(MAPS[name](functools.partial(step, different_keys=True)))
    assert_replicas_equal((params, state, values))
    pruned = [int(np.sum(mask[0] == 0)) for mask in jax.tree.leaves(state.masks)]
    assert pruned == [48, 8], pruned
    assert np.mean(params["first"][0] == 0) == 0.5


def check_whole_batch(name):
    """Equal keys: the steps that one device takes with whole batches."""
    (params, state), _ = train(MAPS[name](functools.partial(step, **HUTCHINSON)))
    expected, expected_state = one_device()
    for key in START:
        np.testing.assert_allclose(params[key][0], expected[key], rtol=1e-3, atol=1e-4)
        hess, expected_hess = (s.inner_state[0].hess[key] for s in (state, expected_state))
        np.testing.assert_allclose(hess[0], expected_hess, rtol=1e-3)
        np.testing.assert_array_equal(state.masks[key][0], expected_state.masks[key])


def gradients(carry, x, y, key, **options):
    """Value, gradients and estimate of one step."""
    value, grads, state = bmrpruner.noisy_value_and_grad(
        lambda *args: loss_fn(*args)[0], carry[1], carry[0], key, x, y, **options
    )
    return value, grads["first"], state.inner_state[0]


def check_different_keys(name):
    """The draws differ, and the gradient and the estimate are the means of each one's own."""
    key, start = jax.random.key(5), (START, TX.init(START))

    def own_key(carry, x, y, key):
        key = jax.random.fold_in(key, jax.lax.axis_index("batch"))
        return gradients(carry, x, y, key, axis_name="batch")

    value, grads, inner = MAPS[name](own_key)(stacked(start), X[0], Y[0], key)
    each = [gradients(start, X[0, i], Y[0, i], jax.random.fold_in(key, i)) for i in range(DEVICES)]
    values, all_grads, states = zip(*each, strict=True)
    estimates = [state.hess_sum["first"] for state in states]
    np.testing.assert_allclose(value[0], np.mean(values), rtol=1e-5)
    np.testing.assert_allclose(grads[0], np.mean(all_grads, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        inner.hess_sum["first"][0], np.mean(estimates, 0), rtol=1e-4, atol=1e-4
    )


def check_not_finite(name):
    """NaN on one device is an estimate on none."""
    x = X[:2].copy()
    x[0, 2, 0, 0] = np.nan
    carry = stacked((START, TX.init(START)))
    parallel = MAPS[name](functools.partial(gradients, axis_name="batch"))
    for i, count in enumerate((0, 1)):
        found = jax.tree.map(np.asarray, parallel(carry, x[i], Y[i], jax.random.key(0)))
        assert_replicas_equal(found)
        _, grads, inner = found
        np.testing.assert_array_equal(inner.hess_count, count)
        assert np.all(np.isfinite(inner.hess_sum["first"]))
        assert np.any(np.isnan(grads)) == (count == 0)


if __name__ == "__main__":
    assert jax.device_count() == DEVICES
    for name in sys.argv[1:] or MAPS:
        for check in (check_equal, check_whole_batch, check_different_keys, check_not_finite):
            print(name, check.__name__, flush=True)
            check(name)
