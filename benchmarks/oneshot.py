"""Networks pruned once from calibration data, without fine-tuning: OBS, and what it is compared to.

python benchmarks/oneshot.py --data mnist/ --out oneshot/                    # 784-300-100-10
python benchmarks/oneshot.py --data mnist/ --out oneshot/ --network lenet5   # LeNet-5, the same
python benchmarks/oneshot.py --data mnist/ --optimizers ivon_1n --during .98 --sparsities .985 .99
python benchmarks/oneshot.py --data mnist/ --out oneshot/ --report           # the table so far
python benchmarks/oneshot.py --wide                                          # 4,096 inputs

Networks are trained as in quality.py. Every network and every calibration leaves a file in `--out`;
what is there is not run again, so that a benchmark that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich.progress
from networks import NETWORKS, Network
from oneshot_report import write_report
from quality import probabilities, scores
from quality_training import DENSE, ESS, Training, make_optimizer, make_pruner, train
from starting import start
from wide_layers import report_wide

import bmrpruner
from bmrpruner import files, metrics, oneshot, posteriors
from bmrpruner.files.atomic import atomic_write
from bmrpruner.posteriors import LayerwiseGaussian
from bmrpruner.posteriors.calibration import layers_of
from bmrpruner.pruning.layer_by_layer import refit_in_order, without_zeros
from bmrpruner.sparsity_types import Unstructured
from bmrpruner.study.idx import Dataset, read_dataset

Pruned = Callable[[float], Any]  # parameters at a sparsity
BATCH = 1_000


@dataclasses.dataclass
class Settings:
    """Train, calibrate, prune, evaluate; mean and standard deviation over the seeds."""

    data: Path | None = None
    """Directory with MNIST-format IDX files."""
    out: Path = Path("oneshot")
    """Directory for the networks, the runs, results.json and table.md."""
    network: Literal["mlp", "lenet5"] = "mlp"
    """784-300-100-10, or LeNet-5."""
    optimizers: tuple[str, ...] = ("adamw", "sgd", "ivon_3n")
    """What to train with."""
    sparsities: tuple[float, ...] = (0.75, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99)
    """Fractions of the kernels' weights to prune."""
    examples: tuple[int, ...] = (128, 1_000, 10_000)
    """Numbers of training images to calibrate with."""
    during: float = 0.0
    """Fraction to prune by BMR during training already; 0 for dense networks."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """The random seeds."""
    epochs: int = 20
    """Passes through the training data."""
    report: bool = False
    """Run nothing: the table of what is there."""
    wide: bool = False
    """In place of all that: memory and time of wide layers."""


def main(settings: Settings) -> None:
    """Run what is missing, then report."""
    if settings.wide:
        report_wide()
        return
    check(settings)
    runs = settings.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    todo = [] if settings.report else list(missing(runs, settings))
    data = read_dataset(settings.data, classes=10) if todo else None
    with rich.progress.Progress(transient=True) as progress:
        bar = progress.add_task("Calibrations", total=len(todo))
        for optimizer, seed, examples in todo:
            training = make_training(settings, optimizer, seed)
            params, posterior = trained(training, data, settings, progress)
            rows = run(training, params, posterior, data, examples, settings.sparsities)
            with atomic_write(runs / run_name(training, examples), force=True) as path:
                path.write_text(json.dumps({"settings": fingerprint(settings), "rows": rows}))
            progress.advance(bar)
            if not progress.console.is_terminal:
                print(settings.network, optimizer, seed, examples, flush=True)
    found = [json.loads(path.read_text())["rows"] for path in sorted(runs.glob("*.json"))]
    write_report(settings.out, [row for rows in found for row in rows])


def check(settings: Settings) -> None:
    """Raise a ValueError for settings that cannot be."""
    for optimizer in settings.optimizers:
        if optimizer not in DENSE:
            raise ValueError(f"optimizers: expected some of {', '.join(DENSE)}, got {optimizer!r}.")
    if [settings.during, *settings.sparsities] != sorted([settings.during, *settings.sparsities]):
        raise ValueError(
            f"sparsities: expected them to rise from {settings.during} on, got "
            f"{settings.sparsities}."
        )
    if settings.during and not all(optimizer in ESS for optimizer in settings.optimizers):
        raise ValueError(
            f"optimizers: expected IVON's to prune during training by BMR, got "
            f"{settings.optimizers}."
        )
    for number in settings.examples:
        if number < 1:
            raise ValueError(f"examples: expected 1 at least, got {number}.")
    if settings.data is None and not settings.report:
        raise ValueError("data: expected a directory of MNIST-format files, got none.")


def missing(runs: Path, settings: Settings) -> Iterator[tuple[str, int, int]]:
    """Optimizer, seed and calibration size (0 for what reads no data) of what is still to run."""
    for optimizer in settings.optimizers:
        for seed in settings.seeds:
            for examples in (0, *settings.examples):
                training = make_training(settings, optimizer, seed)
                path = runs / run_name(training, examples)
                if not path.exists():
                    yield optimizer, seed, examples
                    continue
                found = json.loads(path.read_text())["settings"]
                if found != fingerprint(settings):
                    raise ValueError(f"{path} was made with {found}; choose another --out.")


def make_training(settings: Settings, optimizer: str, seed: int) -> Training:
    """The training run of a network that is pruned in one shot afterwards."""
    algorithm = "global_bmr" if settings.during else "no_prune"
    return Training(settings.network, optimizer, algorithm, settings.during, seed)


def fingerprint(settings: Settings) -> dict[str, Any]:
    """What a run depends on beside its name."""
    assert settings.data is not None
    return {
        "data": settings.data.resolve().name,
        "sparsities": list(settings.sparsities),
        "epochs": settings.epochs,
        "during": settings.during,
    }


def run_name(training: Training, examples: int) -> str:
    """The file of a run."""
    return f"{training.network}-{training.optimizer}-{training.seed}-{examples}.json"


def trained(training: Training, data: Dataset, settings: Settings, progress: Any) -> Any:
    """Parameters and the posterior that IVON leaves, from a file if they are there."""
    pruned = f"-{training.sparsity}" if training.sparsity else ""
    name = f"{training.network}-{training.optimizer}{pruned}-{training.seed}-{settings.epochs}.npz"
    path = settings.out / "networks" / name
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        tx = make_optimizer(training, len(data.train_images), settings.epochs)
        network = NETWORKS[training.network]
        params, state = train(training, tx, network, data, settings.epochs, progress)
        has_posterior = training.optimizer in ESS
        files.save(path, posteriors.from_opt_state(state, params) if has_posterior else params)
    found = files.load(path)
    return jax.tree.map(jnp.asarray, found.params), found.posterior


def run(
    training: Training,
    params: Any,
    posterior: Any,
    data: Dataset,
    examples: int,
    sparsities: tuple[float, ...],
) -> list[dict[str, Any]]:
    """A row for each method and sparsity; the dense network among what reads no data."""
    network = NETWORKS[training.network]
    if examples:
        rows = np.random.default_rng(training.seed).permutation(len(data.train_images))[:examples]
        images = [data.train_images[rows[i : i + BATCH]] for i in range(0, len(rows), BATCH)]
        methods = calibrated(network, params, images)
    else:
        methods = {
            "dense": (0.0, lambda _: params),
            "magnitude": (0.0, lambda s: pruned_by("global_magnitude", params, posterior, s)),
        }
        if posterior is not None:
            methods["bmr"] = (0.0, lambda s: pruned_by("global_bmr", params, posterior, s))
    found = []
    for method, (before, prune) in methods.items():
        for sparsity in (training.sparsity,) if method == "dense" else sparsities:
            begin = time.perf_counter()
            pruned = jax.block_until_ready(prune(sparsity))
            seconds = before + time.perf_counter() - begin
            found.append(
                {
                    "network": training.network,
                    "optimizer": training.optimizer,
                    "seed": training.seed,
                    "examples": examples,
                    "method": method,
                    "sparsity": sparsity,
                    "seconds": seconds,
                    **evaluated(network, pruned, sparsity, data, training.sparsity == 0),
                }
            )
    return found


def evaluated(
    network: Network, pruned: Any, sparsity: float, data: Dataset, exact: bool
) -> dict[str, float]:
    """Test metrics, and the sparsity counted from the arrays, which must be that asked for.

    Methods that keep weights in every row keep some that training has pruned: not `exact`, more.
    """
    counted = float(metrics.sparsity({name: layer["kernel"] for name, layer in pruned.items()}))
    if counted < sparsity - 0.005 or (exact and counted > sparsity + 0.005):
        raise RuntimeError(f"expected a sparsity of {sparsity}, counted {counted:.4f}.")
    probs = probabilities(network, pruned, data.test_images)
    return {"counted_sparsity": counted, **scores(probs, data)}


def pruned_by(algorithm: str, params: Any, posterior: Any, sparsity: float) -> Any:
    """Parameters without the weights that a score of single weights puts last."""
    return make_pruner(algorithm, sparsity).instant_sparsify(params, posterior=posterior)[0]


def calibrated(
    network: Network, params: Any, batches: list[Any]
) -> dict[str, tuple[float, Pruned]]:
    """The methods by name: the seconds before the first sparsity, and the network at one.

    `obs_in_turn` prunes what it made of the sparsity before, so that these have to rise.
    """
    begin = time.perf_counter()
    found = layers_of(network.apply, params, batches[0])
    moments = posteriors.from_calibration(found, params, batches)
    jax.block_until_ready(moments.layers)
    calibration = time.perf_counter() - begin
    ranking = bmrpruner.GlobalOBSPruning(sparsity=0.5).calculate_scores(params, posterior=moments)
    jax.block_until_ready(ranking)
    elimination = time.perf_counter() - begin

    def obs(sparsity: float) -> Any:
        pruner = bmrpruner.GlobalOBSPruning(sparsity=sparsity)
        return pruner.prune_by_scores(params, ranking, moments)

    def sequential(sparsity: float) -> Any:
        masks = without_zeros(obs(sparsity)[1], params, moments)
        return refit_in_order(found, params, masks, moments, batches, Unstructured())[0]

    latest = params

    def in_turn(sparsity: float) -> Any:
        nonlocal latest
        latest, _ = bmrpruner.prune_sequentially(network.apply, latest, batches, sparsity)
        return latest

    def wanda(sparsity: float) -> Any:
        pruner = bmrpruner.WandaPruning(sparsity=sparsity)
        return pruner.instant_sparsify(params, posterior=moments)[0]

    return {
        "obs": (elimination, lambda sparsity: obs(sparsity)[0]),
        "obs_sequential": (elimination, sequential),
        "obs_in_turn": (0.0, in_turn),
        "wanda": (calibration, wanda),
        "sweep": (calibration, lambda sparsity: swept(params, moments, sparsity)),
    }


def swept(
    params: Any, moments: LayerwiseGaussian, sparsity: Any = None, pattern: Any = None
) -> Any:
    """SparseGPT's sweep of every layer by itself, with the biases that keep the mean outputs."""
    for layer in moments.layers:
        before = layer.weights(params)
        after, _ = oneshot.sweep(before, layer.precision(moments.damping), sparsity, pattern)
        bias = layer.bias(params)
        if bias is not None:
            bias = bias + (before - after) @ layer.input_mean
        params = layer.put(params, after, bias)
    return params


if __name__ == "__main__":
    start(main, Settings)
