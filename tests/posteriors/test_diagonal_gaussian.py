"""DiagonalGaussian on every kind of tree, against scipy and by its own definition."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from bmrpruner import evidence
from bmrpruner.posteriors import DiagonalGaussian


class Module(eqx.Module):
    weight: jax.Array
    activation: object
    bias: jax.Array | None = None


def module():
    return Module(jnp.array([1.0, -2.0, 0.5]), jax.nn.relu)


def nnx_state():
    return nnx.state(nnx.LayerNorm(3, rngs=nnx.Rngs(0)))


TREES = {
    "dict": lambda: {"kernel": jnp.ones(3), "bias": None},
    "tuple": lambda: (jnp.arange(3.0), [2 * jnp.ones(3)]),
    "equinox": module,
    "nnx": nnx_state,
    "array": lambda: jnp.ones(3),
}


def over_arrays(fn, tree):
    """`fn` of the arrays of `tree`, None for every other leaf."""
    is_none = lambda x: x is None  # noqa: E731
    return jax.tree.map(lambda x: fn(x) if eqx.is_array(x) else None, tree, is_leaf=is_none)


def posterior_of(tree, precision=4.0):
    return DiagonalGaussian(tree, over_arrays(lambda x: jnp.full(x.shape, precision), tree), 2.0)


def arrays(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]


def weights():
    """A posterior of a few weights, one of them pruned, and its numbers in float64."""
    mean, precision = np.array([0.5, -1.0, 0.0, 3.0]), np.array([4.0, 100.0, np.inf, 0.25])
    posterior = DiagonalGaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(precision), 2.0)
    return posterior, mean, precision


@pytest.mark.parametrize("make", TREES.values(), ids=TREES)
def test_every_tree(make):
    mean = make()
    means = [np.asarray(m) for m in arrays(mean)]
    posterior = posterior_of(mean)
    std, snr, delta_f = (
        jax.tree.leaves(tree) for tree in (posterior.std, posterior.snr, posterior.delta_f())
    )
    for i, m in enumerate(means):
        np.testing.assert_allclose(std[i], np.full(m.shape, 0.5), rtol=1e-6)
        np.testing.assert_allclose(snr[i], 2 * abs(m), rtol=1e-6)
        np.testing.assert_allclose(delta_f[i], 0.5 * (np.log(2) - 4 * m**2), rtol=1e-5)
    assert len(std) == len(snr) == len(delta_f) == len(means)

    draws = posterior.sample(jax.random.key(0), (2, 5))
    assert jax.tree.structure(draws) == jax.tree.structure(mean)
    assert [d.shape for d in arrays(draws)] == [(2, 5, *m.shape) for m in means]
    size = sum(m.size for m in means)
    expected = size * stats.norm(0, 0.5).logpdf(0)
    assert posterior.log_prob(mean) == pytest.approx(expected, rel=1e-5)

    pruned = posterior.prune(over_arrays(lambda x: np.zeros(x.shape, np.uint8), mean))
    assert jax.tree.structure(pruned) == jax.tree.structure(posterior)
    assert not any(np.any(leaf) for leaf in arrays(pruned.sample(jax.random.key(0), (2, 5))))
    assert (pruned.kl_to_prior(), pruned.log_prob(mean)) == (0, 0)


def test_module_keeps_its_activation_and_runs():
    draw = posterior_of(module()).sample(jax.random.key(0))
    assert draw.activation is jax.nn.relu
    assert draw.bias is None


def test_std_snr_and_delta_f_of_weights():
    posterior, mean, precision = weights()
    np.testing.assert_allclose(posterior.std, precision**-0.5, rtol=1e-6)
    np.testing.assert_allclose(posterior.snr, [1.0, 10.0, 0.0, 1.5], rtol=1e-6)
    np.testing.assert_allclose(
        posterior.delta_f(), evidence.delta_f_spike(mean, precision, 2.0), rtol=1e-6
    )


def test_log_prob_and_kl_against_scipy():
    posterior, mean, precision = weights()
    params = np.array([0.7, -1.1, 5.0, 1.0])
    alive = np.isfinite(precision)
    q = stats.norm(mean[alive], precision[alive] ** -0.5)
    assert posterior.log_prob(jnp.asarray(params, jnp.float32)) == pytest.approx(
        q.logpdf(params[alive]).sum(), rel=1e-5
    )
    scale = precision[alive] ** -0.5
    kl = np.log(0.5**0.5 / scale) + (scale**2 + mean[alive] ** 2) / (2 * 0.5) - 0.5
    assert posterior.kl_to_prior() == pytest.approx(kl.sum(), rel=1e-5)


def test_gradients_are_finite_with_pruned_weights():
    posterior, *_ = weights()

    @jax.jit
    @jax.jacrev
    def gradients(p):
        return p.kl_to_prior(), p.log_prob(jnp.ones(4)), p.sample(jax.random.key(0)).sum()

    for gradient in gradients(posterior):
        assert np.all(np.isfinite(gradient.mean))
        assert np.all(np.isfinite(gradient.precision))


def test_samples_follow_the_posterior():
    posterior, mean, precision = weights()
    draws = np.asarray(posterior.sample(jax.random.key(1), (4000,)))
    for i in (0, 1, 3):
        assert (
            stats.kstest(draws[:, i], stats.norm(mean[i], precision[i] ** -0.5).cdf).pvalue > 1e-3
        )
    assert np.all(draws[:, 2] == 0)


def test_leaves_are_drawn_independently_and_by_leaf_order():
    tree = {"a": jnp.zeros(1000), "b": jnp.zeros(1000), "fixed": None}
    draw = posterior_of(tree).sample(jax.random.key(0))
    assert abs(np.corrcoef(draw["a"], draw["b"])[0, 1]) < 0.15
    a, b = posterior_of((None, tree["a"], tree["b"])).sample(jax.random.key(0))[1:]
    np.testing.assert_array_equal(a, draw["a"])
    np.testing.assert_array_equal(b, draw["b"])


def test_leaf_without_posterior():
    mean = {"kernel": jnp.ones(3), "statistics": jnp.arange(3), "name": "batch_norm"}
    posterior = DiagonalGaussian(mean, {"kernel": jnp.ones(3), "statistics": None, "name": None})
    assert posterior.std["statistics"] is None
    assert posterior.delta_f()["name"] is None
    draws = posterior.sample(jax.random.key(0), (2, 5))
    expected = np.broadcast_to(np.arange(3), (2, 5, 3))
    np.testing.assert_array_equal(draws["statistics"], expected)
    assert draws["name"] == "batch_norm"
    masks = {"kernel": None, "statistics": jnp.array([0, 1, 0]), "name": None}
    np.testing.assert_array_equal(posterior.prune(masks).mean["statistics"], [0, 1, 0])
    assert posterior.prune(masks).precision["statistics"] is None
    np.testing.assert_array_equal(
        posterior.sample(jax.random.key(0), mask=masks)["statistics"], [0, 1, 0]
    )


@pytest.mark.parametrize("shape", [(), (1,), (3, 7)])
def test_plain_and_packed_masks_agree(shape):
    posterior = posterior_of({"w": jnp.full(shape, 3.0)})
    keep = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    packed = np.packbits(keep.ravel())
    expected = np.where(keep == 1, 4.0, np.inf)
    for mask in (keep, keep.astype(bool), jnp.asarray(packed)):
        pruned = posterior.prune({"w": mask})
        np.testing.assert_array_equal(pruned.precision["w"], expected)
        np.testing.assert_array_equal(pruned.mean["w"], 3.0 * keep)
        draw = posterior.sample(jax.random.key(0), mask={"w": mask})["w"]
        np.testing.assert_array_equal(np.asarray(draw) != 0, keep == 1)


def test_bfloat16_means_and_numpy_float64():
    mean = jnp.array([1.0, 2.0], jnp.bfloat16)
    posterior = DiagonalGaussian(mean, jnp.array([3e4, 1e12], jnp.bfloat16))
    assert posterior.std.dtype == posterior.snr.dtype == posterior.delta_f().dtype == jnp.float32
    pruned = posterior.prune(jnp.array([1, 0]))
    assert pruned.mean.dtype == pruned.precision.dtype == jnp.bfloat16
    draws = posterior.sample(jax.random.key(0), (2000,))
    assert draws.dtype == jnp.bfloat16
    assert np.std(np.asarray(draws[:, 0], np.float32)) == pytest.approx(3e4**-0.5, rel=0.1)

    posterior = DiagonalGaussian(np.ones(2), np.ones(2), np.ones(2))
    assert posterior.prune(np.array([1, 0])).sample(jax.random.key(0)).dtype == jnp.float32


def test_float64_is_kept():
    with jax.enable_x64(True):
        posterior = DiagonalGaussian(jnp.ones(2, jnp.float64), jnp.ones(2, jnp.float64))
        outputs = jax.eval_shape(
            lambda p: (p.std, p.sample(jax.random.key(0)), p.kl_to_prior()), posterior
        )
        assert {x.dtype for x in outputs} == {jnp.dtype(jnp.float64)}


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (2.0, {"a": [2.0, 2.0], "b": [2.0, 2.0]}),
        (jnp.array([2.0, 8.0]), {"a": [2.0, 8.0], "b": [2.0, 8.0]}),
        ({"a": 2.0, "b": [8.0]}, {"a": [2.0, 2.0], "b": [8.0, 8.0]}),
        ({"a": jnp.array([2.0, 3.0]), "b": 8}, {"a": [2.0, 3.0], "b": [8.0, 8.0]}),
    ],
)
def test_prior_precision_is_a_prefix(prior, expected):
    mean = {"a": jnp.zeros(2), "b": [jnp.zeros(2)]}
    delta_f = DiagonalGaussian(mean, jax.tree.map(lambda x: x + 4.0, mean), prior).delta_f()
    np.testing.assert_allclose(delta_f["a"], 0.5 * np.log(4 / np.array(expected["a"])), rtol=1e-6)
    np.testing.assert_allclose(
        delta_f["b"][0], 0.5 * np.log(4 / np.array(expected["b"])), rtol=1e-6, atol=1e-7
    )


def test_is_a_pytree_under_jit_vmap_and_scan():
    posterior, mean, precision = weights()
    masks = jnp.array([1, 0, 1, 1], jnp.uint8)
    sample = jax.jit(lambda p, key, m: p.prune(m).sample(key, (2,)))
    np.testing.assert_allclose(
        sample(posterior, jax.random.key(0), masks),
        posterior.prune(masks).sample(jax.random.key(0), (2,)),
        rtol=1e-6,
    )
    stacked = DiagonalGaussian(*(jnp.stack([jnp.asarray(x)] * 3) for x in (mean, precision)), 2.0)
    kl = jax.vmap(lambda p: p.kl_to_prior(), in_axes=(DiagonalGaussian(0, 0, None),))(stacked)
    np.testing.assert_allclose(kl, [posterior.kl_to_prior()] * 3, rtol=1e-6)
    final, _ = jax.lax.scan(lambda p, m: (p.prune(m), None), posterior, jnp.stack([masks] * 2))
    np.testing.assert_array_equal(final.mean, [0.5, 0.0, 0.0, 3.0])


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"precision": {"v": jnp.ones(2)}}, ValueError, "precision: expected the tree structure"),
        ({"precision": {"w": jnp.ones(3)}}, ValueError, r"precision\['w'\]: .*\(2,\), got \(3,\)"),
        ({"precision": {"w": "x"}}, TypeError, r"precision\['w'\]: expected an array or None"),
        ({"prior_precision": {"v": 1.0}}, ValueError, "prior_precision: .* prefix"),
        ({"prior_precision": jnp.ones(3)}, ValueError, r"prior_precision\['w'\]: .*broadcasts"),
        ({"prior_precision": jnp.ones((2, 2))}, ValueError, r"prior_precision\['w'\]"),
        ({"prior_precision": 0.0}, ValueError, r"prior_precision\['w'\]: expected a positive"),
        ({"prior_precision": "1"}, TypeError, r"prior_precision\['w'\]: .* got str"),
        ({"prior_precision": None}, TypeError, r"prior_precision\['w'\]: .* got NoneType"),
    ],
)
def test_errors_of_the_fields(fields, error, message):
    posterior = DiagonalGaussian(
        **{"mean": {"w": jnp.ones(2)}, "precision": {"w": jnp.ones(2)}} | fields
    )
    with pytest.raises(error, match=message):
        _ = posterior.std


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"v": None}, ValueError, "masks: expected the tree structure of mean"),
        ({"w": jnp.ones(3)}, ValueError, r"masks\['w'\]: .*mean, \(2,\), or \(1,\) .*got .*\(3,\)"),
        ({"w": jnp.ones(1)}, ValueError, r"masks\['w'\]: .*got float32 of shape \(1,\)"),
        ({"w": 1}, TypeError, r"masks\['w'\]: .* got int"),
    ],
)
def test_errors_of_masks(mask, error, message):
    posterior = posterior_of({"w": jnp.ones(2)})
    with pytest.raises(error, match=message):
        posterior.prune(mask)
    with pytest.raises(error, match=message.replace("masks", "mask")):
        posterior.sample(jax.random.key(0), mask=mask)


def test_errors_of_log_prob():
    posterior = posterior_of({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="params: expected the tree structure of mean"):
        posterior.log_prob([jnp.ones(2)])
    with pytest.raises(ValueError, match=r"params\['w'\]: expected the shape of mean"):
        posterior.log_prob({"w": jnp.ones(3)})
    with pytest.raises(TypeError, match=r"params\['w'\]: expected an array"):
        posterior.log_prob({"w": None})


def test_temper_scales_the_variance_and_keeps_what_is_pruned():
    posterior = DiagonalGaussian(
        {"w": jnp.array([2.0, 0.0]), "n": jnp.array(3)},
        {"w": jnp.array([4.0, jnp.inf], jnp.bfloat16), "n": None},
    )
    cold = jax.jit(lambda t: posterior.temper(t))(0.25)
    assert cold.precision["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(cold.std["w"], [0.25, 0.0])
    assert cold.std["n"] is None
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature"):
            posterior.temper(temperature)
