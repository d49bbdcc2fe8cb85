"""bmrpruner compact: what it writes and prints, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bmrpruner import files, structure
from bmrpruner._tree import join, keyed_leaves
from bmrpruner.study import idx, models
from tests.cli.commands import run, run_json, write_posterior

COMPACT = ("compact", "pruned.npz", "--input-shape", "12", "--out", "small.npz")
LIVE = np.array([0, 3, 4, 9, 15])  # of 16 hidden units


@pytest.fixture
def pruned(work):
    """A posterior whose other hidden units get nothing but a bias, with masks of the kernel."""
    rng = np.random.default_rng(3)
    bias = {"dense_0/bias/mean": rng.normal(size=16), "dense_0/bias/std": np.full(16, 0.1)}
    bias |= {"dense_1/bias": rng.normal(size=10)}
    write_posterior("dense.npz", {k: v.astype(np.float32) for k, v in bias.items()})
    mask = np.zeros((12, 16), np.uint8)
    mask[:, LIVE] = 1
    checkpoint = files.load("dense.npz").prune({"dense_0/kernel": mask}, {})
    files.save("pruned.npz", checkpoint)
    return checkpoint


def hidden(checkpoint):
    """What the hidden units give for no input: the constants of those that went, weighed."""
    gone = np.setdiff1d(np.arange(16), LIVE)
    constants = np.maximum(checkpoint.tensors["dense_0/bias/mean"], 0)[gone]
    return constants @ checkpoint.tensors["dense_1/kernel/mean"][gone]


@pytest.mark.parametrize("out", ["small.npz", "small.safetensors"])
def test_the_smaller_file_is_the_larger_one_cut(pruned, capsys, out):
    done = run_json(capsys, *COMPACT[:-1], out)
    assert done["parameters"] == [12 * 16 + 16 + 16 * 10 + 10, 12 * 5 + 5 + 5 * 10 + 10]
    assert done["flops"] == [2 * 128 * 16 * (12 + 10), 2 * 128 * 5 * (12 + 10)]
    assert done["error"] < 1e-5
    assert done["fits"]
    assert done["file_bytes"] == [Path(p).stat().st_size for p in ("pruned.npz", out)]
    assert min(done["milliseconds"]) > 0
    small = files.load(out)
    cuts = {
        "dense_0/kernel/mean": np.s_[:, LIVE],
        "dense_0/kernel/std": np.s_[:, LIVE],
        "dense_0/bias/mean": LIVE,
        "dense_0/bias/std": LIVE,
        "dense_1/kernel/mean": LIVE,
        "dense_1/kernel/std": LIVE,
    }
    for name, where in cuts.items():
        assert small.tensors[name].tobytes() == pruned.tensors[name][where].tobytes()
    np.testing.assert_allclose(
        small.tensors["dense_1/bias"], pruned.tensors["dense_1/bias"] + hidden(pruned), rtol=1e-5
    )
    assert small.masks["dense_0/kernel"].tolist() == np.ones((12, 5)).tolist()
    assert structure.load_compacted(out).kept["dense_0", "kernel"][1].tolist() == LIVE.tolist()


def test_the_model_s_own_code_runs_the_smaller_file(pruned, capsys):
    run_json(capsys, *COMPACT)
    x = np.random.default_rng(1).normal(size=(7, 12)).astype(np.float32)
    expected = models.mlp(pruned.params, x)
    found = models.mlp(files.load("small.npz").params, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert run_json(capsys, "inspect", "small.npz")["weights"] == 125


def test_draws_get_what_moves_into_a_bias(work, capsys):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(12, 16)).astype(np.float32)
    kernel[:, 5:] = 0
    tensors = {
        "dense_0/kernel": kernel,
        "dense_0/bias": np.ones(16, np.float32),
        "dense_1/kernel": rng.normal(size=(16, 10)).astype(np.float32),
        "dense_1/bias/draws": rng.normal(size=(2, 6, 10)).astype(np.float32),
    }
    files.write_tensors("pruned.npz", tensors)
    run_json(capsys, *COMPACT)
    shift = tensors["dense_1/kernel"][5:].sum(0)
    draws = files.load("small.npz").tensors["dense_1/bias/draws"]
    np.testing.assert_allclose(draws, tensors["dense_1/bias/draws"] + shift, rtol=1e-5, atol=1e-6)


def test_inputs_from_data_and_an_orbax_directory(pruned, capsys):
    orbax = pytest.importorskip("orbax.checkpoint")
    orbax.PyTreeCheckpointer().save(
        Path("orbax").resolve(), jax.tree.map(np.asarray, pruned.params)
    )
    words = ("compact", "orbax", "--data", "data", "--batch", "50", "--out", "small.npz")
    done = run_json(capsys, *words)
    assert done["inputs"] == [50, *idx.read_split("data", "t10k")[0].shape[1:]]
    assert done["parameters"][1] == 125


def test_tables_picture_and_page(pruned, capsys):
    code, out, err = run(capsys, *COMPACT, "--picture", "shapes.png")
    assert code == 0, err
    for text in ("12×16    12×5", "dense_0/kernel axis 0: stayed: 12 input", "Wrote small.npz."):
        assert text in out
    assert Path("shapes.png").read_bytes()[1:4] == b"PNG"
    assert run(capsys, "report", "small.npz")[1] == "Wrote small.html.\n"
    page = Path("small.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert '<td data-label="after">12×5</td>' in page
    assert '<td data-label="after">125</td>' in page
    code, _, err = run(capsys, "report", "small.npz")
    assert (code, "--force" in err) == (2, True)


ALONE = """
import sys, jax, numpy as np
call = jax.export.deserialize(bytearray(open("small.jaxexport", "rb").read())).call
tensors = np.load("small.npz")
names = ["dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"]
params = {n: tensors[f"{n}/mean" if f"{n}/mean" in tensors else n] for n in names}
np.save("found.npy", call(params, np.load("x.npy")))
assert "bmrpruner" not in sys.modules
"""


@pytest.mark.slow
def test_the_exported_file_runs_in_a_process_without_any_of_our_code(pruned, capsys):
    pytest.importorskip("flatbuffers")
    done = run_json(capsys, *COMPACT, "--export", "small.jaxexport")
    assert done["export"] == {"file": "small.jaxexport", "batch": "any"}
    x = np.random.default_rng(1).normal(size=(7, 12)).astype(np.float32)
    np.save("x.npy", x)
    subprocess.run([sys.executable, "-I", "-c", ALONE], check=True)
    np.testing.assert_allclose(
        np.load("found.npy"), models.mlp(pruned.params, x), rtol=1e-4, atol=1e-5
    )


def centred(params, x):
    """A model whose outputs depend on the whole batch."""
    return models.mlp(params, x - x.mean(0))


def test_an_exported_model_of_whole_batches_takes_that_many_inputs(pruned, capsys):
    pytest.importorskip("flatbuffers")
    words = (*COMPACT, "--model", "tests.cli.test_compact:centred", "--batch", "6")
    out = run(capsys, *words, "--export", "small.jaxexport")[1]
    assert "Wrote small.jaxexport, which takes inputs of batch size: 6." in out
    x = np.random.default_rng(1).normal(size=(6, 12)).astype(np.float32)
    params = {join(key): leaf for key, leaf in keyed_leaves(files.load("small.npz").params)}
    found = structure.load_function("small.jaxexport")(params, x)
    np.testing.assert_allclose(found, centred(pruned.params, x), rtol=1e-4, atol=1e-5)


def unbiased(params, x):
    """A model that says itself how wide it is."""
    return np.float32(2) * jax.numpy.cos(x @ params["v"]).reshape(-1, 16) @ params["w"]


def test_what_only_the_compacted_function_runs(work, capsys):
    v = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    v[:, 4:] = 0
    files.write_tensors("pruned.npz", {"v": v, "w": np.ones((16, 10), np.float32)})
    done = run_json(capsys, *COMPACT, "--model", "tests.cli.test_compact:unbiased")
    assert not done["fits"]
    assert done["error"] < 1e-5
    assert "1 constants have no bias" in " ".join(done["notes"])
    out = run(capsys, *COMPACT, "--model", "tests.cli.test_compact:unbiased", "--force")[1]
    assert "Only the compacted function runs" in out


def plain(params, x):
    """A model without biases."""
    return jax.numpy.cos(x @ params["v"]) @ params["w"]


def test_a_file_without_its_constants_is_not_compacted_again(work, capsys):
    """Every unit of `plain` that goes is cos(0) = 1, and there is no bias for it."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=(12, 16)).astype(np.float32)
    v[:, 4:] = 0
    files.write_tensors("pruned.npz", {"v": v, "w": rng.normal(size=(16, 10)).astype(np.float32)})
    model = ("--model", "tests.cli.test_compact:plain")
    assert not run_json(capsys, *COMPACT, *model)["fits"]
    words = ("compact", "small.npz", "--input-shape", "12", "--out", "again.npz", *model)
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert "small.npz: file: expected a network that the model's own code runs" in err
    assert not Path("again.npz").exists()


