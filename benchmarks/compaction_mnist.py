"""Whole units pruned on MNIST at equal FLOPs, and how much smaller and faster that makes networks.

python benchmarks/compaction_mnist.py --data mnist/ --out compaction/            # both networks
python benchmarks/compaction_mnist.py --data mnist/ --out compaction/ --networks mlp --seeds 0
python benchmarks/compaction_mnist.py --data mnist/ --out compaction/ --report   # the tables

Networks are trained with IVON, under a prior that widens while units go. Units are ranked by ΔF,
SNR, magnitude, or at random, over the whole network, after training or during it; 'adaptive_bmr'
prunes where ΔF > 0, and 'obs', after training, refits what stays. All are compacted; dense and
small networks are timed in turns, in one run. Every training run leaves a file in `--out`; what is
there is not run again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rich.progress
from compaction_report import write_report
from networks import NETWORKS, Network
from quality import missing, probabilities, scores
from quality_training import Training, make_optimizer, make_pruner, train
from starting import start

import bmrpruner
from bmrpruner import sparsity_types, structure
from bmrpruner.files.atomic import atomic_write
from bmrpruner.pruning import prune_units
from bmrpruner.study.idx import Dataset, read_dataset
from bmrpruner.study.shrinking import milliseconds

ALGORITHMS = ("bmr", "snr", "magnitude", "random")
ADAPTIVE = "adaptive_bmr"
REFITTED = "obs"  # after training, from 10,000 images; shares are of the weights that units have
BATCH = 128  # images in the call that is counted and timed


@dataclasses.dataclass
class Settings:
    """Train, prune units, compact, evaluate, time."""

    data: Path
    """Directory with MNIST-format IDX files."""
    out: Path = Path("compaction")
    """Directory for the runs, results.json, table.md and the pictures."""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """mlp is 784-300-100-10, lenet5 LeNet-5."""
    shares: tuple[float, ...] = (0.5, 0.75, 0.9, 0.95)
    """Shares of the FLOPs to prune; during training each costs a run per algorithm and seed."""
    during: tuple[str, ...] = (ADAPTIVE, *ALGORITHMS)
    """What to prune by during training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The random seeds."""
    epochs: int = 20
    """Passes through the training data."""
    multiple: int = 1
    """Widths are multiples of this."""
    repeats: int = 50
    """Calls that are timed."""
    report: bool = False
    """Train nothing: tables and pictures of what is there."""


class Model(NamedTuple):
    """A network with its dependency groups."""

    network: Network
    groups: list[structure.Group]
    cost: dict[Any, float]
    multiple: int

    def kind(self, algorithm: str) -> sparsity_types.Group:
        """What is pruned together; where the evidence decides, no share of FLOPs is asked for."""
        cost = "units" if algorithm == ADAPTIVE else self.cost
        return sparsity_types.Group(self.groups, cost, self.multiple)


def main(settings: Settings) -> None:
    """Run what is missing, then report."""
    check(settings)
    runs = settings.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    asked = [] if settings.report else list(trainings(settings))
    todo = [t for t in asked if missing(runs / t.file, fingerprint(settings))]
    data = read_dataset(settings.data, classes=10)
    models = {name: seen(name, settings.multiple) for name in settings.networks}
    with rich.progress.Progress(transient=True) as progress:
        overall = progress.add_task("Training runs", total=len(todo))
        for training in todo:
            start = time.perf_counter()
            rows = run(training, models[training.network], data, settings, progress)
            result = {"settings": fingerprint(settings), "rows": rows}
            with atomic_write(runs / training.file, force=True) as path:
                path.write_text(json.dumps(result))
            progress.advance(overall)
            if not progress.console.is_terminal:
                print(*training, f"{time.perf_counter() - start:.0f} s", flush=True)
    write_report(settings.out, [json.loads(p.read_text()) for p in sorted(runs.glob("*.json"))])


def check(settings: Settings) -> None:
    """Raise a ValueError for a name that is not known."""
    for field, known in (("networks", tuple(NETWORKS)), ("during", (ADAPTIVE, *ALGORITHMS))):
        for name in getattr(settings, field):
            if name not in known:
                raise ValueError(f"{field}: expected some of {', '.join(known)}, got {name!r}.")


def trainings(settings: Settings) -> Iterator[Training]:
    """The training runs: dense ones, which are pruned afterwards, then those pruned meanwhile."""
    for network in settings.networks:
        for algorithm in ("no_prune", *settings.during):
            shares: tuple[float | None, ...] = settings.shares
            if algorithm in ("no_prune", ADAPTIVE):
                shares = (0.0 if algorithm == "no_prune" else None,)
            for share in shares:
                for seed in settings.seeds:
                    yield Training(network, "ivon_3n", algorithm, share, seed)


def fingerprint(settings: Settings) -> dict[str, Any]:
    """What a run depends on beside its name."""
    return {
        "data": settings.data.resolve().name,
        "shares": list(settings.shares),
        "epochs": settings.epochs,
        "multiple": settings.multiple,
    }


def seen(name: str, multiple: int) -> Model:
    """A network and its groups, from shapes."""
    network = NETWORKS[name]
    params = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((BATCH, 784), jnp.float32)
    traced = (network.apply, params, images)
    groups, cost = structure.dependency_groups(*traced), structure.entry_flops(*traced)
    return Model(network, groups, cost, multiple)


def run(
    training: Training, model: Model, data: Dataset, settings: Settings, progress: Any
) -> list[dict[str, Any]]:
    """Train, prune if that is still to do, compact, evaluate."""
    algorithm = training.algorithm
    options = {} if algorithm == "no_prune" else {"sparsity_type": model.kind(algorithm)}
    tx = make_optimizer(training, len(data.train_images), settings.epochs, **options)
    params, state = train(training, tx, model.network, data, settings.epochs, progress)
    if algorithm != "no_prune":
        networks = [("during", algorithm, training.sparsity, params)]
    else:
        posterior = bmrpruner.posteriors.from_opt_state(state, params)
        networks = [("dense", algorithm, 0.0, params)]
        for name, share in once(settings.shares):
            if name == REFITTED:
                inputs = [data.train_images[i : i + 1000] for i in range(0, 10_000, 1000)]
                apply, multiple = model.network.apply, model.multiple
                pruned = prune_units(apply, params, inputs, share, multiple=multiple)[0]
            else:
                pruner = make_pruner(name, share, sparsity_type=model.kind(name))
                pruned = pruner.instant_sparsify(params, posterior=posterior)[0]
            networks.append(("after", name, share, pruned))
    return [
        {
            "network": training.network,
            "seed": training.seed,
            "mode": mode,
            "algorithm": name,
            "share": share,
            **evaluate(model, pruned, data, settings.repeats),
        }
        for mode, name, share, pruned in networks
    ]


def once(shares: tuple[float, ...]) -> Iterator[tuple[str, float | None]]:
    """What a trained network is pruned by, and to which share."""
    yield ADAPTIVE, None
    yield from ((name, share) for name in (REFITTED, *ALGORITHMS) for share in shares)


def evaluate(model: Model, params: Any, data: Dataset, repeats: int) -> dict[str, Any]:
    """Compact a network; accuracy, sizes, and the time that the dense one takes beside it."""
    images = jnp.asarray(data.test_images[:BATCH])
    network = model.network
    small = bmrpruner.compact(network.apply, params, jax.ShapeDtypeStruct((BATCH, 784), "float32"))
    probs = probabilities(network, params, data.test_images)
    compacted = probabilities(network._replace(apply=small.fn), small.params, data.test_images)
    error = float(jnp.abs(probs - compacted).max())
    if not error <= 1e-4:  # NaN is not
        raise RuntimeError(f"the compacted network's probabilities differ by {error:.1e}.")
    large_run, small_run = jax.jit(network.apply), jax.jit(small.fn)
    times = milliseconds(
        [lambda: large_run(params, images), lambda: small_run(small.params, images)], repeats
    )
    return {
        **scores(compacted, data),
        "parameters": list(small.report.parameters),
        "flops": list(small.report.flops),
        "milliseconds": times,
        "shapes": {"/".join(key): list(shapes[1]) for key, shapes in small.report.shapes.items()},
    }


if __name__ == "__main__":
    start(main, Settings)
