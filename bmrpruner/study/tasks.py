"""What a network is tested on: a model function and data, checked against each other."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import PyTree
from bmrpruner.files import read_tensors
from bmrpruner.study.idx import read_split

Model = Callable[[PyTree, Any], jax.Array]


class Task(NamedTuple):
    """What to predict, and what to be unsure about.

    Attributes:
      inputs: (n, ...), handed to the model.
      labels: int (n,).
      ood: Inputs of another kind, on which a network should be less sure.
    """

    inputs: Any
    labels: Any
    ood: Any


def load_task(data: Path | str, ood: Path | str | None = None, seed: int = 0) -> Task:
    """Test data from a directory of MNIST-format files, or an `.npz` file with `x` and `y`.

    Args:
      data: Directory or file.
      ood: The same for out-of-distribution inputs, whose labels are not read. By default the
        inputs themselves with their features shuffled, another order for each.
      seed: For the shuffling.

    Raises:
      FileNotFoundError: If something is missing.
      ValueError: If it is not as it must be.

    Examples:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'test.npz')
      >>> np.savez(path, x=np.ones((5, 3)), y=np.zeros(5, int))
      >>> load_task(path).ood.shape
      (5, 3)
    """
    inputs, labels = _read(Path(data))
    if ood is not None:
        outside, _ = _read(Path(ood))
        if outside.shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"{ood}: expected inputs of shape {inputs.shape[1:]} as in {data}, "
                f"got {outside.shape[1:]}."
            )
    else:
        flat = inputs.reshape(len(inputs), -1)
        outside = np.random.default_rng(seed).permuted(flat, axis=1).reshape(inputs.shape)
    return Task(inputs, labels, outside)


def load_model(name: str) -> Model:
    """The function `(params, inputs) -> logits` that `module:function` names.

    Modules are looked for in the current directory too.

    Raises:
      ValueError: If it does not import, or is no function.

    Examples:
      >>> load_model('bmrpruner.study.models:mlp').__name__
      'mlp'
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"model: expected module:function, got {name!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        model = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # whatever the module does on import
        raise ValueError(
            f"model: {name!r} does not import: {type(error).__name__}: {error}"
        ) from error
    if not callable(model):
        raise ValueError(f"model: {name!r} is a {type(model).__name__}, expected a function.")
    return model


def check_model(model: Model, params: PyTree, task: Task) -> int:
    """The number of classes, or a ValueError if the model does not take these data.

    Examples:
      >>> task = Task(np.ones((5, 3)), np.zeros(5, int), np.ones((5, 3)))
      >>> check_model(lambda params, x: x @ params, np.ones((3, 4)), task)
      4
    """
    inputs = jax.ShapeDtypeStruct((len(task.labels), *task.inputs.shape[1:]), jnp.float32)
    try:
        logits = jax.eval_shape(model, params, inputs)
    except Exception as error:  # whatever the model does with shapes it does not know
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model, data: the model does not take inputs of shape {inputs.shape}: {first_line}"
        ) from error
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(task.labels):
        raise ValueError(
            f"model: expected logits of shape ({len(task.labels)}, classes), got {shape}."
        )
    if task.labels.max() >= shape[1] or task.labels.min() < 0:
        raise ValueError(
            f"data: labels from {task.labels.min()} to {task.labels.max()}, but the model has "
            f"{shape[1]} classes."
        )
    return int(shape[1])


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix != ".npz":
        return read_split(path, "t10k")
    arrays = read_tensors(path).arrays
    if not {"x", "y"} <= arrays.keys():
        raise ValueError(f"{path}: expected arrays x and y, got {', '.join(arrays)}.")
    inputs, labels = arrays["x"], arrays["y"]
    if labels.shape != inputs.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: expected y to hold an integer for each of the {len(inputs)} rows of x, "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    return inputs.astype(np.float32), labels.astype(np.int32)
