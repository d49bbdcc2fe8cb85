"""Networks in files: read, checked, pruned, written, and read again."""

import contextlib
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bmrpruner import DiagonalGaussian, files

SUFFIXES = (".npz", ".safetensors")


def mean_field(spread="std", value=0.5):
    rng = np.random.default_rng(0)
    return {
        f"dense_{i}/kernel/{role}": array.astype(np.float32)
        for i, shape in enumerate([(64, 32), (32, 10)])
        for role, array in (("mean", rng.normal(size=shape)), (spread, np.full(shape, value)))
    }


def random_masks(checkpoint, sparsity, seed=1):
    rng = np.random.default_rng(seed)
    return {leaf: rng.random(m.shape) >= sparsity for leaf, m in means(checkpoint).items()}


def means(checkpoint):
    return {leaf: checkpoint.tensors[roles["mean"]] for leaf, roles in checkpoint.leaves.items()}


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        assert array.shape == theirs[name].shape, name
        assert array.tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.float64, np.int8])
def test_every_dtype_survives(tmp_path, suffix, dtype):
    tensors = {"a/b": np.arange(-3, 3).reshape(2, 3).astype(dtype), "c": np.ones((), dtype)}
    files.write_tensors(tmp_path / f"x{suffix}", tensors, {"author": "Bayes"})
    back = files.read_tensors(tmp_path / f"x{suffix}")
    assert_same_bits(back.arrays, tensors)
    assert back.metadata == {"author": "Bayes"}


@settings(max_examples=30, deadline=None)
@given(
    kernel=arrays(
        np.float32,
        st.tuples(st.integers(0, 7), st.integers(1, 9)),
        elements=st.floats(-1e9, 1e9, width=32),
    ),
    packed=st.booleans(),
    seed=st.integers(0, 9),
)
def test_pruned_files_come_back_bit_for_bit(tmp_path_factory, kernel, packed, seed):
    tensors = {"w/mean": kernel, "w/std": np.abs(kernel) + 1, "bias": np.ones(3, np.float32)}
    checkpoint = files.Checkpoint(tensors)
    mask = np.random.default_rng(seed).random(kernel.shape) < 0.5
    pruned = checkpoint.prune({"w": mask}, {"algorithm": "snr"})
    path = tmp_path_factory.mktemp("files") / "pruned.npz"
    files.save(path, pruned, packed=packed)
    back = files.load(path)
    assert_same_bits(back.tensors, pruned.tensors)
    np.testing.assert_array_equal(back.masks["w"], mask)
    assert back.info["algorithm"] == "snr"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_trees_of_every_make_come_back(tmp_path, suffix, tree):
    path = tmp_path / f"net{suffix}"
    files.save(path, tree)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x) if isinstance(x, jax.Array) else x, tree)
    back = files.load(path).into(zeros)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        if isinstance(theirs, jax.Array):
            np.testing.assert_array_equal(ours, theirs)


