"""The posterior of mean-field variational inference: Bayes by Backprop, TFP, bayesian-torch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._leaves import check_like, flatten, is_concrete, widen
from bmrpruner._tree import PyTree, align, is_array
from bmrpruner.posteriors.diagonal_gaussian import DiagonalGaussian


def from_mean_field(
    loc: PyTree,
    scale: PyTree = None,
    rho: PyTree = None,
    prior_precision: PyTree = 1.0,
) -> DiagonalGaussian:
    """Posterior from variational means and scales, N(loc, σ²) per weight.

    σ is `scale`, or softplus(`rho`) = ln(1 + exp ρ), as in Bayes by Backprop. It is computed in
    float32 at least, and is no smaller than the third root of the smallest normal number (2.3e-13
    in float32, precision 1.9e25), so that any ρ from −1000 to 1000 gives a positive σ, a finite
    precision and finite gradients. A `scale` of exactly 0 stays 0 and has precision ∞, as a pruned
    or fixed weight has.

    Args:
      loc: Posterior means, a tree of arrays; other leaves are passed through.
      scale: Standard deviations σ ≥ 0: a tree like `loc` of arrays of the same shapes; None
        where a leaf has no posterior.
      rho: ρ in place of `scale`, in the same form.
      prior_precision: Prior precision π₀, as in `DiagonalGaussian`.

    Returns:
      The posterior, with `loc` as its mean and precision 1/σ² in float32 or wider. Differentiable
      in `loc`, `scale` and `rho`.

    Raises:
      ValueError: Not exactly one of `scale` and `rho` is given, a tree or shape differs from that
        of `loc`, or a scale (unless traced) is negative or NaN.
      TypeError: A scale or rho belongs to an array but is none.

    Example:
      >>> from_mean_field(jnp.ones(2), scale=jnp.array([0.5, 0.0])).precision
      Array([ 4., inf], dtype=float32)
      >>> from_mean_field(jnp.ones(()), rho=jnp.array(0.0)).std  # ln 2
      Array(0.6931472, dtype=float32)

    References:
      Blundell et al. 2015, Weight uncertainty in neural networks, https://arxiv.org/abs/1505.05424,
      section 3.2.
    """
    if (scale is None) == (rho is None):
        given = "neither" if scale is None else "both"
        raise ValueError(f"scale, rho: expected exactly one of the two, got {given}.")
    field, spread = ("scale", scale) if rho is None else ("rho", rho)
    paths, locs, structure = flatten(loc)
    leaves = align(field, spread, structure, "loc")
    precisions = [
        _precision(field, path, leaf, mean)
        for path, leaf, mean in zip(paths, leaves, locs, strict=True)
    ]
    return DiagonalGaussian(loc, structure.unflatten(precisions), prior_precision)


def _precision(field: str, path: str, leaf: Any, mean: Any) -> jax.Array | None:
    if leaf is None or not is_array(mean):
        return None
    check_like(field, path, leaf, "loc", mean)
    values = widen(leaf)
    floor = float(jnp.finfo(values.dtype).tiny) ** (1 / 3)
    if field == "rho":
        return jnp.square(1 / jnp.maximum(jax.nn.softplus(values), floor))
    if is_concrete(leaf) and not np.all(np.asarray(leaf) >= 0):
        raise ValueError(f"scale{path}: expected values >= 0, got {np.min(leaf)}.")
    return jnp.where(values == 0, jnp.inf, jnp.square(1 / jnp.maximum(values, floor)))
