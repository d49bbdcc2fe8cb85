"""The command that makes pruned networks smaller."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bmrpruner import study
from bmrpruner.cli import tables
from bmrpruner.cli.options import File, Sizes, naming


@dataclasses.dataclass
class Compact:
    """Remove the units that are zero, exactly; write the smaller network, and what that gained."""

    file: File
    """A pruned .npz or .safetensors file, or an orbax directory: zeros, with masks or without."""
    out: Path
    """What to write; the suffix, .npz or .safetensors, says how."""
    model: str = "bmrpruner.study.models:mlp"
    """module:function, from parameters (nested dicts) and inputs to outputs."""
    input_shape: Sizes = ()
    """The shape of one input, such as 784 or 28,28,1; or give --data."""
    data: Path | None = None
    """Test data as for sweep, of which the first inputs are run."""
    batch: int = 128
    """Inputs in the call whose FLOPs and milliseconds are reported."""
    picture: Path | None = None
    """A PNG file to draw the shapes into, before and after."""
    export: Path | None = None
    """A .jaxexport file for the smaller function, which JAX runs without the model's code."""
    force: bool = False
    """Replace the output files; of a symbolic link, the link and not what it points to."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        """Compact, write, and print what was written."""
        with naming(self.file):
            done = study.compact_file(
                self.file,
                self.out,
                self.model,
                self.input_shape or None,
                self.data,
                self.batch,
                force=self.force,
                picture=self.picture,
                export=self.export,
            )
        tables.show(done, self.json, tables.compacted)
