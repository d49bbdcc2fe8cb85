"""What is pruned together: single weights, blocks, N of every M, channels, or units of a model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bmrpruner._dependency import check_cost, check_groups, check_multiple

__all__ = [
    "Block",
    "Channel",
    "Group",
    "NByM",
    "SparsityType",
    "Unstructured",
    "as_sparsity_type",
    "format_sparsity_type",
    "is_sparsity_type",
    "parse_sparsity_type",
]


class Unstructured(NamedTuple):
    """Every weight on its own.

    Example:
      >>> from bmrpruner.mask_calculator import get_topk_fn
      >>> get_topk_fn(Unstructured())([3.0, 1.0, 2.0, 0.0], 0.5).tolist()
      [1, 0, 1, 0]
    """


class Block(NamedTuple):
    """Blocks tiling the first two axes; later axes belong to their block as a whole.

    Attributes:
      block_shape: Height and width of a block.
      use_avg_pooling: Score a block by the mean of its entries; otherwise by their maximum.

    Example:
      >>> from bmrpruner.mask_calculator import get_topk_fn
      >>> get_topk_fn(Block((1, 2)))([[3.0, 1.0, 0.0, 2.0]], 0.5).tolist()
      [[1, 1, 0, 0]]
    """

    block_shape: tuple[int, int]
    use_avg_pooling: bool = True


class NByM(NamedTuple):
    """Keep the n largest of every m consecutive weights along an axis.

    Attributes:
      n: Weights kept in a group.
      m: Size of a group; the axis length must be a multiple of it.
      axis: The axis along which groups run.

    Example:
      >>> from bmrpruner.mask_calculator import get_topk_fn
      >>> get_topk_fn(NByM(1, 2))([3.0, 1.0, 0.0, 2.0], 0.5).tolist()
      [1, 0, 0, 1]
    """

    n: int
    m: int
    axis: int = -1


class Channel(NamedTuple):
    """Whole slices: all weights that share an index of one axis.

    Attributes:
      axis: The axis whose indices are the channels.

    Example:
      >>> from bmrpruner.mask_calculator import get_topk_fn
      >>> get_topk_fn(Channel(-1))([[3.0, 0.0], [1.0, 2.0]], 0.5).tolist()
      [[1, 0], [1, 0]]
    """

    axis: int = -1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Group:
    """Whole units of a model, such as hidden neurons: all that the units of its groups own.

    A unit's score is the sum over all weights that it owns, in whatever leaves, its biases and norm
    scales included; weights that are already gone add nothing. All units of all groups are ranked
    together, and the best of each group always stays. All leaves that a unit owns a part of have
    masks, so that biases, which have none otherwise, go along. Frozen groups stay whole.

    Attributes:
      groups: `structure.Group`s, as `dependency_groups` finds them. Leave one out to keep it whole.
      cost: What `sparsity` is a share of. `'units'` counts the units, rounded to the nearest.
        `'parameters'` counts the numbers in all leaves that have scores, and a mapping from key
        paths gives the cost of one entry of each leaf, such as the FLOPs that
        `structure.entry_flops` counts: as few units go as leave at most 1 - sparsity of the whole
        cost. A weight that units of two groups own is counted once. A frozenset of pairs of a key
        path and an axis, in place of a key path, gives the cost of what gets smaller with these
        axes alone.
      multiple: How many units of a group stay or go at once, as hardware is fast at widths that are
        multiples of 8, 16 or 128. Each group's are taken so many at a time from the best on, ranked
        by their mean. The first always stay, the last may be fewer, what a budget would divide go.

    Raises:
      TypeError: If `groups`, `cost` or `multiple` is of another type.
      ValueError: If all groups are frozen, units of one own the same index, or numbers make no
        sense.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from bmrpruner import MagnitudePruning, structure
      >>> neurons = np.arange(3)[:, None]
      >>> hidden = structure.Group(3, ((('w',), 1, neurons), (('b',), 0, neurons)))
      >>> params = {'w': jnp.array([[1., 5., 2.]]), 'b': jnp.array([3., 0., 1.])}
      >>> pruner = MagnitudePruning(sparsity=1 / 3, sparsity_type=Group([hidden]))
      >>> masks = pruner.instant_sparsify(params)[1]
      >>> masks['w'].tolist(), masks['b'].tolist()
      ([[1, 1, 0]], [1, 1, 0])

    References:
      Fang et al. 2023, https://arxiv.org/abs/2301.12900.
    """

    groups: Sequence[Any]
    cost: str | Mapping[Any, float] = "units"
    multiple: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.groups, Sequence) or isinstance(self.groups, str):
            raise TypeError(
                f"groups: expected a sequence of groups, got a {type(self.groups).__name__}."
            )
        object.__setattr__(self, "groups", tuple(self.groups))
        check_groups(self.groups)
        check_cost(self.cost)
        check_multiple(self.multiple)

    def __repr__(self) -> str:
        units = sum(group.size for group in self.groups if group.frozen is None)
        cost = self.cost if isinstance(self.cost, str) else "mapping"
        costs = f"cost={cost!r}, multiple={self.multiple}"
        return f"Group({len(self.groups)} groups, {units} units, {costs})"


SparsityType = Unstructured | Block | NByM | Channel
"""The union of the types that work leaf by leaf, for annotations.

