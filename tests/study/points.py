"""A point of a sweep."""


def point(algorithm, sparsity):
    scores = {
        "accuracy": 0.9 - sparsity / 10,
        "accuracy_se": 0.01,
        "nll": 0.3 + sparsity,
        "nll_se": 0.02,
        "brier": 0.1,
        "ece": 0.05,
        "ood_auroc": 0.8,
        "reliability": {"confidence": [0.0, 0.8], "accuracy": [0.0, 0.7], "counts": [0, 9]},
    }
    return {
        "rule": {"algorithm": algorithm, "sparsity": sparsity},
        "algorithm": algorithm,
        "label": f"{algorithm}, {100 * sparsity:g} % <&>",
        "sparsity": sparsity,
        "leaf_sparsity": {"encoder/layer_0/kernel": sparsity, "head/kernel": sparsity},
        "nonzeros": 1_234_567,
        "seconds": 1.5,
        "mean": scores,
        "averaged": None if algorithm == "magnitude" else scores,
    }
