"""A configuration with JaxPruner's keys makes the updater that JaxPruner would make."""

import dataclasses
import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import bmrpruner as jaxpruner
from bmrpruner import sparsity_distributions, sparsity_schedules, sparsity_types

NAMES = (
    "no_prune magnitude random saliency magnitude_ste random_ste global_magnitude global_saliency "
    "static_sparse rigl set acdc adam-fisher iterative_nm"
)


def config(**settings):
    base = {"algorithm": "magnitude", "dist_type": "uniform", "sparsity": 0.8}
    return ml_collections.ConfigDict({**base, **settings})


def create(**settings):
    return jaxpruner.create_updater_from_config(config(**settings))


def test_registry_holds_the_names_and_takes_assignments(monkeypatch):
    assert set(NAMES.split()) <= set(jaxpruner.all_algorithm_names())
    assert jaxpruner.api.ALGORITHM_REGISTRY is jaxpruner.ALGORITHM_REGISTRY
    monkeypatch.setitem(jaxpruner.ALGORITHM_REGISTRY, "mine", jaxpruner.RigL)
    assert "mine" in jaxpruner.all_algorithm_names()
    assert "mine" not in jaxpruner.api.ALGORITHMS
    assert isinstance(jaxpruner.api.ALGORITHMS, tuple)
    assert isinstance(create(algorithm="mine", update_end_step=5), jaxpruner.RigL)


@pytest.mark.parametrize("name", NAMES.split())
def test_every_name_creates_its_class(name):
    before = config(algorithm=name, update_end_step=10, update_start_step=2, update_freq=2).lock()
    kept = before.to_dict()
    updater = jaxpruner.create_updater_from_config(before)
    assert type(updater) is jaxpruner.ALGORITHM_REGISTRY[name]
    assert before.to_dict() == kept
    assert before.is_locked


def test_register_algorithm_replaces(monkeypatch):
    class Mine(jaxpruner.MagnitudePruning):
        pass

    monkeypatch.setitem(jaxpruner.ALGORITHM_REGISTRY, "magnitude", jaxpruner.MagnitudePruning)
    jaxpruner.register_algorithm("magnitude", Mine)
    assert type(create()) is Mine


def test_no_prune_reads_nothing_else():
    cfg = ml_collections.ConfigDict({"algorithm": "no_prune", "dist_type": "nonsense"})
    assert isinstance(jaxpruner.create_updater_from_config(cfg), jaxpruner.NoPruning)


def test_dist_type_is_checked():
    with pytest.raises(ValueError, match=r"^dist_type:"):
        create(dist_type="erdos")


def test_distribution_is_a_partial_of_the_public_function():
    filter_fn = lambda key, param: True  # noqa: E731
    custom = {("a", "kernel"): 0.5}
    updater = create(dist_type="erk", filter_fn=filter_fn, custom_sparsity_map=custom)
    bound = updater.sparsity_distribution_fn
    assert bound.func is sparsity_distributions.erk
    assert bound.keywords["sparsity"] == 0.8
    assert bound.keywords["filter_fn"] is filter_fn
    assert bound.keywords["custom_sparsity_map"] == custom
    parameters = inspect.signature(create().sparsity_distribution_fn).parameters
    assert list(parameters) == ["params", "sparsity", "filter_fn", "custom_sparsity_map"]
    assert parameters["sparsity"].default == 0.8


def test_falsy_filter_and_map_are_absent():
    bound = create(filter_fn=None, custom_sparsity_map={}).sparsity_distribution_fn
    assert set(bound.keywords) == {"sparsity"}


def test_global_algorithms_take_the_fields_themselves():
    custom = {("a", "kernel"): 0.5}
    updater = create(algorithm="global_magnitude", custom_sparsity_map=custom)
    assert updater.sparsity == 0.8
    assert updater.custom_sparsity_map == custom
    default = jaxpruner.BaseUpdater().sparsity_distribution_fn
    assert updater.sparsity_distribution_fn.keywords == default.keywords


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nm_2,4", sparsity_types.NByM(2, 4)),
        ("block_4,2", sparsity_types.Block((4, 2))),
        ("channel_-1", sparsity_types.Channel(-1)),
        ("channel_0", sparsity_types.Channel(0)),
        ("2:4", sparsity_types.NByM(2, 4)),
        ("4x2", sparsity_types.Block((4, 2))),
        ("unstructured", sparsity_types.Unstructured()),
    ],
)
def test_sparsity_types_as_strings_and_objects(text, expected):
    assert create(sparsity_type=text).sparsity_type == expected
    direct = jaxpruner.create_updater_from_config(config(), sparsity_type=expected)
    assert direct.sparsity_type == expected
    written = sparsity_types.format_sparsity_type(expected)
    assert sparsity_types.parse_sparsity_type(written) == expected


@pytest.mark.parametrize("text", ["nm_2", "blocks_2,2", "channel", "2:", "random"])
def test_bad_sparsity_types(text):
    with pytest.raises(ValueError, match=r"^Sparsity type"):
        create(sparsity_type=text)


def test_unknown_algorithm():
    with pytest.raises(ValueError, match=r"all_algorithm_names\(\).*not supported"):
        create(algorithm="magnitud")


def test_missing_entries_are_named():
    for key in ("algorithm", "dist_type", "sparsity"):
        cfg = config().to_dict()
        del cfg[key]
        with pytest.raises(ValueError, match=key):
            jaxpruner.create_updater_from_config(cfg)


