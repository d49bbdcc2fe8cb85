"""Bayes by Backprop: how much of its accuracy a network keeps as its weights are pruned.

    python examples/bayes_by_backprop.py                 # scikit-learn's handwritten digits
    python examples/bayes_by_backprop.py --data mnist/   # MNIST-format IDX files

Shows one network trained in three ways: by SGD, by SGD with dropout, and by Bayes by Backprop,
which learns a mean and a standard deviation of each weight. All are pruned by magnitude, the last
by its signal to noise as well, and not trained again. Look at the column *lost* of the table, the
accuracy that went, in points, and in histograms.png at which weights go. Blundell et al. 2015,
https://arxiv.org/abs/1505.05424, section 5.1.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import rich.box
import rich.console
from command_line import check_positive, check_sparsities, run
from data import Dataset, load, random_batches
from evaluation import predict, scores
from rich.table import Table

import bmrpruner
from bmrpruner import files, optimizers, pruning, study
from bmrpruner.study.models import init_mlp, mlp


@dataclasses.dataclass
class Settings:
    """Redo the Bayes-by-Backprop pruning study."""

    data: Path | None = None
    """Directory with MNIST-format IDX files; without it, scikit-learn's digits."""
    out: Path = Path("results/bayes_by_backprop")
    """Directory for results.json, the posterior and the pictures."""
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98)
    """Fractions of the kernels' weights to prune."""
    hidden: tuple[int, ...] = (300, 100)
    """Widths of the hidden layers."""
    epochs: int | None = None
    """Passes through the training data; by default 30 for IDX files, 100 for the digits."""
    seed: int = 0
    """Seed of initial weights, batches and noise."""


class Method(NamedTuple):
    """One way to train."""

    name: str
    tx: optax.GradientTransformation
    value_and_grad: Any  # (trained, key, images, labels) -> (value, gradient)
    init: Any = lambda params: params


class Network(NamedTuple):
    """The result of training."""

    params: Any
    posterior: bmrpruner.DiagonalGaussian | None


PRIOR = optimizers.GaussianPrior(std=0.1)
BATCH_SIZE = 100


def main(settings: Settings) -> None:
    """Train, prune, evaluate, report."""
    data = load(settings.data)
    epochs = settings.epochs or (100 if settings.data is None else 30)
    layers = (data.train_images.shape[1], *settings.hidden, int(data.train_labels.max()) + 1)
    params = init_mlp(jax.random.key(settings.seed), layers)
    networks, rows = {}, []
    for method in methods(len(data.train_images), epochs):
        start = time.perf_counter()
        networks[method.name] = train(method, params, data, epochs, settings.seed)
        print(f"Trained {method.name} in {time.perf_counter() - start:.0f} s.", flush=True)
    for name, algorithm in (
        ("SGD", "magnitude"),
        ("dropout", "magnitude"),
        ("Bayes by Backprop", "magnitude"),
        ("Bayes by Backprop", "snr"),
    ):
        rows += prune_at(settings.sparsities, name, algorithm, networks[name], data)
    report(settings, data.name, rows, networks["Bayes by Backprop"])


