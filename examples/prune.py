"""Train a small network with AdamW and with IVON, and prune both: after training, and during it.

    python examples/prune.py                  # scikit-learn's handwritten digits
    python examples/prune.py --data mnist/    # MNIST-format IDX files

The library is in `make_optimizer`, `train_epoch` and `prune_once`; the rest is an ordinary JAX
training script.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from command_line import check_positive, check_sparsities, run
from data import Dataset, load, random_batches
from evaluation import predict, scores
from report import Run, progress_bar, write_report

import bmrpruner
from bmrpruner import metrics
from bmrpruner.study.models import init_mlp, mlp


@dataclasses.dataclass
class Settings:
    """Compare pruning by Bayesian model reduction with other scores."""

    data: Path | None = None
    """Directory with MNIST-format IDX files; without it, scikit-learn's digits."""
    out: Path = Path("results")
    """Directory for results.json and the pictures."""
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98)
    """Fractions of the kernels' weights to prune."""
    seeds: int = 3
    """How many random seeds to run; the table shows mean ± standard deviation."""
    epochs: int | None = None
    """Passes through the training data; by default 20 for IDX files, 160 for the digits."""
    quick: bool = False
    """A short form for a first check: one seed, one sparsity, few epochs."""


class Job(NamedTuple):
    """One row of the table."""

    mode: str  # 'dense', 'one-shot' after training, or 'gradual' during it
    optimizer: str  # 'AdamW' or 'IVON'
    algorithm: str  # a name of bmrpruner's registry
    sparsity: float | None  # None where the evidence decides


