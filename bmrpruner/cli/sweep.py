"""The command that prunes a network by many rules and evaluates each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bmrpruner import files, pruning, study
from bmrpruner._checks import check_seed
from bmrpruner.cli import interrupt, tables
from bmrpruner.cli.options import (
    MODEL,
    Count,
    File,
    Number,
    Numbers,
    Prior,
    Scope,
    Thresholds,
    Where,
    Words,
    naming,
)
from bmrpruner.pruning.calibrated import count_classes


@dataclasses.dataclass
class Sweep:
    """Prune by many rules and evaluate each; write results.json, results.csv and pictures."""

    file: File
    """A .npz or .safetensors file, or an orbax directory."""
    data: Path
    """Test data: a directory of MNIST-format files, or a .npz file with x and y."""
    out: Path
    """Directory for the results."""
    model: str = MODEL
    """module:function, from parameters (nested dicts) and inputs to logits."""
    ood: Path | None = None
    """Out-of-distribution data in the same form; by default the data with shuffled features."""
    calibration: Path | None = None
    """Inputs to calibrate obs, global_obs and wanda with, as data of prune; by default the training
    images beside the test data, if it is a directory of MNIST-format files that has them."""
    algorithms: Words = ()
    """How weights are ranked; by default global_snr, global_bmr and global_magnitude for single
    weights, and snr, bmr and magnitude for groups, with global_obs or obs before them where there
    are inputs to calibrate with."""
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
        calibrates = self.calibration or (self.data if study.has_calibration(self.data) else None)
        kind = self.where.sparsity_type
        rules = study.make_rules(
            self.algorithms or study.default_algorithms(kind, calibrates is not None),
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
        calibration = self._calibration(model, checkpoint.params, rules, calibrates)
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
                    calibration,
                )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; what is done is in {self.out}, --resume goes on from there."
            ) from None
        tables.show(dataclasses.asdict(found), self.json, tables.swept)
        if not self.json:
            print(tables.visible(f"Wrote results.json, results.csv and pictures to {self.out}/."))

    def _calibration(
        self, model: Any, params: Any, rules: list[pruning.Rule], data: Path | None
    ) -> pruning.Calibration | None:
        """What obs and its kin are calibrated with; None if no rule needs it."""
        needs = [rule.algorithm for rule in rules if rule.is_one_shot]
        if not needs:
            if self.calibration is not None:
                raise ValueError(
                    f"calibration: expected it with obs, global_obs or wanda alone, got "
                    f"{self.calibration} without them."
                )
            return None
        if data is None:
            raise ValueError(
                f"calibration: expected inputs to calibrate {needs[0]} with, got none: "
                f"{self.data} has no training images; --calibration names other inputs."
            )
        found = study.load_calibration(model, data, self.seed)
        with naming(self.file, data):
            count_classes(model, params, next(iter(found.batches)))
        return found
