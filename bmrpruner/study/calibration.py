"""Read what obs and its kin are calibrated with, and what their loss is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bmrpruner._checks import check_seed
from bmrpruner.pruning.calibrated import Calibration
from bmrpruner.study.idx import has_split
from bmrpruner.study.tasks import Model, read_inputs, read_labelled

MOST = 10_000  # examples to calibrate with, and as many to hold out
BATCH = 1_000


def load_calibration(
    model: Model, data: Path | str, seed: int = 0, max_loss_rise: float | None = None
) -> Calibration:
    """Read calibration inputs: up to 10,000, drawn at random, in batches of 1,000.

    With a tolerance, the examples are divided at random, half for calibration and half, up to
    10,000, to be held out, where the rise of the loss is measured.

    Args:
      model: What they are for: `(params, inputs) -> logits`.
      data: A directory of MNIST-format files, of which only the training part is read, never the
        test part; or an `.npz` file with `x`, of which all examples may be used, and `y` for a
        tolerance.
      seed: For the draw.
      max_loss_rise: The tolerance, nats per example.

    Returns:
      A `Calibration` in float32 and int32.

    Raises:
      FileNotFoundError, NotADirectoryError: If something is missing.
      ValueError: If it is not as it must be, or there are fewer than two examples to divide.

    Example:
      >>> import tempfile
      >>> from bmrpruner.study.models import mlp
      >>> path = Path(tempfile.mkdtemp(), 'examples.npz')
      >>> np.savez(path, x=np.ones((2500, 3)), y=np.zeros(2500, int))
      >>> found = load_calibration(mlp, path, max_loss_rise=0.01)
      >>> [batch.shape for batch in found.batches], [x.shape for x, _ in found.held_out]
      ([(1000, 3), (250, 3)], [(1000, 3), (250, 3)])
    """
    check_seed("seed", seed)
    path = Path(data)
    if max_loss_rise is None:
        inputs = read_inputs(path, "train")
        rows = np.random.default_rng(seed).permutation(len(inputs))[:MOST]
        return Calibration(model, _batches(inputs[rows]))
    inputs, labels = read_labelled(path, "train")
    if len(inputs) < 2:
        raise ValueError(f"{data}: expected two examples to divide at least, got {len(inputs)}.")
    rows = np.random.default_rng(seed).permutation(len(inputs))
    half = min(MOST, len(inputs) // 2)
    own, others = rows[:half], rows[half : 2 * half]
    held_out = list(zip(_batches(inputs[others]), _batches(labels[others]), strict=True))
    return Calibration(model, _batches(inputs[own]), held_out, max_loss_rise)


def has_calibration(data: Path | str) -> bool:
    """Whether a sweep's test data come with inputs to calibrate with: MNIST's training part.

    Args:
      data: What `load_task` reads.

    Returns:
      A bool; False for `.npz` files, which hold nothing beside the test data.

    Example:
      >>> has_calibration('test.npz')
      False
    """
    return Path(data).suffix != ".npz" and has_split(data, "train")


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
