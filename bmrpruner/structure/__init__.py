"""Structure: which units of a model belong together, found by tracing its function."""

from bmrpruner.structure.compact import Compacted, compact
from bmrpruner.structure.groups import Group, dependency_groups

__all__ = ["Compacted", "Group", "compact", "dependency_groups"]