class Plan(NamedTuple):
    """Sizes of the task."""

    layers: tuple[int, ...]
    examples: int
    batch_size: int
    epochs: int
    coldness: float  # of IVON's posterior: how often each example counts

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return self.epochs * (self.examples // self.batch_size)


class Network(NamedTuple):
    """The result of training or pruning."""

    params: Any
    posterior: bmrpruner.DiagonalGaussian | None  # IVON's; AdamW has none
    seconds: float
    rounds: dict[str, list[float]] | None = None  # adaptive BMR's record


def main(settings: Settings) -> None:
    """Train, prune, evaluate, report."""
    data = load(settings.data)
    plan = make_plan(settings, data)
    jobs = make_jobs(settings.sparsities)
    runs, dense = [], {}
    with progress_bar() as progress:
        overall = progress.add_task("All runs", total=len(jobs) * settings.seeds)
        for job in jobs:
            tx = make_optimizer(job, plan)
            for seed in range(settings.seeds):
                if job.mode == "one-shot":
                    network = prune_once(job, dense[job.optimizer, seed])
                else:
                    network = train(tx, job, plan, data, seed, progress)
                if job.mode == "dense":
                    dense[job.optimizer, seed] = network
                check_pruned(job, network, dense[job.optimizer, seed], data)
                result = evaluate(network, data)
                runs.append(Run(**job._asdict(), seed=seed, rounds=network.rounds, **result))
                progress.advance(overall)
            if not progress.console.is_terminal:
                print(*job, flush=True)
    write_report(settings.out, data.name, runs)


def make_jobs(sparsities: tuple[float, ...]) -> list[Job]:
    """The dense networks first: the one-shot jobs prune these."""
    pruners = [
        ("AdamW", "random"),
        ("AdamW", "magnitude"),
        ("IVON", "magnitude"),
        ("IVON", "snr"),
        ("IVON", "bmr"),
    ]
    dense = [Job("dense", optimizer, "no_prune", 0.0) for optimizer in ("AdamW", "IVON")]
    jobs = [
        Job(mode, *pruner, sparsity)
        for mode in ("one-shot", "gradual")
        for pruner in pruners
        for sparsity in sparsities
    ]
    return [*dense, *jobs, Job("gradual", "IVON", "adaptive_bmr", None)]


def make_pruner(job: Job, **schedule: int) -> bmrpruner.BaseUpdater:
    """A pruner by its registry name, which ranks the weights of the whole network together."""
    return bmrpruner.create_updater_from_config(
        algorithm=job.algorithm,
        dist_type="uniform",
        sparsity=job.sparsity,
        scope="global",
        **schedule,
    )


def make_optimizer(job: Job, plan: Plan) -> optax.GradientTransformation:
    """AdamW or IVON, wrapped so that every update keeps pruned weights at zero."""
    if job.optimizer == "IVON":
        inner = bmrpruner.ivon(
            optax.cosine_decay_schedule(0.3, plan.steps),
            ess=plan.coldness * plan.examples,  # see docs/temperature.md
            b2=1 - 6 / plan.steps,  # the Hessian is an average over the last sixth of training
        )
    else:
        inner = optax.adamw(optax.cosine_decay_schedule(1e-3, plan.steps))
    every = max(1, plan.steps // 120)
    pruner = make_pruner(
        job,
        update_freq=every,
        update_start_step=plan.steps // 4,
        update_end_step=plan.steps * 3 // 5 // every * every,
    )
    return pruner.wrap_optax(inner, mask_updates=True)


def train(tx: Any, job: Job, plan: Plan, data: Dataset, seed: int, progress: Any) -> Network:
    """Train from scratch; with a pruning schedule in `tx`, the network gets sparse on the way."""
    key = jax.random.key(seed)
    params = init_mlp(key, plan.layers)
    opt_state = tx.init(params)
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    share = "" if job.sparsity is None else f" {job.sparsity:.1%}"
    bar = progress.add_task(f"{job.optimizer} {job.algorithm}{share}", total=plan.epochs)
    durations = []
    for epoch in range(plan.epochs):
        start = time.perf_counter()
        epoch_key = jax.random.fold_in(key, epoch)
        params, opt_state = jax.block_until_ready(
            train_epoch(tx, plan, job.optimizer, params, opt_state, epoch_key, images, labels)
        )
        durations.append(time.perf_counter() - start)
        progress.advance(bar)
    progress.remove_task(bar)
    seconds = statistics.median(durations) * plan.epochs  # the median leaves out compilation
    if job.optimizer == "AdamW":
        return Network(params, None, seconds)
    posterior = bmrpruner.posteriors.from_opt_state(opt_state, params)
    rounds = opt_state.rounds.to_dict() if job.algorithm == "adaptive_bmr" else None
    return Network(params, posterior, seconds, rounds)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def train_epoch(
    tx: Any,
    plan: Plan,
    optimizer: str,
    params: Any,
    opt_state: Any,
    key: Any,
    images: Any,
    labels: Any,
) -> tuple[Any, Any]:
    """One pass through the data, in random order, all inside one compiled scan."""

    def step(carry: Any, batch: Any) -> Any:
        params, opt_state = carry
        rows, step_key = batch
        args = images[rows], labels[rows]
        if optimizer == "IVON":
            _, grads, opt_state = bmrpruner.noisy_value_and_grad(
                loss_fn, opt_state, params, step_key, *args
            )
        else:
            grads = jax.grad(loss_fn)(params, *args)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    batches = random_batches(key, plan.examples, plan.batch_size)
    return jax.lax.scan(step, (params, opt_state), batches)[0]


def prune_once(job: Job, network: Network) -> Network:
    """Prune a trained network, with no fine-tuning."""
    start = time.perf_counter()
    params, masks = jax.block_until_ready(
        make_pruner(job).instant_sparsify(network.params, posterior=network.posterior)
    )
    posterior = network.posterior and network.posterior.prune(masks)
    return Network(params, posterior, time.perf_counter() - start)


def loss_fn(params: Any, images: jax.Array, labels: jax.Array, key: Any = None) -> jax.Array:
    """Cross-entropy, averaged over the batch; IVON's gradients hand in a key as well."""
    logits = mlp(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def evaluate(network: Network, data: Dataset) -> dict[str, Any]:
    """Test metrics of the network at its mean, and averaged over its posterior if it has one."""
    kernels = {name: layer["kernel"] for name, layer in network.params.items()}
    results: dict[str, Any] = {
        "seconds": network.seconds,
        "counted_sparsity": float(metrics.sparsity(kernels)),
        "layer_sparsity": {name: float(metrics.sparsity(k)) for name, k in kernels.items()},
    }
    results |= measure(predict(network.params, data.test_images), data.test_labels)
    if network.posterior is not None:
        probs = bmrpruner.predict(
            predict, network.posterior, data.test_images, jax.random.key(0), samples=32
        )
        averaged = measure(probs, data.test_labels)
        results |= {f"averaged_{name}": value for name, value in averaged.items()}
    return results


def measure(probs: jax.Array, labels: Any) -> dict[str, Any]:
    """Accuracy, NLL in nats, ECE, and the bins of a reliability diagram."""
    diagram = metrics.reliability_diagram(probs, labels, bins=10)
    bins = {name: array.tolist() for name, array in diagram._asdict().items()}
    return {**scores(probs, labels), "reliability": bins}


def check_pruned(job: Job, network: Network, dense: Network, data: Dataset) -> None:
    """Make sure that what is evaluated is the pruned network."""
    if job.mode == "dense":
        return
    kernels = [layer["kernel"] for layer in network.params.values()]
    if job.sparsity is not None and abs(metrics.sparsity(kernels) - job.sparsity) > 0.002:
        raise RuntimeError(f"{job}: counted a sparsity of {metrics.sparsity(kernels):.4f}.")
    if jnp.array_equal(
        predict(network.params, data.test_images), predict(dense.params, data.test_images)
    ):
        raise RuntimeError(f"{job}: pruning did not change the forward pass.")


def make_plan(settings: Settings, data: Dataset) -> Plan:
    """LeCun's 784-300-100-10 for IDX files, and something smaller for the digits."""
    examples, pixels = data.train_images.shape
    if settings.data is None:
        return Plan((pixels, 128, 64, 10), examples, 64, settings.epochs or 160, coldness=20)
    return Plan((pixels, 300, 100, 10), examples, 100, settings.epochs or 20, coldness=10)


def checked(settings: Settings) -> Settings:
    """The settings, or a ValueError that names the one that is impossible."""
    check_sparsities(settings.sparsities)
    check_positive("seeds", settings.seeds)
    check_positive("epochs", settings.epochs)
    if settings.quick:
        return dataclasses.replace(
            settings, seeds=1, sparsities=settings.sparsities[-1:], epochs=settings.epochs or 4
        )
    return settings


if __name__ == "__main__":
    run(main, checked, Settings)
