"""How much is compiled by pruning once: all of it at the first call, and only then."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner._programs import compiled
from bmrpruner.algorithms import GlobalOBSPruning
from bmrpruner.posteriors import from_calibration
from bmrpruner.pruning import prune_sequentially
from bmrpruner.study.models import init_mlp, mlp

SIZES = (6, 8, 3)
INPUTS = np.random.default_rng(1).normal(size=(150, 6)).astype(np.float32)


@contextlib.contextmanager
def compilations():
    """A list of one entry for each program that is compiled."""
    found = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def held_out():
    return [(INPUTS[:50] + 0.1, np.arange(50) % 3)]


@pytest.mark.parametrize(
    "asked",
    [
        lambda share: {"sparsity": share, "report": True},
        lambda share: {"max_loss_rise": share, "held_out": held_out()},
    ],
)
def test_other_weights_at_another_sparsity_compile_nothing(asked):
    first, second = (init_mlp(jax.random.key(seed), SIZES) for seed in (0, 1))
    prune_sequentially(mlp, first, [INPUTS[:100], INPUTS[100:]], **asked(0.5))
    with compilations() as found:
        # A function of its own, which computes the same.
        prune_sequentially(lambda p, x: mlp(p, x), second, [INPUTS[50:], INPUTS[:50]], **asked(0.7))
    assert not found


def test_a_posterior_of_other_weights_compiles_nothing():
    first, second = (init_mlp(jax.random.key(seed), SIZES) for seed in (0, 1))
    for params, sparsity in ((first, 0.5), (second, 0.8)):
        with compilations() as found:
            posterior = from_calibration(lambda p, x: mlp(p, x), params, [INPUTS])
            GlobalOBSPruning(sparsity=sparsity).instant_sparsify(params, posterior=posterior)
    assert not found


class Scaled:
    """A model that can be changed, as those of NNX can."""

    def __init__(self):
        self.scale = 1.0
        self.offset = jnp.zeros(6)

    def __call__(self, params, inputs):
        return mlp(params, inputs * self.scale + self.offset)


def test_a_model_that_has_changed_is_not_taken_for_what_it_was():
    params, model = init_mlp(jax.random.key(0), SIZES), Scaled()
    for model.scale, offset in ((1.0, 0.0), (2.0, 0.0), (2.0, 3.0)):
        model.offset = jnp.full(6, offset)
        layer = from_calibration(model, params, [INPUTS]).layers[0]
        inputs = model.scale * INPUTS + offset
        np.testing.assert_allclose(layer.input_mean, inputs.mean(0), atol=1e-5)
        covariance = np.cov(inputs.T, bias=True)
        np.testing.assert_allclose(layer.input_covariance, covariance, rtol=1e-4, atol=1e-4)


def test_a_loss_that_has_changed_is_not_taken_for_what_it_was():
    params, weight = init_mlp(jax.random.key(0), SIZES), [1.0]

    def loss(outputs, batch):
        return weight[0] * jnp.sum(outputs**2, -1)

    found = []
    for weight[0] in (1.0, 3.0):
        found.append(from_calibration(mlp, params, [INPUTS], loss=loss).layers[-1].curvature)
    np.testing.assert_allclose(found[1], 9 * np.asarray(found[0]), rtol=1e-4)


@pytest.mark.parametrize("slope", [2.0, 3.0])
def test_functions_that_differ_in_their_derivatives_alone_are_told_apart(slope):
    @jax.custom_jvp
    def same(x):
        return x

    same.defjvp(lambda primals, tangents: (primals[0], slope * tangents[0]))
    assert compiled(same)(jnp.float32(1)) == 1
    assert compiled(jax.grad(same))(jnp.float32(1)) == slope


def test_arrays_closed_over_are_no_part_of_what_is_compiled():
    def shifted(by):
        return compiled(lambda tree: jax.tree.map(lambda x: x + by, tree))

    tree = {"a": np.arange(3.0, dtype=np.float32), "b": 1}
    for by in (1.0, 2.0):
        by = jnp.full(3, by)
        with compilations() as found:
            out = shifted(by)(tree)
        np.testing.assert_array_equal(out["a"], tree["a"] + by)
        np.testing.assert_array_equal(out["b"], 1 + by)
    assert not found
