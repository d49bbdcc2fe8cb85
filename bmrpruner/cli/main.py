"""The commands: each is a dataclass of options that calls one function of the library."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bmrpruner import files, pruning, study
from bmrpruner._checks import check_seed
from bmrpruner.cli import interrupt, tables
from bmrpruner.cli.arguments import parse
from bmrpruner.cli.compaction import Compact
from bmrpruner.cli.examples import ABOUT, EXAMPLES
from bmrpruner.cli.options import Count, File, Number, Numbers, Prior, Thresholds, Words, naming
from bmrpruner.files.formats import check_writable

Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]


@dataclasses.dataclass
class Scope:
    """Which weights may go, and which go together."""

    scope: Literal["global", "layer"] | None = None
    """Rank over the whole network, or each leaf by itself; by default the algorithm's own, which is
    layer but for adaptive_bmr and those named global_..."""
    sparsity_type: Annotated[str, tyro.conf.arg(name="type")] = "unstructured"
    """What goes together: unstructured, 2:4, 4x4, channel_-1, ..."""
    include: Words = ()
    """Patterns of names of leaves to prune; by default all of two axes or more."""
    exclude: Words = ()
    """Patterns of names of leaves to leave alone."""


Where = tyro.conf.OmitArgPrefixes[Scope]


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
class Prune:
    """Prune once, and write the network under the names of its tensors, with its masks."""

    file: File
    """A .npz or .safetensors file, or an orbax directory."""
    out: Path
    """What to write; the suffix, .npz or .safetensors, says how."""
    algorithm: str = "bmr"
    """How weights are ranked: bmr, snr, magnitude, random, posterior_variance, ... by layer;
    global_bmr, global_snr, global_magnitude over the whole network."""
    sparsity: Number = None
    """Fraction of the weights to prune."""
    threshold: Number = None
    """Prune what scores at or below it; for bmr, where ΔF is at or above it."""
    evidence: bool = False
    """Prune where the evidence says so: bmr with the threshold 0."""
    temperature: Number = None
    """Of the posterior in bmr; less than 1 weighs the data more, and keeps what matters jointly. By
    default a third of the posterior's mean SNR², at most 1."""
    seed: int = 0
    """For random pruning."""
    prior_precision: Prior = None
    packed: bool = False
    """Write only the weights that are kept, squeezed: the smallest file, for bmrpruner to read.
    Otherwise zeros stand in for the others, for any program to read: compressed in .npz, in full
    size in .safetensors."""
    force: bool = False
    """Replace the output file; of a symbolic link, the link and not what it points to."""
    json: bool = False
    """Print JSON."""
    where: Where = dataclasses.field(default_factory=Scope)

    def __call__(self) -> None:
        """Prune, write, and print what was written."""
        check_seed("seed", self.seed)
        threshold = self.threshold
        if self.evidence:
            if self.threshold is not None or self.algorithm != "bmr":
                given = f"--algorithm {self.algorithm}, --threshold {self.threshold}"
                raise ValueError(
                    f"evidence: expected no other algorithm and no threshold beside it, got {given}"
                )
            threshold = 0.0
        rule = pruning.Rule(
            self.algorithm,
            self.sparsity,
            threshold,
            seed=self.seed,
            temperature=self.temperature,
            **vars(self.where),
        )
        check_writable(self.out, self.force)
        with naming(self.file):
            done = pruning.prune_file(
                self.file, self.out, rule, self.force, self.packed, self.prior_precision
            )
        tables.show(done, self.json, tables.pruned)


@dataclasses.dataclass
class Sweep:
    """Prune by many rules and evaluate each; write results.json, results.csv and pictures."""

    file: File
    """A .npz or .safetensors file, or an orbax directory."""
    data: Path
    """Test data: a directory of MNIST-format files, or a .npz file with x and y."""
    out: Path
    """Directory for the results."""
    model: str = "bmrpruner.study.models:mlp"
    """module:function, from parameters (nested dicts) and inputs to logits."""
    ood: Path | None = None
    """Out-of-distribution data in the same form; by default the data with shuffled features."""
    algorithms: Words = ()
    """How weights are ranked; by default global_snr, global_bmr and global_magnitude for single
    weights, and snr, bmr and magnitude for groups."""
    sparsities: Numbers = (0.0, 0.5, 0.75, 0.9, 0.95, 0.98)
    """Fractions of the weights to prune; N:M patterns need none."""
    thresholds: Thresholds = ()
    """Thresholds of scores to prune by as well, such as snr=.5,bmr=0."""
    temperature: Number = None
    """Of the posterior in bmr and its kin, as in prune; the other algorithms have none."""
    samples: int = 20
    """Draws from the posterior to average over."""
    seed: int = 0
    """For the draws, random pruning and shuffled features."""
    prior_precision: Prior = None
    parallel: Count = None
    """Networks to evaluate side by side; by default 1 on a CPU, else 8."""
    resume: bool = False
    """Go on with the results in the directory."""
    force: bool = False
    """Start over in the directory."""
    json: bool = False
    """Print JSON."""
    where: Where = dataclasses.field(default_factory=Scope)

    def __call__(self) -> None:
        """Sweep, with progress on stderr, and print the table."""
        check_seed("seed", self.seed)
        thresholds = dict(self.thresholds)
        if len(thresholds) != len(self.thresholds):
            given = ", ".join(name for name, _ in self.thresholds)
            raise ValueError(f"thresholds: expected one for each algorithm, got {given}.")
        rules = study.make_rules(
            self.algorithms or study.default_algorithms(self.where.sparsity_type),
            self.sparsities,
            thresholds,
            self.temperature,
            seed=self.seed,
            **vars(self.where),
        )
        checkpoint = files.load(self.file, self.prior_precision)
        task = study.load_task(self.data, self.ood, self.seed)
        model = study.load_model(self.model)
        with naming(self.file, self.data):
            study.check_model(model, checkpoint.params, task)
        try:
            with interrupt.between_steps() as check, tables.progress(len(rules)) as advance:

                def advance_or_stop(points: list[Any]) -> None:
                    advance(points)
                    check()

                found = study.run_sweep(
                    checkpoint,
                    self.model,
                    task,
                    rules,
                    self.out,
                    self.samples,
                    self.seed,
                    self.parallel,
                    self.resume,
                    self.force,
                    advance_or_stop,
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; what is done is in {self.out}, --resume goes on from there."
            ) from None
        tables.show(dataclasses.asdict(found), self.json, tables.swept)
        if not self.json:
            print(tables.visible(f"Wrote results.json, results.csv and pictures to {self.out}/."))


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
