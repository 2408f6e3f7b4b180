"""Aggregation that bears f sites of n that send anything, colluding or not.

All updates of a round are kept: as much memory as n models, and a few MiB for what is under way.
They are taken in the order of the sites' names, whatever the order of arrival, and every site
counts the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from common.config.study import ServerOptimizer
from common.errors import FederationError
from common.wire.vector_codec import Vector
from server.aggregation.norms import require_bounded, update_norm

_VALUES_AT_ONCE = 1 << 19
"""Values of all updates together that are worked on at a time: 4 MiB of float64."""

Choose = Callable[[int], int]
"""From the number n of updates to how many of them something is done with."""


class _Kept(ABC):
    """Keeps a round's updates until the last has come."""

    def __init__(self, spec: ServerOptimizer, max_norm: float) -> None:
        self._spec = spec
        self._max_norm = max_norm
        self._updates: dict[str, Vector] = {}

    def add(self, site: str, update: Vector) -> float:
        """Keep the update (P,); its norm. Raises ModelError: it is not sound."""
        norm = update_norm(update)
        require_bounded(norm, self._max_norm)
        self._updates[site] = update
        return norm

    def result(self) -> NDArray[np.float64]:
        """The aggregated update (P,). Raises FederationError when the updates are too few."""
        if len(self._updates) < self._spec.fewest_updates:
            raise FederationError(
                f"{len(self._updates)} sound updates; {self._spec.aggregation} needs "
                f"{self._spec.fewest_updates} to bear byzantine_sites={self._spec.byzantine_sites}"
            )
        return self._aggregate([self._updates[site] for site in sorted(self._updates)])

    @abstractmethod
    def _aggregate(self, updates: list[Vector]) -> NDArray[np.float64]: ...


class Trimmed(_Kept):
    """Coordinate by coordinate, the mean without the `trim(n)` largest and smallest values.

    Yin et al. 2018, arXiv 1803.01498, definition 2, and with all but the middle one or two values
    left out definition 1, the median. With f <= trim(n) false sites each result lies between the
    smallest and the largest value of the honest ones.
    """

    def __init__(self, spec: ServerOptimizer, max_norm: float, trim: Choose) -> None:
        super().__init__(spec, max_norm)
        self._trim = trim

    def _aggregate(self, updates: list[Vector]) -> NDArray[np.float64]:
        trim = self._trim(len(updates))
        result = np.zeros(len(updates[0]))
        for at, rows in _blocks(updates, np.float32):
            kept = _sorted(list(rows))[trim : len(rows) - trim]
            for row in kept:
                result[at] += row
            result[at] /= len(kept)
        return result


class Krum(_Kept):
    """The mean of the `keep(n)` updates that lie nearest to their neighbours.

    Blanchard et al. 2017, arXiv 1703.02757, section 4: an update's score is the sum of its squared
    distances to its n - f - 2 nearest; the lowest scores are kept, of equal ones the site's whose
    name comes first. One update is Krum, several are Multi-Krum. Needs n >= 2f + 3.
    """

    def __init__(self, spec: ServerOptimizer, max_norm: float, keep: Choose) -> None:
        super().__init__(spec, max_norm)
        self._keep = keep

    def _aggregate(self, updates: list[Vector]) -> NDArray[np.float64]:
        neighbours = len(updates) - self._spec.byzantine_sites - 2
        nearest = np.sort(_squared_distances(updates), axis=1)[:, :neighbours]
        best = np.argsort(nearest.sum(axis=1), kind="stable")[: self._keep(len(updates))]
        result = np.zeros(len(updates[0]))
        for row in sorted(best):
            result += updates[row]
        return result / len(best)


def _blocks(
    updates: list[Vector], dtype: type[np.floating]
) -> Iterator[tuple[slice, NDArray[np.floating]]]:
    """Some coordinates of all updates at a time: where they are, and (n, C) of them, a copy."""
    width = max(1, _VALUES_AT_ONCE // len(updates))
    for start in range(0, len(updates[0]), width):
        at = slice(start, start + width)
        yield at, np.stack([update[at] for update in updates], dtype=dtype)


def _squared_distances(updates: list[Vector]) -> NDArray[np.float64]:
    """|u - v|^2 of each update to each other, (n, n) float64; infinite to itself.

    By |u|^2 + |v|^2 - 2uv, with an error of about 1e-16 of the two updates' own squared norms: a
    false update however long does not touch the distances between the others.
    """
    products = np.zeros((len(updates), len(updates)))
    for _, rows in _blocks(updates, np.float64):
        products += rows @ rows.T
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
    np.fill_diagonal(distances, np.inf)
    return distances


def _sorted(rows: list[Vector]) -> list[Vector]:
    """The rows (C,), n of them, so that each coordinate ascends from row to row; works in place.

    A sorting network: whole rows are compared, several times faster than one sort a coordinate.
    """
    spare = np.empty_like(rows[0])
    for low, high in _comparators(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows


@lru_cache(maxsize=8)
def _comparators(n: int) -> list[tuple[int, int]]:
    """Batcher's odd-even merge sort of n (Knuth, volume 3, section 5.2.2, algorithm M)."""
    found = []
    merged = 1
    while merged < n:
        apart = merged
        while apart:
            for start in range(apart % merged, n - apart, 2 * apart):
                for low in range(start, min(start + apart, n - apart)):
                    if low // (2 * merged) == (low + apart) // (2 * merged):
                        found.append((low, low + apart))
            apart //= 2
        merged *= 2
    return found
