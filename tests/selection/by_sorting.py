"""The masks that `bmrpruner.selection` has to find, said plainly: by a stable sort in NumPy."""

import numpy as np


def doubles(values):
    """Floats of any width, exactly, as float64."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return np.asarray(values).astype(np.float64)


def jointly(arrays, count):
    """Ones for the `count` largest; NaN last, of equal scores the earlier first."""
    values = np.concatenate([doubles(x).ravel() for x in arrays])
    nan = np.isnan(values)
    order = np.lexsort((np.where(nan, 0, -values), nan))  # stable; the last key counts first
    flat = np.zeros(values.size, np.uint8)
    flat[order[: max(count, 0)]] = 1
    parts = np.split(flat, np.cumsum([np.size(x) for x in arrays])[:-1])
    return [part.reshape(np.shape(x)) for part, x in zip(parts, arrays, strict=True)]


def each(arrays, counts):
    """The same for each array on its own."""
    return [jointly([x], count)[0] for x, count in zip(arrays, counts, strict=True)]


def assert_masks(masks, expected):
    for mask, other in zip(masks, expected, strict=True):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, other)
