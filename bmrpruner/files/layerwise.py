"""Posteriors of linear layers in files: parameters, moments, and where the weights are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import Key, PyTree, is_array, join, keyed_leaves
from bmrpruner.files.formats import read_tensors, write_tensors
from bmrpruner.files.naming import named, nest_keys
from bmrpruner.posteriors import LayerwiseGaussian, LinearLayer
from bmrpruner.posteriors.layerwise_gaussian import leaf_of

_INFO = "bmrpruner_layerwise"
_ARRAYS = ("positions", "bias_positions", "input_mean", "input_covariance", "curvature")
_NUMBERS = ("examples", "damping", "prior_precision")


def save_layerwise(path: Path | str, posterior: LayerwiseGaussian, force: bool = False) -> None:
    """Write the posterior that a calibration found: the whole file, or nothing.

    Args:
      path: What to write; the suffix is `.npz` or `.safetensors`.
      posterior: The posterior, with numbers for `examples`, `damping` and `prior_precision`.
      force: Replace an existing file.

    Raises:
      FileExistsError: If the file exists, unless `force`.
      ValueError: If the suffix is another, two leaves have the same name, or `examples`, `damping`
        or `prior_precision` is no number.
      ImportError: If safetensors is needed and not installed.

    Example:
      >>> import jax, tempfile
      >>> from bmrpruner import posteriors
      >>> params, x = {'w': jnp.ones((2, 3))}, jax.random.normal(jax.random.key(0), (100, 2))
      >>> posterior = posteriors.from_calibration(lambda p, x: x @ p['w'], params, [x])
      >>> path = Path(tempfile.mkdtemp(), 'moments.npz')
      >>> save_layerwise(path, posterior)
      >>> load_layerwise(path).layers[0].shape
      (3, 2)
    """
    tensors = {f"params/{name}": array for name, array in named(posterior.mean).items()}
    layers = []
    for i, layer in enumerate(posterior.layers):
        layers.append({"name": layer.name, "leaf": layer.leaf, "bias_leaf": layer.bias_leaf})
        for field in _ARRAYS:
            if getattr(layer, field) is not None:
                tensors[f"layers/{i}/{field}"] = np.asarray(getattr(layer, field))
    keys = {join(k) or "params": k for k, leaf in keyed_leaves(posterior.mean) if is_array(leaf)}
    numbers = {name: _number(name, getattr(posterior, name)) for name in _NUMBERS}
    info = {"layers": layers, "keys": keys, **numbers}
    write_tensors(path, tensors, {_INFO: json.dumps(info)}, force)


def load_layerwise(path: Path | str, params: PyTree = None) -> LayerwiseGaussian:
    """Read a posterior that `save_layerwise` wrote.

    Args:
      path: The file.
      params: The parameters, as its mean; by default those in the file, as nested dicts, or a
        single array.

    Returns:
      The posterior.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file is not what `save_layerwise` writes, or is damaged, or the parameters
        are of another network.
      ImportError: If reading it needs a package that is not installed.

    Example:
      >>> import jax, tempfile
      >>> from bmrpruner import posteriors
      >>> params, x = {'w': jnp.ones((2, 3))}, jax.random.normal(jax.random.key(0), (100, 2))
      >>> posterior = posteriors.from_calibration(lambda p, x: x @ p['w'], params, [x])
      >>> path = Path(tempfile.mkdtemp(), 'moments.npz')
      >>> save_layerwise(path, posterior)
      >>> load_layerwise(path, params).examples
      100.0
    """
    tensors, metadata = read_tensors(path)
    try:
        info = json.loads(metadata[_INFO])
        layers = [_layer(i, row, tensors) for i, row in enumerate(info["layers"])]
        numbers = {name: float(info[name]) for name in _NUMBERS}
        if params is None:
            params = _params(tensors, info.get("keys", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected what save_layerwise writes, got something else "
            f"({type(error).__name__}: {error})."
        ) from error
    for layer in layers:
        leaf_of(params, layer.leaf, layer.leaf_shape)
        if layer.bias_leaf is not None:
            leaf_of(params, layer.bias_leaf, layer.bias_leaf_shape)
    return LayerwiseGaussian(params, tuple(layers), **numbers)


def _number(field: str, value: Any) -> float:
    if np.ndim(value):
        raise ValueError(f"{field}: expected a number, got an array of shape {np.shape(value)}.")
    return float(value)


def _params(tensors: dict[str, np.ndarray], keys: dict[str, list[str]]) -> PyTree:
    """The parameters as nested dicts; names that have no key path are split at each slash."""
    found = {}
    for tensor, array in tensors.items():
        if tensor.startswith("params/"):
            name = tensor.removeprefix("params/")
            found[tuple(keys.get(name, name.split("/")))] = jnp.asarray(array)
    return nest_keys(found)


def _layer(number: int, row: Any, tensors: dict[str, np.ndarray]) -> LinearLayer:
    arrays: dict[str, Any] = {field: tensors.get(f"layers/{number}/{field}") for field in _ARRAYS}
    has_bias = row["bias_leaf"] is not None
    for field, array in arrays.items():
        if array is None and (has_bias or field != "bias_positions"):
            raise KeyError(f"layers/{number}/{field}")
    _check_shapes(row["name"], arrays)
    leaf, bias_leaf = tuple(row["leaf"]), tuple(row["bias_leaf"]) if has_bias else None
    return LinearLayer(
        name=row["name"],
        leaf=leaf,
        bias_leaf=bias_leaf,
        leaf_shape=_shape_of(leaf, arrays["positions"], tensors),
        bias_leaf_shape=bias_leaf and _shape_of(bias_leaf, arrays["bias_positions"], tensors),
        **jax.tree.map(jnp.asarray, arrays),
    )


def _shape_of(leaf: Key, positions: np.ndarray, tensors: dict[str, np.ndarray]) -> tuple[int, ...]:
    """The shape of the tensor of a leaf, which has all positions."""
    tensor = tensors[f"params/{join(leaf) or 'params'}"]
    if positions.size and not 0 <= positions.min() <= positions.max() < tensor.size:
        raise ValueError(
            f"{join(leaf)}: expected positions in [0, {tensor.size}), got {positions.min()} to "
            f"{positions.max()}."
        )
    return tensor.shape


def _check_shapes(name: str, arrays: dict[str, Any]) -> None:
    outputs, inputs = arrays["positions"].shape
    shapes = {
        "bias_positions": (outputs,),
        "input_mean": (inputs,),
        "input_covariance": (inputs, inputs),
        "curvature": (outputs,),
    }
    for field, shape in shapes.items():
        array = arrays[field]
        if array is None:
            continue
        if array.shape != shape:
            raise ValueError(f"{name}: {field}: expected shape {shape}, got {array.shape}.")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name}: {field}: expected finite numbers, got others.")
