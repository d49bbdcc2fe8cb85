"""Prune a Bayesian neural network that was sampled by chains, and sample it again under the masks.

    python examples/mcmc.py                # two data sets that scikit-learn brings along
    python examples/mcmc.py --data uci/    # lazer, sunspots, abalone, iris, ionosphere as CSV files

Shows how far the weights can be thinned out before the predictions of all draws get worse. The
first table says whether the chains agree, the second what each rule costs at each sparsity: with
the masked draws, and with draws of the pruned network's own posterior.

NUTS draws the posterior of a network with one hidden layer; MALA and tempered SMC draw it as well.
Convergence is judged by predictions, and the sampler whose R-hat is lowest with the first seed goes
on with the others: its draws are pruned. The weights' R-hat is good where chains visit all permuted
and sign-flipped copies of the hidden units, and then their means say nothing. So units are aligned
before weights are scored. Needs `pip install '.[mcmc,examples]'`.
"""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from command_line import check_positive, check_sparsities, run
from mcmc_data import BUNDLED, HIDDEN, Problem, load
from mcmc_evaluation import (
    check_pruned,
    counted_sparsity,
    diagnostics,
    joint_delta_f,
    predictions,
    scores,
    weights_posterior,
    weights_summary,
)
from mcmc_report import report
from mcmc_sampling import Chains, init, sample

import bmrpruner
from bmrpruner import posteriors


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
    """What draws the whole network beside NUTS, with the first seed."""
    seeds: int = 2
    """How many random splits and chains to run."""
    quick: bool = False
    """A short form for a first check: one data set, one sparsity, one seed, NUTS alone."""


class Rule(NamedTuple):
    """How to choose the weights that stay."""

    name: str
    algorithm: str
    draws: str = "aligned"  # which draws it scores and masks: raw, or their units aligned


RULES = (
    Rule("SNR, raw draws", "global_snr", draws="raw"),
    Rule("SNR", "global_snr"),
    Rule("signal plus noise", "global_uncertainty_magnitude"),
    Rule("BMR", "global_bmr"),
    Rule("random", "global_random"),
)
Drawn = dict[str, Future[tuple[Chains, dict[str, Any]]]]
UNITS = [{("dense_0", "kernel"): 1, ("dense_0", "bias"): 0, ("dense_1", "kernel"): 0}]


class Sizes(NamedTuple):
    """How much to draw: (chains, steps of adaptation, draws of each chain)."""

    nuts: tuple[int, ...] = (4, 300, 500)
    mala: tuple[int, ...] = (4, 300, 500)
    smc: tuple[int, ...] = (4, 0, 64)  # each draw is a particle
    again: tuple[str, tuple[int, ...]] = ("hmc", (4, 100, 150))  # for the pruned networks


SMALL = Sizes()
LARGE = Sizes(nuts=(4, 200, 400), mala=(4, 200, 400), smc=(4, 0, 32))
LARGEST = Sizes((4, 100, 200), (4, 100, 200), (4, 0, 16), ("hmc", (4, 50, 80)))
# Where no chain gets from one mode to the others.
BY_SMC = Sizes(again=("smc", (4, 0, 32)))
SIZES = {
    "iris": SMALL,
    "diabetes": SMALL,
    "lazer": BY_SMC,
    "sunspots": BY_SMC,
    "abalone": LARGEST,
    "ionosphere": LARGE,
}


def begin(problem: Problem, seed: int, names: tuple[str, ...], pool: Executor) -> Drawn:
    """Let samplers draw the whole network: what comes are chains and their diagnostics."""

    def draw(sampler: str) -> tuple[Chains, dict[str, Any]]:
        sizes = SIZES[problem.name]
        ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, jnp.uint8), init(problem))
        key = jax.random.key(seed)
        chain = sample(sampler, problem, ones, key, getattr(sizes, sampler))
        return chain, diagnostics(problem, chain)

    # In an order in which the one that takes longest goes first.
    return {name: pool.submit(draw, name) for name in sorted(names, reverse=True)}


