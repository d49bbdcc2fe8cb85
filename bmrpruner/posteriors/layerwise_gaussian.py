"""A Gaussian with a full covariance per row of each linear layer, from calibration data."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner import evidence
from bmrpruner._checks import check_positive
from bmrpruner._masks import checked_plain
from bmrpruner._tree import Key, PyTree, is_array, join, keyed_leaves, map_with_key


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "positions",
        "bias_positions",
        "input_mean",
        "input_covariance",
        "curvature",
    ),
    meta_fields=("name", "leaf", "bias_leaf", "leaf_shape", "bias_leaf_shape"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class LinearLayer:
    """What calibration data say about one linear layer y = Wx + b of R outputs and D inputs.

    A convolution is a layer whose inputs are patches. Tied weights are one layer, whose inputs are
    those of all its uses.

    Attributes:
      name: What to call it: the leaf's key path, with an index where a leaf holds several layers.
      leaf: Key path of the leaf that holds the weights.
      bias_leaf: Key path of the leaf that is added to the outputs; None without one.
      positions: int32 (R, D), where each weight is in the flattened leaf.
      bias_positions: int32 (R,), the same for the bias; None without one.
      input_mean: (D,), the mean of the inputs; 0 for a layer without a bias.
      input_covariance: (D, D), the covariance of the inputs; without a bias, their second moments.
      curvature: (R,), the curvature of the loss along each output, nats per example.
      leaf_shape: The shape of the leaf that holds the weights, which it has in every tree; None
        until the layer is part of a `LayerwiseGaussian`, which takes it from its mean.
      bias_leaf_shape: The same for the bias.

    Example:
      >>> layer = LinearLayer(
      ...     name='kernel', leaf=('kernel',), bias_leaf=None,
      ...     positions=jnp.array([[0, 2], [1, 3]]), bias_positions=None,
      ...     input_mean=jnp.zeros(2), input_covariance=jnp.eye(2), curvature=jnp.ones(2))
      >>> layer.weights({'kernel': jnp.array([[1., 2.], [3., 4.]])}).tolist()
      [[1.0, 3.0], [2.0, 4.0]]
    """

    name: str
    leaf: Key
    bias_leaf: Key | None
    positions: jax.Array
    bias_positions: jax.Array | None
    input_mean: jax.Array
    input_covariance: jax.Array
    curvature: jax.Array
    leaf_shape: tuple[int, ...] | None = None
    bias_leaf_shape: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs, (R, D)."""
        outputs, inputs = self.positions.shape
        return outputs, inputs

    def weights(self, params: PyTree) -> jax.Array:
        """The layer's weights in a tree of parameters, or its masks in a tree of masks: (R, D).

        Raises:
          ValueError: If the tree has no such leaf, or one of another shape.
        """
        return _taken(leaf_of(params, self.leaf, self.leaf_shape), self.positions)

    def bias(self, params: PyTree) -> jax.Array | None:
        """The layer's bias, (R,); None without one.

        Raises:
          ValueError: If the tree has no such leaf, or one of another shape.
        """
        if self.bias_leaf is None:
            return None
        leaf = leaf_of(params, self.bias_leaf, self.bias_leaf_shape)
        return _taken(leaf, self.bias_positions)

    def put(self, params: PyTree, weights: jax.Array, bias: jax.Array | None = None) -> PyTree:
        """The parameters with other weights, and another bias, in this layer.

        Raises:
          ValueError: If the tree has no such leaf, or one of another shape.
        """
        leaf_of(params, self.leaf, self.leaf_shape)
        new: dict[Key, Any] = {self.leaf: (self.positions, weights)}
        if self.bias_leaf is not None and bias is not None:
            leaf_of(params, self.bias_leaf, self.bias_leaf_shape)
            new[self.bias_leaf] = (self.bias_positions, bias)

        def place(key: Key, leaf: Any) -> Any:
            return _placed(leaf, *new[key]) if key in new else leaf

        return map_with_key(place, params)

    def with_inputs(self, mean: jax.Array, covariance: jax.Array) -> LinearLayer:
        """The layer with inputs of another mean and covariance."""
        return dataclasses.replace(self, input_mean=mean, input_covariance=covariance)

    def precision(self, damping: float) -> jax.Array:
        """C + λI with λ = damping · mean diag C: P of each row but for the row's curvature."""
        return _damped(self.input_covariance, damping)


@jax.jit
def _damped(covariance: jax.Array, damping: Any) -> jax.Array:
    """C + λI with the λ of `ridge_of`."""
    ridge = ridge_of(covariance, damping)
    return covariance + ridge * jnp.eye(len(covariance), dtype=covariance.dtype)


def ridge_of(covariance: jax.Array, damping: Any) -> jax.Array:
    """λ = damping · mean diag C."""
    ridge = damping * jnp.mean(jnp.diagonal(covariance))
    # Inputs that are all zero leave no scale: any ridge will do.
    return jnp.where(ridge > 0, ridge, 1)


@jax.jit
def _taken(leaf: jax.Array, positions: jax.Array) -> jax.Array:
    return jnp.ravel(leaf)[positions]


