"""The commands: each is a dataclass of options that calls one function of the library."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bmrpruner import files, study
from bmrpruner.cli import tables
from bmrpruner.cli.arguments import parse
from bmrpruner.cli.compaction import Compact
from bmrpruner.cli.examples import ABOUT, EXAMPLES
from bmrpruner.cli.options import Directory, File, Prior
from bmrpruner.cli.prune import Prune
from bmrpruner.cli.sweep import Sweep


@dataclasses.dataclass
class Inspect:
    """Leaves, shapes, quantiles of SNR and ΔF, and how much each threshold would prune."""

    file: File
    """A .npz or .safetensors file, or an orbax directory."""
    prior_precision: Prior = None
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        """Print what the file holds."""
        found = study.inspect_checkpoint(files.load(self.file, self.prior_precision))
        tables.show(found, self.json, tables.inspection)


@dataclasses.dataclass
class Report:
    """Make one self-contained HTML page of a sweep's tables and pictures, or of a compaction's."""

    directory: Directory
    """Where a sweep left its results, or a file that compact wrote."""
    out: Path | None = None
    """What to write; by default report.html in the directory, or the file's name with .html."""
    force: bool = False
    """Replace the page; of a symbolic link, the link and not what it points to."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        """Write the page and say where."""
        out = study.write_report(self.directory, self.out, self.force)
        print(json.dumps({"out": str(out)}) if self.json else tables.visible(f"Wrote {out}."))


COMMANDS = {
    "inspect": Inspect,
    "prune": Prune,
    "compact": Compact,
    "sweep": Sweep,
    "report": Report,
}


def run(words: Sequence[str]) -> int:
    """Run a command and print what it found.

    Args:
      words: The arguments after the program's name.

    Returns:
      The exit code: 0, or 2 after one line on stderr that says what is wrong.

    Example:
      >>> run(['report', 'nowhere'])  # one line on stderr
      2
    """
    try:
        parse(COMMANDS, words, ABOUT)()
    except SystemExit as stop:  # after --help
        command = words[0] if words and words[0] in COMMANDS else ""
        print(f"Examples:\n{EXAMPLES[command]}")
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "interrupted.")
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        return _fail(str(error))
    except (MemoryError, OverflowError) as error:
        return _fail(f"the numbers asked for are too large: {str(error) or type(error).__name__}")
    return 0


def _fail(message: str) -> int:
    print(f"bmrpruner: {tables.visible(' '.join(message.split()))}", file=sys.stderr)
    return 2
