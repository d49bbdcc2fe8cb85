"""Accuracy of networks pruned by several scores, after training and during it.

python benchmarks/quality.py --data mnist/ --out quality/                    # 784-300-100-10
python benchmarks/quality.py --data mnist/ --out quality/ --network lenet5   # LeNet-5, same table
python benchmarks/quality.py --data mnist/ --out quality/ --methods ivon_3n  # dense, and one-shot
python benchmarks/quality.py --data mnist/ --out quality/ --report           # the table so far

Every training run leaves a file in `--out`; what is there is not run again, so that a benchmark
that was stopped goes on, and seeds may be spread over processes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import rich.progress
from networks import NETWORKS, Network
from quality_report import write_report
from quality_training import DENSE, ESS, Training, make_optimizer, make_pruner, train
from starting import start

import bmrpruner
from bmrpruner import metrics
from bmrpruner.files.atomic import atomic_write
from bmrpruner.study.idx import Dataset, read_dataset, standardise

ONE_SHOT = {True: ("global_magnitude", "global_snr", "global_bmr"), False: ("global_magnitude",)}
GRADUAL = (
    "ivon_1n+global_bmr",
    "ivon_3n+global_bmr",
    "adamw+global_magnitude",
    "ivon_1n+global_snr",
    "ivon_1n+global_magnitude",
)
ADAPTIVE = "ivon_1n+adaptive_bmr"
METHODS = (*DENSE, ADAPTIVE, *GRADUAL)


@dataclasses.dataclass
class Settings:
    """Train, prune, evaluate; mean and standard deviation over the seeds."""

    data: Path
    """Directory with MNIST-format IDX files."""
    out: Path = Path("quality")
    """Directory for the runs, results.json, table.md and the pictures."""
    network: Literal["mlp", "lenet5"] = "mlp"
    """784-300-100-10, or LeNet-5."""
    sparsities: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95, 0.98, 0.985, 0.99, 0.995)
    """Fractions of the kernels' weights to prune after training."""
    gradual_sparsities: tuple[float, ...] = (0.9, 0.95, 0.98, 0.985, 0.99, 0.995)
    """The same during training; each costs one training run per score and seed."""
    methods: tuple[str, ...] = METHODS
    """What to train: optimizers, or an optimizer+algorithm for pruning during training."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """The random seeds."""
    epochs: int = 20
    """Passes through the training data."""
    samples: int = 32
    """Draws from the posterior to average predictions over."""
    validation: int = 0
    """Evaluate on so many of the training images, held out, in place of the test set."""
    standardise: bool = False
    """Give the pixels mean 0 and variance 1, so that the background is not zero."""
    report: bool = False
    """Train nothing: table and pictures of what is there."""


class Pruned(NamedTuple):
    """A network to evaluate."""

    mode: str  # 'dense', 'one-shot' or 'gradual'
    algorithm: str
    sparsity: float | None
    params: Any
    posterior: bmrpruner.DiagonalGaussian | None


def main(settings: Settings) -> None:
    """Run what is missing, then report."""
    runs = settings.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    asked = [] if settings.report else list(trainings(settings))
    todo = [t for t in asked if missing(runs / t.file, fingerprint(settings))]
    data = held_out(read_dataset(settings.data, classes=10), settings.validation)
    data = standardise(data) if settings.standardise else data
    size = len(data.train_images), settings.epochs
    with rich.progress.Progress(transient=True) as progress:
        overall = progress.add_task("Training runs", total=len(todo))
        optimizers: dict[Any, Any] = {}
        for training in todo:
            start = time.perf_counter()
            tx = optimizers.setdefault(training[:-1], make_optimizer(training, *size))
            result = run(training, tx, data, settings, progress)
            with atomic_write(runs / training.file, force=True) as path:
                path.write_text(json.dumps({"settings": fingerprint(settings), **result}))
            progress.advance(overall)
            if not progress.console.is_terminal:
                print(*training, f"{time.perf_counter() - start:.0f} s", flush=True)
    files = sorted(runs.glob("*.json"))
    write_report(settings.out, [json.loads(path.read_text()) for path in files])


def trainings(settings: Settings) -> Iterator[Training]:
    """The training runs, one method after the other, so that an early stop leaves whole ones."""
    unknown = [method for method in settings.methods if method not in METHODS]
    if unknown:
        raise ValueError(f"methods: expected some of {', '.join(METHODS)}, got {unknown[0]!r}.")
    for method in settings.methods:
        optimizer, _, algorithm = method.partition("+")
        shares: tuple[float | None, ...] = settings.gradual_sparsities
        if method in DENSE:
            algorithm, shares = "no_prune", (0.0,)
        elif method == ADAPTIVE:
            shares = (None,)
        for share in shares:
            for seed in settings.seeds:
                yield Training(settings.network, optimizer, algorithm, share, seed)


def fingerprint(settings: Settings) -> dict[str, Any]:
    """What a run depends on beside its name."""
    return {
        "data": settings.data.resolve().name,
        "sparsities": list(settings.sparsities),
        "epochs": settings.epochs,
        "samples": settings.samples,
        "validation": settings.validation,
        "standardise": settings.standardise,
    }


def missing(path: Path, settings: dict[str, Any]) -> bool:
    """Whether to make the file of a run. Raises where one of other settings has its name."""
    if not path.exists():
        return True
    found = json.loads(path.read_text())["settings"]
    if found != settings:
        raise ValueError(f"{path} was made with {found}; choose another --out.")
    return False


def held_out(data: Dataset, validation: int) -> Dataset:
    """The last `validation` training images in place of the test set; 0 leaves the data alone."""
    if not validation:
        return data
    return Dataset(
        data.name,
        data.train_images[:-validation],
        data.train_labels[:-validation],
        data.train_images[-validation:],
        data.train_labels[-validation:],
    )


def run(
    training: Training, tx: Any, data: Dataset, settings: Settings, progress: Any
) -> dict[str, Any]:
    """Train, prune if that is still to do, evaluate."""
    network = NETWORKS[training.network]
    params, state = train(training, tx, network, data, settings.epochs, progress)
    posterior = None
    if training.optimizer in ESS:
        posterior = bmrpruner.posteriors.from_opt_state(state, params)
    if training.algorithm == "no_prune":
        dense = Pruned("dense", "no_prune", 0.0, params, posterior)
        networks = [
            dense,
            *prune_once(dense, ONE_SHOT[training.optimizer in ESS], settings.sparsities),
        ]
    else:
        networks = [Pruned("gradual", training.algorithm, training.sparsity, params, posterior)]
    rows = [evaluate(pruned, training, network, data, settings.samples) for pruned in networks]
    record = getattr(state, "rounds", None)
    return {"rows": rows, "rounds": record and record.to_dict()}


def prune_once(
    dense: Pruned, algorithms: tuple[str, ...], sparsities: tuple[float, ...]
) -> Iterator[Pruned]:
    """The dense network, pruned without fine-tuning by each score; by ΔF > 0 too."""
    pruners = [
        (make_pruner(name, sparsity), name, sparsity)
        for name in algorithms
        for sparsity in sparsities
    ]
    if dense.posterior is not None:
        pruners.append((make_pruner("adaptive_bmr", None), "adaptive_bmr", None))
    for pruner, algorithm, sparsity in pruners:
        params, masks = pruner.instant_sparsify(dense.params, posterior=dense.posterior)
        posterior = dense.posterior and dense.posterior.prune(masks)
        pruned = Pruned("one-shot", algorithm, sparsity, params, posterior)
        yield pruned


def evaluate(
    pruned: Pruned, training: Training, network: Network, data: Dataset, samples: int
) -> dict[str, Any]:
    """Test metrics at the mean; of trained networks averaged over the posterior as well."""
    kernels = {name: layer["kernel"] for name, layer in pruned.params.items()}
    counted = float(metrics.sparsity(kernels))
    if pruned.sparsity is not None and abs(counted - pruned.sparsity) > 0.002:
        raise RuntimeError(f"{training}: counted a sparsity of {counted:.4f}.")
    probs = probabilities(network, pruned.params, data.test_images)
    whole = probabilities(network, refilled(pruned), data.test_images)
    if counted and bool(jnp.all(probs == whole)):
        raise RuntimeError(f"{training}: the outputs do not depend on the pruned weights.")
    row = {
        **training._asdict(),
        "mode": pruned.mode,
        "algorithm": pruned.algorithm,
        "sparsity": pruned.sparsity,
        "counted_sparsity": counted,
        "layer_sparsity": {name: float(metrics.sparsity(k)) for name, k in kernels.items()},
        "mean": scores(probs, data),
    }
    if pruned.posterior is not None and pruned.mode in ("dense", "gradual"):
        probs = averaged(network, pruned.posterior, data.test_images, samples)
        row["averaged"] = scores(probs, data)
    return row


def refilled(pruned: Pruned) -> Any:
    """The parameters with 0.1 for every weight that is pruned."""
    return {
        name: {**layer, "kernel": jnp.where(layer["kernel"] == 0, 0.1, layer["kernel"])}
        for name, layer in pruned.params.items()
    }


def probabilities(network: Network, params: Any, images: Any) -> jax.Array:
    """Of the classes, at one set of weights."""
    return jax.nn.softmax(jax.jit(network.apply)(params, images))


def averaged(
    network: Network, posterior: bmrpruner.DiagonalGaussian, images: Any, samples: int
) -> jax.Array:
    """The same, averaged over draws, some images at a time to bound the memory."""
    key, apply_fn = jax.random.key(0), softmax_of(network)
    chunks = [images[i : i + network.batch] for i in range(0, len(images), network.batch)]
    return jnp.concatenate(
        [bmrpruner.predict(apply_fn, posterior, chunk, key, samples) for chunk in chunks]
    )


@functools.cache
def softmax_of(network: Network) -> Callable[..., jax.Array]:
    """The network's probabilities: one function each, as `predict` compiles by identity."""
    return lambda params, x: jax.nn.softmax(network.apply(params, x))


def scores(probs: jax.Array, data: Dataset) -> dict[str, float]:
    """Accuracy, NLL in nats, ECE."""
    return {
        name: float(getattr(metrics, name)(probs, data.test_labels))
        for name in ("accuracy", "nll", "ece")
    }


if __name__ == "__main__":
    start(main, Settings)