def test_a_tree_that_does_not_fit_is_told_apart(tmp_path):
    checkpoint = files.Checkpoint({"layer/kernel": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"layer/kernel.*\(3, 2\).*\(2, 3\)"):
        checkpoint.into({"layer": {"kernel": jnp.ones((3, 2))}})
    with pytest.raises(ValueError, match="layer/kernels: not in the file"):
        checkpoint.into({"layer": {"kernels": jnp.ones((2, 3))}})


def test_a_posterior_comes_back(tmp_path):
    posterior = DiagonalGaussian(
        {"a": jnp.ones((2, 2)), "steps": jnp.array(7)}, {"a": jnp.full((2, 2), 4.0), "steps": None}
    )
    files.save(tmp_path / "posterior.npz", posterior)
    back = files.load(tmp_path / "posterior.npz").posterior
    assert back.std["a"].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert back.std["steps"] is None
    assert back.mean["steps"] == 7


@pytest.mark.parametrize(
    ("spread", "value", "std"),
    [("std", 0.5, 0.5), ("rho", 0.0, np.log(2)), ("precision", 4.0, 0.5)],
)
def test_a_pruned_weight_has_no_variance(tmp_path, spread, value, std):
    checkpoint = files.Checkpoint(mean_field(spread, value))
    mask = {"dense_1/kernel": np.arange(320).reshape(32, 10) % 2}
    files.save(tmp_path / "pruned.npz", checkpoint.prune(mask, {}))
    loaded = files.load(tmp_path / "pruned.npz")
    back = loaded.posterior.std["dense_1"]["kernel"]
    np.testing.assert_allclose(back, std * mask["dense_1/kernel"], rtol=1e-6)
    draw = loaded.posterior.sample(jax.random.key(0))["dense_1"]["kernel"]
    np.testing.assert_array_equal(draw != 0, mask["dense_1/kernel"])
    # Also for whoever reads the tensors and knows nothing of masks.
    raw = loaded.tensors[f"dense_1/kernel/{spread}"][:, 0].astype(float)
    to_std = {"std": np.abs, "rho": lambda rho: np.logaddexp(0, rho), "precision": np.reciprocal}
    assert np.all(to_std[spread](raw) == 0)


def test_draws_form_a_posterior(tmp_path):
    draws = np.random.default_rng(0).normal(2.0, 0.5, (4, 500, 3)).astype(np.float32)
    files.write_tensors(tmp_path / "chains.npz", {"w/draws": draws})
    files.write_tensors(
        tmp_path / "ensemble.npz", {"w/mean": draws.mean((0, 1)), "w/draws": draws[0]}
    )
    for name in ("chains", "ensemble"):
        posterior = files.load(tmp_path / f"{name}.npz").posterior
        np.testing.assert_allclose(posterior.mean["w"], 2.0, atol=0.06)
        np.testing.assert_allclose(posterior.std["w"], 0.5, atol=0.05)
    pruned = files.load(tmp_path / "chains.npz").prune({"w": np.array([1, 0, 1])}, {})
    assert not pruned.tensors["w/draws"][..., 1].any()
    files.save(tmp_path / "pruned.npz", pruned, packed=True)
    assert_same_bits(files.load(tmp_path / "pruned.npz").tensors, pruned.tensors)


def test_statistics_of_normalisation_are_no_posterior():
    checkpoint = files.Checkpoint({"bn/mean": np.zeros(3), "bn/var": np.ones(3)})
    assert checkpoint.posterior is None
    assert checkpoint.params["bn"]["mean"].shape == (3,)


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_packed_file_is_smaller_by_the_sparsity(tmp_path, suffix, sparsity):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(500, 400)).astype(np.float32)
    checkpoint = files.Checkpoint({"w/mean": mean, "w/std": rng.random(mean.shape, np.float32)})
    files.save(tmp_path / f"dense{suffix}", checkpoint)
    pruned = checkpoint.prune({"w": rng.random(mean.shape) >= sparsity}, {})
    path = tmp_path / f"pruned{suffix}"
    files.save(path, pruned, packed=True)
    dense_bytes = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    assert path.stat().st_size <= (1 - sparsity) * dense_bytes
    assert_same_bits(files.load(path).tensors, pruned.tensors)
    if suffix == ".npz":  # random numbers do not compress, but the zeros around them do
        files.save(path, pruned, force=True)
        assert path.stat().st_size <= 1.1 * (1 - sparsity) * dense_bytes + 2 * mean.size / 8


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float64, np.int8, bool])
def test_every_dtype_is_packed(tmp_path, dtype):
    tensors = {"w": np.arange(1, 7).reshape(2, 3).astype(dtype), "scale": np.ones((), dtype)}
    pruned = files.Checkpoint(tensors).prune({"w": np.eye(2, 3)}, {})
    files.save(tmp_path / "x.safetensors", pruned, packed=True)
    back = files.load(tmp_path / "x.safetensors")
    assert_same_bits(back.tensors, pruned.tensors)
    assert_same_bits(back.masks, pruned.masks)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x | {"w": x["w"][:-9]}, "'w' cannot be unpacked"),
        (lambda x: x | {"w": x["v"]}, "'w': expected 3 numbers of float64, got 40 bytes"),
        (lambda x: {k: v for k, v in x.items() if k != "w/mask"}, "'w/mask' cannot be unpacked"),
        (lambda x: x | {"w/mask": x["w"]}, "'w/mask': expected 1 numbers of uint8"),
    ],
)
def test_a_spoiled_packed_tensor_is_named(tmp_path, spoil, message):
    checkpoint = files.Checkpoint({"w": np.arange(6.0), "v": np.ones(5)})
    path = tmp_path / "x.npz"
    files.save(path, checkpoint.prune({"w": np.arange(6) % 2}, {}), packed=True)
    arrays, metadata = files.read_tensors(path)
    files.write_tensors(path, spoil(arrays), metadata, force=True)
    with pytest.raises(ValueError, match=message):
        files.load(path)


