"""Running commands, and the files that they are run on."""

import json

import numpy as np

from bmrpruner import cli, files
from tests.idx_files import write_split

PRUNE = ("prune", "posterior.npz", "--out", "pruned.npz", "--algorithm", "snr")
SWEEP = ("sweep", "posterior.npz", "--data", "data", "--out", "results", "--samples", "2")
NET = ("prune", "net.npz", "--data", "data")
OBS = (*NET, "--algorithm", "obs", "--sparsity", ".5")
SWEEP_NET = ("sweep", "net.npz", "--out", "results", "--samples", "2")
EXAMPLES = 300  # training images
FAST = ("--algorithms", "snr,magnitude", "--sparsities", "0,.5")


def write_posterior(path, change=None):
    rng = np.random.default_rng(0)
    tensors = {}
    for i, shape in enumerate([(12, 16), (16, 10)]):
        tensors[f"dense_{i}/kernel/mean"] = rng.normal(size=shape).astype(np.float32)
        tensors[f"dense_{i}/kernel/std"] = rng.uniform(0.1, 1, shape).astype(np.float32)
    tensors |= change or {}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    files.write_tensors(path, kept, force=True)


def write_idx(directory, labels=10):
    directory.mkdir()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 3, 4), np.uint8)
    targets = (np.arange(40) % labels).astype(np.uint8)
    write_split(directory, "t10k", images, targets)


def run(capsys, *words):
    code = cli.run(list(words))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def run_json(capsys, *words):
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)