@jax.jit
def _placed(leaf: jax.Array, positions: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.ravel(leaf).at[positions].set(values.astype(leaf.dtype)).reshape(leaf.shape)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("mean", "layers", "examples", "damping", "prior_precision"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True, eq=False)
class LayerwiseGaussian:
    """The posterior N(w_r, [N g_r (C + λI) + π₀I]⁻¹) of each row of each linear layer; a pytree.

    C is the covariance of the layer's inputs, g_r the curvature of the loss along output r, N the
    number of examples, π₀ the prior precision. `posteriors.from_calibration` makes one.

    Attributes:
      mean: The parameters, any tree. Leaves that no layer names have no posterior.
      layers: The layers, in the order in which the function executes them.
      examples: N, how many examples the moments stand for.
      damping: λ over the mean of the diagonal of C.
      prior_precision: Prior precision π₀ of each weight, for the evidence.

    Example:
      >>> layer = LinearLayer(
      ...     name='kernel', leaf=('kernel',), bias_leaf=None,
      ...     positions=jnp.array([[0, 2], [1, 3]]), bias_positions=None,
      ...     input_mean=jnp.zeros(2), input_covariance=jnp.eye(2), curvature=jnp.ones(2))
      >>> params = {'kernel': jnp.array([[0.1, 2.], [3., 0.1]])}
      >>> posterior = LayerwiseGaussian(params, (layer,), examples=100)
      >>> found = posterior.delta_f({'kernel': jnp.array([[0, 1], [1, 0]])})
      >>> {name: round(float(nats), 3) for name, nats in found.items()}
      {'kernel': 3.605}
    """

    mean: PyTree
    layers: tuple[LinearLayer, ...]
    examples: Any
    damping: Any = 0.01
    prior_precision: Any = 1.0

    def __post_init__(self) -> None:
        """Tell the layers the shapes of their leaves."""
        shapes = {key: leaf.shape for key, leaf in keyed_leaves(self.mean) if is_array(leaf)}
        layers = jax.tree.map(
            lambda layer: _told(layer, shapes),
            self.layers,
            is_leaf=lambda part: isinstance(part, LinearLayer),
        )
        object.__setattr__(self, "layers", layers)

    def delta_f(self, masks: PyTree) -> dict[str, jax.Array]:
        """ΔF of what the masks remove, in nats, exact for the Gaussian: by the layers' names.

        A network that fits its data perfectly has no curvature left: there, the evidence favours
        removing almost everything, and says nothing about accuracy.

        Args:
          masks: A tree like `mean`, plain or packed; zero where a weight goes, None where a leaf is
            exempt.

        Returns:
          Scalars by name, for the layers that have masks.

        Raises:
          ValueError: If a layer's leaf has a mask of another shape, or the prior precision is not
            positive.
        """
        check_positive("prior_precision", self.prior_precision)
        by_key = dict(keyed_leaves(masks))
        found = {}
        for layer in self.layers:
            mask = by_key.get(layer.leaf)
            if mask is None:
                continue
            mean = leaf_of(self.mean, layer.leaf, layer.leaf_shape)
            keep = checked_plain(f"masks: {join(layer.leaf)}", mask, mean, "mean")
            nats = _delta_f_rows(
                _taken(mean, layer.positions),
                layer.precision(self.damping),
                self.examples * layer.curvature,
                self.prior_precision,
                _taken(keep, layer.positions),
            )
            found[layer.name] = jnp.sum(nats)
        return found

    @property
    def covered(self) -> set[Key]:
        """The key paths of the leaves that hold weights of a layer."""
        return {layer.leaf for layer in self.layers}

    @property
    def left_out(self) -> list[str]:
        """The names of the leaves of two axes or more that no layer covers."""
        return [
            join(key)
            for key, leaf in keyed_leaves(self.mean)
            if is_array(leaf) and leaf.ndim > 1 and key not in self.covered
        ]


@jax.jit
def _delta_f_rows(
    weights: jax.Array, precision: jax.Array, scale: jax.Array, prior: Any, keep: jax.Array
) -> jax.Array:
    """ΔF of each row, whose posterior precision is `scale` times `precision` plus the prior's."""
    eye = jnp.eye(len(precision), dtype=precision.dtype)

    def one(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        weights, scale, keep = row
        full = scale * precision + prior * eye
        return evidence.delta_f_set(weights[None], full, prior, keep[None])[0]

    return jax.lax.map(one, (weights, scale, keep))


def _told(layer: Any, shapes: dict[Key, tuple[int, ...]]) -> Any:
    """The layer with the shapes of its leaves, unless it has them or is none (in a mapped tree)."""
    if not isinstance(layer, LinearLayer) or layer.leaf_shape is not None:
        return layer
    bias = None if layer.bias_leaf is None else shapes.get(layer.bias_leaf)
    return dataclasses.replace(layer, leaf_shape=shapes.get(layer.leaf), bias_leaf_shape=bias)


def leaf_of(params: PyTree, key: Key, shape: tuple[int, ...] | None) -> Any:
    """The leaf of a key path, or a ValueError if there is none or it has another shape."""
    leaf = dict(keyed_leaves(params)).get(key)
    if leaf is None:
        raise ValueError(f"params: expected a leaf {join(key)!r}, as the posterior has, got none.")
    if shape is not None and jnp.shape(leaf) != shape:
        raise ValueError(
            f"params: expected the shape {shape} of {join(key)!r}, as the posterior has, "
            f"got {jnp.shape(leaf)}."
        )
    return leaf
