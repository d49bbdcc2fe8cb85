"""Wrapped steps on a mesh of eight devices; run in a process that has them by test_sharding.py."""

import re
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import bmrpruner
from tests.sharding import steps

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
ALL = PartitionSpec()  # the same on all devices


def one_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def make_mesh(shape, axis_type):
    devices = jax.devices()[: shape[0] * shape[1]]
    return jax.make_mesh(shape, ("fsdp", "tensor"), (axis_type,) * 2, devices=devices)


def on(mesh, layout):
    return lambda tree: jax.device_put(tree, steps.shardings(mesh, layout))


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_sharded_alike(carry, mesh, layout):
    """Masks and all states of the optimizer lie as their parameter does."""
    expected = steps.shardings(mesh, layout)
    flat = jax.tree_util.tree_flatten_with_path((carry[0], carry[1].masks, carry[1].inner_state))[0]
    for path, x in flat:
        key = getattr(path[-1], "key", None)
        assert key is None or x.sharding.is_equivalent_to(expected[key], x.ndim), path


def assert_reduces_scalars_only(program):
    """The step, whose gradients come from outside, talks of nothing but counts and norms."""
    assert not re.search(r"all-gather|all-to-all|collective-permute|reduce-scatter", program)
    reduced = "".join(re.findall(r"= (.*) all-reduce", program))
    assert reduced
    assert set(re.findall(r"\[([\d,]*)\]", reduced)) <= {"", "1"}, reduced


def check_steps():
    both = tuple((kind, layout) for kind in (AUTO, EXPLICIT) for layout in steps.LAYOUTS)
    for name in steps.NAMES:
        tx = steps.wrapped(name)
        expected = steps.start_and_train(tx, one_device)
        assert 0 < np.mean(expected[1].masks["dense"]) < 0.5
        for axis_type, layout in both if name == steps.NAMES[0] else both[::3]:
            print(name, axis_type, layout)
            mesh = make_mesh((4, 2), axis_type)
            put = on(mesh, layout)
            carry = steps.start(tx, put)
            assert_sharded_alike(carry, mesh, layout)
            step = steps.compiled(tx, carry, put)
            assert_reduces_scalars_only(step.as_text())
            carry = steps.train(step, carry, put)
            assert_sharded_alike(carry, mesh, layout)
            assert_equal(carry, expected)


def check_types():
    mesh = make_mesh((4, 2), EXPLICIT)
    for name, kwargs in steps.TYPES.items():
        print(name)
        tx = steps.wrapped("adam, magnitude", **kwargs)
        found = steps.start_and_train(tx, on(mesh, "tensor parallel"))
        assert_equal(found, steps.start_and_train(tx, one_device))
        if name != "packed":
            assert_sharded_alike(found, mesh, "tensor parallel")


def check_shard_map():
    """Data-parallel training: each device has a part of the batch, all have the weights.

    The gradient of Σ yᵀ(x·w) is a sum of small integers, the same in any order.
    """
    mesh = make_mesh((8, 1), AUTO)
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.standard_normal((16, 32)), jnp.float32)
    x = rng.integers(-3, 4, (64, 16)).astype(np.float32)
    y = rng.integers(-3, 4, (64, 32)).astype(np.float32)
    tx = bmrpruner.MagnitudePruning(sparsity=0.8, scheduler=steps.SCHEDULE).wrap_optax(
        optax.adam(1e-2), mask_updates=True
    )

    def step(carry, x, y):
        # Within shard_map the gradient of what all devices share is summed over them.
        params, state = carry
        grads = jax.grad(lambda w: jnp.sum(y * (x @ w)))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    batch = PartitionSpec("fsdp")
    parallel = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(ALL, batch, batch), out_specs=ALL))
    alone = jax.jit(step)
    carries = [(params, tx.init(params))] * 2
    for _ in range(steps.STEPS):
        carries = [parallel(carries[0], x, y), alone(carries[1], x, y)]
    assert_equal(*carries)
    assert 0 < np.mean(carries[0][1].masks) < 0.5


def check_checkpoints():
    """Written on one mesh, read on two others: the same training from there."""
    tx = steps.wrapped("ivon, bmr")
    expected = steps.start_and_train(tx, one_device)
    put = on(make_mesh((4, 2), AUTO), "fsdp")
    carry = steps.start(tx, put)
    middle = steps.train(steps.compiled(tx, carry, put), carry, put, last=3)
    with tempfile.TemporaryDirectory() as folder, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(folder) / "state", middle)
        checkpointer.wait_until_finished()
        for shape, layout in (((2, 4), "tensor parallel"), ((1, 1), "fsdp")):
            print("checkpoint on", shape)
            mesh = make_mesh(shape, AUTO)
            put = on(mesh, layout)
            template = jax.tree.map(
                lambda x, mesh=mesh: x if x.ndim else jax.device_put(x, NamedSharding(mesh, ALL)),
                steps.start(tx, put),
            )
            carry = checkpointer.restore(Path(folder) / "state", template)
            assert_equal(carry, middle)
            assert_sharded_alike(carry, mesh, layout)
            step = steps.compiled(tx, carry, put)
            assert_equal(steps.train(step, carry, put, first=3), expected)


if __name__ == "__main__":
    for check in sys.argv[1:] or ("steps", "types", "shard_map", "checkpoints"):
        globals()[f"check_{check}"]()
