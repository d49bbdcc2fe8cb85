"""Exact masks of the largest scores, of one array or of a whole tree, without sorting.

`masks.py` holds the public functions, `keys.py` turns scores into unsigned integers, `search.py`
finds the last score that is kept, and `batching.py` runs over the arrays.
"""

from bmrpruner.selection.keys import order_key
from bmrpruner.selection.masks import top_mask, top_masks, top_masks_jointly

__all__ = ["order_key", "top_mask", "top_masks", "top_masks_jointly"]
