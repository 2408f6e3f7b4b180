"""The weighted mean of a round's updates, added as they come."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.errors import ModelError
from common.wire.vector_codec import Vector
from server.aggregation.norms import CHUNK, require_bounded, square_sum


class RunningMean:
    """One accumulator, whatever the number of sites; no reply is kept.

    Each `share * value` is rounded to a multiple of 2^(e-50), where 2^e is the least power of two
    above max_norm (and above 1), and the multiples are added up as 64-bit integers: exactly, so
    that no bit depends on the order. The rounding is at most 2^(e-51) a value and site, 7e-12 for
    a max_norm of 1e4. Shares sum to at most 1, so that nothing overflows.

    To round is to add 1.5 * 2^(e+2): it makes the last bit of a float64 worth 2^(e-50), and the
    float64's bits, read as an integer, then count the multiples from those of the number added.
    """

    def __init__(self, size: int, shares: Mapping[str, float], max_norm: float) -> None:
        exponent = math.frexp(max(max_norm, 1.0))[1]
        self._shares = shares
        self._max_norm = max_norm
        self._step = 2.0 ** (exponent - 50)
        self._shift = np.float64(1.5 * 2.0 ** (exponent + 2))
        self._sum = np.zeros(size, np.uint64)
        """Modulo 2^64, as is all that is added to it."""
        self._scaled = np.empty(min(size, CHUNK))
        self._added: list[str] = []

    def add(self, site: str, update: Vector) -> float:
        """Add the update (P,) by its site's share; its norm. Raises ModelError: it is not sound.

        One pass takes the norm and adds; what turns out not to be sound is subtracted again, and
        leaves no bit behind.
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
        """sum(share * update) / sum(share), (P,). Raises ModelError without any share.

        It takes the place of the sum, so that no more memory is needed: ask once.
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
        """Add or subtract `share * update`; the update's sum of squares."""
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
