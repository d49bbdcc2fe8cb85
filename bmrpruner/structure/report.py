"""What a compaction did: shapes, parameters and FLOPs before and after, and what stayed and why."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np

from bmrpruner._tree import Key, join
from bmrpruner.structure.decisions import Decisions
from bmrpruner.structure.groups import Group
from bmrpruner.structure.ir import Op


@dataclasses.dataclass(frozen=True, eq=False)
class GroupReport:
    """What became of one group.

    Attributes:
      group: The group.
      removed: How many of its units are gone.
      stayed: Why units stayed, and how many: `'input'`, `'output'`, or the primitive that needs
        them.

    Example:
      >>> group = Group(4, ((("w",), 1, np.arange(4)[:, None]),), None)
      >>> GroupReport(group, 1, {'needed by dot_general': 3}).removed
      1
    """

    group: Group
    removed: int
    stayed: dict[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a compaction did.

    Attributes:
      shapes: For each parameter leaf, its shape before and after.
      parameters: How many parameters there were, and how many are left.
      bytes: The memory that they take, before and after.
      flops: Floating-point operations of the matrix products and convolutions (two for each
        multiply-add) of one call, before and after.
      groups: What became of each group.
      notes: What to know when the small parameters go into a smaller model of the same make.

    Example:
      >>> Report({('w',): ((4, 8), (4, 2))}, (32, 8), (128, 32), (64, 16), (), ()).parameters
      (32, 8)
    """

    shapes: dict[Key, tuple[tuple[int, ...], tuple[int, ...]]]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    flops: tuple[int, int]
    groups: tuple[GroupReport, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """A table of shapes, then totals, then what stayed and why."""
        width = max((len(join(key)) for key in self.shapes), default=0)
        lines = [
            f"{join(key):<{width}}  {_times(before)}" + (f" → {_times(after)}" * (before != after))
            for key, (before, after) in self.shapes.items()
        ]
        for name in ("parameters", "bytes", "flops"):
            before, after = getattr(self, name)
            ratio = f" ({before / after:.1f} × fewer)" if after else ""
            lines.append(f"{name}: {before:,} → {after:,}{ratio}")
        for entry in self.groups:
            first = entry.group.members[0]
            stayed = ", ".join(f"{n} {why}" for why, n in entry.stayed.items())
            lines.append(
                f"{join(first[0])} axis {first[1]}: {entry.removed} of {entry.group.size} units "
                f"removed" + (f"; stayed: {stayed}" if stayed else "")
            )
        return "\n".join([*lines, *self.notes])


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) if shape else "scalar"


def group_reports(
    groups: list[tuple[Group, list[int]]], decisions: Decisions, taken: np.ndarray, stays: dict
) -> tuple[GroupReport, ...]:
    """What became of each group, given its decisions."""
    out = []
    for group, units in groups:
        kept = [d for d in units if not taken[d]]
        why = Counter(decisions.reasons[d] or _needed_by(stays, d) for d in kept)
        out.append(GroupReport(group, len(units) - len(kept), dict(why)))
    return tuple(out)


def _needed_by(stays: dict[int, Op], d: int) -> str:
    return f"needed by {stays[d].name}" if d in stays else "kept: one must stay"
