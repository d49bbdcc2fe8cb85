"""Linear layers: products and convolutions with one parameter, and what goes in and out of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner._tree import Key, PyTree
from bmrpruner.structure.ir import leaf_arrays, with_arrays
from bmrpruner.structure.reading import trace
from bmrpruner.structure.tapping import Tap, Use


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One matrix of weights that a function multiplies its inputs with, as often as it does.

    Attributes:
      key: The parameter leaf that holds the weights.
      inputs: The axes of the leaf along which the inputs change.
      outputs: The axes of the leaf along which the outputs change.
      positions: Integers (outputs, inputs): the flat, row-major position in the leaf of the
        weight from each input to each output.
      uses: How often it is used in one call: tied weights, recurrent ones.
      primitive: `'dot_general'`, or `'conv_general_dilated'`, whose inputs are patches.

    Example:
      >>> params = {'w': np.ones((2, 3))}
      >>> layer = linear_layers(lambda p, x: x @ p['w'].T, params, np.ones((5, 3)))[0]
      >>> layer.key, layer.inputs, layer.outputs, layer.uses
      (('w',), (1,), (0,), 1)
      >>> layer.positions
      array([[0, 1, 2],
             [3, 4, 5]])
    """

    key: Key
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    positions: np.ndarray
    uses: int
    primitive: str

    def matrix(self, leaf: Any) -> Any:
        """The weights (outputs, inputs) of this layer, from its parameter leaf.

        Example:
          >>> weights = np.arange(6.).reshape(3, 2)
          >>> linear_layers(lambda p, x: x @ p, weights, np.ones((5, 3)))[0].matrix(weights)
          array([[0., 2., 4.],
                 [1., 3., 5.]])
        """
        return leaf.reshape(-1)[self.positions]


class LinearLayers:
    """The linear layers of a function, in the order in which they first run.

    Attributes:
      layers: The layers.
      left_out: Parameter leaves that are multiplied with in a way that is no layer, and how:
        `'batched weights'`, `'grouped convolution'`, or the control flow that they are within.

    Example:
      >>> fn = lambda p, x: jnp.tanh(x @ p['a']) @ p['b']
      >>> params = {'a': jnp.ones((3, 4)), 'b': jnp.ones((4, 2))}
      >>> layers = linear_layers(fn, params, jnp.ones((5, 3)))
      >>> [(layer.key, layer.positions.shape) for layer in layers]
      [(('a',), (4, 3)), (('b',), (2, 4))]
      >>> out, inputs = layers.capture(params, jnp.ones((5, 3)))
      >>> [x.shape for uses in inputs for x in uses]
      [(5, 3), (5, 4)]
    """

    def __init__(
        self, fn: Callable[..., Any], layers: tuple[Layer, ...], left_out: dict[Key, str]
    ) -> None:
        self.layers, self.left_out, self._fn = layers, left_out, fn
        self._numbers = {_name(x.key, x.positions): i for i, x in enumerate(layers)}

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def __getitem__(self, i: int) -> Layer:
        """One layer."""
        return self.layers[i]

    def capture(
        self,
        params: PyTree,
        *args: Any,
        probes: list[list[Any]] | None = None,
        collect: Callable[[int, jax.Array], Any] | None = None,
    ) -> tuple[Any, list[list[Any]]]:
        """Run the function, and hand out what goes into every layer.

        A pure function that can be jitted, vmapped and differentiated: the gradient with respect to
        the probes, at zero, is that with respect to the layers' outputs. Scans that hold a layer
        are unrolled.

        Args:
          params: As traced: the same structure and shapes.
          *args: As traced; other shapes are traced anew.
          probes: What to add to the outputs: for each layer, for each of its uses, an array
            (rows, outputs); None adds nothing.
          collect: A function of a layer's number and its inputs (rows, inputs) in one use, whose
            result is handed out in place of the inputs: second moments, say.

        Returns:
          What the function returns, and for each layer, for each of its uses in order, the inputs
          (rows, inputs): a row for each example, and each place in it.

        Raises:
          TypeError: If the function does not trace.

        Example:
          >>> fn = lambda p, x: (x @ p) ** 2
          >>> p, x = jnp.ones((3, 1)), jnp.ones((2, 3))
          >>> layers = linear_layers(fn, p, x)
          >>> loss = lambda probes: layers.capture(p, x, probes=probes)[0].sum()
          >>> jax.grad(loss)(layers.probes(p, x))  # dy²/dy = 2 y = 6
          [[Array([[6.],
                 [6.]], dtype=float32)]]
        """
        captured: list[list[Any]] = [[] for _ in self.layers]

        def use(found: Use) -> Any:
            i = self._numbers.get(_name(found.key, found.positions))
            if i is None:
                return None
            number = len(captured[i])
            captured[i].append(found.rows if collect is None else collect(i, found.rows))
            return None if probes is None else probes[i][number]

        out = _run(self._fn, params, args, use, {})
        return out, captured

    def probes(self, params: PyTree, *args: Any) -> list[list[jax.Array]]:
        """Zeros for `capture`: for each layer, for each use, an array (rows, outputs).

        Example:
          >>> layers = linear_layers(lambda p, x: x @ p, jnp.ones((3, 2)), jnp.ones((5, 3)))
          >>> layers.probes(jnp.ones((3, 2)), jnp.ones((7, 3)))[0][0].shape
          (7, 2)
        """
        found: list[list[Any]] = [[] for _ in self.layers]

        def use(this: Use) -> None:
            i = self._numbers.get(_name(this.key, this.positions))
            if i is not None:
                found[i].append(jnp.zeros((this.rows.shape[0], len(this.positions)), this.dtype))

        _abstractly(self._fn, params, args, use, {})
        return [[jnp.zeros(x.shape, x.dtype) for x in uses] for uses in found]


