"""AdamW's weight decay and label smoothing, by accuracy and NLL on held-out training images.

python benchmarks/adamw_search.py --data mnist/

Trains 784-300-100-10 as quality.py does, without the last 10,000 training images, and evaluates on
these. The best NLL and the best accuracy are the baselines of quality_training.ADAMW.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import rich.console
import rich.progress
from networks import NETWORKS
from quality import held_out, probabilities, scores
from quality_training import ADAMW, Training, make_optimizer, train
from starting import start

from bmrpruner.study.idx import read_dataset


@dataclasses.dataclass
class Settings:
    """Train once for each decay without smoothing, and for each smoothing with Optax's decay."""

    data: Path
    """Directory with MNIST-format IDX files."""
    decays: tuple[float, ...] = (1e-4, 0.1, 0.3, 1.0)
    """Weight decays."""
    smoothings: tuple[float, ...] = (0.05, 0.1)
    """Label smoothings."""
    seeds: tuple[int, ...] = (0, 1)
    """The random seeds."""
    epochs: int = 20
    """Passes through the training data."""
    validation: int = 10_000
    """Training images to hold out."""


def main(settings: Settings) -> None:
    """Print a line for each setting."""
    console = rich.console.Console(stderr=True)
    data = held_out(read_dataset(settings.data, classes=10), settings.validation)
    tried = [(decay, 0.0) for decay in settings.decays]
    tried += [(1e-4, smoothing) for smoothing in settings.smoothings]
    for decay, smoothing in tried:
        name = f"decay {decay:g}, smoothing {smoothing:g}"
        ADAMW[name] = (decay, smoothing)
        found = []
        for seed in settings.seeds:
            training = Training("mlp", name, "no_prune", 0.0, seed)
            tx = make_optimizer(training, len(data.train_images), settings.epochs)
            with rich.progress.Progress(console=console, transient=True) as progress:
                network = NETWORKS["mlp"]
                params, _ = train(training, tx, network, data, settings.epochs, progress)
            found.append(scores(probabilities(network, params, data.test_images), data))
        accuracy, nll = (statistics.mean(row[key] for row in found) for key in ("accuracy", "nll"))
        print(f"{name}: accuracy {100 * accuracy:.2f}, NLL {nll:.4f}", flush=True)


if __name__ == "__main__":
    start(main, Settings)
