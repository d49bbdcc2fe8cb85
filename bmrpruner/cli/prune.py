"""The command that prunes a network in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bmrpruner import pruning, study
from bmrpruner._checks import check_seed
from bmrpruner.cli import tables
from bmrpruner.cli.options import MODEL, File, Number, Prior, Scope, Where, naming
from bmrpruner.files.formats import check_writable
from bmrpruner.sparsity_types import NByM, parse_sparsity_type


@dataclasses.dataclass
class Prune:
    """Prune once, and write the network under the names of its tensors, with its masks."""

    file: File
    """A .npz or .safetensors file, or an orbax directory."""
    out: Path
    """What to write; the suffix, .npz or .safetensors, says how."""
    algorithm: str = "bmr"
    """How weights are ranked: bmr, snr, magnitude, random, posterior_variance, ... by layer;
    global_bmr, global_snr, global_magnitude over the whole network. By the inputs of the layers in
    the data: obs, global_obs (which refit what stays), wanda."""
    sparsity: Number = None
    """Fraction of the weights to prune."""
    data: Path | None = None
    """For obs, global_obs and wanda: inputs to calibrate with, up to 10,000 drawn at random from x
    of a .npz file, or from the training images of a directory of MNIST-format files, never from its
    test images. No labels are read but for max-loss-rise."""
    model: str | None = None
    """For these algorithms: module:function, from parameters (nested dicts) and inputs to logits;
    by default bmrpruner.study.models:mlp."""
    max_loss_rise: Number = None
    """For these algorithms, in place of a sparsity: prune as much as keeps the rise of the loss
    within this, nats per example. Half of the data, up to 10,000 examples with labels (y in a .npz
    file), is then held out to measure the loss on, and the other half calibrates. Where the network
    was trained on them, the loss on new data may rise more: a .npz file of new examples tells."""
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
            self._sparsity(threshold),
            threshold,
            seed=self.seed,
            temperature=self.temperature,
            **vars(self.where),
        )
        check_writable(self.out, self.force)
        calibration = self._calibration(rule)
        with naming(self.file, *([self.data] if self.data else [])):
            done = pruning.prune_file(
                self.file,
                self.out,
                rule,
                self.force,
                self.packed,
                self.prior_precision,
                calibration,
            )
        tables.show(done, self.json, tables.pruned)

    def _sparsity(self, threshold: float | None) -> float | None:
        """The sparsity to prune at, or to begin with where a tolerance decides."""
        if self.max_loss_rise is None:
            return self.sparsity
        given = {"sparsity": self.sparsity, "threshold": threshold}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"max-loss-rise, {name}: expected exactly one of them, got "
                    f"{self.max_loss_rise} and {value}."
                )
        if isinstance(parse_sparsity_type(self.where.sparsity_type), NByM):
            raise ValueError(
                f"max-loss-rise: expected none with {self.where.sparsity_type}, got "
                f"{self.max_loss_rise}."
            )
        return 0.0

    def _calibration(self, rule: pruning.Rule) -> pruning.Calibration | None:
        """What the algorithm is calibrated with; an error for data that it would not read."""
        given = {"data": self.data, "model": self.model, "max-loss-rise": self.max_loss_rise}
        if not rule.is_one_shot:
            for name, value in given.items():
                if value is not None:
                    raise ValueError(
                        f"{name}: expected it with obs, global_obs or wanda alone, got {value} "
                        f"with {rule.algorithm}."
                    )
            return None
        if self.data is None:
            raise ValueError(
                f"data: expected inputs to calibrate {rule.algorithm} with, got none: --data DIR "
                "of MNIST-format files, or a .npz file with x."
            )
        model = study.load_model(self.model or MODEL)
        return study.load_calibration(model, self.data, self.seed, self.max_loss_rise)
