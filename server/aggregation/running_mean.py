"""The weighted mean of a round's updates, accumulated as they come."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError
from common.wire.vector_codec import Vector
from server.aggregation.norms import CHUNK, require_bounded, square_sum


class RunningMean:
    """The weighted mean in one accumulator, whatever the number of sites; no update is kept.

    Each `share * value` is rounded to a multiple of 2^(e-50), where 2^e is the least power of two
    above max_norm and above 1. The multiples are added as 64-bit integers, which is exact, so that
    no bit of the mean depends on the order. The rounding error is at most 2^(e-51) per value and
    site, which is 7e-12 for a max_norm of 1e4. The shares sum to at most 1, so nothing overflows.

    Adding 1.5 * 2^(e+2) does the rounding: it makes the last bit of a float64 worth 2^(e-50), and
    the bits of the sum, read as an integer, count the multiples from those of the number added.

    >>> mean = RunningMean(size=2, shares={"a": 0.25, "b": 0.75}, max_norm=10.0)
    >>> mean.add("a", np.float32([4, 0])), mean.add("b", np.float32([0, 8]))
    (4.0, 8.0)
    >>> mean.result()
    array([1., 6.])
    """

    def __init__(self, size: int, shares: Mapping[str, float], max_norm: float) -> None:
        """Start with no update.

        Args:
            size: P, the number of values of an update.
            shares: site -> its share of the weight; they sum to at most 1.
            max_norm: the largest L2 norm of an update that counts.
        """
        exponent = math.frexp(max(max_norm, 1.0))[1]
        self._shares = shares
        self._max_norm = max_norm
        self._step = 2.0 ** (exponent - 50)
        self._shift = np.float64(1.5 * 2.0 ** (exponent + 2))
        self._sum = np.zeros(size, np.uint64)
        """(P,), modulo 2^64, like everything that is added to it."""
        self._scaled = np.empty(min(size, CHUNK))
        self._added: list[str] = []

    def add(self, site: str, update: Vector) -> float:
        """Add an update (P,) float32, weighted by its site's share, and return its L2 norm.

        One pass computes the norm and adds the update. If the norm turns out to be out of bounds,
        the update is subtracted again, which restores every bit.

        Raises:
            ModelError: the update is not finite, or its norm exceeds `max_norm`.
        """
        norm = math.sqrt(self._pass(np.add, update, self._shares[site]))
        try:
            require_bounded(norm, self._max_norm)
        except ModelError:
            self._pass(np.subtract, update, self._shares[site])
            raise
        self._added.append(site)
        return norm

    def result(self) -> NDArray[np.float64]:
        """Return sum(share * update) / sum(share), (P,) float64.

        The mean overwrites the accumulator, which saves memory, so call this only once.

        Raises:
            ModelError: no update with a positive share was added.
        """
        weight = math.fsum(self._shares[site] for site in self._added)
        if weight <= 0:
            raise ModelError("no update with a positive weight to average")
        origin = np.uint64(len(self._added) * int(self._shift.view(np.uint64)) % 2**64)
        mean = self._sum.view(np.float64)
        for start in range(0, len(mean), CHUNK):
            multiples = (self._sum[start : start + CHUNK] - origin).view(np.int64)
            mean[start : start + CHUNK] = multiples * (self._step / weight)
        return mean

    def _pass(self, combine: np.ufunc, update: Vector, share: float) -> float:
        """Add or subtract `share * update`, and return the sum of the update's squares."""
        squares = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(update), CHUNK):
                place = self._sum[start : start + CHUNK]
                scaled = self._scaled[: len(place)]
                scaled[:] = update[start : start + CHUNK]
                squares += square_sum(scaled)
                scaled *= share
                scaled += self._shift
                combine(place, scaled.view(np.uint64), out=place)
        return squares
