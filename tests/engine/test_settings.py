"""The fields of an updater: one answer to how much is pruned, and the same meaning everywhere."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bmrpruner
from bmrpruner import mask_calculator, pruning, sparsity_distributions, sparsity_types
from bmrpruner.algorithms import AdaptiveBMR, IterativeNMPruning, StaticRandomSparse
from bmrpruner.pruning import Rule
from tests.conftest import WRAPPING

UNIFORM = functools.partial(sparsity_distributions.uniform, sparsity=0.5)
PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (4, 8)), "bias": jnp.ones(8)},
    "b": {"kernel": 3 * jax.random.normal(jax.random.key(1), (8, 4)), "bias": jnp.ones(4)},
}
POSTERIOR = bmrpruner.DiagonalGaussian(
    PARAMS, jax.tree.map(lambda p: 1 + jnp.arange(p.size, dtype=p.dtype).reshape(p.shape), PARAMS)
)

CONTRADICTIONS = {
    "sparsity and threshold": (bmrpruner.MagnitudePruning, {"sparsity": 0.9, "threshold": 0}),
    "distribution and threshold": (
        bmrpruner.MagnitudePruning,
        {"sparsity_distribution_fn": UNIFORM, "threshold": 0.1},
    ),
    "pattern and threshold": (
        bmrpruner.MagnitudePruning,
        {"sparsity_type": "2:4", "threshold": 0.1},
    ),
    "pattern and sparsity": (bmrpruner.MagnitudePruning, {"sparsity_type": "2:4", "sparsity": 0.9}),
    "evidence and threshold": (AdaptiveBMR, {"threshold": 1.0}),
    "evidence and pattern": (AdaptiveBMR, {"sparsity_type": "2:4"}),
    "evidence and a leaf's own": (AdaptiveBMR, {"custom_sparsity_map": {("a",): 0.5}}),
    "evidence by layer": (AdaptiveBMR, {"scope": "layer"}),
    "an alias by layer": (bmrpruner.GlobalMagnitudePruning, {"scope": "layer"}),
    "unknown scope": (bmrpruner.SNRPruning, {"scope": "globally"}),
    "global groups": (bmrpruner.SNRPruning, {"scope": "global", "sparsity_type": "4x4"}),
    "global and a distribution": (
        bmrpruner.SNRPruning,
        {"scope": "global", "sparsity_distribution_fn": UNIFORM},
    ),
    "two sparsities": (
        bmrpruner.SNRPruning,
        {"sparsity": 0.4, "sparsity_distribution_fn": UNIFORM},
    ),
    "a distribution without a filter": (
        bmrpruner.SNRPruning,
        {"sparsity_distribution_fn": lambda params: params, "filter_fn": lambda k, p: True},
    ),
    "threshold of NaN": (bmrpruner.SNRPruning, {"threshold": float("nan")}),
    "unknown type": (bmrpruner.SNRPruning, {"sparsity_type": "two of four"}),
}


@pytest.mark.parametrize(("cls", "fields"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_refused_on_construction(cls, fields):
    with pytest.raises(ValueError, match="|".join([*fields, "Sparsity type"])):
        cls(**fields)


@pytest.mark.parametrize(
    "fields", [{"threshold": "1"}, {"filter_fn": "kernel"}, {"custom_sparsity_map": [0.5]}]
)
def test_fields_of_another_type_are_refused(fields):
    with pytest.raises(TypeError, match=next(iter(fields))):
        bmrpruner.MagnitudePruning(**fields)


def test_strings_name_sparsity_types_wherever_a_type_is_taken():
    pattern = bmrpruner.MagnitudePruning(sparsity_type="2:4")
    assert pattern.sparsity_type == sparsity_types.NByM(2, 4)
    scores = jnp.arange(16.0).reshape(4, 4)
    for named, made in (
        ("2:4", sparsity_types.NByM(2, 4)),
        ("2x2", sparsity_types.Block((2, 2))),
        ("channel_0", sparsity_types.Channel(0)),
    ):
        by_name, by_type = map(mask_calculator.get_topk_fn, (named, made))
        np.testing.assert_array_equal(by_name(scores, 0.5), by_type(scores, 0.5))
        assert sparsity_types.format_sparsity_type(named) == sparsity_types.format_sparsity_type(
            made
        )
    np.testing.assert_array_equal(
        mask_calculator.topk_n_by_m_mask_calculator(scores, 0.5, "2:4"), [[0, 0, 1, 1]] * 4
    )


@pytest.mark.parametrize("cls", [bmrpruner.MagnitudePruning, IterativeNMPruning])
def test_a_pattern_alone_says_how_much(cls):
    masks = cls(sparsity_type="2:4").instant_sparsify(PARAMS)[1]
    for layer in ("a", "b"):
        groups = np.asarray(masks[layer]["kernel"]).reshape(-1, 4)
        np.testing.assert_array_equal(groups.sum(1), 2)
    config = bmrpruner.create_updater_from_config(
        algorithm="magnitude", dist_type="uniform", sparsity_type="2:4"
    )
    assert config.init_state(PARAMS).target_sparsities["a"]["kernel"] == 0.5


def joint_masks(scores, sparsity):
    """The largest of all kernels together, by sorting."""
    flat = np.concatenate([np.ravel(scores[layer]["kernel"]) for layer in ("a", "b")])
    kept = np.zeros(flat.size, int)
    kept[np.argsort(-flat, kind="stable")[: round(flat.size * (1 - sparsity))]] = 1
    return kept[:32].reshape(4, 8), kept[32:].reshape(8, 4)


@pytest.mark.parametrize(
    "name", ["magnitude", "random", "snr", "bmr", "posterior_variance", "uncertainty_magnitude"]
)
def test_any_algorithm_ranks_the_whole_network(name):
    """The class, a configuration and a rule agree with a sort of all scores as they are."""
    cls = bmrpruner.ALGORITHM_REGISTRY[name]
    made = {
        "class": cls(sparsity=0.75, scope="global", rng_seed=3),
        "config": bmrpruner.create_updater_from_config(
            algorithm=name, dist_type="uniform", sparsity=0.75, scope="global", rng_seed=3
        ),
        "rule": Rule(name, sparsity=0.75, scope="global", seed=3).make_updater(),
    }
    offered = {"posterior": POSTERIOR} if cls.reads_posterior else {}
    expected = joint_masks(made["class"].calculate_scores(PARAMS, **offered), 0.75)
    for updater in made.values():
        masks = updater.instant_sparsify(PARAMS, posterior=POSTERIOR)[1]
        for layer, mask in zip(("a", "b"), expected, strict=True):
            np.testing.assert_array_equal(masks[layer]["kernel"], mask)
            assert masks[layer]["bias"] is None
        state = updater.init_state(PARAMS)
        assert state.target_sparsities.shape == ()
        assert float(state.target_sparsities) == 0.75


@pytest.mark.parametrize("name", ["bmr", "global_bmr", "snr", "magnitude", "adaptive_bmr"])
def test_a_name_means_one_thing_everywhere(name):
    sparsity = {} if name == "adaptive_bmr" else {"sparsity": 0.5}
    by_config = bmrpruner.create_updater_from_config(
        algorithm=name, dist_type="uniform", **sparsity
    )
    rule = pruning.prune(PARAMS, Rule(name, **sparsity), POSTERIOR)
    masks = by_config.instant_sparsify(PARAMS, posterior=POSTERIOR)[1]
    for layer in ("a", "b"):
        np.testing.assert_array_equal(rule.masks[f"{layer}/kernel"], masks[layer]["kernel"])


def test_a_global_alias_divides_by_the_norm_and_the_scope_does_not():
    kernels = [np.abs(np.asarray(PARAMS[layer]["kernel"])) for layer in ("a", "b")]
    plain = {layer: {"kernel": k} for layer, k in zip("ab", kernels, strict=True)}
    normed = {layer: {"kernel": k / np.linalg.norm(k)} for layer, k in zip("ab", kernels)}  # noqa: B905
    assert not np.array_equal(joint_masks(plain, 0.75)[0], joint_masks(normed, 0.75)[0])
    for updater, scores in (
        (bmrpruner.MagnitudePruning(sparsity=0.75, scope="global"), plain),
        (bmrpruner.GlobalMagnitudePruning(sparsity=0.75), normed),
    ):
        masks = updater.instant_sparsify(PARAMS)[1]
        np.testing.assert_array_equal(masks["a"]["kernel"], joint_masks(scores, 0.75)[0])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_filter_and_map_are_fields(scope):
    updater = bmrpruner.MagnitudePruning(
        sparsity=0.5,
        scope=scope,
        filter_fn=lambda key, param: key[-1] == "bias" or key == ("b", "kernel"),
        custom_sparsity_map={("a", "bias"): None, ("a", "kernel"): 0.75},
    )
    masks = updater.instant_sparsify(PARAMS)[1]
    assert masks["a"]["bias"] is None
    assert int(masks["a"]["kernel"].sum()) == 8
    rest = masks["b"]["kernel"].sum() + masks["b"]["bias"].sum()
    assert int(rest) == 18


def test_a_distribution_that_has_no_effect_is_warned_about():
    with pytest.warns(UserWarning, match="'erk' has no effect"):
        bmrpruner.create_updater_from_config(
            algorithm="global_magnitude", dist_type="erk", sparsity=0.5
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bmrpruner.create_updater_from_config(
            algorithm="global_magnitude", dist_type="uniform", sparsity=0.5
        )


def test_a_class_says_that_it_needs_training():
    @bmrpruner.register_algorithm("trained_only")
    class TrainedOnly(bmrpruner.MagnitudePruning):
        needs_training = True

    try:
        with pytest.raises(ValueError, match=r"algorithm: expected one of .* got 'trained_only'"):
            Rule("trained_only", sparsity=0.5)
    finally:
        del bmrpruner.ALGORITHM_REGISTRY["trained_only"]
    assert StaticRandomSparse.needs_training


def test_nothing_asked_nothing_refused():
    """A tree without prunable leaves is an error only where something is to be pruned."""
    biases = {"bias": jnp.ones(3)}
    dense = [
        bmrpruner.MagnitudePruning(),
        bmrpruner.GlobalMagnitudePruning(),
        bmrpruner.MagnitudePruning(scope="global", sparsity=0.0),
    ]
    for updater in dense:
        assert updater.init_state(biases).masks == {"bias": None}
        assert updater.instant_sparsify(biases)[1] == {"bias": None}
    asking = [
        {"sparsity": 0.5},
        {"sparsity": 0.5, "scope": "global"},
        {"threshold": 0.1},
        {"sparsity_distribution_fn": UNIFORM},
    ]
    for fields in asking:
        with pytest.raises(ValueError, match="expected a leaf that filter_fn accepts"):
            bmrpruner.MagnitudePruning(**fields).init_state(biases)


@pytest.mark.parametrize("name", [n for n in WRAPPING if n not in ("no_prune", "adam-fisher")])
def test_integer_leaves_stay_whole(name):
    params = {"table": jnp.arange(12).reshape(3, 4), "w": PARAMS["a"]["kernel"]}
    updater = bmrpruner.create_updater_from_config(
        algorithm=name, dist_type="uniform", sparsity=0.5, update_end_step=9
    )
    inner = bmrpruner.ivon(0.1, 100).init(params)
    grads = {"table": jnp.zeros((3, 4), int), "w": params["w"]}
    state = updater.init_state(params)._replace(inner_state=inner)
    state = updater.update_state(state, params, grads)
    assert state.masks["table"] is None
    assert updater.post_gradient_update(params, state)["table"] is params["table"]


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_sparse_trainers_choose_by_a_topk_fn_of_ones_own(name):
    """One that keeps the first so many, whatever their scores."""
    asked = []

    def first(scores, sparsity):
        asked.append((scores.shape, float(sparsity)))
        count = round(scores.size * (1 - float(sparsity)))
        return (jnp.arange(scores.size) < count).reshape(scores.shape).astype("uint8")

    updater = bmrpruner.create_updater_from_config(
        algorithm=name,
        dist_type="uniform",
        sparsity=0.5,
        update_end_step=9,
        topk_fn=first,
        drop_fraction_fn=lambda step: 0.25,
    )
    params = {"w": PARAMS["a"]["kernel"]}
    state = updater.init_state(params)
    new = updater.update_state(state, params, params)
    np.testing.assert_array_equal(np.ravel(new.masks["w"]), np.arange(32) < 16)
    assert asked == [((4, 8), 0.5), ((4, 8), 1 - 0.5 * 0.75), ((4, 8), 0.5)]
