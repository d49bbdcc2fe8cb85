"""Units pruned while a model trains: by schedules, from posteriors, in rounds of evidence."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bmrpruner
from bmrpruner import posteriors, sparsity_types, structure
from tests.structured import families
from tests.structured.families import assert_masks

PARAMS = families.tree()
SCHEDULE = bmrpruner.PolynomialSchedule(update_freq=2, update_start_step=1, update_end_step=7)
STEPS = 8
PRUNERS = {
    "adam, magnitude": (bmrpruner.MagnitudePruning, "units", 1),
    "ivon, bmr": (bmrpruner.BMRPruning, "parameters", 1),
    "ivon, bmr, pairs": (bmrpruner.BMRPruning, "parameters", 2),
}


def loss_fn(params, key=None):
    """Some numbers matter more than others."""
    leaves = [x.ravel() for x in jax.tree.leaves(params)]
    return sum(jnp.sum((1 + jnp.cos(jnp.arange(x.size))) * (x - 0.3) ** 2) for x in leaves)


def steps(name):
    """The wrapped optimizer, and a step."""
    cls, cost, multiple = PRUNERS[name]
    pruner = cls(
        sparsity=0.7,
        scheduler=SCHEDULE,
        sparsity_type=families.BUNDLED[cost, multiple],
    )
    inner = optax.adam(0.05) if "adam" in name else bmrpruner.ivon(0.1, 100, 0.1, b2=0.9)
    tx = pruner.wrap_optax(inner, mask_updates=True)

    def step(carry, key):
        params, state = carry
        if "adam" in name:
            grads = jax.grad(loss_fn)(params)
        else:
            _, grads, state = bmrpruner.noisy_value_and_grad(loss_fn, state, params, key)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return tx, step


def weight_scores(name, params, state):
    """The scores in NumPy, from the posterior that the state holds; -inf where gone."""
    if "adam" in name:
        return squares(params)
    mean = families.named(params)
    posterior = posteriors.from_opt_state(state, params)
    precision, prior = map(families.named, (posterior.precision, posterior.prior_precision))
    scores = {}
    for key, x in mean.items():
        signal = np.where(np.isinf(precision[key]), 0, precision[key]) * x.astype(np.float64) ** 2
        scores[key] = 0.5 * (signal - np.log(precision[key].astype(np.float64) / prior[key]))
    masks = families.named(state.masks)
    return {
        key: x if masks[key] is None else np.where(masks[key], x, -np.inf)
        for key, x in scores.items()
    }


@pytest.mark.parametrize("name", PRUNERS)
def test_each_refresh_is_the_one_of_a_loop(name):
    """The masks follow the schedule and the scores of that step.

    In the end weights, biases and scales are zero where their unit has gone, and nowhere else.
    """
    tx, step = steps(name)
    jitted = jax.jit(step, donate_argnums=0)
    params = jax.tree.map(jnp.copy, PARAMS)
    state = jax.jit(tx.init)(params)
    refreshed = 0
    for count, key in enumerate(jax.random.split(jax.random.key(0), STEPS)):
        before = jax.tree.map(np.asarray, state.masks)
        scores = weight_scores(name, params, state)
        (params, state), _ = jitted((params, state), key)
        if not SCHEDULE.is_mask_update_iter(count):
            jax.tree.map(np.testing.assert_array_equal, state.masks, before)
            continue
        sparsity = float(SCHEDULE.get_sparsity_at_step(jnp.float32(0.7), count))
        _, cost, multiple = PRUNERS[name]
        units = families.add_up(scores)
        keep = families.select(units, sparsity, families.COSTS[cost], multiple)
        assert_masks(state.masks, keep)
        refreshed += 1
    assert refreshed == 3
    masks, leaves = families.named(state.masks), families.named(params)
    assert any(mask is not None and mask.ndim == 1 and 0 in mask for mask in masks.values())
    for key, mask in masks.items():
        expected = np.ones(leaves[key].shape) if mask is None else mask
        np.testing.assert_array_equal(leaves[key] != 0, expected != 0, str(key))


def refreshed(packed, multiple=1):
    """A function of parameters to the state after the last refresh."""
    kind = families.BUNDLED["flops", multiple]
    pruner = bmrpruner.MagnitudePruning(sparsity=0.7, sparsity_type=kind, use_packed_masks=packed)
    return lambda params: pruner.update_state(pruner.init_state(params), params, None)


def test_packed_masks_are_the_same_bits():
    plain, packed = (jax.jit(refreshed(is_packed))(PARAMS).masks for is_packed in (False, True))
    jax.tree.map(
        lambda mask, bits: np.testing.assert_array_equal(np.packbits(mask), bits), plain, packed
    )


@pytest.mark.parametrize("multiple", [1, 2])
def test_two_networks_at_once_are_each_on_its_own(multiple):
    members = [PARAMS, families.tree(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    together = jax.jit(jax.vmap(refreshed(False, multiple)))(stacked).masks
    for i, member in enumerate(members):
        keep = families.select(families.add_up(squares(member)), 0.7, families.FLOPS, multiple)
        assert_masks(jax.tree.map(lambda x, i=i: x[i], together), keep)


def squares(params):
    return {key: x.astype(np.float64) ** 2 for key, x in families.named(params).items()}


def test_units_of_each_forward_pass():
    pruner = bmrpruner.SteMagnitudePruning(sparsity=0.5, sparsity_type=families.KINDS["units"])
    forward = jax.jit(pruner.pre_forward_update)(PARAMS, pruner.init_state(PARAMS))
    gone = {key: x == 0 for key, x in families.named(forward).items()}
    whole = [
        all(gone[key][where].all() for key, where in parts.items()) for parts in families.OWNED
    ]
    assert sum(whole) == len(families.OWNED) - round(0.5 * len(families.OWNED))
    masks = families.masks_of(~np.array(whole))
    for key, zero in gone.items():
        np.testing.assert_array_equal(zero, masks.get(key, np.ones(zero.shape)) == 0, str(key))


def test_static_masks_of_random_units():
    """Drawn once; the share of parameters is what was asked for, to within the largest unit."""
    params = {"w": jnp.ones((12, 8)), "b": jnp.ones(5)}
    rows = structure.Group(12, ((("w",), 0, families.each(12)),))
    columns = structure.Group(8, ((("w",), 1, families.each(8)),))
    pruner = bmrpruner.algorithms.StaticRandomSparse(
        sparsity=0.5, sparsity_type=sparsity_types.Group([rows, columns], "parameters")
    )
    state = pruner.init_state(params)
    assert pruner.update_state(state, params, params) is state
    mask = np.asarray(state.masks["w"])
    np.testing.assert_array_equal(mask, np.outer(mask.any(1), mask.any(0)))
    assert 101 / 2 - 12 <= mask.sum() + 5 <= 101 / 2


def evidence(posterior, masks):
    """-ΔF of each unit in NumPy, -inf where it has gone."""
    mean, precision = families.named(posterior.mean), families.named(posterior.precision)
    scores = {}
    for key, x in mean.items():
        own = 0.5 * (precision[key] * x.astype(np.float64) ** 2 - np.log(precision[key]))
        mask = masks.get(key)
        scores[key] = own if mask is None else np.where(mask, own, -np.inf)
    return families.add_up(scores)


@pytest.mark.parametrize(
    ("cap", "max_share", "multiple"), [(1.0, 0.3, 1), (0.45, 0.6, 1), (1.0, 0.05, 2), (0.6, 0.6, 2)]
)
def test_rounds_of_evidence(cap, max_share, multiple):
    """Each round against a loop: what qualifies, what goes, and what that is worth.

    A share of less than a bundle lets one bundle go.
    """
    mean = jax.tree.map(lambda x: 0.6 * x, PARAMS)
    posterior = bmrpruner.DiagonalGaussian(mean, jax.tree.map(lambda x: 2 + jnp.cos(x), mean))
    pruner = bmrpruner.AdaptiveBMR(
        sparsity=cap,
        log_odds=1.0,
        temperature=1.0,
        max_share=max_share,
        scheduler=SCHEDULE,
        sparsity_type=families.BUNDLED["parameters", multiple],
    )
    state = pruner.init_state(PARAMS)
    update = jax.jit(lambda state: pruner.update_state(state, PARAMS, None, posterior=posterior))
    keep = np.ones(len(families.UNITS), bool)
    for i in range(3):
        units = evidence(posterior, families.masks_of(keep))
        left = np.sum(units > -np.inf)
        rest = families.bundled(units, multiple)[len(families.FREE) :]
        qualified = [bundle for bundle in rest if -units[bundle].mean() >= 1.0]
        gone = []
        for bundle in qualified[::-1]:
            after = keep & ~np.isin(np.arange(len(keep)), gone + bundle)
            remains, whole = families.cost_left(after, "parameters")
            if len(gone + bundle) > max(multiple, np.ceil(max_share * left)):
                break
            if remains / whole < 1 - cap - 1e-6:
                break
            gone += bundle
        keep[gone] = False
        state = update(state)
        assert_masks(state.masks, keep)
        assert int(state.rounds.qualified[i]) == sum(map(len, qualified))
        assert int(state.rounds.pruned[i]) == len(gone)
        np.testing.assert_allclose(state.rounds.nats[i], -units[gone].sum(), rtol=1e-4, atol=1e-5)
    assert int(state.rounds.pruned.sum()) > 2
    if cap < 1:
        remains, whole = families.cost_left(keep, "parameters")
        assert remains >= (1 - cap - 1e-6) * whole


def test_a_configuration_takes_groups():
    made = bmrpruner.create_updater_from_config(
        algorithm="bmr",
        dist_type="uniform",
        sparsity=0.5,
        sparsity_type=families.KINDS["flops"],
        update_freq=2,
        update_start_step=1,
        update_end_step=7,
    )
    assert (made.scope, made.sparsity) == ("global", 0.5)
    assert made.scheduler == SCHEDULE
    assert float(made.init_state(PARAMS).target_sparsities) == 0.5
