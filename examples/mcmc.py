"""Prune a Bayesian neural network that was sampled by chains, and sample it again under the masks.

    python examples/mcmc.py                # two data sets that scikit-learn brings along
    python examples/mcmc.py --data uci/    # lazer, sunspots, abalone, iris, ionosphere as CSV files

Shows how far the weights can be thinned out before the predictions of all draws get worse. The
first table says whether the chains agree, the second what each rule costs at each sparsity: with
the masked draws, and with draws of the pruned network's own posterior.

NUTS draws the posterior of a network with one hidden layer; MALA and tempered SMC draw it as well.
Convergence is judged by predictions, and the draws whose R-hat is lowest are pruned. The weights'
R-hat is good where chains visit all permuted and sign-flipped copies of the hidden units, and then
their means say nothing. So units are aligned before weights are scored. Needs
`pip install '.[mcmc,examples]'`.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import check_positive, check_sparsities, run
from mcmc_data import BUNDLED, HIDDEN, Problem, load
from mcmc_report import report
from mcmc_sampling import Chains, init, outputs, sample

import bmrpruner
from bmrpruner import evidence, metrics, posteriors


@dataclasses.dataclass
class Settings:
    """Sample, align, prune, and sample again."""

    data: Path | None = None
    """Directory with the CSV files; without it, what scikit-learn brings along."""
    names: tuple[str, ...] = ()
    """Data sets; by default all that there are."""
    out: Path = Path("results/mcmc")
    """Directory for results.json, the table and the figures."""
    sparsities: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    """Fractions of the kernels' weights to prune."""
    samplers: tuple[str, ...] = ("mala", "smc")
    """What draws the whole network beside NUTS."""
    seeds: int = 2
    """How many random splits and chains to run."""
    quick: bool = False
    """A short form for a first check: one data set, one sparsity, one seed, NUTS alone."""


class Rule(NamedTuple):
    """How to choose the weights that stay."""

    name: str
    algorithm: str
    is_aligned: bool = True  # scores the draws whose units are aligned


RULES = (
    Rule("SNR, raw draws", "global_snr", is_aligned=False),
    Rule("SNR", "global_snr"),
    Rule("signal plus noise", "global_uncertainty_magnitude"),
    Rule("BMR", "global_bmr"),
    Rule("random", "global_random"),
)
UNITS = [{("dense_0", "kernel"): 1, ("dense_0", "bias"): 0, ("dense_1", "kernel"): 0}]
# Chains, steps of adaptation, draws of each chain.
DENSE, AGAIN = (4, 300, 500), (4, 150, 250)
# Particles of each of the four runs of SMC. Where they are few, a run takes long.
PARTICLES = {"iris": 64, "lazer": 128, "sunspots": 128, "diabetes": 64}
FEW = 32


