"""Top-k masks on the outputs of Flax Linen functions and layers, while a context is open.

Needs Flax (`pip install 'bmrpruner[flax]'`). Functions are replaced in `flax.linen`, so models
must call them from there, as `nn.relu(x)`; layers are intercepted, so any call of them is seen.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner.files.formats import optional
from bmrpruner.mask_calculator import get_topk_fn
from bmrpruner.sparsity_types import NByM, as_sparsity_type, parse_sparsity_type

nn = optional("flax.linen", "flax")


@contextlib.contextmanager
def add_activation_sparsity(
    sparsity_type: Any, sparsity: float | None = None, allowlist: Sequence[str] = ("relu",)
) -> Iterator[None]:
    """Keep only the largest outputs, in magnitude, of the named functions of `flax.linen`.

    The whole output, batch included, is one array of scores.

    Args:
      sparsity_type: What is kept or dropped together, a type or a string such as `'2:4'`.
      sparsity: Fraction to drop; N:M needs none.
      allowlist: Names of functions in `flax.linen`.

    Yields:
      None; when the context closes, the functions are what they were.

    Raises:
      ValueError: If there is no sparsity and the type needs one.
      AttributeError: If `flax.linen` has no such function.

    Example:
      >>> with add_activation_sparsity(NByM(1, 2)):
      ...     nn.relu(jnp.array([3., 1., -2., 2.])).tolist()
      [3.0, 0.0, 0.0, 2.0]
    """
    sparsify = _sparsify_fn(sparsity_type, sparsity)
    originals = {name: getattr(nn, name) for name in allowlist}
    try:
        for name, function in originals.items():
            setattr(nn, name, _followed_by(function, sparsify))
        yield
    finally:
        for name, function in originals.items():
            setattr(nn, name, function)


@contextlib.contextmanager
def add_activation_sparsity_layers(
    sparsity_fn: Callable[[jax.Array], jax.Array], allowlist: Sequence[str] = ("Dense",)
) -> Iterator[None]:
    """Pass the outputs of the named Linen layers through `sparsity_fn`.

    Args:
      sparsity_fn: Activations → activations.
      allowlist: Names of module classes.

    Yields:
      None.

    Example:
      >>> layer, x = nn.Dense(2), jnp.ones((1, 3))
      >>> with add_activation_sparsity_layers(jnp.zeros_like):
      ...     layer.init_with_output(jax.random.key(0), x)[0].tolist()
      [[0.0, 0.0]]
    """

    def interceptor(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = call(*args, **kwargs)
        named = type(context.module).__name__ in allowlist and context.method_name == "__call__"
        return sparsity_fn(outputs) if named else outputs

    with nn.intercept_methods(interceptor):
        yield


def get_activation_context(
    sparsity_string: str | None, allowlist: Sequence[str] = ("relu",)
) -> contextlib.AbstractContextManager[None]:
    """The context that a string describes; one without effect for an empty string or None.

    Args:
      sparsity_string: A sparsity type, `'nm_2,4'`; all but N:M are followed by `'_'` and the
        fraction to drop, `'unstructured_0.8'`, `'block_4,4_0.5'`.
      allowlist: Names of functions in `flax.linen`.

    Returns:
      The context manager.

    Raises:
      ValueError: If the string has none of these forms.

    Example:
      >>> with get_activation_context('unstructured_0.75'):
      ...     nn.relu(jnp.array([3., 1., -2., 2.])).tolist()
      [3.0, 0.0, 0.0, 0.0]
    """
    if not sparsity_string:
        return contextlib.nullcontext()
    match = re.fullmatch(r"(.+?)(?:_([01]?\.\d+))?", sparsity_string)
    name, number = match.groups() if match else (sparsity_string, None)
    sparsity = None if number is None else float(number)
    _sparsify_fn(parse_sparsity_type(name), sparsity)  # raise here, not when the context is entered
    return add_activation_sparsity(parse_sparsity_type(name), sparsity, allowlist)


def _sparsify_fn(sparsity_type: Any, sparsity: float | None) -> Callable[[jax.Array], jax.Array]:
    sparsity_type = as_sparsity_type(sparsity_type)
    if sparsity is None and not isinstance(sparsity_type, NByM):
        raise ValueError(f"sparsity: expected a number in [0, 1] for {sparsity_type}, got None.")
    topk_fn = get_topk_fn(sparsity_type)

    def sparsify(x: jax.Array) -> jax.Array:
        return jnp.where(topk_fn(jnp.abs(x), sparsity), x, jnp.zeros_like(x))

    return sparsify


def _followed_by(function: Callable[..., Any], then: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def both(*args: Any, **kwargs: Any) -> Any:
        return then(function(*args, **kwargs))

    return both
