"""A character transformer pruned once, without fine-tuning: bits per character by several methods.

python benchmarks/transformer.py --text shakespeare.txt --out transformer/
python benchmarks/transformer.py --text shakespeare.txt --out quick/ --quick   # does it run?

Shows what one pass over calibration data is worth: Optimal Brain Surgeon, SparseGPT's sweep and
Wanda, which make one, beside magnitude, which does not. The fewer bits per character of the test
part, the better; the head of the table says how many the dense network needs.

Trains 4 layers of width 128 on the first 90 % of a text and prunes all linear layers at several
sparsities and in the pattern 2:4. Every seed leaves a file in `--out`; what is there is not run
again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.markdown
from character_model import Sizes, Text, apply, bits_per_character, read_text, train
from oneshot import swept
from starting import start

import bmrpruner
from bmrpruner import files, metrics, posteriors
from bmrpruner.files.atomic import atomic_write
from bmrpruner.posteriors.calibration import layers_of
from bmrpruner.pruning.layer_by_layer import refit_in_order
from bmrpruner.sparsity_types import NByM, Unstructured

Row = dict[str, Any]
PATTERN = "2:4"
ALONG_INPUTS = NByM(2, 4, axis=0)  # kernels are (inputs, outputs)
METHODS = {
    "magnitude": "magnitude, by layer",
    "wanda": "Wanda, by row",
    "sweep": "SparseGPT's sweep, by layer",
    "obs": "OBS, global",
    "obs_sequential": "OBS, sequential",
}


@dataclasses.dataclass
class Settings:
    """Train, calibrate, prune, evaluate; mean and standard deviation over the seeds."""

    text: Path
    """A text file."""
    out: Path = Path("transformer")
    """Directory for the networks, the runs and table.md."""
    sparsities: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8)
    """Fractions of the weights of linear layers to prune."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """The random seeds."""
    steps: int = 4_000
    """Training steps of 32 pieces of 128 characters."""
    tokens: int = 16_000
    """Characters of the training part to calibrate with."""
    quick: bool = False
    """One small layer, few steps: to see that it runs."""

    @property
    def sizes(self) -> Sizes:
        """The model's."""
        return Sizes(1, 16, 2, 16, 8) if self.quick else Sizes()


def main(settings: Settings) -> None:
    """Run the seeds that are missing, then report."""
    if settings.quick:
        settings.steps, settings.tokens = min(settings.steps, 60), min(settings.tokens, 640)
    text = read_text(settings.text.read_text())
    if len(text.test) < 2 * settings.sizes.context:
        raise ValueError(f"{settings.text}: expected a longer text, got {len(text.test)} to test.")
    runs = settings.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for seed in settings.seeds:
        path = runs / f"{seed}.json"
        if path.exists():
            check_same(path, settings)
            continue
        rows = run(seed, text, settings)
        with atomic_write(path, force=True) as target:
            target.write_text(json.dumps({"settings": fingerprint(settings), "rows": rows}))
    found = [json.loads(path.read_text())["rows"] for path in sorted(runs.glob("*.json"))]
    text_of_table = table([row for rows in found for row in rows])
    rich.console.Console(width=140).print(rich.markdown.Markdown(text_of_table))
    with atomic_write(settings.out / "table.md", force=True) as target:
        target.write_text(text_of_table + "\n")


def fingerprint(settings: Settings) -> dict[str, Any]:
    """What a run depends on beside its seed."""
    return {
        "text": settings.text.resolve().name,
        "sparsities": list(settings.sparsities),
        "steps": settings.steps,
        "tokens": settings.tokens,
        "sizes": list(settings.sizes),
    }


def check_same(path: Path, settings: Settings) -> None:
    """Raise where a run of other settings has the name."""
    found = json.loads(path.read_text())["settings"]
    if found != fingerprint(settings):
        raise ValueError(f"{path} was made with {found}; choose another --out.")


def run(seed: int, text: Text, settings: Settings) -> list[Row]:
    """A row for the dense network, and for each method at each sparsity and in the pattern."""
    params = trained(seed, text, settings)
    rows = [row(seed, "dense", 0.0, 0.0, params, text, settings)]
    for method, prune in methods(params, calibration_batches(seed, text, settings), settings):
        for share in (*settings.sparsities, PATTERN):
            begin = time.perf_counter()
            pruned = jax.block_until_ready(prune(share))
            seconds = time.perf_counter() - begin
            rows.append(row(seed, method, share, seconds, pruned, text, settings))
            print(seed, method, share, f"{rows[-1]['bits']:.3f} {seconds:.1f} s", flush=True)
    return rows


