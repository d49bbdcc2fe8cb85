"""Structure: which units of a model belong together, found by tracing its function."""

from bmrpruner.structure.groups import Group

__all__ = ["Group"]
