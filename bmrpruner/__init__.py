"""Pruning for JAX: any Optax optimizer, masks inside the jitted step, Bayesian model reduction."""
