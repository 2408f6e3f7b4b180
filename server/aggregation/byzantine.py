"""Byzantine-robust aggregation: f of the n sites may send anything, alone or in collusion.

All updates of a round are kept, so that the memory needed is that of n models and a few MiB of
working space. The updates are taken in the order of the sites' names, not of their arrival, and
every site counts the same.
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
"""How many values, over all updates, a block holds: 4 MiB as float64."""

Choose = Callable[[int], int]
"""The number n of updates -> how many of them the rule trims or keeps."""


class _Kept(ABC):
    """Keeps a round's updates until all have come."""

    def __init__(self, spec: ServerOptimizer, max_norm: float) -> None:
        """max_norm: the largest L2 norm of an update that counts."""
        self._spec = spec
        self._max_norm = max_norm
        self._updates: dict[str, Vector] = {}

    def add(self, site: str, update: Vector) -> float:
        """Keep a site's update (P,) float32 and return its L2 norm.

        Raises:
            ModelError: the update is not finite, or its norm exceeds `max_norm`.
        """
        norm = update_norm(update)
        require_bounded(norm, self._max_norm)
        self._updates[site] = update
        return norm

    def result(self) -> NDArray[np.float64]:
        """Return the aggregated update, (P,) float64.

        Raises:
            FederationError: there are fewer updates than the rule needs (`spec.fewest_updates`).
        """
        if len(self._updates) < self._spec.fewest_updates:
            raise FederationError(
                f"{len(self._updates)} sound updates; {self._spec.aggregation} needs "
                f"{self._spec.fewest_updates} to bear byzantine_sites={self._spec.byzantine_sites}"
            )
        return self._aggregate([self._updates[site] for site in sorted(self._updates)])

    @abstractmethod
    def _aggregate(self, updates: list[Vector]) -> NDArray[np.float64]: ...


class Trimmed(_Kept):
    """The trimmed mean: per coordinate, the mean without the `trim(n)` largest and smallest values.

    This is definition 2 of Yin et al. 2018, arXiv 1803.01498. If only the middle one or two values
    are left it is definition 1, the median.

    Formal guarantee: with f <= trim(n) false sites, every coordinate of the result lies between the
    smallest and the largest value of the honest sites.

    >>> spec = ServerOptimizer(aggregation="trimmed_mean", byzantine_sites=1)
    >>> rule = Trimmed(spec, max_norm=1e9, trim=lambda n: 1)
    >>> for site, value in {"a": 1.0, "b": 3.0, "false": 1e6}.items():
    ...     norm = rule.add(site, np.full(2, value, np.float32))
    >>> rule.result()
    array([3., 3.])
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
    """The mean of the `keep(n)` updates that are nearest to their neighbours.

    This is section 4 of Blanchard et al. 2017, arXiv 1703.02757. An update's score is the sum of
    its squared distances to its n - f - 2 nearest updates, and the updates with the lowest scores
    are kept; among equal scores the site whose name sorts first comes first. Keeping one update is
    Krum, keeping several is Multi-Krum. Both need n >= 2f + 3.

    >>> spec = ServerOptimizer(aggregation="krum", byzantine_sites=1)
    >>> rule = Krum(spec, max_norm=1e9, keep=lambda n: 1)
    >>> for site, value in {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.5, "false": 1e6}.items():
    ...     norm = rule.add(site, np.full(2, value, np.float32))
    >>> rule.result()
    array([2., 2.])
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
    """Yield the updates in blocks of C coordinates: where they are, and a copy (n, C) of them."""
    width = max(1, _VALUES_AT_ONCE // len(updates))
    for start in range(0, len(updates[0]), width):
        at = slice(start, start + width)
        yield at, np.stack([update[at] for update in updates], dtype=dtype)


def _squared_distances(updates: list[Vector]) -> NDArray[np.float64]:
    """Return the squared distances |u - v|^2 between the updates, (n, n) float64.

    The diagonal is infinite. They are computed as |u|^2 + |v|^2 - 2uv, with an error of about 1e-16
    of the squared norms of these two updates, so that a false update, however long, does not affect
    the distances between the others.
    """
    products = np.zeros((len(updates), len(updates)))
    for _, rows in _blocks(updates, np.float64):
        products += rows @ rows.T
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
    np.fill_diagonal(distances, np.inf)
    return distances


def _sorted(rows: list[Vector]) -> list[Vector]:
    """Sort n rows (C,) so that each coordinate ascends from row to row; changes them in place.

    A sorting network compares whole rows, which is several times faster than sorting each
    coordinate by itself.

    >>> [row.tolist() for row in _sorted([np.float32([3, 1]), np.float32([2, 4])])]
    [[2.0, 1.0], [3.0, 4.0]]
    """
    spare = np.empty_like(rows[0])
    for low, high in _comparators(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows


@lru_cache(maxsize=8)
def _comparators(n: int) -> list[tuple[int, int]]:
    """Return the comparisons (low, high) of Batcher's odd-even merge sort of n values.

    This is algorithm M of Knuth, volume 3, section 5.2.2.

    >>> _comparators(3)
    [(0, 1), (0, 2), (1, 2)]
    """
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
