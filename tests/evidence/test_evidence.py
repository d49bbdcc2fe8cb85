"""ΔF against 60-digit arithmetic, quadrature, and a regression whose evidence is known exactly."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from bmrpruner import evidence

TOLERANCE = {"bfloat16": 2e-6, "float16": 2e-6, "float32": 2e-6, "float64": 1e-14}

delta_f, delta_f_spike = evidence.delta_f, evidence.delta_f_spike

log_precisions = st.floats(-12, 12)
signals = st.floats(-10, 10)
quick = settings(max_examples=60, deadline=None)


def exact(mean, precision, prior, reduced_prior):
    """The log term and the quadratic term of ΔF = ½(log − quadratic), in 60 digits."""
    with localcontext(prec=60):
        mean, precision, prior = (Decimal(float(x)) for x in (mean, precision, prior))
        quadratic = precision * mean**2
        if np.isinf(float(reduced_prior)):
            return float((precision / prior).ln()), float(quadratic)
        reduced_prior = Decimal(float(reduced_prior))
        reduced = precision + reduced_prior - prior
        log = (reduced_prior / prior * precision / reduced).ln()
        return float(log), float(quadratic * (1 - precision / reduced))


def grid(dtype):
    """Models over the whole range, many with π ≈ π₀ or π̃₀ ≈ π₀, all with π̃ > 0, rounded."""
    rng = np.random.default_rng(0)
    count = 600
    low, high = (-3, 3) if dtype == "float16" else (-12, 12)
    prior, precision, reduced = 10 ** rng.uniform(low, high, (3, count))
    near = prior * (1 + 10 ** rng.uniform(-7, -1, (2, count)))
    precision[: count // 3] = near[0, : count // 3]
    reduced[count // 6 : count // 2] = near[1, count // 6 : count // 2]
    reduced[-50:] = np.inf
    mean = rng.normal(0, 3, count) / np.sqrt(precision)
    rounded = [np.asarray(x).astype(dtype) for x in (mean, precision, prior, reduced)]
    mean, precision, prior, reduced = (x.astype(np.float64) for x in rounded)
    valid = (precision + (reduced - prior) > 1e-9 * prior) & (precision + reduced > prior)
    return [x[valid] for x in rounded]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_agrees_with_exact_arithmetic_over_the_range(dtype):
    dtype = jnp.dtype(dtype)
    inputs = grid(dtype)
    assert len(inputs[0]) > 300
    log, quadratic = np.array([exact(*model) for model in zip(*inputs, strict=True)]).T
    with jax.enable_x64(dtype == np.float64):
        value = delta_f(*map(jnp.asarray, inputs))
        assert value.dtype == (jnp.float64 if dtype == np.float64 else jnp.float32)
    scale = 0.5 * (abs(log) + abs(quadratic))
    error = abs(np.asarray(value, np.float64) - 0.5 * (log - quadratic))
    assert np.all(error <= TOLERANCE[dtype.name] * scale + 1e-37)


def test_float32_keeps_digits_where_precisions_nearly_agree():
    """The difference ln π − ln π₀, computed as written in float32, has no correct digit."""
    prior = np.float32(1e12)
    precision = np.nextafter(prior, np.float32(np.inf))
    log, _ = exact(0, precision, prior, np.inf)
    assert delta_f_spike(0.0, precision, prior) == pytest.approx(log / 2, rel=1e-6)
    # Both differences small: ΔF is their product.
    log, _ = exact(0, precision, prior, precision)
    assert delta_f(0.0, precision, prior, precision) == pytest.approx(log / 2, rel=1e-6)


def test_does_not_overflow_where_the_result_is_finite():
    assert delta_f_spike(1e-20, 1e38, 1e38) == pytest.approx(-5e-3, rel=1e-6)
    assert delta_f_spike(1e18, 1e-12, 1e-12) == pytest.approx(-5e23, rel=1e-6)
    assert delta_f(1e15, 1e12, 1.0, 1.5) == pytest.approx(-2.5e29, rel=1e-6)


def quadrature(mean, precision, prior, reduced_prior):
    """ln ∫ q(w) p̃(w) / p(w) dw, the integrand scaled by its value at the peak."""
    reduced = precision + reduced_prior - prior
    peak, width = precision * mean / reduced, 1 / np.sqrt(reduced)

    def log_normal(w, mean, precision):
        return 0.5 * (np.log(precision / (2 * np.pi)) - precision * (w - mean) ** 2)

    def log_integrand(w):
        return (
            log_normal(w, mean, precision)
            + log_normal(w, 0, reduced_prior)
            - log_normal(w, 0, prior)
        )

    height = log_integrand(peak)
    integral, _ = integrate.quad(
        lambda t: np.exp(log_integrand(peak + t * width) - height), -12, 12, epsabs=0, epsrel=1e-9
    )
    return height + np.log(integral * width)


def test_agrees_with_quadrature():
    rng = np.random.default_rng(1)
    prior, excess, reduced_prior = 10 ** rng.uniform(-12, 12, (3, 150))
    precision = prior + excess
    mean = rng.normal(0, 2, 150) / np.sqrt(precision)
    models = np.stack([mean, precision, prior, reduced_prior]).astype(np.float32)
    mean, precision, prior, reduced_prior = models.astype(np.float64)
    # Where π̃ ≪ π, the integrand itself is a small difference that float64 cannot tell.
    models = models[:, precision - prior + reduced_prior > 1e-4 * precision]
    assert models.shape[1] > 80
    expected = [quadrature(*model) for model in models.T.astype(np.float64)]
    with jax.enable_x64(True):
        value = delta_f(*models.astype(np.float64))
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(delta_f(*models), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.15, 2.0])
@pytest.mark.parametrize("reduced_prior", [np.inf, 50.0, 0.2])
def test_is_the_log_bayes_factor_of_a_linear_regression(weight, reduced_prior):
    """One weight, Gaussian noise: posterior and both evidences are known in closed form."""
    rng = np.random.default_rng(2)
    x, noise_variance, prior = rng.normal(size=40), 0.5, 1.5
    y = weight * x + rng.normal(0, np.sqrt(noise_variance), 40)
    precision = x @ x / noise_variance + prior
    mean = x @ y / noise_variance / precision

    def log_evidence(prior):
        covariance = noise_variance * np.eye(40) + np.outer(x, x) / prior
        return stats.multivariate_normal(np.zeros(40), covariance).logpdf(y)

    expected = log_evidence(reduced_prior) - log_evidence(prior)
    assert delta_f(mean, precision, prior, reduced_prior) == pytest.approx(expected, rel=1e-5)
    reduced_mean, reduced_precision = evidence.reduced_posterior(
        mean, precision, prior, reduced_prior
    )
    refitted = x @ x / noise_variance + reduced_prior
    assert reduced_precision == pytest.approx(refitted, rel=1e-6)
    assert reduced_mean == pytest.approx(x @ y / noise_variance / refitted, rel=1e-5)


def test_spike_is_the_savage_dickey_ratio():
    mean, precision, prior = 0.3, 40.0, 2.0
    expected = stats.norm(mean, precision**-0.5).logpdf(0) - stats.norm(0, prior**-0.5).logpdf(0)
    assert delta_f_spike(mean, precision, prior) == pytest.approx(expected, rel=1e-5)


@quick
@given(signals, log_precisions, log_precisions)
def test_an_infinite_reduced_prior_is_the_spike(signal, log_precision, log_prior):
    model = signal * 10 ** (-log_precision / 2), 10**log_precision, 10**log_prior
    spike = delta_f_spike(*model)
    assert delta_f(*model, jnp.inf) == pytest.approx(float(spike), rel=1e-6, abs=1e-30)
    narrow = delta_f(*model, 1e6 * (model[1] + model[2]))
    scale = 1 + abs(signal) ** 2
    assert narrow == pytest.approx(float(spike), abs=2e-5 * scale)


@quick
@given(log_precisions, log_precisions)
def test_a_weight_that_the_data_never_touched_has_no_evidence(log_prior, log_reduced):
    prior = 10**log_prior
    assert delta_f_spike(0.0, prior, prior) == 0
    assert delta_f(0.0, prior, prior, 10**log_reduced) == 0


@quick
@given(signals, log_precisions, log_precisions)
def test_an_unchanged_prior_changes_nothing(signal, log_precision, log_prior):
    precision, prior = 10**log_precision, 10**log_prior
    assert delta_f(signal * precision**-0.5, precision, prior, prior) == 0


@pytest.mark.parametrize(
    ("mean", "precision", "prior", "reduced_prior", "expected"),
    [
        (0.0, np.inf, 1.0, np.inf, np.inf),  # already pruned
        (0.5, np.inf, 1.0, np.inf, -np.inf),
        (0.0, np.inf, 1.0, 100.0, 0.5 * np.log(100)),
        (0.5, np.inf, 1.0, 9.0, 0.5 * (np.log(9) - 0.25 * 8)),
        (0.0, 0.0, 1.0, np.inf, -np.inf),
        (0.5, 0.0, 1.0, 4.0, -np.inf),
        (0.5, 4.0, 1.0, 0.0, -np.inf),
        (0.5, 1.0, 4.0, 3.0, -np.inf),  # π̃ = 0
        (0.5, 1.0, 4.0, 1.0, -np.inf),  # π̃ < 0
        (0.5, -1.0, 4.0, 9.0, np.nan),
        (0.5, 1.0, 0.0, 9.0, np.nan),
        (0.5, 1.0, -2.0, 9.0, np.nan),
        (0.5, 1.0, np.inf, 9.0, np.nan),
        (0.5, 1.0, 4.0, -9.0, np.nan),
        (np.nan, 1.0, 4.0, 9.0, np.nan),
        (np.nan, np.inf, 4.0, np.inf, np.nan),
    ],
)
def test_edges(mean, precision, prior, reduced_prior, expected):
    np.testing.assert_allclose(delta_f(mean, precision, prior, reduced_prior), expected, rtol=1e-6)
    if reduced_prior == np.inf:
        assert np.array_equal(delta_f_spike(mean, precision, prior), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ((0.5, np.inf, 1.0, 4.0), (0.5, np.inf)),
        ((0.5, np.inf, 1.0, np.inf), (0.0, np.inf)),
        ((0.5, 4.0, 1.0, np.inf), (0.0, np.inf)),
        ((0.5, 1.0, 4.0, 3.0), (np.nan, np.nan)),
        ((0.5, 0.0, 1.0, 4.0), (0.0, 3.0)),
        ((2.0, 1e-9, 1.0, 1.0), (2.0, 1e-9)),
    ],
)
def test_edges_of_the_reduced_posterior(model, expected):
    np.testing.assert_allclose(evidence.reduced_posterior(*model), expected, rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), [1]])
def test_group_is_the_sum_over_members(axis):
    values = np.random.default_rng(3).normal(size=(3, 4, 5))
    total = evidence.group_delta_f(jnp.asarray(values, jnp.float32), axis)
    axes = tuple(axis) if isinstance(axis, list) else axis
    np.testing.assert_allclose(total, values.sum(axes), rtol=1e-5, atol=1e-5)


@quick
@given(st.lists(st.tuples(signals, log_precisions), min_size=1, max_size=4))
def test_group_adds_up(members):
    members = (members * 4)[:4]
    mean = jnp.array([signal * 10 ** (-p / 2) for signal, p in members])
    values = delta_f_spike(mean, jnp.array([10**p for _, p in members]), 1.0)
    assert evidence.group_delta_f(values) == pytest.approx(
        float(evidence.group_delta_f(values[:2]) + evidence.group_delta_f(values[2:])),
        rel=1e-5,
        abs=1e-4,
    )


def test_group_ignores_members_that_are_gone_and_accumulates_in_float32():
    groups = jnp.array([[1.0, jnp.inf], [-jnp.inf, jnp.inf], [jnp.inf, jnp.inf], [jnp.nan, 1.0]])
    expected = [1.0, -np.inf, np.inf, np.nan]
    np.testing.assert_array_equal(evidence.group_delta_f(groups, axis=1), expected)
    total = evidence.group_delta_f(jnp.ones(1000, jnp.bfloat16))
    assert (total, total.dtype) == (1000, jnp.float32)


def test_kl_divergence_against_quadrature_and_edges():
    mean, precision, prior = 0.3, 40.0, 2.0
    q, p = stats.norm(mean, precision**-0.5), stats.norm(0, prior**-0.5)
    expected = q.expect(lambda w: q.logpdf(w) - p.logpdf(w))
    assert evidence.kl_divergence(mean, precision, prior) == pytest.approx(expected, rel=1e-5)
    assert evidence.kl_divergence(0.0, 3.0, 3.0) == 0
    assert evidence.kl_divergence(1.0, jnp.inf, 3.0) == 0
    assert evidence.kl_divergence(1.0, 0.0, 3.0) == jnp.inf
    assert jnp.isnan(evidence.kl_divergence(1.0, -1.0, 3.0))


def test_broadcasts_and_maps():
    mean, precision = jnp.ones((3, 1)), jnp.linspace(1.0, 4.0, 4)
    value = delta_f(mean, precision, 1.0, 9.0)
    assert value.shape == (3, 4)
    mapped = jax.vmap(evidence.delta_f, in_axes=(None, 0, None, None))(1.0, precision, 1.0, 9.0)
    np.testing.assert_allclose(mapped, value[0], rtol=1e-6)


def test_gradients_are_those_of_the_formula_and_finite_at_the_edges():
    gradient = jax.jit(jax.grad(evidence.delta_f, argnums=(0, 1, 2, 3)))
    spike_gradient = jax.jit(jax.grad(evidence.delta_f_spike, argnums=(0, 1, 2)))

    mean, precision, prior = 0.3, 5.0, 2.0
    expected = -precision * mean, 0.5 * (1 / precision - mean**2), -0.5 / prior
    np.testing.assert_allclose(spike_gradient(mean, precision, prior), expected, rtol=1e-6)
    np.testing.assert_allclose(gradient(mean, precision, prior, jnp.inf), (*expected, 0), rtol=1e-6)
    for model in [(0.3, 2.0, 2.0, 2.0), (0.3, 5.0, 2.0, 5.0), (0.3, 1.0, 2.0, 3.0)]:
        with jax.enable_x64(True):
            numeric = [
                (evidence.delta_f(*up) - evidence.delta_f(*down)) / 2e-6
                for up, down in zip(model + 1e-6 * np.eye(4), model - 1e-6 * np.eye(4), strict=True)
            ]
        np.testing.assert_allclose(gradient(*model), numeric, rtol=1e-4, atol=1e-6)

    assert np.all(np.isfinite(spike_gradient(0.0, jnp.inf, 2.0)))
    infinite = [(0.0, jnp.inf, 2.0, jnp.inf), (0.0, jnp.inf, 2.0, 3.0)]
    improper = [(0.3, 1.0, 4.0, 1.0), (0.3, 1.0, 4.0, 3.0)]
    for edge in infinite + improper:
        assert np.all(np.isfinite(gradient(*edge)))