def study(settings: Settings, problem: Problem, seed: int) -> dict[str, Any]:
    """One data set and seed: diagnostics by sampler, and a row for each rule and sparsity."""
    key = jax.random.key(seed)
    params = init(problem)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.uint8), params)
    smc = (4, 0, PARTICLES.get(problem.name, FEW))
    sizes = {"nuts": DENSE, "mala": DENSE, "smc": smc}
    with ThreadPoolExecutor(2) as pool:
        names = sorted(("nuts", *settings.samplers), reverse=True)  # SMC takes longest
        drawn = pool.map(lambda name: sample(name, problem, ones, key, sizes[name]), names)
        chains = dict(zip(names, drawn, strict=True))
    samplers = {name: diagnostics(problem, chain) for name, chain in chains.items()}
    best = min(samplers, key=lambda name: samplers[name]["max_rhat"])
    raw = chains[best].draws
    aligned = posteriors.align_units(raw, UNITS, odd=True)
    found = {True: weights_posterior(aligned), False: weights_posterior(raw)}
    dense = predictions(problem, raw)
    jobs = []
    for rule in RULES:
        for sparsity in settings.sparsities:
            pruner = bmrpruner.create_updater_from_config(
                algorithm=rule.algorithm, dist_type="uniform", sparsity=sparsity, rng_seed=seed
            )
            posterior = found[rule.is_aligned]["posterior"]
            masks = pruner.instant_sparsify(posterior.mean, posterior=posterior)[1]
            jobs.append((rule, full(masks, params), aligned if rule.is_aligned else raw))

    def again(job: Any) -> tuple[Chains | None, dict[str, Any]]:
        rule, masks, _ = job
        how = ("smc", smc) if best == "smc" else ("hmc", AGAIN)
        chain = sample(how[0], problem, masks, key, how[1]) if rule.is_aligned else None
        return chain, make_row(problem, *job, chain, dense)

    with ThreadPoolExecutor(2) as pool:
        resampled = list(pool.map(again, jobs))
    rows = [{"rule": "none", "sparsity": 0.0, "masked": scores(problem, raw, dense)}]
    for job, (chain, row) in zip(jobs, resampled, strict=True):
        rows.append(row | {"delta_f": joint_delta_f(raw, job[1])})
        is_checked = job[0].name == "BMR" and seed == 0 and problem.name in PARTICLES
        if "smc" in chains and (best == "smc" or is_checked) and chain is not None:
            reduced = chain if best == "smc" else sample("smc", problem, job[1], key, smc)
            change = reduced.log_evidence.mean() - chains["smc"].log_evidence.mean()
            rows[-1]["delta_f_smc"] = float(change)
    return {
        "samplers": samplers,
        "best": best,
        "weights": {
            name: weights_summary(problem, found[is_aligned], seed)
            for name, is_aligned in (("raw", False), ("aligned", True))
        },
        "rows": rows,
        "chains": chains[best],
        "predictions": np.asarray(dense),
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


def full(masks: Any, params: Any) -> Any:
    """Masks with ones for the leaves that are exempt, so that all have the same structure."""
    return jax.tree.map(
        lambda leaf, mask: jnp.ones(leaf.shape, jnp.uint8) if mask is None else mask, params, masks
    )


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


def make_row(
    problem: Problem, rule: Rule, masks: Any, draws: Any, chain: Chains | None, dense: Any
) -> dict[str, Any]:
    """A pruned network: the dense draws under its masks, and the draws of its own posterior."""
    masked = jax.vmap(jax.vmap(lambda draw: bmrpruner.apply_masks(draw, masks)))(draws)
    row = {"rule": rule.name, "sparsity": counted_sparsity(masked)}
    for name, weights in (("masked", masked), ("resampled", chain and chain.draws)):
        if weights is None:
            continue
        predicted = predictions(problem, weights)
        check_pruned(rule, row["sparsity"], weights, predicted, dense)
        row[name] = scores(problem, weights, predicted)
    return row | ({"chains": diagnostics(problem, chain)} if chain else {})


def check_pruned(rule: Rule, sparsity: float, draws: Any, predicted: Any, dense: Any) -> None:
    """Make sure that what is evaluated is the pruned network."""
    if abs(counted_sparsity(draws) - sparsity) > 1e-6:
        raise RuntimeError(f"{rule.name}: counted {counted_sparsity(draws):.4f}, not {sparsity}.")
    if np.allclose(predicted.mean((0, 1)), dense.mean((0, 1)), atol=1e-7):
        raise RuntimeError(f"{rule.name}: pruning did not change the predictions.")


def counted_sparsity(draws: Any) -> float:
    """The share of the kernels' weights that are zero in every draw."""
    kernels = [draws[name]["kernel"] for name in ("dense_0", "dense_1")]
    return float(metrics.sparsity([jnp.any(k != 0, axis=(0, 1)).astype(float) for k in kernels]))


def joint_delta_f(draws: Any, masks: Any) -> float | None:
    """ΔF of all that is pruned, in nats; None where the draws are too few to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return evidence.joint_delta_f(draws, masks)
        except (UserWarning, ValueError):
            return None


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


def main(settings: Settings) -> None:
    """Run all data sets and seeds; report."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in settings.names:
        start = time.perf_counter()
        problems = [load(name, settings.data, seed) for seed in range(settings.seeds)]
        results = [study(settings, problem, seed) for seed, problem in enumerate(problems)]
        seconds = time.perf_counter() - start
        found[name] = [{"seed": i, "seconds": seconds, **r} for i, r in enumerate(results)]
        report(settings.out, problems[0], found)


def checked(settings: Settings) -> Settings:
    """The settings, or a ValueError that names the one that is impossible."""
    check_sparsities(settings.sparsities)
    check_positive("seeds", settings.seeds)
    for sampler in settings.samplers:
        if sampler not in ("mala", "smc"):
            raise ValueError(f"--samplers: expected mala or smc, got {sampler!r}.")
    everything = BUNDLED if settings.data is None else tuple(n for n in HIDDEN if n != "diabetes")
    names = settings.names or everything
    for name in names:
        load(name, settings.data, 0)
    settings = dataclasses.replace(settings, names=names)
    if settings.quick:
        return dataclasses.replace(
            settings, names=names[:1], sparsities=settings.sparsities[:1], seeds=1, samplers=()
        )
    return settings


if __name__ == "__main__":
    run(main, checked, Settings)
