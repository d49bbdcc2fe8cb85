"""A score of your own, LAMP (Lee et al. 2021, arXiv:2010.07611), on a network of scikit-learn's."""

import sys

import data
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.neural_network import MLPClassifier

from bmrpruner import BaseUpdater, create_updater_from_config, metrics, register_algorithm


@register_algorithm("lamp")
class LAMP(BaseUpdater):
    """Rank w² over the sum of the squares from the largest of its array down to it."""

    def calculate_scores(self, params, sparse_state=None, grads=None):
        """A score for each weight; the lowest are pruned."""
        return jax.tree.map(self._score, params)

    def _score(self, w):
        largest = jnp.sort(w**2, axis=None)[::-1]
        return w**2 / jnp.cumsum(largest)[jnp.searchsorted(-largest, -(w**2))]


_, x, y, x_test, y_test = data.load(None)
tolerance = 1e-2 if "--quick" in sys.argv else 1e-4
network = MLPClassifier((256, 128), tol=tolerance, random_state=0).fit(x, y)
kernels = network.coefs_

for name in ("no_prune", "magnitude", "lamp"):
    pruner = create_updater_from_config(
        algorithm=name, sparsity=0.85, dist_type="uniform", scope="global"
    )
    pruned, _ = pruner.instant_sparsify(kernels)
    network.coefs_ = [np.asarray(kernel) for kernel in pruned]
    zero, accuracy = metrics.sparsity(network.coefs_), network.score(x_test, y_test)
    print(f"{name}: {zero:.1%} of the weights are zero, test accuracy {accuracy:.3f}")