def test_metadata_that_is_not_ours(tmp_path):
    np.savez(tmp_path / "y.npz", w=np.ones(2), __metadata__=np.array("author: Bayes"))
    with pytest.raises(ValueError, match=r"y\.npz: its metadata is not JSON"):
        files.load(tmp_path / "y.npz")
    for info in ('{"packed": 3}', '"pruned"', '{"packed": {"tensors": {}}}'):
        files.write_tensors(tmp_path / "x.npz", {"w": np.ones(2)}, {"bmrpruner": info}, force=True)
        with pytest.raises(ValueError, match=r"x\.npz: its metadata"):
            files.load(tmp_path / "x.npz")


def test_a_mask_that_contradicts_its_tensor_is_not_written(tmp_path):
    checkpoint = files.Checkpoint({"w": np.ones(3)}, masks={"w": np.array([0, 1, 1], np.uint8)})
    with pytest.raises(ValueError, match="'w' has weights that 'w/mask' says are pruned"):
        files.save(tmp_path / "x.npz", checkpoint, packed=True)
    assert list(tmp_path.iterdir()) == []


def test_orbax_directories_are_read(tmp_path):
    import orbax.checkpoint as ocp

    tree = {"a": {"kernel": np.ones((2, 3), np.float32)}, "l": [np.arange(4, dtype=np.float32)]}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "plain", tree)
    loaded = files.load(tmp_path / "plain")
    assert_same_bits(dict(loaded.tensors), {"a/kernel": tree["a"]["kernel"], "l/0": tree["l"][0]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: not a whole orbax checkpoint"):
        files.load(tmp_path / "empty")


def write(path, changes=None):
    """A mean-field posterior with some of its tensors replaced, or removed by None."""
    tensors = {n: t for n, t in (mean_field() | (changes or {})).items() if t is not None}
    files.write_tensors(path, tensors)


K0, K1 = "dense_0/kernel", "dense_1/kernel"
BAD_TENSORS = {
    "no std": ({f"{K1}/std": None}, f"'{K1}/mean' has no '{K1}/std'"),
    "no mean": ({f"{K1}/mean": None}, f"'{K1}/std' has no"),
    "another shape": ({f"{K1}/std": np.ones((10, 32))}, rf"{K1}/std.*\(10, 32\)"),
    "NaN": ({f"{K0}/mean": np.full((64, 32), np.nan)}, f"'{K0}/mean' has 2048 NaN"),
    "infinite": ({f"{K0}/mean": np.full((64, 32), np.inf)}, f"{K0}/mean.*infinite"),
    "negative": ({f"{K0}/std": np.full((64, 32), -1.0)}, f"{K0}/std.*below zero"),
    "integers": ({f"{K0}/std": np.ones((64, 32), int)}, f"{K0}/std.*int64"),
    "text": ({"name": np.array("mnist")}, "'name': expected numbers"),
    "two spreads": ({f"{K0}/rho": np.ones((64, 32))}, "expected one of std, rho"),
    "one draw": ({"w/draws": np.ones((1, 1, 3))}, "'w/draws': expected"),
    "a tensor below a tensor": ({"a": np.ones(2), "a/b": np.ones(2)}, "'a/b': its parent 'a'"),
    "zero precision": (
        {"w/mean": np.ones(2), "w/precision": np.array([1, 0.0])},
        "'w/precision' has precisions of zero",
    ),
    "few bits": (
        {"bias": np.zeros(20), "bias/mask": np.zeros(1, np.uint8)},
        "'bias/mask': expected 3 bytes",
    ),
    "weights where the mask has none": (
        {"bias": np.ones(8), "bias/mask": np.zeros(1, np.uint8)},
        "'bias' has weights that 'bias/mask' says are pruned",
    ),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("changes", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_the_tensor_at_fault_is_named(tmp_path, suffix, changes, message):
    if suffix == ".safetensors" and "name" in changes:
        pytest.skip("the format has no text")
    write(tmp_path / f"bad{suffix}", changes)
    with pytest.raises(ValueError, match=message) as raised:
        files.load(tmp_path / f"bad{suffix}")
    assert f"bad{suffix}" in str(raised.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("cut", [0, 4, 100, -2000, -1])
def test_truncated_files_are_refused(tmp_path, suffix, cut):
    path = tmp_path / f"cut{suffix}"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=f"cut{suffix}: not a"):
        files.load(path)


def test_what_a_cut_safetensors_file_lacks_is_named(tmp_path):
    path = tmp_path / "cut.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:-4])
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + length])
    last = max((h["data_offsets"][1], name) for name, h in header.items())[1]
    with pytest.raises(ValueError, match=f"it ends within tensor '{last}'"):
        files.load(path)


def test_a_spoiled_member_is_named(tmp_path):
    path = tmp_path / "spoiled.npz"
    files.write_tensors(path, {"a": np.zeros(5), "b": np.arange(5000.0)})
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="tensor 'b' cannot be read"):
        files.load(path)


def test_the_other_order_of_bytes_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.arange(6.0).astype(">f4"))
    tensor = files.load(tmp_path / "x.npz").tensors["w"]
    assert_same_bits({"w": tensor}, {"w": np.arange(6, dtype=np.float32)})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("packed", [False, True])