def lowest_rhat(drawn: Drawn) -> str:
    """The sampler whose chains agree best."""
    return min(drawn, key=lambda name: drawn[name].result()[1]["max_rhat"])


def study(
    settings: Settings, problem: Problem, seed: int, drawn: Drawn, pool: Executor
) -> dict[str, Any]:
    """One data set and seed: diagnostics by sampler, and a row for each rule and sparsity."""
    key = jax.random.key(seed)
    params = init(problem)
    chains = {name: future.result()[0] for name, future in drawn.items()}
    samplers = {name: future.result()[1] for name, future in drawn.items()}
    best = lowest_rhat(drawn)
    raw = chains[best].draws
    draws = {"raw": raw, "aligned": posteriors.align_units(raw, UNITS, odd=True)}
    found = {name: weights_posterior(weights) for name, weights in draws.items()}
    dense = predictions(problem, raw)
    sizes = SIZES[problem.name]

    def row(rule: Rule, masks: Any) -> dict[str, Any]:
        chain = reduced = None
        if rule.draws == "aligned":
            sampler, size = sizes.again
            chain = reduced = sample(sampler, problem, masks, key, size)
        if rule.name == "BMR" and "smc" in chains and sizes == SMALL:
            reduced = sample("smc", problem, masks, key, sizes.smc)
        made = make_row(problem, rule, masks, draws[rule.draws], chain, dense)
        if "smc" in chains and reduced is not None and reduced.log_evidence is not None:
            change = reduced.log_evidence.mean() - chains["smc"].log_evidence.mean()
            made["delta_f_smc"] = float(change)
        return made

    jobs = []
    for rule in RULES:
        for sparsity in settings.sparsities:
            pruner = bmrpruner.create_updater_from_config(
                algorithm=rule.algorithm, dist_type="uniform", sparsity=sparsity, rng_seed=seed
            )
            posterior = found[rule.draws]["posterior"]
            masks = full(pruner.instant_sparsify(posterior.mean, posterior=posterior)[1], params)
            jobs.append((masks, pool.submit(row, rule, masks)))

    weights = {name: weights_summary(problem, found[name], seed) for name in draws}
    rows = [{"rule": "none", "sparsity": 0.0, "masked": scores(problem, raw, dense)}]
    finished = [future.result() for _, future in jobs]
    for (masks, _), one in zip(jobs, finished, strict=True):
        rows.append(one | {"delta_f": joint_delta_f(raw, masks)})
    return {
        "samplers": samplers,
        "best": best,
        "weights": weights,
        "rows": rows,
        "chains": chains[best],
        "predictions": np.asarray(dense),
    }


def full(masks: Any, params: Any) -> Any:
    """Masks with ones for the leaves that are exempt, so that all have the same structure."""
    return jax.tree.map(
        lambda leaf, mask: jnp.ones(leaf.shape, jnp.uint8) if mask is None else mask, params, masks
    )


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
        check_pruned(rule.name, row["sparsity"], weights, predicted, dense)
        row[name] = scores(problem, weights, predicted)
    return row | ({"chains": diagnostics(problem, chain)} if chain else {})


def main(settings: Settings) -> None:
    """Run all data sets and seeds; report."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in settings.names:
        start = time.perf_counter()
        problems = [load(name, settings.data, seed) for seed in range(settings.seeds)]
        with ThreadPoolExecutor(2) as pool:
            drawn = [begin(problems[0], 0, ("nuts", *settings.samplers), pool)]
            best = lowest_rhat(drawn[0])
            # Before the first seed's draws are judged, so that there is work for both cores.
            drawn += [begin(problems[i], i, (best,), pool) for i in range(1, settings.seeds)]
            results = [
                study(settings, problem, i, drawn[i], pool) for i, problem in enumerate(problems)
            ]
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
