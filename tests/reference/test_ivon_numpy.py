"""IVON against a NumPy loop written from the equations of Shen et al. 2024, algorithm 1."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner

LR, ESS, H0, CLIP, B1, B2, WD = 0.05, 50.0, 0.3, 0.8, 0.9, 0.95, 0.02
STEPS = 50
rng = np.random.default_rng(0)
X = rng.normal(size=(32, 6)).astype(np.float32)
Y = np.sin(X[:, :1]).astype(np.float32)
START = {"w": rng.normal(size=(6, 1)).astype(np.float32), "b": np.zeros(1, np.float32)}
CURVATURE = {"w": np.linspace(0.2, 3.0, 6).reshape(6, 1), "b": np.ones(1)}


class NumpyIvon:
    """The equations, one line each, in double precision."""

    def __init__(self):
        self.mu = {k: v.astype(np.float64) for k, v in START.items()}
        self.g = {k: np.zeros_like(v) for k, v in self.mu.items()}
        self.h = {k: np.full_like(v, H0) for k, v in self.mu.items()}
        self.t = 0

    def update(self, g_hat, h_hat):
        self.t += 1
        for k in self.mu:
            self.g[k] = B1 * self.g[k] + (1 - B1) * g_hat[k]
            correction = 0.5 * (1 - B2) ** 2 * (self.h[k] - h_hat[k]) ** 2 / (self.h[k] + WD)
            self.h[k] = B2 * self.h[k] + (1 - B2) * h_hat[k] + correction
            u = (self.g[k] / (1 - B1**self.t) + WD * self.mu[k]) / (self.h[k] + WD)
            self.mu[k] = self.mu[k] - LR * (H0 + WD) * np.clip(u, -CLIP, CLIP)


def regression(params, key):
    """A loss with a full Hessian. The auxiliary output shows the draw to the loop below."""
    residual = jnp.tanh(X @ params["w"]) + params["b"] - Y
    return jnp.mean(residual**2), params


def regression_gradient(w, b):
    activation = np.tanh(X @ w)
    residual = 2 * (activation + b - Y) / len(X)
    return {"w": X.T @ (residual * (1 - activation**2)), "b": residual.sum(0)}


def quartic(params, key):
    """A separable loss: u∘(Hu) is its Hessian's diagonal whatever the signs u."""
    return sum(jnp.sum(CURVATURE[k] * params[k] ** 4 / 12) for k in params), params


def train(loss_fn, estimator):
    """IVON step by step: parameters, state, the draw that the loss saw, and its noise."""
    tx = bmrpruner.ivon(LR, ESS, H0, CLIP, B1, B2, WD)
    params = jax.tree.map(jnp.asarray, START)
    state = tx.init(params)

    @jax.jit
    def step(params, state, key):
        (_, draw), grads, state = bmrpruner.noisy_value_and_grad(
            loss_fn, state, params, key, estimator=estimator, has_aux=True
        )
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, draw

    for key in jax.random.split(jax.random.key(1), STEPS):
        mean = {k: np.asarray(v, np.float64) for k, v in params.items()}
        params, state, draw = step(params, state, key)
        draw = {k: np.asarray(v, np.float64) for k, v in draw.items()}
        yield params, state[0], draw, {k: draw[k] - mean[k] for k in draw}


def assert_equal(params, state, reference):
    for k in START:
        np.testing.assert_allclose(params[k], reference.mu[k], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.momentum[k], reference.g[k], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.hess[k], reference.h[k], rtol=1e-5, atol=1e-6)


def test_sampling_estimator():
    reference = NumpyIvon()
    for params, state, draw, noise in train(regression, "sampling"):
        gradient = regression_gradient(**draw)
        h_hat = {k: gradient[k] * noise[k] * ESS * (reference.h[k] + WD) for k in draw}
        reference.update(gradient, h_hat)
        assert_equal(params, state, reference)
    assert np.ptp(np.asarray(state.hess["w"])) > 0.1, "the Hessian has learned something"


def test_hutchinson_estimator():
    reference = NumpyIvon()
    for params, state, draw, _ in train(quartic, "hutchinson"):
        gradient = {k: CURVATURE[k] * draw[k] ** 3 / 3 for k in draw}
        h_hat = {k: CURVATURE[k] * reference.mu[k] ** 2 for k in draw}
        reference.update(gradient, h_hat)
        assert_equal(params, state, reference)


@pytest.mark.parametrize("estimator", ["sampling", "hutchinson"])
def test_estimates_average_to_the_hessian(estimator):
    """On a quadratic ½ wᵀAw both estimators have the diagonal of A for a mean."""
    root = rng.normal(size=(5, 5))
    a = (root @ root.T).astype(np.float32)
    tx = bmrpruner.ivon(LR, ESS, H0)
    params = jnp.asarray(rng.normal(size=5).astype(np.float32)) * 0.1
    samples = 20_000
    _, _, state = jax.jit(
        lambda state: bmrpruner.noisy_value_and_grad(
            lambda w, key: 0.5 * w @ a @ w,
            state,
            params,
            jax.random.key(0),
            mc_samples=samples,
            method="parallel",
            estimator=estimator,
        )
    )(tx.init(params))
    spread = np.linalg.norm(a) * (1 + np.sqrt(ESS * H0) * 0.5)
    np.testing.assert_allclose(state[0].hess_sum, np.diag(a), atol=4 * spread / np.sqrt(samples))
