"""JaxPruner's rules in NumPy: by sorting, by loops, and in jax.random where they draw."""

import jax
import numpy as np

from tests.selection import by_sorting as selection


def keep_count(size, sparsity):
    kept = np.float32(size) * (np.float32(1) - np.float32(sparsity))
    return max(1, int(np.round(kept)))


def topk(scores, sparsity):
    if sparsity == 0:
        return np.ones(np.shape(scores), np.uint8)
    return selection.jointly([scores], keep_count(np.size(scores), sparsity))[0]


def n_by_m(scores, n, m, axis=-1):
    """Of equal scores in a group, the higher index."""
    moved = np.moveaxis(np.asarray(scores), axis, -1)
    mask = np.zeros(moved.shape, np.uint8)
    for row in np.ndindex(moved.shape[:-1]):
        for start in range(0, moved.shape[-1], m):
            group = list(range(start, start + m))
            for i in sorted(group, key=lambda i: (moved[row][i], i))[-n:]:
                mask[(*row, i)] = 1
    return np.moveaxis(mask, -1, axis)


def blocks(shape, height, width):
    """Index of each block in an array of `shape`; a vector is one row."""
    rows, columns = (1, shape[0]) if len(shape) == 1 else shape[:2]
    for i in range(0, rows, height):
        for j in range(0, columns, width):
            both = (slice(i, i + height), slice(j, j + width))
            yield both[1:] if len(shape) == 1 else both


def block(scores, sparsity, height, width, use_avg_pooling=True):
    scores = np.asarray(scores, np.float32)
    pool = np.mean if use_avg_pooling else np.max
    where = list(blocks(scores.shape, height, width))
    chosen = topk(np.array([pool(scores[index]) for index in where]), sparsity)
    mask = np.zeros(scores.shape, np.uint8)
    for index, keep in zip(where, chosen, strict=True):
        mask[index] = keep
    return mask


def channel(scores, sparsity, axis=-1):
    moved = np.moveaxis(np.asarray(scores, np.float32), axis, 0)
    chosen = topk(moved.reshape(len(moved), -1).sum(1), sparsity)
    mask = np.broadcast_to(chosen.reshape(-1, *[1] * (moved.ndim - 1)), moved.shape)
    return np.moveaxis(mask, 0, axis)


def erk(shapes, sparsity, custom=None, power=1.0):
    """Erdős-Rényi densities: the layer furthest above one is made dense until none is above."""
    custom = custom or {}
    free = {name: shape for name, shape in shapes.items() if name not in custom}
    raw = {name: (sum(shape) / np.prod(shape)) ** power for name, shape in free.items()}
    dense = set()
    while True:
        numerator = denominator = 0.0
        for name, shape in free.items():
            size = int(np.prod(shape))
            zeros = int(np.floor(sparsity * size))
            if name in dense:
                numerator -= zeros
            else:
                numerator += size - zeros
                denominator += raw[name] * size
        if not denominator:
            break
        eps = numerator / denominator
        largest_raw = max(raw[name] for name in free if name not in dense)
        if eps * largest_raw <= 1:
            break
        dense |= {name for name in free if raw[name] == largest_raw}
    found = {name: 0.0 if name in dense else 1 - eps * raw[name] for name in free}
    return {name: custom.get(name, found.get(name)) for name in shapes}


def noise(leaves, key):
    """Uniform draws for a list of arrays: one key each, in their order."""
    keys = jax.random.split(key, len(leaves))
    pairs = zip(keys, leaves, strict=True)
    return [np.asarray(jax.random.uniform(k, np.shape(x), x.dtype)) for k, x in pairs]


def cubic(target, step, start, end, power=3):
    q = np.float32(min(max(step + 1 - start, 0), end - start)) / np.float32(end - start)
    return target * (1 - (1 - q) ** power)


def rewire(mask, drop, grow, fraction):
    """Drop the least of what is active, then grow the best of what is not kept."""
    old = np.asarray(mask, int).ravel()
    drop, grow = np.asarray(drop).ravel(), np.asarray(grow).ravel()
    ones = int(old.sum())
    staying = max(1, int(np.round(np.float32(ones) * np.float32(1 - fraction))))
    by_worth = sorted(range(old.size), key=lambda i: (-old[i], -drop[i], i))
    kept = by_worth[:staying]
    by_promise = sorted(set(range(old.size)) - set(kept), key=lambda i: (-grow[i], i))
    new = np.zeros(old.size, np.uint8)
    new[kept + by_promise[: ones - staying]] = 1
    return new.reshape(np.shape(mask))
