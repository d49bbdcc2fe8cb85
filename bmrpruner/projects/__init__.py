"""Beside the core: algorithms from papers."""

from bmrpruner.projects import extensions

__all__ = ["extensions"]