def test_any_spoiled_byte_is_found_or_harmless(tmp_path, suffix, packed):
    rng = np.random.default_rng(0)
    checkpoint = files.Checkpoint({"w": np.arange(1, 99.0), "b": np.ones(3)})
    path = tmp_path / f"x{suffix}"
    files.save(path, checkpoint.prune({"w": rng.random(98) < 0.3}, {}), packed=packed)
    whole = path.read_bytes()
    for _ in range(100):
        raw = bytearray(whole)
        raw[rng.integers(len(raw))] = rng.integers(256)
        path.write_bytes(raw)
        with contextlib.suppress(ValueError):
            files.load(path)


def test_a_pickle_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="tensor 'a' cannot be read"):
        files.load(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, name):
    (tmp_path / name).write_text("These are not the tensors you are looking for." * 9)
    with pytest.raises(ValueError, match=f"{name}: not a"):
        files.load(tmp_path / name)


def test_other_names_are_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"ends in \.npz or \.safetensors"):
        files.load(tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"ends in \.npz or \.safetensors"):
        files.save(tmp_path / "y.pt", {"a": jnp.ones(2)})
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files.load(tmp_path / "nowhere.npz")


def write_half(path):
    with files.atomic_write(path, force=True) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("the disk is full")


def test_nothing_is_replaced_and_nothing_is_half_written(tmp_path):
    path = tmp_path / "net.npz"
    files.save(path, {"a": jnp.ones(2)})
    with pytest.raises(FileExistsError, match="--force"):
        files.save(path, {"a": jnp.zeros(2)})
    with pytest.raises(RuntimeError, match="disk"):
        write_half(path)
    assert files.load(path).params["a"].tolist() == [1.0, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]
    files.save(path, {"a": jnp.zeros(2)}, force=True)
    assert files.load(path).params["a"].tolist() == [0.0, 0.0]


def test_the_extra_is_named(tmp_path, monkeypatch):
    from bmrpruner.files import formats

    with pytest.raises(ImportError, match=r"pip install 'bmrpruner\[safetensors\]'"):
        formats.optional("no_such_module_at_all", "safetensors")


def test_names_that_collide_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a/b': two leaves"):
        files.save(tmp_path / "x.npz", {"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})


def test_the_posterior_at_hand(data_dir, tmp_path):
    checkpoint = files.load(data_dir / "posteriors" / "mnist_mlp_meanfield.npz")
    assert checkpoint.params["dense_0"]["kernel"].shape == (784, 256)
    pruned = checkpoint.prune(random_masks(checkpoint, 0.9), {})
    dense_bytes = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    for suffix, packed in [(".safetensors", False), (".safetensors", True), (".npz", True)]:
        path = tmp_path / f"pruned{suffix}"
        files.save(path, pruned, force=True, packed=packed)
        assert_same_bits(files.load(path).tensors, pruned.tensors)
        if packed:
            assert path.stat().st_size < 0.1 * dense_bytes
