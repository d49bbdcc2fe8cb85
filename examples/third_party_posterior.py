"""A third party's posterior, scikit-learn's Bayesian regressions on digits, pruned by evidence."""

import sys

import data
import numpy as np
from sklearn.linear_model import BayesianRidge

from bmrpruner import BMRPruning, metrics, posteriors

IMAGES = 500 if "--quick" in sys.argv else None
_, x, y, x_test, y_test = data.load(None)

# One regression for each digit: what it believes about its 64 weights, before and after the data.
models = [BayesianRidge().fit(x[:IMAGES], y[:IMAGES] == digit) for digit in range(10)]
mean = {"kernel": np.stack([model.coef_ for model in models], axis=1)}
std = {"kernel": np.stack([np.sqrt(np.diag(model.sigma_)) for model in models], axis=1)}
prior_precision = {"kernel": np.array([model.lambda_ for model in models])}
bias = np.array([model.intercept_ for model in models])

# From a file with `kernel/mean` and `kernel/std`: bmrpruner.files.load("posterior.npz").posterior.
posterior = posteriors.from_mean_field(mean, scale=std, prior_precision=prior_precision)

# ΔF, the log evidence of the model without a weight over that with it: where it is positive, the
# data prefer the weight gone. A sparsity in place of the threshold says how many go.
pruned, masks = BMRPruning(threshold=0, temperature=1).instant_sparsify(mean, posterior=posterior)

for name, params in {"dense": mean, "pruned": pruned}.items():
    accuracy = metrics.accuracy(x_test @ params["kernel"] + bias, y_test)
    zero = metrics.sparsity(params)
    print(f"{name}: {zero:.1%} of the weights are zero, test accuracy {accuracy:.3f}")
