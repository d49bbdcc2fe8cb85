"""Noisy gradients: draws, masks, several samples, options."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import optimizers
from bmrpruner._tree import arrays
from tests.conftest import equinox_params, nnx_params

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.ones(4)}
MASKS = {"w": jnp.array([[1, 0, 1, 0]] * 3, "uint8"), "b": None}


def show_draw(params, key):
    """The auxiliary output is the draw itself."""
    return sum(jnp.sum(leaf**2) for leaf in arrays(params)), params


def ivon(**settings):
    return bmrpruner.ivon(0.1, **{"ess": 25, "hess_init": 0.5, "weight_decay": 0.5, **settings})


def noisy(opt_state, params=PARAMS, seed=0, **options):
    return bmrpruner.noisy_value_and_grad(
        show_draw, opt_state, params, jax.random.key(seed), has_aux=True, **options
    )


def test_draws_have_the_posterior_scale():
    """σ = 1/√(25·(0.5 + 0.5)) = 0.2."""
    tx = ivon()
    params = jnp.full(20_000, 3.0)
    (_, draw), grads, _ = noisy(tx.init(params), params)
    noise = np.asarray(draw - params)
    assert abs(noise.std() - 0.2) < 0.005
    assert abs(noise.mean()) < 0.006
    np.testing.assert_allclose(grads, 2 * draw, rtol=1e-6)


def test_value_and_gradient_of_one_draw():
    (value, draw), grads, _ = noisy(ivon().init(PARAMS))
    np.testing.assert_allclose(value, sum(jnp.sum(x**2) for x in draw.values()), rtol=1e-6)
    chex.assert_trees_all_close(grads, jax.tree.map(lambda x: 2 * x, draw), rtol=1e-6)


@pytest.mark.parametrize("estimator", ["sampling", "hutchinson"])
def test_sequential_equals_parallel(estimator):
    options = {"mc_samples": 3, "estimator": estimator}
    a = noisy(ivon().init(PARAMS), **options)
    b = noisy(ivon().init(PARAMS), method="parallel", **options)
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-6)


def test_samples_are_averaged():
    """A quadratic's gradient is linear: the mean gradient is the gradient of the mean draw."""
    (_, mean_draw), grads, _ = noisy(ivon().init(PARAMS), mc_samples=5)
    chex.assert_trees_all_close(grads, jax.tree.map(lambda x: 2 * x, mean_draw), rtol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("estimator", ["sampling", "hutchinson"])
@pytest.mark.parametrize("given", ["state", "argument"])
def test_pruned_weights_are_silent(packed, estimator, given):
    masks = {"w": jnp.packbits(MASKS["w"]) if packed else MASKS["w"], "b": None}
    tx = bmrpruner.MagnitudePruning(sparsity=0.5).wrap_optax(ivon())
    state = tx.init(PARAMS)
    inner = state.inner_state
    momentum = jax.tree.map(jnp.ones_like, PARAMS)
    inner = (inner[0]._replace(momentum=momentum), *inner[1:])
    state = state._replace(inner_state=inner, masks=masks)
    if given == "state":
        (_, draw), grads, state = noisy(state, estimator=estimator)
        after = state.inner_state[0]
    else:
        (_, draw), grads, inner = noisy(inner, estimator=estimator, mask=masks)
        after = inner[0]
    pruned = np.asarray(MASKS["w"]) == 0
    for tree in (draw, grads, after.momentum):
        np.testing.assert_array_equal(np.asarray(tree["w"])[pruned], 0)
        assert np.all(np.asarray(tree["w"])[~pruned] != 0)
        assert np.all(np.asarray(tree["b"]) != 0)
    np.testing.assert_array_equal(np.asarray(after.hess_sum["w"])[pruned], 0.5)

    _, final = ivon().update(grads, inner if given != "state" else state.inner_state, PARAMS)
    np.testing.assert_array_equal(np.asarray(final[0].hess["w"])[pruned], 0.5)


def test_scale_and_samples_of_a_sparse_state():
    tx = bmrpruner.MagnitudePruning(sparsity=0.5).wrap_optax(ivon())
    state = tx.init(PARAMS)._replace(masks=MASKS)
    pruned = np.asarray(MASKS["w"]) == 0
    np.testing.assert_allclose(
        optimizers.get_scale(state)["w"], np.where(pruned, 0, 0.2), rtol=1e-6
    )
    draws, noise = bmrpruner.sample_posterior(jax.random.key(0), PARAMS, state, (4, 2))
    assert draws["w"].shape == (4, 2, 3, 4)
    assert np.all(np.asarray(draws["w"])[..., pruned] == 0)
    assert np.all(np.asarray(noise["w"])[..., ~pruned] != 0)
    given, _ = bmrpruner.sample_posterior(
        jax.random.key(0), PARAMS, state.inner_state, (4, 2), mask=MASKS
    )
    chex.assert_trees_all_equal(given, draws)


def test_the_common_call_patterns():
    """Code written for inner states and masks of a sparse state runs as it stands."""
    pruner = bmrpruner.MagnitudePruning(sparsity=0.5)
    tx = pruner.wrap_optax(ivon())
    opt_state = tx.init(PARAMS)
    loss_fn = lambda params, key: jnp.sum(params["w"] ** 2)  # noqa: E731
    loss, grads, inner = bmrpruner.noisy_value_and_grad(
        loss_fn,
        opt_state.inner_state,
        PARAMS,
        jax.random.key(0),
        mc_samples=4,
        mask=opt_state.masks,
    )
    opt_state = opt_state._replace(inner_state=inner)
    updates, opt_state = tx.update(grads, opt_state, PARAMS)
    params = pruner.post_gradient_update(optax.apply_updates(PARAMS, updates), opt_state)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, PARAMS)
    assert float(loss) > 0


