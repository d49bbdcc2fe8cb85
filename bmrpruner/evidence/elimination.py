"""The elimination of one row of weights, in blocks, so that most of it is products of matrices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

_BLOCK = 32  # removals between two updates of the whole covariance
_SMALL = 64  # weights that are left for the last block


def eliminate_row(
    covariance: jax.Array, mean: jax.Array, offset: jax.Array, by_evidence: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Indices in order of removal, with the mean and variance that each weight had then.

    The covariance is updated once every `_BLOCK` removals, and shrinks to the weights that are left
    when half of them are gone.
    """
    index = jnp.arange(mean.size, dtype=jnp.int32)
    row: Any = (covariance, mean, jnp.diagonal(covariance), offset, jnp.zeros(mean.size, bool))
    steps = []
    while mean.size > _SMALL:
        blocks = max(1, mean.size // (2 * _BLOCK))
        row, removed = jax.lax.scan(
            lambda row, _: _remove(row, _BLOCK, by_evidence), row, None, blocks
        )
        steps.append((index[removed[0].ravel()], removed[1].ravel(), removed[2].ravel()))
        left = jnp.argsort(row[-1], stable=True)[: mean.size - blocks * _BLOCK]
        row = (row[0][left][:, left], *(part[left] for part in row[1:]))
        index, mean = index[left], row[1]
    _, (order, means, variances) = _remove(row, mean.size, by_evidence)
    steps.append((index[order], means, variances))
    order, means, variances = (jnp.concatenate(parts) for parts in zip(*steps, strict=True))
    return order, means, variances


def _remove(row: Any, count: int, by_evidence: bool) -> tuple[Any, Any]:
    """Remove `count` weights from a row, then update its covariance."""
    covariance, mean, variance, offset, gone = row

    def step(carry: Any, t: jax.Array) -> tuple[Any, Any]:
        mean, variance, gone, panel = carry
        score = mean * (mean / variance)
        if by_evidence:
            score += jnp.log(variance) + offset
        q = jnp.argmin(jnp.where(gone, jnp.inf, score)).astype(jnp.int32)
        found = q, mean[q], variance[q]
        root = jnp.sqrt(variance[q])
        column = (covariance[q] - jnp.matmul(panel[:, q], panel, precision="highest")) / root
        here = jnp.arange(mean.size) == q
        mean = jnp.where(here, 0, mean - column * (mean[q] / root))
        variance = jnp.maximum(variance - column**2, 1)
        panel = jax.lax.dynamic_update_index_in_dim(panel, column, t, 0)
        return (mean, variance, gone | here, panel), found

    panel = jnp.zeros((count, mean.size), mean.dtype)
    (mean, variance, gone, panel), removed = jax.lax.scan(
        step, (mean, variance, gone, panel), jnp.arange(count)
    )
    covariance -= jnp.matmul(panel.T, panel, precision="highest")
    return (covariance, mean, variance, offset, gone), removed
