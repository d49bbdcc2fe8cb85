"""Algorithms that prune whole units, through every way of use."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bmrpruner._tree import is_array, keyed_leaves, map_leaves
from bmrpruner.sparsity_types import Group
from bmrpruner.structure import Group as Family
from tests.conftest import TREES, dict_params
from tests.contract.test_battery import STEPS, make, make_inner, prune_at_once, scan

pytestmark = pytest.mark.slow

NAMES = ("magnitude", "bmr", "snr", "adaptive_bmr", "random")
SPARSITY = 0.75  # of 4 + 12 units


def each(size):
    return np.arange(size)[:, None]


@functools.cache
def groups_of(tree_name):
    """Hidden units and outputs, which cross in the second kernel."""
    leaves = [(key, leaf) for key, leaf in keyed_leaves(TREES[tree_name]()) if is_array(leaf)]
    shapes = {"first": (8, 4), "first_bias": (4,), "second": (4, 12), "second_bias": (12,)}
    found = {}
    for name, shape in shapes.items():
        key, leaf = next(pair for pair in leaves if pair[1].shape in (shape, shape[::-1]))
        found[name] = key, 0 if leaf.shape == shape else 1
    (first, turned), (second, _) = found["first"], found["second"]
    hidden = ((first, 1 - turned, each(4)), (second, turned, each(4)))
    outputs = ((second, 1 - turned, each(12)),)
    biases = [
        ((found[name][0], 0, each(n)),) for name, n in (("first_bias", 4), ("second_bias", 12))
    ]
    return Group([Family(4, hidden + biases[0]), Family(12, outputs + biases[1])])


def free(tree):
    return map_leaves(lambda leaf: leaf if is_array(leaf) else None, tree)


def assert_whole_units(masks, name):
    """Four of sixteen stay, a hidden unit at least; the second mask is the product of both."""
    (_, first_bias), (_, first), (_, second_bias), (_, second) = sorted(
        (pair for pair in keyed_leaves(masks) if pair[1] is not None), key=lambda pair: pair[0]
    )
    np.testing.assert_array_equal(first, np.broadcast_to(first_bias, (8, 4)))
    np.testing.assert_array_equal(second, np.outer(first_bias, second_bias))
    kept = int(jnp.sum(first_bias) + jnp.sum(second_bias))
    assert kept >= 4 if name == "adaptive_bmr" else kept == 4
    assert min(jnp.sum(first_bias), jnp.sum(second_bias)) >= 1


@pytest.mark.parametrize("tree_name", TREES)
@pytest.mark.parametrize("name", NAMES)
def test_any_tree_keeps_structure_shapes_and_dtypes(name, tree_name):
    """Traced, not run, on one network and on two at once; packed masks too."""
    params, kind = free(TREES[tree_name]()), groups_of(tree_name)
    for packed in (False, True) if tree_name == "dict" else (False,):
        pruner = make(name, sparsity_type=kind, use_packed_masks=packed)
        tx = pruner.wrap_optax(make_inner(name), mask_updates=True)
        run = functools.partial(scan, name, tx)
        carry = (params, tx.init(params))
        if packed:
            run, carry = jax.vmap(run), jax.tree.map(lambda x: jnp.stack([x, x]), carry)
        out = jax.eval_shape(run, carry)
        chex.assert_trees_all_equal_shapes_and_dtypes(out, jax.eval_shape(lambda c=carry: c))


@pytest.mark.parametrize("name", NAMES)
def test_training_prunes_whole_units(name):
    """In a scan, inside and around wrappers, in bfloat16 for the magnitudes."""
    params = dict_params(jnp.bfloat16 if name == "magnitude" else jnp.float32)
    inner = optax.chain(optax.clip_by_global_norm(1.0), make_inner(name))
    pruner = make(name, sparsity_type=groups_of("dict"))
    tx = optax.chain(optax.zero_nans(), pruner.wrap_optax(inner, mask_updates=True))
    run = jax.jit(lambda params: scan(name, tx, (params, tx.init(params)), steps=STEPS))
    trained, (_, state) = run(params)
    assert_whole_units(state.masks, name)
    for leaf, mask in zip(*map(jax.tree.leaves, (trained, state.masks)), strict=True):
        assert leaf.dtype == params["layer_0"]["bias"].dtype
        np.testing.assert_array_equal(leaf != 0, mask != 0)


@pytest.mark.parametrize(
    ("name", "tree_name"), [*((name, "dict") for name in NAMES), ("bmr", "nnx"), ("bmr", "equinox")]
)
def test_instant_sparsify_takes_whole_models(name, tree_name):
    tree = TREES[tree_name]()
    pruned, masks = prune_at_once(name, tree, sparsity_type=groups_of(tree_name))
    assert jax.tree.structure(pruned) == jax.tree.structure(tree)
    if tree_name == "dict":
        assert_whole_units(masks, name)
    for before, after, mask in zip(
        *(jax.tree.leaves(t, is_leaf=lambda x: x is None) for t in (tree, pruned, masks)),
        strict=True,
    ):
        if is_array(before):
            np.testing.assert_array_equal(after, before if mask is None else before * mask)
