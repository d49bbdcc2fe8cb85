"""Masks under jit, vmap, scan and grad, and in JAX's strict modes."""

import jax
import jax.numpy as jnp
import numpy as np

from bmrpruner import selection
from tests.selection import by_sorting as oracle
from tests.selection.by_sorting import assert_masks

SCORES = np.random.default_rng(3).integers(-4, 5, (6, 8)).astype(np.float32)
COUNTS = np.array([0, 1, 3, 5, 8, 9], np.int32)


def rows(counts=COUNTS):
    return oracle.each(SCORES, counts)


def test_traced_counts_compile_once():
    traces = []

    @jax.jit
    def masks(scores, count):
        traces.append(count)
        return selection.top_masks([scores, scores[0]], [count, 2])

    for count in COUNTS:
        expected = oracle.each([SCORES, SCORES[0]], [count, 2])
        assert_masks(masks(SCORES, count), expected)
        assert_masks([selection.top_mask(SCORES, jnp.uint32(count))], expected[:1])
    assert len(traces) == 1


def test_vmap():
    assert_masks(jax.vmap(selection.top_mask)(SCORES, COUNTS), rows())
    assert_masks(jax.vmap(selection.top_mask, (0, None))(SCORES, 3), rows([3] * 6))
    masks = jax.vmap(lambda x, count: selection.top_masks_jointly([x, -x], count)[1])
    expected = [oracle.jointly([x, -x], count)[1] for x, count in zip(SCORES, COUNTS, strict=True)]
    assert_masks(masks(SCORES, COUNTS), expected)


def test_scan():
    _, masks = jax.lax.scan(lambda _, xs: (None, selection.top_mask(*xs)), None, (SCORES, COUNTS))
    assert_masks(masks, rows())


def test_gradients_pass_by_the_mask():
    grad = jax.grad(lambda x: (x * selection.top_mask(jnp.abs(x), 5)).sum())(SCORES)
    np.testing.assert_array_equal(grad, oracle.jointly([abs(SCORES)], 5)[0])


def test_strict_modes():
    count, halves = jnp.int32(2), SCORES.astype(jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        masks = selection.top_masks([SCORES, SCORES[0]], [3, count])
        vector = selection.top_masks([SCORES, SCORES[0]], jnp.array([3, 2]))
        joint = selection.top_masks_jointly([SCORES, SCORES[0]], count)
        mixed = selection.top_masks_jointly([SCORES, halves], 60)
    assert_masks(masks, oracle.each([SCORES, SCORES[0]], [3, 2]))
    assert_masks(vector, oracle.each([SCORES, SCORES[0]], [3, 2]))
    assert_masks(joint, oracle.jointly([SCORES, SCORES[0]], 2))
    assert_masks(mixed, oracle.jointly([SCORES, halves], 60))
