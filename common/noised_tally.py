"""Confusion counts that carry noise, and what they say of a model.

A site that lets its counts leave noised gives the right and the wrong ones of all cells beside the
confusion matrix: the sum of a matrix's diagonal bears the noise of K numbers, and that of all of it
of K^2, where a count of its own bears one number's. One cell is counted in both, so that the noise
is made for a sensitivity of sqrt(2) a cell (`SENSITIVITY`).

Counts stay as they were drawn, negative ones too: a sum over sites of counts cut off at zero would
be too large by the noise of each, and every share in it wrong. A share is a ratio of two noised
counts. Its 95 % interval is that of Fieller (1954): all shares that the counts do not contradict,
given the noise and that the cells are a sample. It stays true where the denominator may be zero,
and is then wide. A mean over classes takes the classes' intervals together as MOVER does (Zou &
Donner 2008, "Construction of confidence intervals about effect measures", sec. 2), and counts a
class of which not even the number of cells is known as anything from 0 to 1.

What is wider than `TELLING` says nothing, and no figure is given.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from common.metrics import MOST_CELLS, NAMES, Counts, Tally

Interval = tuple[float, float]

SENSITIVITY = math.sqrt(2.0)
"""What one cell adds to the counts, in L2: one to the matrix, one to the right or the wrong."""
TELLING = 0.4
"""Widest interval of a share that says anything."""
_Z = 1.959964
_KNOWN = 5.0
"""A class's number of cells is known where it is so many standard deviations of noise above 0."""


@dataclass(frozen=True)
class NoisedShare:
    """weight * right / (weight * right + wrong), of counts that are sums of noised ones.

    Nothing is cut off at 0 and 1, where noise may take a share: a mean of such would be off.
    """

    right: float
    wrong: float
    right_variance: float
    wrong_variance: float
    """Of the noise in them."""
    weight: float = 1.0
    there: bool = True
    """Whether the class surely has cells: one that has none counts in no mean over classes."""

    @property
    def known(self) -> bool:
        """Whether there are surely some cells to have a share of, and its interval has ends."""
        noise = self.weight**2 * self.right_variance + self.wrong_variance
        enough = self._whole > _KNOWN * math.sqrt(noise) and self._whole**2 > sum(self._spread)
        return self.there and enough

    @property
    def value(self) -> float:
        """Of a `known` share, like all that follows; less the bias, in the second order, that the
        noise of the denominator gives a ratio."""
        ratio, right = self.weight * self.right / self._whole, self.weight**2 * self.right_variance
        return ratio - (ratio * (right + self.wrong_variance) - right) / self._whole**2

    def interval(self) -> Interval:
        """95 %: all shares s for which weight * (1 - s) * right - s * wrong may be noise alone."""
        right, wrong = self._spread
        # Its square is at most its variance: a quadratic in s that is below 0 at the value.
        square = self._whole**2 - right - wrong
        half = self.weight * self.right * self._whole - right
        root = math.sqrt(max(half**2 - square * ((self.weight * self.right) ** 2 - right), 0.0))
        return (half - root) / square, (half + root) / square

    def error(self) -> float:
        """Standard deviation that the noise alone gives the value."""
        noise = (self.weight * (1 - self.value)) ** 2 * self.right_variance
        return math.sqrt(noise + self.value**2 * self.wrong_variance) / self._whole

    @property
    def _whole(self) -> float:
        return self.weight * self.right + self.wrong

    @property
    def _spread(self) -> Interval:
        """Variances of weight * right and of wrong, times `_Z` squared: the noise, and the cells,
        whose numbers vary from sample to sample as Poisson's do."""
        right = self.weight**2 * (self.right_variance + max(self.right, 0.0))
        return _Z**2 * right, _Z**2 * (self.wrong_variance + max(self.wrong, 0.0))


