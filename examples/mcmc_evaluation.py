"""What the draws of the sampling study say: predictions, scores, diagnostics and checks."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from mcmc_data import Problem
from mcmc_sampling import Chains, outputs

from bmrpruner import evidence, metrics, posteriors


def predictions(problem: Problem, draws: Any) -> jax.Array:
    """For each draw: class probabilities [chain, draw, n, classes], or means [chain, draw, n]."""
    found = _all_outputs(draws, problem.x_test)
    return found[..., 0] if problem.is_regression else jax.nn.softmax(found)


@jax.jit
def _all_outputs(draws: Any, x: Any) -> jax.Array:
    """The network's outputs by chain and draw."""
    return jax.vmap(jax.vmap(outputs, (0, None)), (0, None))(draws, x)


def scores(problem: Problem, draws: Any, predicted: Any) -> dict[str, float]:
    """How good the average over draws is, in the units of the data."""
    y = problem.y_test
    if not problem.is_regression:
        probs = predicted.mean((0, 1))
        names = ("accuracy", "nll", "ece")
        return {name: float(getattr(metrics, name)(probs, y)) for name in names}
    mean = predicted.mean((0, 1))
    std = jnp.sqrt(predicted.var((0, 1)) + jnp.mean(jnp.exp(2 * draws["log_noise"])))
    return {
        "rmse": problem.scale * float(metrics.rmse(y, mean)),
        "nll": float(metrics.gaussian_nll(y, mean, std)) + float(np.log(problem.scale)),
        "coverage": float(metrics.interval_coverage(y, mean, std, 0.9)),
    }


def diagnostics(problem: Problem, chain: Chains) -> dict[str, Any]:
    """R-hat in function space, and what the sampler says of itself."""
    predicted = predictions(problem, chain.draws)
    sampled = posteriors.from_samples(predicted)
    known = {
        "acceptance": float(chain.acceptance.mean()),
        "step_size": float(chain.step_size.mean()),
        "divergences": None if np.isnan(chain.divergences).any() else int(chain.divergences.sum()),
    }
    if chain.log_evidence is not None:
        known["log_evidence"] = chain.log_evidence.tolist()
    return known | {
        "max_rhat": float(jnp.max(sampled.rhat)),
        "min_n_eff": float(jnp.min(sampled.n_eff)),
        **scores(problem, chain.draws, predicted),
    }


def weights_posterior(draws: Any) -> dict[str, Any]:
    """The posterior of the weights, their R-hat, and whether the library warns of symmetry."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sampled = posteriors.from_samples(draws)
    return {
        "posterior": sampled.posterior,
        "rhat": np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(sampled.rhat)]),
        "warned": any("['dense_0']['kernel']" in str(warning.message) for warning in seen),
    }


def weights_summary(problem: Problem, found: dict[str, Any], seed: int) -> dict[str, Any]:
    """What the weights of single draws, taken one by one, still say about the network."""
    posterior = found["posterior"]
    mean = jax.tree.map(lambda leaf: leaf[None, None], posterior.mean)
    keys = jax.random.split(jax.random.key(seed), (1, 200))
    independent = jax.vmap(jax.vmap(posterior.sample))(keys)
    snr = [leaf.ravel() for leaf in jax.tree.leaves(posterior.snr) if leaf.ndim > 1]
    return {
        "median_rhat": float(np.median(found["rhat"])),
        "median_snr": float(jnp.median(jnp.concatenate(snr))),
        "library_warns": found["warned"],
        "mean_weights": scores(problem, mean, predictions(problem, mean)),
        "independent": scores(problem, independent, predictions(problem, independent)),
    }


def joint_delta_f(draws: Any, masks: Any) -> float | None:
    """ΔF of all that is pruned, in nats; None where the draws are too few to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return evidence.joint_delta_f(draws, masks)
        except (UserWarning, ValueError):
            return None


def check_pruned(name: str, sparsity: float, draws: Any, predicted: Any, dense: Any) -> None:
    """Make sure that what is evaluated is the pruned network."""
    if abs(counted_sparsity(draws) - sparsity) > 1e-6:
        raise RuntimeError(f"{name}: counted {counted_sparsity(draws):.4f}, not {sparsity}.")
    if np.allclose(predicted.mean((0, 1)), dense.mean((0, 1)), atol=1e-7):
        raise RuntimeError(f"{name}: pruning did not change the predictions.")


def counted_sparsity(draws: Any) -> float:
    """The share of the kernels' weights that are zero in every draw."""
    kernels = [draws[name]["kernel"] for name in ("dense_0", "dense_1")]
    return float(metrics.sparsity([jnp.any(k != 0, axis=(0, 1)).astype(float) for k in kernels]))
