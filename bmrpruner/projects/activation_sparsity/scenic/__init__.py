"""JaxPruner's import path of sparse activations."""
