"""The norm of an update, and the check that it is finite and bounded."""

import math

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError
from common.wire.vector_codec import Vector

CHUNK = 1 << 15
"""How many values are processed at a time: as float64 they fit into the processor's L2 cache."""
_ONE_THREAD = 1 << 13
"""How many values of a dot product BLAS takes with one thread; waking more threads costs more time
than it saves."""


def update_norm(values: Vector) -> float:
    """Return the L2 norm of `values` (P,), computed in float64; not finite if a value is not.

    >>> update_norm(np.float32([3, 4]))
    5.0
    """
    pieces = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
    return math.sqrt(sum(square_sum(piece.astype(np.float64)) for piece in pieces))


def square_sum(values: NDArray[np.float64]) -> float:
    """Return the sum of the squares of `values` (P,)."""
    total = 0.0
    for start in range(0, len(values), _ONE_THREAD):
        piece = values[start : start + _ONE_THREAD]
        total += float(np.dot(piece, piece))
    return total


def require_bounded(norm: float, max_norm: float) -> None:
    """Check that an update of this L2 norm may count.

    Raises:
        ModelError: the norm is not finite, or exceeds `max_norm`.
    """
    if not math.isfinite(norm):
        raise ModelError("the update is not finite")
    if norm > max_norm:
        raise ModelError(f"the update's norm {norm:.3g} exceeds max_update_norm {max_norm:.3g}")
