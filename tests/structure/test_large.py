"""A transformer of twelve layers and width 768, in a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, time
import jax, jax.numpy as jnp, numpy as np
import bmrpruner

WIDTH, HEADS, HIDDEN, WORDS, LENGTH = 768, 12, 3072, 16000, 64


def array(*shape):
    return jax.ShapeDtypeStruct(shape, "float32")


def linear(n, m):
    return {"w": array(n, m), "b": array(m)}


def block():
    inner = {name: linear(WIDTH, WIDTH) for name in "qkvo"}
    return {**inner, "up": linear(WIDTH, HIDDEN), "down": linear(HIDDEN, WIDTH)}


def apply(p, x):
    return x @ p["w"] + p["b"]


def norm(x):
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-5)


def fn(p, t):
    x = p["words"][t]
    for b in p["blocks"]:
        q, k, v = (apply(b[n], norm(x)).reshape(*t.shape, HEADS, -1) for n in "qkv")
        a = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + apply(b["o"], a.reshape(x.shape))
        x = x + apply(b["down"], jax.nn.gelu(apply(b["up"], norm(x))))
    return norm(x) @ p["words"].T


shapes = {"words": array(WORDS, WIDTH), "blocks": [block() for _ in range(12)]}
tokens = jax.ShapeDtypeStruct((1, LENGTH), "int32")
start = time.process_time()
groups = bmrpruner.dependency_groups(fn, shapes, tokens)
sizes = sorted(g.size for g in groups if g.frozen is None)
assert sizes == sorted([WIDTH] + 12 * [HIDDEN, HEADS, 64, 64]), sizes

rng = np.random.default_rng(0)
params = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32) * 0.02, shapes)
arrays = dict(zip(bmrpruner._tree.leaf_keys(params), jax.tree.leaves(params)))
for group in groups:
    if group.frozen is None:
        for key, axis, rows in group.members:
            index = [slice(None)] * arrays[key].ndim
            index[axis] = np.unique(rows[1::2])
            arrays[key][tuple(index)] = 0
size = sum(x.nbytes for x in arrays.values())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
start = time.process_time() - start, time.process_time()
small = bmrpruner.compact(fn, params, tokens)
seconds = start[0] + time.process_time() - start[1]
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
free = [e for e in small.report.groups if e.group.frozen is None]
assert all(2 * e.removed == e.group.size for e in free)
assert small.params["blocks"][0]["up"]["w"].shape == (384, 1536)
x = np.arange(LENGTH, dtype="int32")[None]
error = np.abs(small(x) - jax.jit(fn)(params, x)).max()
print(seconds, more / size, error)
"""


@pytest.mark.slow
def test_a_large_transformer_is_compacted_in_seconds_and_little_memory():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    seconds, memory, error = map(float, run.stdout.split())
    assert seconds < 20
    assert memory < 2  # beside the parameters themselves
    assert error < 2e-5