def methods(examples: int, epochs: int) -> list[Method]:
    """SGD, SGD with dropout, and variational inference."""
    steps = epochs * (examples // BATCH_SIZE)
    sgd = optax.sgd(optax.cosine_decay_schedule(0.03, steps), momentum=0.9)
    adam = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def bayes(q: Any, key: Any, images: Any, labels: Any) -> Any:
        return optimizers.mean_field_value_and_grad(
            loss_fn, q, key, images, labels, ess=examples, prior=PRIOR
        )

    def plain(params: Any, key: Any, images: Any, labels: Any) -> Any:
        return jax.value_and_grad(loss_fn)(params, images, labels, key)

    def dropped(params: Any, key: Any, images: Any, labels: Any) -> Any:
        return jax.value_and_grad(loss_fn)(params, images, labels, key, dropout=0.2)

    start = functools.partial(optimizers.init_mean_field, std=0.02)
    return [
        Method("SGD", sgd, plain),
        Method("dropout", sgd, dropped),
        Method("Bayes by Backprop", adam, bayes, start),
    ]


def train(method: Method, params: Any, data: Dataset, epochs: int, seed: int) -> Network:
    """Train from the given initial parameters."""
    trained = method.init(params)
    state = method.tx.init(trained)
    images, labels = jnp.asarray(data.train_images), jnp.asarray(data.train_labels)
    for epoch in range(epochs):
        key = jax.random.fold_in(jax.random.key(seed), epoch)
        trained, state = train_epoch(method, trained, state, key, images, labels)
    if isinstance(trained, optimizers.MeanField):
        return Network(trained.loc, optimizers.mean_field_posterior(trained, PRIOR))
    return Network(trained, None)


@functools.partial(jax.jit, static_argnums=0)
def train_epoch(
    method: Method, trained: Any, state: Any, key: Any, images: Any, labels: Any
) -> tuple[Any, Any]:
    """One pass through the data, in random order, all inside one compiled scan."""

    def step(carry: Any, batch: Any) -> Any:
        trained, state = carry
        rows, step_key = batch
        _, grads = method.value_and_grad(trained, step_key, images[rows], labels[rows])
        updates, state = method.tx.update(grads, state, trained)
        return (optax.apply_updates(trained, updates), state), None

    batches = random_batches(key, len(images), BATCH_SIZE)
    return jax.lax.scan(step, (trained, state), batches)[0]


def loss_fn(params: Any, images: Any, labels: Any, key: Any, dropout: float = 0.0) -> jax.Array:
    """Cross-entropy, averaged over the batch; with dropout of the hidden units."""
    keys = iter(jax.random.split(key, len(params) - 1))

    def activation(x: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(next(keys), 1 - dropout, x.shape)
        return jnp.where(kept, jax.nn.relu(x) / (1 - dropout), 0)

    logits = mlp(params, images, activation if dropout else jax.nn.relu)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def prune_at(
    sparsities: tuple[float, ...], name: str, algorithm: str, network: Network, data: Dataset
) -> list[dict[str, Any]]:
    """One row per sparsity, with what was lost against the dense network, in points."""
    dense = predict(network.params, data.test_images)
    dense_accuracy = scores(dense, data.test_labels)["accuracy"]
    rows = []
    for sparsity in sparsities:
        rule = pruning.Rule(algorithm, sparsity=sparsity)
        pruned = pruning.prune(network.params, rule, network.posterior)
        probs = predict(pruned.params, data.test_images)
        if sparsity and jnp.array_equal(probs, dense):
            raise RuntimeError(f"{name}, {rule.label}: pruning did not change the forward pass.")
        found = scores(probs, data.test_labels)
        rows.append(
            {
                "method": name,
                "algorithm": algorithm,
                "sparsity": pruned.sparsity,
                "nonzeros": pruned.nonzeros,
                "lost": 100 * (dense_accuracy - found["accuracy"]),
                **found,
            }
        )
    return rows


def report(settings: Settings, dataset: str, rows: list[dict[str, Any]], bayes: Network) -> None:
    """Print the table; save it, the posterior, and its histograms before and after pruning."""
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 120
    console.print(make_table(dataset, rows))
    settings.out.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(settings.out / "results.json", force=True) as path:
        path.write_text(json.dumps({"dataset": dataset, "rows": rows}, indent=1))
    files.save(settings.out / "posterior.npz", bayes.posterior, force=True)
    rule = pruning.Rule("snr", sparsity=max(settings.sparsities))
    pruned = pruning.prune(bayes.params, rule, bayes.posterior)
    figure = study.draw_histograms(bayes.params, bayes.posterior, {rule.label: pruned})
    study.save_figure(settings.out / "histograms.png", figure)
    print(f"Wrote results.json, posterior.npz, histograms.png to {settings.out}/.")


def make_table(dataset: str, rows: list[dict[str, Any]]) -> Table:
    """One line per network and sparsity."""
    table = Table(title=f"{dataset}, test set, no fine-tuning", box=rich.box.SIMPLE_HEAD)
    table.add_column("trained by", no_wrap=True)
    table.add_column("pruned by", no_wrap=True)
    for column in ("pruned", "weights left", "accuracy (%)", "lost (points)", "NLL", "ECE"):
        table.add_column(column, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        label = row["method"], row["algorithm"]
        if previous not in (None, label):
            table.add_section()
        previous = label
        table.add_row(
            *label,
            f"{row['sparsity']:.1%}",
            f"{row['nonzeros']:,}",
            f"{100 * row['accuracy']:.2f}",
            f"{row['lost']:.2f}",
            f"{row['nll']:.3f}",
            f"{row['ece']:.3f}",
        )
    return table


def checked(settings: Settings) -> Settings:
    """The settings, or a ValueError that names the one that is impossible."""
    check_sparsities(settings.sparsities)
    check_positive("epochs", settings.epochs)
    check_positive("hidden", *settings.hidden)
    return settings


if __name__ == "__main__":
    run(main, checked, Settings)
