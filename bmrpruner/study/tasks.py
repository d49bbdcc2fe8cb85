"""Load what a network is tested on, a model function and data, and check that they fit."""

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

from bmrpruner._checks import check_labels, check_seed
from bmrpruner._tree import PyTree
from bmrpruner.files import read_tensors
from bmrpruner.pruning.calibrated import count_classes
from bmrpruner.study.idx import read_images, read_split

Model = Callable[[PyTree, Any], jax.Array]
_MOST = np.iinfo(np.int32).max


class Task(NamedTuple):
    """Data to test a network on.

    Attributes:
      inputs: float32 (n, ...), handed to the model.
      labels: int32 (n,).
      ood: Out-of-distribution inputs (m, ...), on which a network should be less sure.

    Example:
      >>> task = Task(np.eye(2), np.array([0, 1]), np.ones((3, 2)))
      >>> task.inputs.shape, task.ood.shape
      ((2, 2), (3, 2))
    """

    inputs: Any
    labels: Any
    ood: Any


def load_task(data: Path | str, ood: Path | str | None = None, seed: int = 0) -> Task:
    """Read test data from a directory of MNIST-format files, or an `.npz` file with `x` and `y`.

    Args:
      data: Directory or file. `x`: (n, ...) booleans or real, finite numbers; `y`: (n,) integers in
        [0, 2**31).
      ood: The same for out-of-distribution inputs, of which `y` is not read and may be missing. By
        default the inputs themselves with their features shuffled, another order for each.
      seed: For the shuffling.

    Returns:
      A `Task` in float32 and int32.

    Raises:
      FileNotFoundError: If something is missing.
      NotADirectoryError: If a file is no `.npz` file.
      ValueError: If it is not as it must be; the message names the file.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'test.npz')
      >>> np.savez(path, x=np.ones((5, 3)), y=np.zeros(5, int))
      >>> load_task(path).ood.shape
      (5, 3)
    """
    check_seed("seed", seed)
    inputs, labels = read_labelled(Path(data))
    if ood is not None:
        outside = read_inputs(Path(ood))
        if outside.shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"{ood}: x: expected inputs of shape {inputs.shape[1:]} as in {data}, "
                f"got {outside.shape[1:]}."
            )
    else:
        flat = inputs.reshape(len(inputs), -1)
        outside = np.random.default_rng(seed).permuted(flat, axis=1).reshape(inputs.shape)
    return Task(inputs, labels, outside)


def load_model(name: str) -> Model:
    """Import the function `(params, inputs) -> logits` that `module:function` names.

    Args:
      name: `module:function`. Modules are looked for in the current directory too.

    Returns:
      The function.

    Raises:
      ValueError: If it does not import, or is no function.

    Example:
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
            f"model: expected a function to import, got {name!r}: {type(error).__name__}: {error}"
        ) from error
    if not callable(model):
        raise ValueError(f"model: expected a function, got {name!r}, a {type(model).__name__}.")
    return model


def check_model(model: Model, params: PyTree, task: Task) -> int:
    """Check that a model takes these parameters and data.

    Args:
      model: From parameters and inputs to logits; it is traced, not run.
      params: Any pytree of arrays.
      task: Test data.

    Returns:
      The number of classes.

    Raises:
      ValueError: If it does not, or gives something else than logits of as many classes.

    Example:
      >>> task = Task(np.ones((5, 3)), np.zeros(5, int), np.ones((5, 3)))
      >>> check_model(lambda params, x: x @ params, np.ones((3, 4)), task)
      4
    """
    inputs = jax.ShapeDtypeStruct((len(task.labels), *task.inputs.shape[1:]), jnp.float32)
    classes = count_classes(model, params, inputs)
    check_labels("labels", task.labels, classes)
    return classes


def check_takes(model: Model, params: PyTree, inputs: Any) -> Any:
    """The shapes of what a model gives for these parameters and inputs.

    Args:
      model: It is traced, not run.
      params: Any pytree of arrays.
      inputs: An array, or a `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: If the model does not take them.

    Example:
      >>> check_takes(lambda params, x: x @ params, np.ones((3, 4)), np.ones((5, 3))).shape
      (5, 4)
    """
    try:
        return jax.eval_shape(model, params, inputs)
    except Exception as error:  # whatever the model does with shapes it does not know
        first_line = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"model: expected one that takes inputs of shape {inputs.shape}, got {first_line}"
        ) from error


def load_inputs(path: Path | str) -> np.ndarray:
    """Read the inputs of test data without their labels.

    Args:
      path: Directory or file, as for `load_task`; an `.npz` file needs `x` only.

    Returns:
      float32 (n, ...).

    Raises:
      FileNotFoundError, NotADirectoryError, ValueError: As `load_task` does.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'test.npz')
      >>> np.savez(path, x=np.ones((5, 3)))
      >>> load_inputs(path).shape
      (5, 3)
    """
    return read_inputs(Path(path))


def read_labelled(path: Path, part: str = "t10k") -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels: of a part of MNIST-format files, or all of an `.npz` file."""
    if path.suffix != ".npz":
        return read_split(path, part)
    arrays = _read_arrays(path, "x", "y")
    inputs, labels = _as_inputs(path, arrays["x"]), arrays["y"]
    if labels.shape != inputs.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: y: expected an integer for each of the {len(inputs)} rows of x, "
            f"got {labels.dtype} of shape {labels.shape}."
        )
    if labels.min() < 0 or labels.max() > _MOST:  # in the file's own dtype, before it is converted
        raise ValueError(
            f"{path}: y: expected integers in [0, 2**31), got {labels.min()} to {labels.max()}."
        )
    return inputs, labels.astype(np.int32)


def read_inputs(path: Path, part: str = "t10k") -> np.ndarray:
    """Inputs alone, from the same."""
    if path.suffix != ".npz":
        return read_images(path, part)
    return _as_inputs(path, _read_arrays(path, "x")["x"])


def _read_arrays(path: Path, *names: str) -> dict[str, np.ndarray]:
    arrays = read_tensors(path).arrays
    if not arrays.keys() >= set(names):
        raise ValueError(f"{path}: expected arrays {' and '.join(names)}, got {', '.join(arrays)}.")
    return arrays


def _as_inputs(path: Path, x: np.ndarray) -> np.ndarray:
    is_real = jnp.issubdtype(x.dtype, jnp.floating) or jnp.issubdtype(x.dtype, jnp.integer)
    if not is_real and x.dtype != bool:
        raise ValueError(f"{path}: x: expected booleans or real numbers, got {x.dtype}.")
    if x.ndim == 0 or x.size == 0:
        raise ValueError(
            f"{path}: x: expected one row of one number at least, got shape {x.shape}."
        )
    with np.errstate(over="ignore"):
        inputs = x.astype(np.float32)
    if not np.isfinite(inputs).all():
        first = x[~np.isfinite(inputs)][0]
        raise ValueError(f"{path}: x: expected finite numbers of float32, got {first}.")
    return inputs
