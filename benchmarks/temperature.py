"""Which temperature ranks weights best: BMR at several, on posteriors of different make.

python benchmarks/temperature.py --data mnist/ --posterior posterior.npz

Trains 784-300-100-10 with IVON at three temperatures and by mean-field inference on all training
images but the last 10,000, on which it then evaluates; the test set is not looked at. A posterior
from a file is evaluated on the same 10,000.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import rich.console
import rich.progress
import rich.table
from networks import NETWORKS
from quality import held_out
from quality_training import ESS, Training, make_optimizer, make_pruner, train
from starting import start

import bmrpruner
from bmrpruner import files, optimizers
from bmrpruner.study.idx import Dataset, read_dataset
from bmrpruner.study.models import mlp

TEMPERATURES = (0.1, 0.25, 0.5, 1.0, 2.0)


@dataclasses.dataclass
class Settings:
    """Compare temperatures of the evidence."""

    data: Path
    """Directory with MNIST-format IDX files."""
    posterior: Path | None = None
    """A file with a posterior of a network of dense layers, to evaluate as well."""
    sparsities: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.98)
    """Fractions of the kernels' weights to prune."""
    epochs: int = 20
    """Passes through the training data."""
    validation: int = 10_000
    """How many training images to hold out."""
    seed: int = 0
    """For the training runs."""


class Trained(NamedTuple):
    """A network with a posterior."""

    name: str
    params: Any
    posterior: bmrpruner.DiagonalGaussian


def main(settings: Settings) -> None:
    """Train, prune, print a table for each posterior."""
    data = held_out(read_dataset(settings.data, classes=10), settings.validation)
    console = rich.console.Console()
    for trained in networks(settings, data):
        console.print(make_table(trained, data, settings.sparsities))


def networks(settings: Settings, data: Dataset) -> Iterator[Trained]:
    """The posterior of the file, IVON's, and that of mean-field inference."""
    if settings.posterior is not None:
        found = files.load(settings.posterior)
        if found.posterior is None:
            raise ValueError(f"{settings.posterior}: expected a posterior, found none.")
        yield Trained(settings.posterior.name, found.params, found.posterior)
    with rich.progress.Progress(transient=True) as progress:
        for optimizer in ESS:
            training = Training("mlp", optimizer, "no_prune", 0.0, settings.seed)
            tx = make_optimizer(training, len(data.train_images), settings.epochs)
            params, state = train(training, tx, NETWORKS["mlp"], data, settings.epochs, progress)
            posterior = bmrpruner.posteriors.from_opt_state(state, params)
            yield Trained(f"IVON at {ESS[optimizer]:g} N", params, posterior)
    yield mean_field(settings, data)


def mean_field(settings: Settings, data: Dataset) -> Trained:
    """Bayes by Backprop with Adam."""
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    steps = len(images) // 100
    prior = optimizers.GaussianPrior(std=0.1)
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, settings.epochs * steps))

    def loss_fn(params: Any, rows: Any, key: Any) -> jax.Array:
        logits = mlp(params, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(carry: Any, batch: Any) -> Any:
        _, grads = optimizers.mean_field_value_and_grad(
            loss_fn, carry[0], *batch[::-1], ess=len(images), prior=prior
        )
        updates, state = tx.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    @jax.jit
    def epoch(carry: Any, key: Any) -> Any:
        order = jax.random.permutation(key, len(images))[: steps * 100].reshape(steps, 100)
        return jax.lax.scan(step, carry, (order, jax.random.split(key, steps)))[0]

    key = jax.random.key(settings.seed)
    start = optimizers.init_mean_field(NETWORKS["mlp"].init(key), std=0.02)
    carry = start, tx.init(start)
    for epoch_key in jax.random.split(key, settings.epochs):
        carry = epoch(carry, epoch_key)
    return Trained("mean field", carry[0].loc, optimizers.mean_field_posterior(carry[0], prior))


def make_table(trained: Trained, data: Dataset, sparsities: tuple[float, ...]) -> Any:
    """Accuracy on the held-out images, a line for each score."""
    chosen = float(trained.posterior.evidence_temperature())
    name_column = rich.table.Column("accuracy, %", no_wrap=True)
    table = rich.table.Table(name_column, *(f"{s:.0%} pruned" for s in sparsities))
    table.title = f"{trained.name}: {100 * accuracy(trained.params, data):.2f} dense"
    scores = [("magnitude", "global_magnitude", {}), ("SNR", "global_snr", {})]
    scores += [(f"BMR, T = {t:g}", "global_bmr", {"temperature": t}) for t in TEMPERATURES]
    scores += [(f"BMR, its own T = {chosen:.2g}", "global_bmr", {})]
    for name, algorithm, options in scores:
        cells = []
        for sparsity in sparsities:
            pruner = make_pruner(algorithm, sparsity, **options)
            params, _ = pruner.instant_sparsify(trained.params, posterior=trained.posterior)
            cells.append(f"{100 * accuracy(params, data):.2f}")
        table.add_row(name, *cells)
    return table


def accuracy(params: Any, data: Dataset) -> float:
    """Of the mean weights, on the held-out images."""
    classes = jnp.argmax(mlp(params, data.test_images), -1)
    return float(jnp.mean(classes == data.test_labels))


if __name__ == "__main__":
    start(main, Settings)