@dataclass(frozen=True)
class NoisedTally:
    """Predictions of K classes, counted, with noise in each count.

    right, wrong: of all cells. confusion: int64 (K, K), rows true, columns predicted. Any of them
    may be negative. variance: of the noise in each count; of a sum over sites, of all their noise.
    """

    right: int
    wrong: int
    confusion: Counts
    variance: float

    @classmethod
    def of(cls, tally: Tally) -> Self:
        """The counts of an exact tally."""
        confusion = tally.confusion
        right = int(confusion.trace())
        return cls(right, tally.total - right, confusion, 0.0)

    @classmethod
    def of_counts(cls, counts: Counts, variance: float) -> Self:
        """From `counts`, K^2 + 2 numbers."""
        classes = math.isqrt(len(counts) - 2)
        return cls(int(counts[0]), int(counts[1]), counts[2:].reshape(classes, classes), variance)

    @property
    def counts(self) -> Counts:
        """int64 (K^2 + 2,): right, wrong, and the matrix row by row."""
        return np.concatenate([[self.right, self.wrong], self.confusion.reshape(-1)])

    def to_bytes(self) -> bytes:
        """The counts, little-endian, for a message."""
        return self.counts.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, counts: bytes, classes: int, variance: float) -> Self:
        """Read `to_bytes`. Raises ValueError: wrong size, or a count that no cells come to."""
        numbers = np.frombuffer(counts, "<i8").astype(np.int64)
        if (
            len(numbers) != classes**2 + 2
            or (numbers != np.clip(numbers, -MOST_CELLS, MOST_CELLS)).any()
        ):
            raise ValueError(f"expected {classes**2 + 2} counts of at most {MOST_CELLS}")
        return cls.of_counts(numbers, variance)

    def __add__(self, other: "NoisedTally") -> "NoisedTally":
        return NoisedTally(
            self.right + other.right,
            self.wrong + other.wrong,
            self.confusion + other.confusion,
            self.variance + other.variance,
        )

    def metrics(self) -> dict[str, float | None]:
        """The NAMES; None where the counts say nothing, and where they cannot (calibration).

        A mean over classes has no value, though it may have an interval, where of some class not
        even the number of cells is known.
        """
        values = dict.fromkeys(NAMES) | {
            "accuracy": _mean([self._accuracy]),
            "balanced_accuracy": _mean(self._recalls),
            "macro_f1": _mean(self._f1),
        }
        told = self.intervals()
        return {name: value if told[name] else None for name, value in values.items()}

    def intervals(self) -> dict[str, list[float] | None]:
        """95 % intervals of the NAMES, for the noise and the sampling of cells together; None where
        the counts say nothing."""
        found = dict.fromkeys(NAMES) | {
            "accuracy": _mean_interval([self._accuracy]),
            "balanced_accuracy": _mean_interval(self._recalls),
            # Each noise off the diagonal is in two classes' F1: the variance of their sum is at
            # most twice the sum of the variances.
            "macro_f1": _mean_interval(self._f1, shared=2.0),
        }
        return {
            name: list(bounds) if bounds and _tells(bounds) else None
            for name, bounds in found.items()
        }

    def recalls(self) -> list[float | None]:
        """Recall of each class; None where the counts say nothing of it."""
        return [
            _mean([share]) if (bounds := _mean_interval([share])) and _tells(bounds) else None
            for share in self._recalls
        ]

    def noise(self, name: str) -> float:
        """Standard deviation that the noise alone gives a metric that `metrics` has a value of."""
        if name == "accuracy":
            return self._accuracy.error()
        shares, shared = (self._recalls, 1.0) if name == "balanced_accuracy" else (self._f1, 2.0)
        errors = [share.error() for share in shares]
        return math.sqrt(shared) * math.hypot(*errors) / len(errors)

    def to_json(self) -> dict[str, Any]:
        return {
            "right": self.right,
            "wrong": self.wrong,
            "confusion": self.confusion.tolist(),
            "noise_variance": self.variance,
        }

    @property
    def _accuracy(self) -> NoisedShare:
        return NoisedShare(self.right, self.wrong, self.variance, self.variance)

    @property
    def _recalls(self) -> list[NoisedShare]:
        right, rows = self.confusion.diagonal(), self.confusion.sum(1)
        others = (len(right) - 1) * self.variance
        return [
            NoisedShare(float(r), float(row - r), self.variance, others)
            for r, row in zip(right, rows, strict=True)
        ]

    @property
    def _f1(self) -> list[NoisedShare]:
        right = self.confusion.diagonal()
        both = self.confusion.sum(0) + self.confusion.sum(1)
        others = 2 * (len(right) - 1) * self.variance
        there = [recall.known for recall in self._recalls]
        return [
            NoisedShare(float(r), float(b - 2 * r), self.variance, others, weight=2.0, there=known)
            for r, b, known in zip(right, both, there, strict=True)
        ]


def total(tallies: Iterable[Tally | NoisedTally], classes: int) -> Tally | NoisedTally:
    """The sum; noised where one of them is."""
    given = list(tallies)
    exact = [one for one in given if isinstance(one, Tally)]
    noised = [one for one in given if isinstance(one, NoisedTally)]
    whole = sum(exact, Tally.empty(classes))
    return sum(noised, NoisedTally.of(whole)) if noised else whole


def accuracy_interval(right: float, wrong: float, variance: float) -> Interval | None:
    """95 % interval of the accuracy, where those counts are what comes out; None where not even the
    number of cells would be known."""
    return _mean_interval([NoisedShare(right, wrong, variance, variance)])


def _tells(interval: Interval) -> bool:
    return interval[1] - interval[0] <= TELLING


def _mean(shares: list[NoisedShare]) -> float | None:
    """Within 0 to 1; None unless all are known."""
    if not all(share.known for share in shares):
        return None
    return min(max(sum(share.value for share in shares) / len(shares), 0.0), 1.0)


def _mean_interval(shares: list[NoisedShare], shared: float = 1.0) -> Interval | None:
    """Of the mean over the classes that have cells, within 0 to 1; None where no class is known.

    A class that is not known may have none and not count, or have any share. shared: what the
    classes' sharing of noise makes of the variance of their sum, at most.
    """
    bounds = [(share.value, *share.interval()) for share in shares if share.known]
    unknown = len(shares) - len(bounds)
    if not bounds:
        return None
    middle = sum(value for value, _, _ in bounds)
    below = math.sqrt(shared) * math.hypot(*(value - low for value, low, _ in bounds))
    above = math.sqrt(shared) * math.hypot(*(high - value for value, _, high in bounds))
    low = min(max(middle - below, 0.0), len(bounds)) / len(shares)
    high = (max(min(middle + above, len(bounds)), 0.0) + unknown) / len(shares)
    return low, high