Example:
  >>> isinstance(NByM(2, 4), SparsityType), isinstance('2:4', SparsityType)
  (True, False)
"""

_FORMS = "'unstructured', 'nm_2,4' or '2:4', 'block_4,4' or '4x4', 'channel_-1'"


def is_sparsity_type(instance_to_check: Any) -> bool:
    """Whether the argument is an instance of one of the types.

    Args:
      instance_to_check: Anything.

    Returns:
      A bool; False for the classes themselves.

    Example:
      >>> is_sparsity_type(NByM(2, 4)), is_sparsity_type(NByM)
      (True, False)
    """
    return type(instance_to_check) in (Unstructured, Block, NByM, Channel, Group)


def parse_sparsity_type(text: str) -> SparsityType:
    """The sparsity type that a string names.

    Args:
      text: `'unstructured'`, `'nm_2,4'` or `'2:4'`, `'block_4,4'` or `'4x4'`, `'channel_-1'`.

    Returns:
      The instance.

    Raises:
      ValueError: If the text has none of these forms, or N exceeds M.

    Example:
      >>> parse_sparsity_type('2:4')
      NByM(n=2, m=4, axis=-1)
    """
    if text == "unstructured":
        return Unstructured()
    if match := re.fullmatch(r"nm_(\d+),(\d+)|(\d+):(\d+)", text):
        n, m = (int(number) for number in match.groups() if number)
        return check_sparsity_type(NByM(n, m))
    if match := re.fullmatch(r"block_(\d+),(\d+)|(\d+)x(\d+)", text):
        height, width = (int(number) for number in match.groups() if number)
        return check_sparsity_type(Block((height, width)))
    if match := re.fullmatch(r"channel_(-?\d+)", text):
        return Channel(int(match.group(1)))
    raise ValueError(f"Sparsity type: expected {_FORMS}, got {text!r}.")


def as_sparsity_type(value: Any) -> SparsityType | Group:
    """The sparsity type that a user gave: an instance, a string, or the class `Unstructured`.

    Args:
      value: A sparsity type, or what `parse_sparsity_type` reads.

    Returns:
      The instance.

    Raises:
      ValueError: If it is none of these, or its numbers are impossible.

    Example:
      >>> as_sparsity_type('4x4'), as_sparsity_type(Unstructured)
      (Block(block_shape=(4, 4), use_avg_pooling=True), Unstructured())
    """
    if isinstance(value, str):
        return parse_sparsity_type(value)
    if value is Unstructured:
        return Unstructured()
    if not is_sparsity_type(value):
        raise ValueError(
            f"Sparsity type: expected an Unstructured, Block, NByM, Channel or Group, or {_FORMS}, "
            f"got {value!r}."
        )
    return check_sparsity_type(value)


def format_sparsity_type(sparsity_type: SparsityType | Group | str) -> str:
    """The string that `parse_sparsity_type` reads back.

    Args:
      sparsity_type: A sparsity type, or a string that names one.

    Returns:
      `'unstructured'`, `'nm_2,4'`, `'block_4,4'`, `'channel_-1'` and the like.

    Raises:
      ValueError: If no string names it: a block by its maximum, N:M along an axis but the last,
        dependency groups.

    Example:
      >>> format_sparsity_type(Block((4, 4)))
      'block_4,4'
    """
    sparsity_type = as_sparsity_type(sparsity_type)
    match sparsity_type:
        case Unstructured():
            return "unstructured"
        case Block(block_shape=(height, width), use_avg_pooling=True):
            return f"block_{height},{width}"
        case NByM(n=n, m=m, axis=-1):
            return f"nm_{n},{m}"
        case Channel(axis=axis):
            return f"channel_{axis}"
    raise ValueError(f"Sparsity type: expected one that a string can name, got {sparsity_type}.")


def check_sparsity_type(sparsity_type: Any) -> Any:
    """Return the sparsity type, or raise a ValueError if its numbers are impossible."""
    match sparsity_type:
        case NByM(n=n, m=m) if not 1 <= n <= m:
            raise ValueError(f"Sparsity type: expected 1 <= N <= M, got {n}:{m}.")
        case Block(block_shape=shape) if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"Sparsity type: expected a block of two sizes >= 1, got {shape}.")
    return sparsity_type


def check_shape(sparsity_type: Any, shape: tuple[int, ...], name: str) -> None:
    """Raise a ValueError if an array of `shape` cannot be pruned by `sparsity_type`."""
    match sparsity_type:
        case NByM(m=m, axis=axis):
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    f"Sparsity type: expected an axis of {name}, of shape {shape}, got {axis}."
                )
            if shape[axis] % m:
                raise ValueError(
                    f"Sparsity type: expected a length along axis {axis} of {name} that is "
                    f"divisible by {m}, got {shape[axis]}; exempt it by filter_fn or a custom "
                    "sparsity of 0."
                )
        case Channel(axis=axis) if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"Sparsity type: expected an axis of {name}, of shape {shape}, got {axis}."
            )


def fits(sparsity_type: Any, shape: tuple[int, ...]) -> bool:
    """Whether an array of `shape` can be pruned by `sparsity_type`."""
    try:
        check_shape(sparsity_type, shape, "array")
    except ValueError:
        return False
    return True