@pytest.mark.parametrize("make", [nnx_params, equinox_params])
def test_modules_with_other_leaves(make):
    """Functions and None are passed through to the loss, and have no gradient."""
    params = make()
    tx = ivon()

    def loss_fn(model, key):
        if hasattr(model, "activation"):
            assert model.activation is jax.nn.relu
        return show_draw(model, key)[0]

    _, grads, _ = bmrpruner.noisy_value_and_grad(
        loss_fn, tx.init(params), params, jax.random.key(0)
    )
    assert len(arrays(grads)) == len(arrays(params))


def test_keys_decide():
    state = ivon().init(PARAMS)
    chex.assert_trees_all_equal(noisy(state), noisy(state))
    (_, a), *_ = noisy(state)
    (_, b), *_ = noisy(state, seed=1)
    assert not np.any(np.asarray(a["w"]) == np.asarray(b["w"]))


def test_raw_keys_work():
    tx = ivon()
    bmrpruner.noisy_value_and_grad(
        lambda p, key: jnp.sum(p["w"]), tx.init(PARAMS), PARAMS, jax.random.PRNGKey(0)
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mc_samples", 0),
        ("mc_samples", 1.5),
        ("method", "both"),
        ("estimator", "exact"),
    ],
)
def test_unknown_options_name_themselves(option, value):
    with pytest.raises(ValueError, match=option):
        noisy(ivon().init(PARAMS), **{option: value})


def test_no_posterior_names_the_optimizers_that_have_one():
    state = optax.adam(0.1).init(PARAMS)
    with pytest.raises(ValueError, match=r"bmrpruner\.ivon"):
        noisy(state)
    with pytest.raises(ValueError, match=r"bmrpruner\.ivon"):
        optimizers.get_scale(state)
    with pytest.raises(ValueError, match=r"bmrpruner\.ivon"):
        bmrpruner.posteriors.from_opt_state(state, PARAMS)
    with pytest.raises(ValueError, match=r"bmrpruner\.ivon"):
        bmrpruner.BMRPruning(sparsity=0.5).instant_sparsify(PARAMS)
