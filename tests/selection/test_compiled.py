"""What the compiled selection holds in memory, and what it shares."""

import jax
import jax.numpy as jnp
import pytest

from bmrpruner import selection

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_needs_no_memory_beside_scores_and_masks(kind):
    leaves = [jax.ShapeDtypeStruct(shape, kind) for shape in ((64, 512), (3, 3, 32, 64))]
    for masks in (selection.top_masks_jointly, lambda x, k: selection.top_masks(x, [k, k])):
        analysis = jax.jit(masks).lower(leaves, jnp.int32(0)).compile().memory_analysis()
        assert analysis.temp_size_in_bytes < 5000


def test_small_arrays_are_counted_together():
    def reductions(number):
        arrays = [jnp.ones((1, 30 + i)) for i in range(number)]
        select = jax.jit(lambda xs: selection.top_masks(xs, [3] * number))
        return select.lower(arrays).compile().as_text().count(" reduce(")

    assert reductions(12) == reductions(6) > 0
