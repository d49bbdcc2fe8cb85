"""Scores as unsigned integers of the same order."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def order_key(scores: jax.Array) -> jax.Array:
    """Maps scores to unsigned integers of the same order.

    It reads the bits, so that denormals stay distinct where arithmetic flushes them to zero.

    Args:
      scores: Array of any shape; floating, integer or boolean.

    Returns:
      Unsigned integers of the same shape, as wide as the scores (16 bits for 8-bit floats). NaN of
      either sign is 0, below -inf; -0.0 and +0.0 are equal.

    Raises:
      TypeError: If the scores have no order, such as complex numbers, or are of less than 8 bits.

    Example:
      >>> order_key(jnp.array([jnp.nan, -jnp.inf, -0.0, 0.0, 1.0], jnp.bfloat16))
      Array([    0,   128, 32768, 32768, 49024], dtype=uint16)
    """
    scores = jnp.asarray(scores)
    kind, width = scores.dtype, 8 * scores.dtype.itemsize
    if kind != jnp.bool_ and not _is_real(kind):
        raise TypeError(f"scores: expected real numbers of 8 bits or more, got {kind}")
    if jnp.issubdtype(kind, jnp.unsignedinteger):
        return scores
    if kind == jnp.bool_:
        return scores.astype(jnp.uint8)
    if jnp.issubdtype(kind, jnp.floating) and width == 8:
        return order_key(scores.astype(jnp.bfloat16))
    bits = lax.bitcast_convert_type(scores, jnp.dtype(f"uint{width}"))
    sign = jnp.full_like(bits, 1 << (width - 1))
    if jnp.issubdtype(kind, jnp.signedinteger):
        return bits ^ sign
    key = lax.select(bits < sign, bits + sign, -bits)
    return lax.select(jnp.isnan(scores), jnp.zeros_like(key), key)


def key_bits(kind: np.dtype) -> int:
    """How many bits the keys of scores of this dtype have."""
    return 8 * jax.eval_shape(order_key, jax.ShapeDtypeStruct((), kind)).dtype.itemsize


def common_dtype(scores: Sequence[jax.Array]) -> np.dtype:
    """The dtype in which the arrays are compared with each other.

    Raises:
      TypeError: If their dtypes differ and are not all floating.
    """
    kinds = {x.dtype for x in scores}
    if len(kinds) > 1 and not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise TypeError(f"scores: expected floats or a single dtype, got {sorted(map(str, kinds))}")
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*kinds)


def word_dtype(bits: int, size: int) -> np.dtype:
    """The unsigned dtype that holds keys of so many bits and can count to `size`.

    Raises:
      ValueError: If that takes 64 bits and JAX has them disabled.
    """
    if bits < 64 and size < 2**32 - 1:
        return np.dtype(np.uint32)
    if jax.dtypes.canonicalize_dtype(np.uint64).itemsize < 8:
        raise ValueError(
            f"scores: expected fewer than {2**32 - 1} in one ranking, or jax_enable_x64, got {size}"
        )
    return np.dtype(np.uint64)


def _is_real(kind: np.dtype) -> bool:
    if jnp.issubdtype(kind, jnp.floating):
        return jnp.finfo(kind).bits >= 8
    return jnp.issubdtype(kind, jnp.integer) and jnp.iinfo(kind).bits >= 8
