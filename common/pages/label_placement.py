"""Places labels beside the lines of a chart."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def spread(values: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Return places for labels: near `values`, in the same order, at least `gap` apart.

    >>> spread([0.0, 1.0, 5.0], gap=2.0).tolist()
    [-0.5, 1.5, 5.0]
    """
    order = np.argsort(values, kind="stable")
    placed = np.array([values[i] for i in order], dtype=np.float64)
    for _ in range(200):
        overlap = gap - np.diff(placed)
        if not (overlap > 1e-9).any():
            break
        push = np.where(overlap > 0, overlap / 2, 0.0)
        placed[1:] += push
        placed[:-1] -= push
    result = np.empty_like(placed)
    result[order] = placed
    return result
