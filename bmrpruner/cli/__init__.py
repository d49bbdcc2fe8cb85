"""The command line: `bmrpruner inspect | prune | sweep | report`."""

from bmrpruner.cli.main import run

__all__ = ["run"]
