"""R-hat and effective numbers of draws in NumPy and SciPy, one chain array at a time.

Written as the published definition reads: Vehtari et al. 2021, https://arxiv.org/abs/1903.08008,
sections 3 and 4, by loops over lags.
"""

import numpy as np
from scipy import stats


def split(x):
    half = x.shape[1] // 2
    return np.concatenate([x[:, :half], x[:, -half:]])


def z_scores(x):
    ranks = stats.rankdata(x, method="average").reshape(x.shape)
    return stats.norm.ppf((ranks - 3 / 8) / (x.size + 1 / 4))


def plain_rhat(x):
    n = x.shape[1]
    within, between = x.var(1, ddof=1).mean(), n * x.mean(1).var(ddof=1)
    return np.sqrt(((n - 1) / n * within + between / n) / within)


def rhat(x):
    halves = split(x)
    return max(plain_rhat(z_scores(y)) for y in (halves, np.abs(halves - np.median(halves))))


def plain_ess(x):
    m, n = x.shape
    centred = x - x.mean(1, keepdims=True)
    covariance = [(centred[:, : n - t] * centred[:, t:]).sum(1).mean() / n for t in range(n)]
    within = covariance[0] * n / (n - 1)
    pooled = within * (n - 1) / n + x.mean(1).var(ddof=1)
    rho = [1.0, *(1 - (within - c) / pooled for c in covariance[1:])]
    total, t, smallest = -1.0, 0, np.inf
    while t + 2 < n - 2 and rho[t] + rho[t + 1] > 0:
        smallest = min(smallest, rho[t] + rho[t + 1])
        total += 2 * smallest
        t += 2
    total += max(rho[t], 0)  # the even lag of the pair that ends the sequence
    return m * n / max(total, 1 / np.log10(m * n))


def bulk_ess(x):
    return plain_ess(z_scores(split(x)))
