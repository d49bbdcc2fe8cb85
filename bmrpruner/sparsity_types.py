"""What is pruned together: single weights, blocks, N of every M, or whole channels."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = [
    "Block",
    "Channel",
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


SparsityType = Unstructured | Block | NByM | Channel
"""The union of the four types, for annotations."""

_FORMS = "'unstructured', 'nm_2,4' or '2:4', 'block_4,4' or '4x4', 'channel_-1'"


def is_sparsity_type(instance_to_check: Any) -> bool:
    """Whether the argument is an instance of one of the four types.

    Args:
      instance_to_check: Anything.

    Returns:
      A bool; False for the classes themselves.

    Example:
      >>> is_sparsity_type(NByM(2, 4)), is_sparsity_type(NByM)
      (True, False)
    """
    return type(instance_to_check) in (Unstructured, Block, NByM, Channel)


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


def as_sparsity_type(value: Any) -> SparsityType:
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
            f"Sparsity type: expected an Unstructured, Block, NByM or Channel, or {_FORMS}, "
            f"got {value!r}."
        )
    return check_sparsity_type(value)


def format_sparsity_type(sparsity_type: SparsityType | str) -> str:
    """The string that `parse_sparsity_type` reads back.

    Args:
      sparsity_type: A sparsity type, or a string that names one.

    Returns:
      `'unstructured'`, `'nm_2,4'`, `'block_4,4'`, `'channel_-1'` and the like.

    Raises:
      ValueError: If no string names it: a block by its maximum, N:M along an axis but the last.

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
