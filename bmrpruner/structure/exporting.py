"""Compacted functions in files that run without the model's code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bmrpruner._tree import PyTree
from bmrpruner.structure.compact import Compacted
from bmrpruner.structure.ir import leaf_arrays, with_arrays
from bmrpruner.structure.saving import leaf_names

_SAME = 1e-4  # of the largest output: the difference of what rows give by themselves


def save_function(
    path: Path | str, small: Compacted, *args: Any, any_batch: bool = False, force: bool = False
) -> None:
    """Write the compacted function so that it runs without the model's code (`jax.export`).

    `load_function` reads it, and so does JAX alone: `jax.export.deserialize(bytearray(raw)).call`
    with the bytes of the file. It runs on the kind of device that it was written on.

    Args:
      path: The name; it ends in `.jaxexport`.
      small: The compacted model.
      *args: Its arguments, or `jax.ShapeDtypeStruct`s: the shapes that the file will take. Only
        pytrees of dicts, lists, tuples and arrays.
      any_batch: Take any number of rows, which are the first axis of every argument and result, and
        compute each by itself. `args` are arrays on which this is tried.
      force: Replace an existing file.

    Raises:
      FileExistsError: If the file exists, unless `force`.
      ValueError: If the suffix is another, or two leaves have the same name; with `any_batch`, if
        rows by themselves give something else than all at once, as where statistics of the batch
        are computed.
      ImportError: If flatbuffers is not installed, which `jax.export` writes with.

    Example:
      >>> import jax.numpy as jnp
      >>> from bmrpruner import compact
      >>> params = {'w1': jnp.array([[1., 0.]]), 'w2': jnp.ones((2, 1))}
      >>> small = compact(lambda p, x: jnp.sin(x @ p['w1']) @ p['w2'], params, jnp.ones((5, 1)))
      >>> save_function('small.npz', small, jnp.ones((5, 1)))
      Traceback (most recent call last):
      ValueError: small.npz: expected a name that ends in .jaxexport, got '.npz'.
    """
    from bmrpruner.files import atomic_write  # it imports posteriors, which import this package

    path = Path(path)
    check_exportable(path, force)
    names = leaf_names(small)
    flat = dict(zip(names, leaf_arrays(small.params), strict=True))
    fn = _by_rows(small, args) if any_batch else small.fn

    def run(params: dict[str, Any], *args: Any) -> Any:
        return fn(with_arrays(small.params, [params[name] for name in names]), *args)

    exported = jax.export.export(jax.jit(run))(flat, *(_any_rows(args) if any_batch else args))
    with atomic_write(path, force) as temporary:
        temporary.write_bytes(exported.serialize())


def load_function(path: Path | str) -> Callable[..., Any]:
    """Read a function that `save_function` wrote.

    Args:
      path: The file.

    Returns:
      A function of the parameters, a flat dict of arrays by their names (`'dense/kernel'`), and
      the arguments.

    Raises:
      FileNotFoundError: If there is no such file.
      ImportError: If flatbuffers is not installed.

    Example:
      >>> load_function('nowhere.jaxexport')
      Traceback (most recent call last):
      FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.jaxexport'
    """
    from bmrpruner.files.formats import optional

    raw = bytearray(Path(path).read_bytes())
    optional("flatbuffers", "export")
    return jax.export.deserialize(raw).call


def check_exportable(path: Path, force: bool) -> None:
    """Raise what `save_function` would raise about the name, before there is work to lose.

    Example:
      >>> check_exportable(Path('small.npz'), force=False)
      Traceback (most recent call last):
      ValueError: small.npz: expected a name that ends in .jaxexport, got '.npz'.
    """
    from bmrpruner.files.atomic import refuse_existing
    from bmrpruner.files.formats import optional

    if path.suffix != ".jaxexport":
        raise ValueError(f"{path}: expected a name that ends in .jaxexport, got {path.suffix!r}.")
    optional("flatbuffers", "export")
    refuse_existing(path, force)


def _by_rows(small: Compacted, args: tuple[Any, ...]) -> Callable[..., Any]:
    """`small.fn` on each row by itself, once `args` have shown that this gives the same."""

    def row(params: PyTree, *args: Any) -> Any:
        one = jax.tree.map(lambda x: x[None], args)
        return jax.tree.map(lambda y: y[0], small.fn(params, *one))

    def rows(params: PyTree, *args: Any) -> Any:
        return jax.vmap(lambda *own: row(params, *own))(*args)

    try:
        found = jax.jit(rows)(small.params, *args)
        same = jax.tree.all(jax.tree.map(_is_same, found, small(*args)))
    except Exception as error:  # whatever the model does with one row
        first = str(error).partition("\n")[0]
        raise ValueError(f"any_batch: expected rows that go by themselves, got {first}") from error
    if not same:
        raise ValueError("any_batch: expected rows that go by themselves, got other results.")
    return rows


def _is_same(a: jax.Array, b: jax.Array) -> bool:
    if a.shape != b.shape:
        return False
    scale = jnp.abs(b.astype(jnp.float32)).max(initial=0)
    return bool(jnp.allclose(a, b, rtol=_SAME, atol=_SAME * scale, equal_nan=True))


def _any_rows(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes of arguments with any number of rows, the same in all of them."""
    (n,) = jax.export.symbolic_shape("n")
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), args)