def linear_layers(fn: Callable[..., Any], params: PyTree, *args: Any) -> LinearLayers:
    """The linear layers of `fn(params, *args)`: dot_general and conv_general_dilated.

    One operand is a parameter leaf, laid out in any way (reshaped, transposed, converted, sliced
    from a stack), the other depends on the arguments. Nothing is computed.

    Args:
      fn: Any function that JAX can trace, of the parameters and other arguments.
      params: Pytree of arrays or of `jax.ShapeDtypeStruct`s; other leaves are passed through.
      *args: Pytrees of arrays or of shapes.

    Returns:
      The layers, and which leaves are multiplied with but left out.

    Raises:
      TypeError: If the function does not trace.

    Example:
      >>> fn = lambda p, x: jnp.einsum('bi,eio->beo', x, p['experts']) @ p['out']
      >>> params = {'experts': np.ones((2, 3, 4)), 'out': np.ones((4, 5))}
      >>> layers = linear_layers(fn, params, np.ones((7, 3)))
      >>> [(layer.key, layer.positions.shape) for layer in layers]
      [(('experts',), (8, 3)), (('out',), (5, 4))]
    """
    found: dict[Any, list[Use]] = {}
    left_out: dict[Key, str] = {}

    def use(this: Use) -> None:
        found.setdefault(_name(this.key, this.positions), []).append(this)

    _abstractly(fn, params, args, use, left_out)
    return LinearLayers(fn, tuple(_layer(uses) for uses in found.values()), left_out)


def _layer(uses: list[Use]) -> Layer:
    first = uses[0]
    row, column = (
        np.unravel_index(p, first.shape) for p in (first.positions[0], first.positions[:, 0])
    )
    inputs, outputs = (
        tuple(i for i, own in enumerate(where) if (own != own[0]).any()) for where in (row, column)
    )
    return Layer(first.key, inputs, outputs, first.positions, len(uses), first.primitive)


def _name(key: Key, positions: np.ndarray) -> Any:
    return key, positions.shape, hash(positions.tobytes())


def _run(fn: Any, params: PyTree, args: Any, use: Callable[[Use], Any], left_out: Any) -> Any:
    program = trace(fn, params, args)
    tap = Tap(program, use, left_out)
    return program.out_tree.unflatten(tap.run(leaf_arrays(params) + leaf_arrays(args)))


def _abstractly(fn: Any, params: PyTree, args: Any, use: Any, left_out: Any) -> None:
    """Run without computing anything."""
    arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaf_arrays((params, args))]

    def run(*own: Any) -> Any:
        new_params, new_args = with_arrays((params, args), own)
        return jax.tree.leaves(_run(fn, new_params, new_args, use, left_out))

    jax.eval_shape(run, *arrays)
