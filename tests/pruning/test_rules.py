"""Rules that prune a trained network once."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bmrpruner
from bmrpruner import DiagonalGaussian, files, pruning, study
from bmrpruner.pruning import Rule


def network(seed=0, shapes=((8, 4), (4, 12))):
    rng = np.random.default_rng(seed)
    mean = {
        f"layer_{i}": {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])}
        for i, shape in enumerate(shapes)
    }
    std = {
        name: {"kernel": rng.uniform(0.1, 1, layer["kernel"].shape), "bias": None}
        for name, layer in mean.items()
    }
    return mean, bmrpruner.posteriors.from_mean_field(mean, scale=std)


def flat(tree):
    return np.concatenate([np.ravel(layer["kernel"]) for layer in tree.values()])


@settings(max_examples=25, deadline=None)
@given(sparsity=st.floats(0, 1), algorithm=st.sampled_from(["snr", "magnitude", "bmr", "random"]))
def test_the_highest_scores_stay(sparsity, algorithm):
    mean, posterior = network()
    pruned = pruning.prune(mean, Rule(algorithm, sparsity=sparsity, scope="global"), posterior)
    kept = flat(pruned.params) != 0
    assert kept.sum() == max(1, np.round(80 * (1 - np.float32(sparsity))))
    assert pruned.sparsity == pytest.approx(1 - kept.mean())
    scores = {
        "snr": flat(posterior.snr),
        "magnitude": np.abs(flat(mean)),
        "bmr": -flat(posterior.delta_f()),
        "random": None,
    }[algorithm]
    if scores is not None and not kept.all():
        assert scores[kept].min() >= scores[~kept].max()
    np.testing.assert_array_equal(flat(pruned.posterior.std) == 0, ~kept)


def test_each_leaf_has_its_share_by_layer():
    mean, posterior = network()
    pruned = pruning.prune(mean, Rule("snr", sparsity=0.75, scope="layer"), posterior)
    assert pruned.leaf_sparsity == {"layer_0/kernel": 0.75, "layer_1/kernel": 0.75}
    np.testing.assert_array_equal(
        pruned.params["layer_0"]["bias"], np.float32(mean["layer_0"]["bias"])
    )


def test_a_threshold_takes_what_scores_at_or_below_it():
    mean, posterior = network()
    snr, evidence = flat(posterior.snr), flat(posterior.delta_f())
    pruned = pruning.prune(mean, Rule("snr", threshold=1.0), posterior)
    np.testing.assert_array_equal(flat(pruned.params) == 0, snr <= 1.0)
    pruned = pruning.prune(mean, Rule("bmr", threshold=0.0), posterior)
    np.testing.assert_array_equal(flat(pruned.params) == 0, evidence >= 0)


def test_a_temperature_is_that_of_the_posterior():
    mean, posterior = network()
    pruned = pruning.prune(mean, Rule("bmr", threshold=0.0, temperature=0.1), posterior)
    evidence = flat(posterior.temper(0.1).delta_f())
    np.testing.assert_array_equal(flat(pruned.params) == 0, evidence >= 0)
    np.testing.assert_array_equal(flat(pruned.posterior.std) == 0, evidence >= 0)
    for rule in ({"algorithm": "snr", "temperature": 0.5}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="temperature"):
            Rule(**{"sparsity": 0.5, **rule})


def test_patterns_choose_leaves():
    mean, posterior = network()
    only = Rule("magnitude", sparsity=0.5, include=("*/kernel", "layer_0/bias"), exclude=("*_1/*",))
    assert set(pruning.prune(mean, only, posterior).masks) == {"layer_0/kernel", "layer_0/bias"}
    # A score of the posterior cannot rank a leaf that has none.
    snr = Rule("snr", sparsity=0.5, include=("layer_0/*",))
    assert set(pruning.prune(mean, snr, posterior).masks) == {"layer_0/kernel"}


@pytest.mark.parametrize(("kind", "sparsity"), [("2:4", None), ("channel_-1", 0.5), ("2x2", 0.5)])
def test_groups_go_by_layer(kind, sparsity):
    mean, posterior = network()
    pruned = pruning.prune(mean, Rule("snr", sparsity=sparsity, sparsity_type=kind), posterior)
    assert pruned.leaf_sparsity == {"layer_0/kernel": 0.5, "layer_1/kernel": 0.5}
    if kind == "2:4":
        assert np.all((pruned.masks["layer_0/kernel"].reshape(8, 1, 4) != 0).sum(-1) == 2)


BAD = {
    "unknown algorithm": (("sn", 0.5), "got 'sn'.* Did you mean 'snr'"),
    "neither": (("snr",), "exactly one of them, got 0"),
    "both": (("snr", 0.5, 1.0), "exactly one of them, got 2"),
    "sparsity of 2": (("snr", 2.0), r"sparsity: expected a number in \[0, 1\]"),
    "scope": (("snr", 0.5, None, "world"), "scope: expected one of global, layer"),
    "N:M and a sparsity": (("snr", 0.5, None, None, "2:4"), "expected neither with 2:4"),
    "global groups": (("snr", 0.5, None, "global", "4x4"), "expected 'layer' for groups"),
    "type": (("snr", 0.5, None, None, "two of four"), "Sparsity type: .* got 'two of four'"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_impossible_rules_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rule(*arguments)


def test_what_does_not_fit_the_network_is_named():
    mean, posterior = network()
    with pytest.raises(ValueError, match="posterior: expected one for SNRPruning"):
        pruning.prune(mean, Rule("snr", sparsity=0.5))
    with pytest.raises(ValueError, match=r"include: expected a pattern of .*, got 'conv\*'"):
        pruning.prune(mean, Rule("snr", sparsity=0.5, include=("conv*",)), posterior)
    with pytest.raises(ValueError, match="divisible by 5"):
        pruning.prune(mean, Rule("snr", sparsity_type="2:5"), posterior)
    with pytest.raises(ValueError, match=r"algorithm: expected one of .* got 'saliency'"):
        pruning.prune(mean, Rule("saliency", sparsity=0.5), posterior)


def test_wide_tensors_keep_their_bits():
    rng = np.random.default_rng(0)
    tensors = {"w/mean": rng.normal(size=(30, 20)), "w/std": rng.uniform(0.1, 1, (30, 20))}
    pruned = pruning.prune_checkpoint(files.Checkpoint(tensors), Rule("snr", sparsity=0.9))
    for name, tensor in pruned.tensors.items():
        assert tensor.dtype == np.float64
        np.testing.assert_array_equal(tensor, tensors[name] * pruned.masks["w"])


def test_pruning_twice_prunes_further():
    mean, posterior = network()
    once = pruning.prune(mean, Rule("snr", sparsity=0.5), posterior)
    twice = pruning.prune(once.params, Rule("snr", sparsity=0.9), once.posterior)
    assert not np.any((flat(once.params) == 0) & (flat(twice.params) != 0))
    assert twice.sparsity == pytest.approx(0.9)


def test_registered_algorithms_join_in():
    class Largest(bmrpruner.BaseUpdater):
        def calculate_scores(self, params, sparse_state=None, grads=None):
            return params

    bmrpruner.register_algorithm("largest", Largest)
    try:
        pruned = pruning.prune({"w": jnp.array([[-5.0, 1.0]])}, Rule("largest", sparsity=0.5))
    finally:
        del bmrpruner.ALGORITHM_REGISTRY["largest"]
    assert pruned.params["w"].tolist() == [[0.0, 1.0]]


def test_inspection_counts():
    mean = np.array([[1.0, 0.1], [0.3, 2.0]])
    found = study.inspect_checkpoint(
        files.Checkpoint({"w/mean": mean, "w/std": np.full((2, 2), 0.5), "b": mean})
    )
    assert found["weights"] == 8
    assert found["snr"]["0.5"] == 0.25
    assert found["snr"]["1"] == 0.5
    posterior = DiagonalGaussian(jnp.asarray(mean), jnp.full((2, 2), 4.0))
    assert found["evidence"] == float(jnp.mean(posterior.delta_f() >= 0))
    assert found["leaves"][1]["snr"][2] == pytest.approx(1.3)


def test_quantiles_are_of_what_is_left():
    checkpoint = files.Checkpoint({"w/mean": np.array([1.0, 2, 3]), "w/std": np.ones(3)})
    (leaf,) = study.inspect_checkpoint(checkpoint.prune({"w": np.array([0, 1, 1])}, {}))["leaves"]
    assert leaf["zeros"] == 1
    assert leaf["snr"][2] == pytest.approx(2.5)
    assert leaf["delta_f"][2] == pytest.approx((-2 - 4.5) / 2)
    (leaf,) = study.inspect_checkpoint(checkpoint.prune({"w": np.zeros(3)}, {}))["leaves"]
    assert leaf["snr"] is leaf["delta_f"] is None


def test_chains_that_disagree_are_told():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(4, 100, 3)).astype(np.float32)
    apart = mixed + 10 * np.arange(4, dtype=np.float32)[:, None, None]
    found = study.inspect_checkpoint(files.Checkpoint({"a/draws": mixed, "b/draws": apart}))
    assert found["rhat"]["a"] < 1.1
    assert found["rhat"]["b"] > 2  # by ranks it cannot get much above 3


def test_half_precision_is_pruned_too(tmp_path):
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(20, 30)).astype(jnp.bfloat16)
    files.write_tensors(
        tmp_path / "x.npz", {"w/mean": mean, "w/std": np.abs(mean) + mean.dtype.type(1)}
    )
    pruning.prune_file(tmp_path / "x.npz", tmp_path / "y.npz", Rule("snr", sparsity=0.9))
    back = files.load(tmp_path / "y.npz")
    assert back.tensors["w/mean"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(back.tensors["w/mean"], np.where(back.masks["w"], mean, 0))
