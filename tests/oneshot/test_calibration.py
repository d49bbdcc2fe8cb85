"""Moments of the layers of real models, and what is refitted with them."""

import jax
import jax.numpy as jnp
import linear_models
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bmrpruner
from bmrpruner import posteriors
from bmrpruner._tree import is_array, map_leaves
from bmrpruner.algorithms.one_shot import refitted
from bmrpruner.posteriors import _moments
from bmrpruner.study.models import mlp

DAMPING = 0.01


def random_masks(params):
    rng = np.random.default_rng(3)

    def mask(leaf):
        is_weight = is_array(leaf) and leaf.ndim > 1 and leaf.size > 6
        return jnp.asarray(rng.uniform(size=leaf.shape) < 0.6, "uint8") if is_weight else None

    return map_leaves(mask, params)


def ridge_of_all(fn, params, x, masks, layers):
    """Least squares over all parameters that stay: the outputs are linear in them."""
    arrays, rest = split(params)
    flat, unravel = ravel_pytree(arrays)
    flat = np.asarray(flat, float)

    def outputs(flat):
        return fn(join(unravel(flat), rest), x).ravel()

    design = np.asarray(jax.jacfwd(outputs)(jnp.asarray(flat, jnp.float32)), float)
    where = unravel(jnp.arange(flat.size, dtype=jnp.float32))
    ones = join(jax.tree.map(jnp.ones_like, where), rest)
    keep = np.asarray(ravel_pytree(split(masked(ones, masks))[0])[0]) != 0
    penalty = np.zeros(flat.size)
    rows = len(design)
    for layer in layers:
        index = np.asarray(layer.weights(join(where, rest)), int)
        samples = rows // layer.outputs_of_all
        squares = (design[:, index] ** 2).sum(0)
        means = design[:, index].sum(0) / samples if layer.bias_leaf is not None else 0
        penalty[index] = samples * DAMPING * np.mean(squares / samples - means**2)
    left = design[:, keep].T @ design[:, keep] + np.diag(penalty[keep])
    right = design[:, keep].T @ (design @ flat) + (penalty * flat)[keep]
    found = np.zeros(flat.size)
    found[keep] = np.linalg.solve(left, right)
    return found