def test_one_ranking_needs_no_distribution():
    cfg = config(scope="global").to_dict()
    del cfg["dist_type"]
    updater = jaxpruner.create_updater_from_config(cfg)
    assert (updater.scope, updater.sparsity) == ("global", 0.8)
    with pytest.raises(ValueError, match=r"^dist_type:"):
        jaxpruner.create_updater_from_config(cfg, dist_type="erdos")
    with pytest.raises(ValueError, match=r"^dist_type:"):
        jaxpruner.create_updater_from_config(cfg, scope="layer")


@pytest.mark.parametrize("name", ["rigl", "set"])
def test_drop_fraction_decays_by_a_cosine(name):
    for given, expected in (({}, 0.1), ({"drop_fraction": 0.4}, 0.4)):
        fn = create(algorithm=name, update_end_step=20, **given).drop_fraction_fn
        for step in (0, 7, 20, 50):
            decayed = expected * 0.5 * (1 + np.cos(np.pi * min(step, 20) / 20))
            assert float(fn(step)) == pytest.approx(decayed, abs=1e-7)
    with pytest.raises(ValueError, match="update_end_step"):
        create(algorithm=name)


def test_a_registered_subclass_of_rigl_gets_its_drop_fraction(monkeypatch):
    @dataclasses.dataclass
    class Mine(jaxpruner.RigL):
        extra: int = 3

    monkeypatch.setitem(jaxpruner.ALGORITHM_REGISTRY, "mine", Mine)
    updater = create(algorithm="mine", update_end_step=10, drop_fraction=0.4, extra=5)
    assert float(updater.drop_fraction_fn(0)) == pytest.approx(0.4)
    assert updater.extra == 5
    given = jaxpruner.create_updater_from_config(
        config(algorithm="mine"), drop_fraction_fn=lambda step: 0.7
    )
    assert given.drop_fraction_fn(0) == 0.7
    untouched = create(algorithm="mine")
    assert float(untouched.drop_fraction_fn(0)) == pytest.approx(0.3), "the class's own default"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, sparsity_schedules.NoUpdateSchedule()),
        ({"update_start_step": None, "update_end_step": 5}, sparsity_schedules.NoUpdateSchedule()),
        (
            {"update_start_step": 5, "update_end_step": 5, "update_freq": 1},
            sparsity_schedules.OneShotSchedule(5),
        ),
        (
            {"update_start_step": 0, "update_end_step": 9, "update_freq": 3},
            sparsity_schedules.PolynomialSchedule(3, 0, 9),
        ),
    ],
)
def test_schedules(settings, expected):
    scheduler = create(**settings).scheduler
    assert type(scheduler) is type(expected)
    assert scheduler == expected


def test_a_schedule_of_ones_own_wins():
    mine = sparsity_schedules.PeriodicSchedule(2, 0, None)
    updater = jaxpruner.create_updater_from_config(config(), scheduler=mine)
    assert updater.scheduler is mine


def test_schedule_entries_and_drop_fraction_harm_no_algorithm():
    create(drop_fraction=0.2, update_freq=3, update_end_step=4)
    create(algorithm="magnitude_ste", drop_fraction=0.2)


def test_the_rest_goes_to_the_class():
    topk_fn = lambda scores, sparsity: scores  # noqa: E731
    updater = create(
        skip_gradients=True,
        is_sparse_gradients=True,
        use_packed_masks=True,
        topk_fn=topk_fn,
        rng_seed=jax.random.key(3),
    )
    assert updater.skip_gradients
    assert updater.is_sparse_gradients
    assert updater.use_packed_masks
    assert updater.topk_fn is topk_fn
    assert updater.rng_seed == jax.random.key(3)
    with pytest.raises(TypeError, match="skip_gradient"):
        create(skip_gradient=True)


def test_seeds_may_be_traced():
    params = {"w": jnp.ones((4, 4))}

    def mask(seed):
        updater = jaxpruner.create_updater_from_config(
            config(algorithm="static_sparse"), rng_seed=seed
        )
        return updater.init_state(params).masks["w"]

    keys = jax.random.split(jax.random.key(0), 2)
    for key, together in zip(keys, jax.vmap(mask)(keys), strict=True):
        np.testing.assert_array_equal(together, mask(key))
    integers = jax.vmap(mask)(jnp.arange(2))
    np.testing.assert_array_equal(integers[1], mask(jax.random.PRNGKey(1)))
    np.testing.assert_array_equal(integers[1], mask(1))


class Settings:
    algorithm = "magnitude"
    dist_type = "uniform"

    def __init__(self):
        self.sparsity = 0.8

    def filter_fn(self, key, param):
        return key[-1] == "kernel"

    def to_dict(self):
        return {}


@pytest.mark.parametrize(
    "given",
    [
        config(),
        ml_collections.FrozenConfigDict(config()),
        config().to_dict(),
        SimpleNamespace(**config().to_dict()),
        Settings(),
    ],
    ids=["ConfigDict", "FrozenConfigDict", "dict", "namespace", "object"],
)
def test_any_mapping_or_object_configures(given):
    updater = jaxpruner.create_updater_from_config(given)
    tree = updater.sparsity_distribution_fn({"kernel": np.ones((2, 2)), "b": np.ones(2)})
    assert tree == {"kernel": 0.8, "b": None}


def test_a_factory_may_be_registered(monkeypatch):
    factory = lambda **settings: jaxpruner.MagnitudePruning(**settings)  # noqa: E731
    monkeypatch.setitem(jaxpruner.ALGORITHM_REGISTRY, "factory", factory)
    assert isinstance(create(algorithm="factory"), jaxpruner.MagnitudePruning)
