"""IVON as an optax transformation: state, schedules, wrappers, bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import optimizers
from bmrpruner.optimizers import ScaleByIvonState
from tests.conftest import dict_params

WIDE = jnp.ones((2, 2))


def loss_fn(params, key):
    return optax.tree.norm(params, squared=True).astype(jnp.float32)


def step(tx, params, state, key, **options):
    _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key, **options)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("m_dtype", [None, jnp.bfloat16])
def test_state_keeps_structure_shapes_and_dtypes(dtype, m_dtype):
    tx = bmrpruner.ivon(0.1, ess=100, m_dtype=m_dtype)
    params = dict_params(dtype)
    init = tx.init(params)
    _, grads, noisy = bmrpruner.noisy_value_and_grad(loss_fn, init, params, jax.random.key(0))
    updates, updated = tx.update(grads, noisy, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(init, noisy)
    chex.assert_trees_all_equal_shapes_and_dtypes(init, updated)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    assert init[0].momentum["layer_0"]["kernel"].dtype == (m_dtype or dtype)
    assert init[0].hess["layer_0"]["kernel"].dtype == jnp.float32


def test_thousand_steps_in_a_scan_compile_once():
    pruner = bmrpruner.BMRPruning(
        sparsity=0.8, scheduler=bmrpruner.PolynomialSchedule(50, 100, 800)
    )
    tx = pruner.wrap_optax(bmrpruner.ivon(0.1, ess=100, b2=0.99))
    params = {"w": jax.random.normal(jax.random.key(1), (10, 10))}
    traces = []

    def body(carry, key):
        traces.append(1)
        params, state = step(tx, *carry, key)
        return (pruner.post_gradient_update(params, state), state), None

    keys = jax.random.split(jax.random.key(0), 1000)
    run = jax.jit(lambda carry: jax.lax.scan(body, carry, keys)[0])
    params, state = run((params, tx.init(params)))
    assert len(traces) == 1
    assert int(state.count) == 1000
    assert int(jnp.sum(params["w"] == 0)) == 80


def test_update_without_an_estimate_leaves_h_as_it_is():
    tx = bmrpruner.ivon(0.1, ess=100, hess_init=0.5, b2=0.9)
    params = {"w": jnp.ones(3)}
    updates, state = tx.update({"w": jnp.ones(3)}, tx.init(params), params)
    np.testing.assert_array_equal(state[0].hess["w"], 0.5)
    assert jnp.all(updates["w"] < 0)


def test_an_estimate_is_used_once():
    tx = bmrpruner.ivon(0.1, ess=100, hess_init=0.5, b2=0.9)
    params = {"w": jnp.ones(3)}
    params, state = step(tx, params, tx.init(params), jax.random.key(0))
    _, again = tx.update({"w": jnp.ones(3)}, state, params)
    np.testing.assert_array_equal(again[0].hess["w"], state[0].hess["w"])


def test_accumulated_estimates_are_averaged():
    """Two calls before an update: h moves as by the mean of the two estimates."""
    tx = bmrpruner.ivon(0.1, ess=100, hess_init=0.5, b2=0.9, weight_decay=0.1)
    params = {"w": jnp.ones(3)}
    estimates, state = [], tx.init(params)
    for seed in (0, 1):
        _, grads, alone = bmrpruner.noisy_value_and_grad(
            loss_fn, tx.init(params), params, jax.random.key(seed)
        )
        estimates.append(np.asarray(alone[0].hess_sum["w"]))
        _, _, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, jax.random.key(seed))
    _, state = tx.update(grads, state, params)
    mean = np.mean(estimates, 0)
    expected = 0.9 * 0.5 + 0.1 * mean + 0.5 * 0.1**2 * (0.5 - mean) ** 2 / 0.6
    np.testing.assert_allclose(state[0].hess["w"], expected, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["sampling", "hutchinson"])
def test_hess_every_skips_updates(estimator):
    tx = bmrpruner.ivon(0.1, ess=100, b2=0.9, hess_every=3)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    changed = []
    for key in jax.random.split(jax.random.key(0), 7):
        before = state[0].hess["w"]
        params, state = step(tx, params, state, key, estimator=estimator)
        changed.append(bool(jnp.any(state[0].hess["w"] != before)))
    assert changed == [True, False, False, True, False, False, True]


def test_schedules_of_every_hyperparameter():
    """A schedule that is constant gives what the constant gives."""
    numbers = {
        "learning_rate": 0.1,
        "ess": 100.0,
        "clip_radius": 0.5,
        "b1": 0.8,
        "b2": 0.9,
        "weight_decay": 0.1,
    }
    plain = bmrpruner.ivon(**numbers)
    scheduled = bmrpruner.ivon(**{k: optax.constant_schedule(v) for k, v in numbers.items()})
    params = {"w": jnp.ones(3)}
    a, b = (params, plain.init(params)), (params, scheduled.init(params))
    for key in jax.random.split(jax.random.key(0), 3):
        a, b = step(plain, *a, key), step(scheduled, *b, key)
    chex.assert_trees_all_close(a[0], b[0], rtol=1e-6)
    chex.assert_trees_all_close(a[1][0], b[1][0], rtol=1e-5)


def test_ess_schedule_reaches_the_scale():
    ess = optax.linear_schedule(100.0, 400.0, 2)
    tx = bmrpruner.ivon(0.1, ess=ess, hess_init=1.0, weight_decay=0.0)
    params = {"w": jnp.ones(3)}
    state = tx.init(params)
    np.testing.assert_allclose(optimizers.get_scale(state)["w"], 0.1, rtol=1e-6)
    for _ in range(2):
        _, state = tx.update({"w": jnp.zeros(3)}, state, params)
    np.testing.assert_allclose(optimizers.get_scale(state)["w"], 0.05, rtol=1e-6)


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx, optax.scale(0.5)),
    "masked": lambda tx: optax.masked(tx, {"a": True, "b": False}),
    "partition": lambda tx: optax.partition({"x": tx, "y": optax.sgd(0.1)}, {"a": "x", "b": "y"}),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "sparse": lambda tx: bmrpruner.MagnitudePruning(sparsity=0.5).wrap_optax(tx),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_found_in_wrappers(wrap):
    tx = wrap(bmrpruner.ivon(0.1, ess=100, b2=0.9))
    params = {"a": jnp.ones((3, 4)), "b": jnp.ones((3, 4))}
    state = start = tx.init(params)
    for key in jax.random.split(jax.random.key(0), 4):
        params, state = step(tx, params, state, key)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        *(jax.eval_shape(lambda s=s: s) for s in (start, state))
    )
    found = [
        s
        for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, ScaleByIvonState))
        if isinstance(s, ScaleByIvonState)
    ]
    assert len(found) == 1
    assert jnp.all(found[0].hess["a"] != 1.0)
    assert jnp.all(optimizers.get_scale(state)["a"] > 0)
    draws, noise = bmrpruner.sample_posterior(jax.random.key(0), params, state, (2,))
    assert draws["a"].shape == (2, 3, 4)
    chex.assert_trees_all_close(noise["a"], draws["a"] - params["a"])


def test_two_posteriors_under_partition_are_merged():
    """Each leaf has the posterior of the optimizer that owns it."""
    owners = {"a": "x", "b": "y"}
    tx = optax.partition(
        {
            "x": bmrpruner.ivon(0.1, 100, hess_init=1.0, weight_decay=0.0),
            "y": bmrpruner.ivon(0.1, 25, hess_init=1.0, weight_decay=0.0),
        },
        owners,
    )
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    scale = optimizers.get_scale(tx.init(params))
    np.testing.assert_allclose(scale["a"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(scale["b"], 0.2, rtol=1e-6)


def test_inject_hyperparams():
    tx = optax.inject_hyperparams(bmrpruner.ivon, static_args=("m_dtype", "hess_every"))(
        learning_rate=0.1, ess=100.0, b2=0.9
    )
    params = {"w": jnp.ones(3)}
    trained, state = jax.jit(lambda p, s, k: step(tx, p, s, k))(
        params, tx.init(params), jax.random.key(0)
    )
    plain = bmrpruner.ivon(0.1, ess=100.0, b2=0.9)
    expected, _ = step(plain, params, plain.init(params), jax.random.key(0))
    chex.assert_trees_all_close(trained, expected, rtol=1e-5)
    chex.assert_trees_all_equal_structs(state, tx.init(params))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ess", 0),
        ("ess", -1.0),
        ("hess_init", 0.0),
        ("hess_init", -1),
        ("clip_radius", 0.0),
        ("clip_norm", 0.0),
        ("weight_decay", -1e-4),
        ("b1", 1.0),
        ("b2", 1.5),
        ("b2", -0.1),
        ("hess_every", 0),
        ("ess", float("nan")),
    ],
)
def test_impossible_numbers_name_their_field(field, value):
    with pytest.raises(ValueError, match=field):
        bmrpruner.ivon(**{"learning_rate": 0.1, "ess": 10, field: value})


def test_wrong_types_name_their_field():
    with pytest.raises(TypeError, match="ess"):
        bmrpruner.ivon(0.1, ess="many")
    tx = bmrpruner.ivon(0.1, 10)
    with pytest.raises(TypeError, match=r"params.*'w'"):
        tx.init({"w": "a name"})
    state = tx.init(WIDE)
    with pytest.raises(ValueError, match="params"):
        tx.update(WIDE, state)


@pytest.mark.slow
def test_learning_rate_and_n_are_enough_for_an_informed_hessian():
    """Linear regression, whose Hessian is known: h leaves 0.9 for values that differ 50-fold."""
    n, scales = 2000, jnp.array([0.2, 0.4, 0.8, 1.4])
    x = scales * jax.random.normal(jax.random.key(0), (n, 4))
    y = x @ jnp.array([2.0, -1.0, 0.5, 0.0]) + 0.3 * jax.random.normal(jax.random.key(1), (n,))

    def half_square(w, rows, key):
        return 0.5 * jnp.mean((x[rows] @ w - y[rows]) ** 2)

    steps = 10_000
    tx = bmrpruner.ivon(optax.cosine_decay_schedule(0.3, steps), ess=n)

    def one(carry, key):
        w, state = carry
        rows = jax.random.choice(key, n, (100,))
        _, grads, state = bmrpruner.noisy_value_and_grad(half_square, state, w, key, rows)
        updates, state = tx.update(grads, state, w)
        return (optax.apply_updates(w, updates), state), None

    carry = (jnp.zeros(4), tx.init(jnp.zeros(4)))
    keys = jax.random.split(jax.random.key(2), steps)
    w, state = jax.jit(lambda carry: jax.lax.scan(one, carry, keys)[0])(carry)
    np.testing.assert_allclose(state[0].hess, jnp.mean(x**2, 0), rtol=0.25, atol=0.02)
    prior = 60 / n * jnp.eye(4)
    np.testing.assert_allclose(w, jnp.linalg.solve(x.T @ x / n + prior, x.T @ y / n), atol=0.03)
