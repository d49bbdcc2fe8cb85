"""Networks in files: the tensors of each leaf, checked, with their masks and the posterior."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bmrpruner import posteriors
from bmrpruner._checks import check_positive, did_you_mean
from bmrpruner._tree import PyTree, is_array, join, map_with_key
from bmrpruner.files.formats import read_tensors, write_tensors
from bmrpruner.files.naming import PRUNED_VALUES, check_shapes, check_values, group, named, nest
from bmrpruner.files.packing import pack, split_masks, unpack, with_masks
from bmrpruner.posteriors import DiagonalGaussian

_INFO = "bmrpruner"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The tensors of a network as they are in a file, and the leaves that they make up.

    Attributes:
      tensors: Arrays by name, without masks.
      masks: uint8 (0 pruned, 1 kept) in the shape of the leaf, by the leaf's name.
      info: What this library wrote about the file, such as how it was pruned.
      metadata: What other programs wrote, text by name.

    Example:
      >>> checkpoint = Checkpoint({'a/mean': np.ones(2), 'a/std': np.ones(2), 'b': np.ones(3)})
      >>> sorted(checkpoint.leaves), checkpoint.posterior.std
      (['a', 'b'], {'a': Array([1., 1.], dtype=float32), 'b': None})
    """

    tensors: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def leaves(self) -> dict[str, dict[str, str]]:
        """The names of the tensors of each leaf by role: `mean` and a spread, or `''`."""
        return group(self.tensors)

    @functools.cached_property
    def params(self) -> PyTree:
        """The means (and plain leaves) as nested dicts, by the parts of their names."""
        return nest({leaf: self._mean(leaf) for leaf in self.leaves})

    @functools.cached_property
    def posterior(self) -> DiagonalGaussian | None:
        """The posterior, on the tree of `params`; None if no leaf has one."""
        if not any(roles.keys() - {""} for roles in self.leaves.values()):
            return None
        precision = nest({leaf: self._precision(leaf) for leaf in self.leaves})
        prior_precision = self.info.get("prior_precision", 1.0)
        posterior = DiagonalGaussian(self.params, precision, prior_precision)
        if not self.masks:
            return posterior
        return posterior.prune(nest({leaf: self.masks.get(leaf) for leaf in self.leaves}))

    @functools.cached_property
    def rhat(self) -> dict[str, float]:
        """The largest split R-hat in each leaf that comes from draws; well above 1.01 is bad."""
        rhat = {
            leaf: self._from_draws(leaf).rhat
            for leaf, roles in self.leaves.items()
            if "draws" in roles
        }
        return {leaf: float(jnp.max(values)) for leaf, values in rhat.items() if values.size}

    def into(self, tree: PyTree) -> PyTree:
        """Put the parameters into a tree of any make: tuples, modules, dicts.

        Args:
          tree: Arrays of the shapes that are in the file. Leaves that are no arrays are passed
            through.

        Returns:
          The parameters in the structure of `tree`.

        Raises:
          ValueError: If a leaf is missing from the file, or has another shape there.

        Example:
          >>> checkpoint = Checkpoint({'0/w': np.ones(2), '1': np.zeros(3)})
          >>> checkpoint.into(({'w': jnp.zeros(2)}, jnp.zeros(3)))[0]
          {'w': array([1., 1.])}
        """

        def place(key: tuple[str, ...], leaf: Any) -> Any:
            if not is_array(leaf):
                return leaf
            name = join(key)
            if name not in self.leaves:
                raise ValueError(
                    f"{name}: expected a leaf of the file, got a name that is not in it."
                    + did_you_mean(name, self.leaves)
                )
            value = self._mean(name)
            if value.shape != leaf.shape:
                raise ValueError(
                    f"{name}: expected shape {leaf.shape}, got {value.shape} in the file."
                )
            return value

        return map_with_key(place, tree)

    def prune(self, masks: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Checkpoint:
        """Remove the weights whose mask is 0.

        Means, standard deviations and draws become 0 there, ρ becomes -∞ and precisions ∞.

        Args:
          masks: By leaf name, in the leaf's shape.
          info: What to write down about it.

        Returns:
          A checkpoint of the same tensors, with these masks and this information.

        Example:
          >>> checkpoint = Checkpoint({'a/mean': np.ones(2), 'a/rho': np.ones(2)})
          >>> checkpoint.prune({'a': np.array([1, 0])}, {}).tensors['a/rho']
          array([  1., -inf])
        """
        masks = {**self.masks, **{leaf: np.asarray(mask, np.uint8) for leaf, mask in masks.items()}}
        tensors = dict(self.tensors)
        for leaf, mask in masks.items():
            for role, name in self.leaves[leaf].items():
                tensor = self.tensors[name]
                tensors[name] = np.where(mask, tensor, tensor.dtype.type(PRUNED_VALUES[role]))
        return dataclasses.replace(self, tensors=tensors, masks=masks, info={**self.info, **info})

    def _mean(self, leaf: str) -> np.ndarray:
        roles = self.leaves[leaf]
        if "" in roles or "mean" in roles:
            return self.tensors[roles.get("", roles.get("mean", ""))]
        return np.asarray(self._from_draws(leaf).posterior.mean)

    def _precision(self, leaf: str) -> Any:
        roles = self.leaves[leaf]
        (role,) = roles.keys() - {"mean"}
        spread = self.tensors[roles[role]]
        match role:
            case "":
                return None
            case "precision":
                return jnp.asarray(spread)
            case "draws":
                return self._from_draws(leaf).posterior.precision
        mean = jnp.asarray(self._mean(leaf))
        key = "scale" if role == "std" else "rho"
        return posteriors.from_mean_field(mean, **{key: jnp.asarray(spread)}).precision

    def _from_draws(self, leaf: str) -> posteriors.SampledPosterior:
        draws = self.tensors[self.leaves[leaf]["draws"]]
        if "mean" in self.leaves[leaf] and draws.ndim == self._mean(leaf).ndim + 1:
            draws = draws[None]  # a single chain
        return posteriors.from_samples(jnp.asarray(draws))


def load(path: Path | str, prior_precision: float | None = None) -> Checkpoint:
    """Read a network and check every tensor of it.

    Args:
      path: A `.npz` or `.safetensors` file, or an orbax directory.
      prior_precision: π₀ of the posterior; by default what the file says, or 1.

    Returns:
      The `Checkpoint`.

    Raises:
      FileNotFoundError: If there is no such file.
      ValueError: If the file, or a tensor that the message names, is not as it must be.
      ImportError: If reading it needs a package that is not installed.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'net.npz')
      >>> save(path, {'dense': {'kernel': jnp.ones((2, 3))}})
      >>> load(path).params['dense']['kernel'].shape
      (2, 3)
    """
    if prior_precision is not None:
        check_positive("prior_precision", prior_precision)
    tensors, metadata = read_tensors(path)
    try:
        info = json.loads(metadata.pop(_INFO, "{}"))
        if prior_precision is not None:
            info["prior_precision"] = float(prior_precision)
        layout = info.pop("packed", None)
        tensors, masks = unpack(tensors, layout) if layout else split_masks(tensors)
        checkpoint = Checkpoint(tensors, masks, info, metadata)
        _check(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: metadata: expected what this library writes, got something else "
            f"({type(error).__name__}: {error})."
        ) from error
    return checkpoint


def save(
    path: Path | str,
    network: Checkpoint | DiagonalGaussian | PyTree,
    force: bool = False,
    packed: bool = False,
) -> None:
    """Write a network: the whole file, or nothing.

    Args:
      path: What to write; the suffix is `.npz` or `.safetensors`.
      network: A checkpoint, a posterior (written as means and precisions), or parameters.
      force: Replace an existing file; see `atomic_write`.
      packed: Write the weights that are kept, squeezed into bytes, in place of whole tensors with
        zeros. `load` reads both, bit for bit; other programs read the latter.

    Raises:
      FileExistsError: If the file exists, unless `force`.
      ValueError: If the suffix is another, two leaves have the same name, or a mask contradicts its
        tensor.
      ImportError: If safetensors is needed and not installed.

    Example:
      >>> import tempfile
      >>> path = Path(tempfile.mkdtemp(), 'posterior.npz')
      >>> save(path, DiagonalGaussian({'w': jnp.ones(2)}, {'w': jnp.ones(2)}))
      >>> sorted(load(path).tensors)
      ['w/mean', 'w/precision']
    """
    checkpoint = network if isinstance(network, Checkpoint) else Checkpoint(named(network))
    _check_pruned(checkpoint)
    info = dict(checkpoint.info)
    if packed:
        arrays, info["packed"] = pack(dict(checkpoint.tensors), checkpoint.masks)
    else:
        arrays = with_masks(checkpoint.tensors, checkpoint.masks)
    metadata = dict(checkpoint.metadata)
    if info:
        metadata[_INFO] = json.dumps(info)
    write_tensors(path, arrays, metadata, force)


def _check(checkpoint: Checkpoint) -> None:
    _check_info(checkpoint.info)
    for leaf, roles in checkpoint.leaves.items():
        for role, name in roles.items():
            check_values(name, role, checkpoint.tensors[name])
        check_shapes(leaf, roles, checkpoint.tensors)
    _check_pruned(checkpoint)
    nest(dict.fromkeys(checkpoint.leaves))


def _check_info(info: Mapping[str, Any]) -> None:
    prior = info.get("prior_precision", 1.0)
    if not isinstance(prior, Mapping) and not (type(prior) in (int, float) and 0 < prior < np.inf):
        raise ValueError(f"prior_precision: expected a positive finite number, got {prior!r}.")
    settings = info.get("settings", {})
    if not isinstance(settings, Mapping):
        kind = type(settings).__name__
        raise ValueError(f"metadata: expected settings by name, got a {kind}.")


def _check_pruned(checkpoint: Checkpoint) -> None:
    for leaf, mask in checkpoint.masks.items():
        for role, name in checkpoint.leaves[leaf].items():
            pruned = checkpoint.tensors[name][..., mask == 0]
            if np.any(pruned != PRUNED_VALUES[role]):
                raise ValueError(
                    f"{name!r}: expected {PRUNED_VALUES[role]} where '{leaf}/mask' is 0, "
                    "got other values."
                )
