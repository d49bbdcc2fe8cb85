"""What the lottery-ticket study trains on: images or two moons, with validation and outsiders."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from data import idx_directory

from bmrpruner.study.idx import read_split


class Split(NamedTuple):
    """Inputs (n, features) and labels (n,)."""

    x: Any
    y: Any


class Data(NamedTuple):
    """A task; `ood` are inputs of another kind, which a network should be unsure about."""

    name: str
    train: Split
    valid: Split
    test: Split
    ood: dict[str, Any]


def load(directory: Path | None, ood: Path | None, seed: int) -> Data:
    """The images of a directory, the last twelfth for validation, or scikit-learn's two moons."""
    return moons(seed) if directory is None else images(directory, ood)


def images(directory: Path, ood: Path | None) -> Data:
    """Outsiders are noise, the images turned by 90 degrees, and those of another directory."""
    found = idx_directory(directory)
    cut = len(found.train_images) * 11 // 12
    outsiders = {"noise": np.random.default_rng(0).uniform(size=found.test_images.shape)}
    side = round(found.test_images.shape[1] ** 0.5)
    if side**2 == found.test_images.shape[1]:
        turned = found.test_images.reshape(-1, side, side).transpose(0, 2, 1)[:, ::-1]
        outsiders["turned"] = turned.reshape(len(turned), -1)
    if ood is not None:
        outsiders[ood.name] = read_split(ood)[0]
    return _on_device(
        found.name,
        Split(found.train_images[:cut], found.train_labels[:cut]),
        Split(found.train_images[cut:], found.train_labels[cut:]),
        Split(found.test_images, found.test_labels),
        outsiders,
    )


def moons(seed: int) -> Data:
    """Two interleaved half circles; outsiders are far from every training point."""
    from sklearn.datasets import make_moons

    x, y = make_moons(2000, noise=0.2, random_state=seed)
    box = np.random.default_rng(seed).uniform(-4, 5, (4000, 2))
    nearest = np.min(np.linalg.norm(box[:, None] - x[None, :1000], axis=-1), axis=1)
    parts = [Split(x[rows], y[rows]) for rows in np.split(np.arange(2000), (1000, 1500))]
    return _on_device("moons", *parts, {"far": box[nearest > 1]})


def _on_device(name: str, train: Split, valid: Split, test: Split, ood: dict[str, Any]) -> Data:
    parts = [
        Split(jnp.asarray(s.x, jnp.float32), jnp.asarray(s.y, jnp.int32))
        for s in (train, valid, test)
    ]
    return Data(name, *parts, {key: jnp.asarray(x, jnp.float32) for key, x in ood.items()})
