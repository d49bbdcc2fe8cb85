"""Leaves that are not floating-point arrays, and dtypes that the state keeps from init on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner

pytestmark = pytest.mark.slow

PARAMS = {
    "w": jnp.linspace(0.5, 1.5, 12).reshape(3, 4),
    "steps": jnp.array([[3, -4]]),
    "flag": jnp.array(True),
    "numpy": np.array([7], np.int16),
    "key": jax.random.PRNGKey(0) + np.uint32(2**32 - 3),
    "function": jax.nn.relu,
    "nothing": None,
}
INTEGERS = ("steps", "flag", "numpy", "key")
ARRAYS = {name: PARAMS[name] for name in ("w", *INTEGERS)}


def ivon(**settings):
    return bmrpruner.ivon(0.1, ess=25, b2=0.9, **settings)


def loss_fn(params, key):
    sign = jnp.where(params["flag"], 1.0, -1.0)
    return sign * jnp.sum(params["w"].astype(jnp.float32) ** 2) * params["steps"][0, 0]


@pytest.mark.parametrize("options", [{}, {"mc_samples": 2}, {"estimator": "hutchinson"}])
def test_the_gradient_of_integers_is_zero_in_their_dtype(options):
    _, grads, _ = bmrpruner.noisy_value_and_grad(
        loss_fn, ivon().init(PARAMS), PARAMS, jax.random.key(0), **options
    )
    assert np.all(np.asarray(grads["w"]) != 0)
    for name in INTEGERS:
        assert grads[name].dtype == PARAMS[name].dtype
        np.testing.assert_array_equal(grads[name], np.zeros_like(PARAMS[name]))
    assert grads["function"] is None
    assert grads["nothing"] is None


CHAINS = {
    "alone": ivon,
    "chain": lambda: optax.chain(optax.clip(1.0), ivon()),
    "apply_if_finite": lambda: optax.apply_if_finite(ivon(), 2),
    "adamw for the integers": lambda: optax.partition(
        {"x": ivon(), "y": optax.adamw(0.1, weight_decay=0.0)},
        {"w": "x", "steps": "y", "flag": "x", "numpy": "x", "key": "x"},
    ),
    "sparse": lambda: bmrpruner.BMRPruning(
        sparsity_distribution_fn=lambda params: dict.fromkeys(params) | {"w": 0.5},
        scheduler=bmrpruner.OneShotSchedule(0),
        mask_updates=True,
    ).wrap_optax(ivon()),
}


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_steps_leave_integers_as_they_are(make):
    tx, params = make(), ARRAYS
    state = tx.init(params)

    @jax.jit
    def step(params, state, key):
        _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for key in jax.random.split(jax.random.key(0), 2):
        params, state = step(params, state, key)
    assert not np.any(np.asarray(params["w"] == ARRAYS["w"]))
    for name in INTEGERS:
        assert params[name].dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(params[name], ARRAYS[name])


@pytest.mark.parametrize("estimator", ["sampling", "hutchinson"])
def test_a_step_under_strict_modes(estimator):
    tx, params = ivon(), {"w": jnp.ones((3, 4)), "b": jnp.ones(4), "steps": jnp.array([3])}
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        _, grads, state = bmrpruner.noisy_value_and_grad(
            lambda p, key: jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2),
            tx.init(params),
            params,
            jax.random.key(0),
            estimator=estimator,
            mc_samples=2,
        )
        updates, _ = tx.update(grads, state, params)
        new = optax.apply_updates(params, updates)
    assert np.all(np.asarray(new["w"] != 1))
    np.testing.assert_array_equal(new["steps"], [3])


def test_a_leaf_without_a_gradient_stays_and_keeps_its_state():
    """Trees of gradients with None are what Equinox filters give."""
    tx, params = ivon(), {"a": jnp.ones(2), "b": jnp.ones(2)}
    state = tx.init(params)
    updates, after = tx.update({"a": jnp.ones(2), "b": None}, state, params)
    assert updates["b"] is None
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_complex_leaves_are_refused_by_name():
    params = {"layers": [{"w": jnp.ones(2)}, {"phase": jnp.ones(2, jnp.complex64)}]}
    message = r"params: expected real arrays, got leaf 'layers/1/phase' of dtype complex64"
    with pytest.raises(TypeError, match=message):
        ivon().init(params)
    with pytest.raises(TypeError, match=r"'\(root\)' of dtype complex64"):
        ivon().init(jnp.ones(2, jnp.complex64))


def test_complex_leaves_of_another_optimizer():
    """Their gradient at real draws of the rest is that of `jax.grad`."""
    params = {"w": jnp.ones(2), "phase": jnp.array([1 + 1j, 2 - 1j])}
    tx = optax.partition({"x": ivon(), "y": optax.sgd(0.5)}, {"w": "x", "phase": "y"})
    loss = lambda p, key: jnp.sum(p["w"] ** 2) + jnp.sum(jnp.abs(p["phase"]) ** 2)  # noqa: E731
    _, grads, state = bmrpruner.noisy_value_and_grad(
        loss, tx.init(params), params, jax.random.key(0)
    )
    np.testing.assert_allclose(grads["phase"], 2 * np.conj(params["phase"]))
    updates, _ = tx.update(grads, state, params)
    assert optax.apply_updates(params, updates)["phase"].dtype == jnp.complex64


def types_of(fn):
    """Dtype and weakness of every leaf that `fn` returns."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(fn))
    return structure, [(leaf.dtype, leaf.weak_type) for leaf in leaves]


def weak(value):
    """A schedule that gives a weakly typed number."""
    return lambda count: value


SETTINGS = {
    "numbers": {},
    "clipped": {"clip_radius": 1, "hess_every": 2},
    "schedules": {
        "ess": weak(25.0),
        "weight_decay": weak(0.1),
        "b1": weak(0.8),
        "b2": weak(0.9),
        "clip_radius": weak(1.0),
        "learning_rate": weak(0.1),
    },
    "bfloat16 momentum": {"m_dtype": jnp.bfloat16},
}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_types_of_the_state_are_those_of_init(settings, x64):
    with jax.enable_x64(x64):
        wide = jnp.float64 if x64 else jnp.float32
        params = {
            "w": jnp.ones((2, 3), jnp.float32),
            "wide": jnp.ones(3, wide),
            "half": jnp.ones(3, jnp.bfloat16),
            "weak": jnp.asarray(1.0),
            "steps": jnp.array(3),
        }
        assert params["weak"].weak_type
        tx = bmrpruner.ivon(**{"learning_rate": 0.1, "ess": 25, **settings})
        loss = lambda p, key: sum(jnp.sum(x**2) for x in jax.tree.leaves(p))  # noqa: E731

        masks = jax.tree.map(lambda x: None, params) | {"w": jnp.ones((2, 3), jnp.uint8)}

        def noisy(**options):
            return bmrpruner.noisy_value_and_grad(
                loss, tx.init(params), params, jax.random.key(0), mask=masks, **options
            )

        def updated():
            _, grads, state = noisy()
            return tx.update(grads, state, params)[1]

        expected = types_of(lambda: tx.init(params)[0])
        assert not any(is_weak for _, is_weak in expected[1])
        assert types_of(lambda: noisy()[2][0]) == expected
        assert types_of(lambda: noisy(mc_samples=2, estimator="hutchinson")[2][0]) == expected
        assert types_of(lambda: updated()[0]) == expected