def trained(seed: int, text: Text, settings: Settings) -> Any:
    """The dense network, from a file if it is there."""
    path = settings.out / "networks" / f"{seed}-{settings.steps}-{settings.sizes.width}.npz"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        files.save(path, train(jax.random.key(seed), text, settings.sizes, settings.steps))
    return jax.tree.map(jnp.asarray, files.load(path).params)


def calibration_batches(seed: int, text: Text, settings: Settings) -> list[np.ndarray]:
    """Random pieces of the training part."""
    length = settings.sizes.context
    count = max(1, settings.tokens // length)
    starts = np.random.default_rng(seed).integers(0, len(text.train) - length, (count, 1))
    pieces = text.train[starts + np.arange(length)]
    return [pieces[i : i + 25] for i in range(0, count, 25)]


def methods(params: Any, batches: list[Any], settings: Settings) -> list[tuple[str, Callable]]:
    """What prunes at a sparsity or in the pattern, by name; each computes all that it needs."""
    fn = functools.partial(apply, heads=settings.sizes.heads)
    found = layers_of(fn, params, batches[0])

    def calibrated() -> Any:
        return posteriors.from_calibration(found, params, batches)

    def once(make: Any, share: Any, scope: str | None = None) -> Any:
        pruner = make(**how_much(share), scope=scope, filter_fn=is_linear)
        return pruner.instant_sparsify(params, posterior=calibrated())

    def magnitude(share: Any) -> Any:
        pruner = bmrpruner.MagnitudePruning(**how_much(share), filter_fn=is_linear)
        return pruner.instant_sparsify(params)[0]

    def sweep(share: Any) -> Any:
        is_pattern = share == PATTERN
        return swept(params, calibrated(), **{"pattern" if is_pattern else "sparsity": share})

    def obs(share: Any) -> Any:
        return once(bmrpruner.OBSPruning, share, "layer" if share == PATTERN else "global")

    def sequential(share: Any) -> Any:
        kind = ALONG_INPUTS if share == PATTERN else Unstructured()
        return refit_in_order(found, params, obs(share)[1], calibrated(), batches, kind)[0]

    return [
        ("magnitude", magnitude),
        ("wanda", lambda share: once(bmrpruner.WandaPruning, share)[0]),
        ("sweep", sweep),
        ("obs", lambda share: obs(share)[0]),
        ("obs_sequential", sequential),
    ]


def how_much(share: Any) -> dict[str, Any]:
    """The fields of a pruner: a sparsity, or the pattern."""
    return {"sparsity_type": ALONG_INPUTS} if share == PATTERN else {"sparsity": share}


def is_linear(key: tuple[str, ...], leaf: Any) -> bool:
    """Whether a leaf is the kernel of a linear layer: not of the embeddings."""
    return key[-1] == "kernel"


def row(
    seed: int, method: str, share: Any, seconds: float, params: Any, text: Text, settings: Settings
) -> Row:
    """Bits per character on the test part, and the sparsity counted from the arrays."""
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    counted = float(metrics.sparsity(kernels))
    if abs(counted - (0.5 if share == PATTERN else share)) > 0.01:
        raise RuntimeError(f"{method}: expected a sparsity of {share}, counted {counted:.4f}.")
    bits = bits_per_character(params, text.test, settings.sizes)
    found = {"seed": seed, "method": method, "share": share, "counted_sparsity": counted}
    return found | {"bits": bits, "seconds": seconds}


def table(rows: list[Row]) -> str:
    """Bits per character, mean ± standard deviation, and the mean seconds."""
    shares = list(dict.fromkeys(row["share"] for row in rows if row["method"] != "dense"))
    dense = spread([row["bits"] for row in rows if row["method"] == "dense"])
    head = [f"bits per character (dense {dense})", *(as_text(share) for share in shares)]
    lines = [[*head, "seconds"], ["---"] * (len(head) + 1)]
    for method, name in METHODS.items():
        own = [row for row in rows if row["method"] == method]
        cells = [spread([r["bits"] for r in own if r["share"] == share]) for share in shares]
        seconds = statistics.mean(row["seconds"] for row in own)
        lines.append([name, *cells, f"{seconds:.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_text(share: Any) -> str:
    """A column's name."""
    return share if share == PATTERN else f"{share:.0%}"


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; without the latter for one seed."""
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    start(main, Settings)