def test_indices_of_a_second_compaction_are_those_of_the_first_network(pruned, capsys):
    run_json(capsys, *COMPACT)
    small = files.load("small.npz")
    mask = np.ones((12, 5), np.uint8)
    mask[:, [0, 2]] = 0
    files.save("smaller.npz", small.prune({"dense_0/kernel": mask}, {}))
    words = ("compact", "smaller.npz", "--input-shape", "12", "--out", "smallest.npz")
    assert run_json(capsys, *words)["leaves"][-1]["after"] == [3, 10]
    kept = structure.load_compacted("smallest.npz").kept
    assert kept["dense_0", "kernel"][1].tolist() == LIVE[[1, 3, 4]].tolist()
    smallest = files.load("smallest.npz").tensors["dense_0/kernel/mean"]
    original = pruned.tensors["dense_0/kernel/mean"]
    np.testing.assert_array_equal(smallest, original[np.ix_(*kept["dense_0", "kernel"])])


def sorting(params, x):
    """A model of which nothing can go."""
    return jax.numpy.sort(x @ params["dense_0"]["kernel"]) @ params["dense_1"]["kernel"]


BAD = {
    "no input": (("--out", "s.npz"), "input_shape, data: expected exactly one of them, got 0"),
    "two inputs": (
        ("--out", "s.npz", "--input-shape", "12", "--data", "data"),
        "input_shape, data: expected exactly one of them, got 2",
    ),
    "another shape": (
        ("--out", "s.npz", "--input-shape", "11"),
        "pruned.npz: model: expected one that takes inputs of shape (128, 11), got",
    ),
    "a shape of nothing": (("--out", "s.npz", "--input-shape", "0"), "input_shape: expected"),
    "a word for a shape": (("--out", "s.npz", "--input-shape", "12x3"), "12x3"),
    "no batch": (
        ("--out", "s.npz", "--input-shape", "12", "--batch", "0"),
        "batch: expected 1 at least, got 0",
    ),
    "itself": (
        ("--out", "./pruned.npz", "--input-shape", "12", "--force"),
        "pruned.npz: expected another file than the network",
    ),
    "there already": (("--out", "posterior.npz", "--input-shape", "12"), "--force"),
    "a picture there already": (
        ("--out", "s.npz", "--input-shape", "12", "--picture", "posterior.npz"),
        "--force",
    ),
    "an exported file of another format": (
        ("--out", "s.npz", "--input-shape", "12", "--export", "s.hlo"),
        "s.hlo: expected a name that ends in .jaxexport",
    ),
    "another format": (("--out", "s.h5", "--input-shape", "12"), ".npz or .safetensors"),
    "no such model": (
        ("--out", "s.npz", "--input-shape", "12", "--model", "nowhere:f"),
        "model: expected a function to import",
    ),
    "no such data": (("--out", "s.npz", "--data", "nowhere"), "nowhere: expected a directory"),
    "nothing to remove": (
        ("--out", "s.npz", "--input-shape", "12", "--model", "tests.cli.test_compact:sorting"),
        "pruned.npz: fn: expected an axis of a parameter that is not frozen, got only axes that",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(pruned, capsys, name):
    words, expected = BAD[name]
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    code, out, err = run(capsys, "compact", "pruned.npz", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("bmrpruner: ")
    assert expected in err
    assert {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("info", [{}, {"compaction": 3}, {"compaction": {"leaves": [{}]}}])
def test_a_page_of_a_file_without_a_report(pruned, capsys, info):
    files.save("other.npz", files.Checkpoint({"w": np.ones((2, 2))}, info=info))
    code, _, err = run(capsys, "report", "other.npz")
    assert code == 2
    assert "other.npz: expected" in err
    assert not Path("other.html").exists()
