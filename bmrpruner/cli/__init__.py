"""The command line: `bmrpruner inspect | prune | compact | sweep | report`."""

from bmrpruner.cli.main import run

__all__ = ["run"]
