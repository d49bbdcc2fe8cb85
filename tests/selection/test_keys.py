"""Keys are in the order of the scores."""

import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import selection
from tests.selection import by_sorting as oracle


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_keys_order_every_value_there_is(kind):
    kind = jnp.dtype(kind)
    values = np.arange(2 ** (8 * kind.itemsize)).astype(f"uint{8 * kind.itemsize}").view(kind)
    keys = np.asarray(selection.order_key(values))
    assert keys.dtype == np.uint16
    values = oracle.doubles(values)
    nan = np.isnan(values)
    assert (keys[nan] == 0).all()
    order = np.argsort(values[~nan])
    assert keys[~nan].min() > 0
    np.testing.assert_array_equal(
        np.diff(keys[~nan][order].astype(int)) > 0, np.diff(values[~nan][order]) > 0
    )
