"""What an update must be before it may count: finite, and of bounded norm."""

import math

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError
from common.wire.vector_codec import Vector

CHUNK = 1 << 15
"""Values taken at a time: in float64 they stay in the processor's second cache."""
_ONE_THREAD = 1 << 13
"""Values of a dot product that BLAS takes with one thread; waking more costs more than it saves."""


def update_norm(values: Vector) -> float:
    """L2 norm of (P,), in float64; not finite when a value is not."""
    pieces = (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
    return math.sqrt(sum(square_sum(piece.astype(np.float64)) for piece in pieces))


def square_sum(values: NDArray[np.float64]) -> float:
    """Sum of the squares of (P,)."""
    total = 0.0
    for start in range(0, len(values), _ONE_THREAD):
        piece = values[start : start + _ONE_THREAD]
        total += float(np.dot(piece, piece))
    return total


def require_bounded(norm: float, max_norm: float) -> None:
    """Raise ModelError when an update of this norm may not count."""
    if not math.isfinite(norm):
        raise ModelError("the update is not finite")
    if norm > max_norm:
        raise ModelError(f"the update's norm {norm:.3g} exceeds max_update_norm {max_norm:.3g}")
