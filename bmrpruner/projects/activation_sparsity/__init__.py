"""Sparse activations."""
