"""Read and write parameters, posteriors and pruned networks: `.npz`, `.safetensors`, orbax.

Tensors are named by their key paths, joined by `/`. `…/mean` with one of `…/std`, `…/rho`,
`…/precision` and `…/draws` beside it is a leaf with a posterior; every other name is a plain leaf.
A pruned file has the same names, with zeros where weights went, and `…/mask` packed to bits.
"""

from bmrpruner.files.atomic import atomic_write
from bmrpruner.files.checkpoint import Checkpoint, load, save
from bmrpruner.files.formats import read_tensors, write_tensors
from bmrpruner.files.layerwise import load_layerwise, save_layerwise

__all__ = [
    "Checkpoint",
    "atomic_write",
    "load",
    "load_layerwise",
    "read_tensors",
    "save",
    "save_layerwise",
    "write_tensors",
]
