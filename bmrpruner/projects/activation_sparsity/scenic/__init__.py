"""Sparse activations of Flax Linen models, as Scenic's are."""
