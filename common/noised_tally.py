"""Confusion counts that carry noise, and what they say of a model.

A site whose policy lets noised counts leave gives, beside the confusion matrix, the numbers of
right and of wrong predictions over all cells: the sum of a matrix's diagonal has the noise of K
numbers, and the sum of the whole matrix that of K^2, where a separate count has the noise of one.
One cell is counted in both, so the noise is made for a sensitivity of sqrt(2) for each cell
(`SENSITIVITY`).

Counts stay as they are drawn, negative ones too: a sum over sites of counts cut off at zero would
be too large by the noise of each, and every share computed from it wrong. A share is a ratio of two
noised counts. Its 95 % interval is that of Fieller (1954): all shares that the counts do not
contradict, given the noise and that the cells are a sample. It stays valid where the denominator
may be zero, and is then wide. A mean over classes combines the classes' intervals as MOVER does
(Zou & Donner 2008, "Construction of confidence intervals about effect measures", sec. 2). A class
of which not even the number of cells is known counts as anything from 0 to 1.

An interval wider than `TELLING` says nothing, and then no figure is given.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from common.metrics import MOST_CELLS, NAMES, Counts, Tally

Interval = tuple[float, float]

SENSITIVITY = math.sqrt(2.0)
"""What one cell adds to the counts, in L2: one to the matrix, and one to `right` or to `wrong`."""
TELLING = 0.4
"""The widest interval of a share that still says something."""
Z_95 = 1.959964
"""Standard deviations on either side of the mean within which 95 % of a normal law lies."""
_KNOWN = 5.0
"""A class's number of cells is known where it is this many standard deviations of noise above 0."""


@dataclass(frozen=True)
class NoisedShare:
    """weight * right / (weight * right + wrong), of counts that are sums of noised ones.

    A share is not cut off at 0 and 1, which noise may take it beyond: a mean of cut-off shares
    would be biased.
    """

    right: float
    wrong: float
    right_variance: float
    """Variance of the noise in `right`."""
    wrong_variance: float
    """Variance of the noise in `wrong`."""
    weight: float = 1.0
    there: bool = True
    """Whether the class surely has cells: a class without cells counts in no mean over classes."""

    @property
    def known(self) -> bool:
        """Whether the share surely is one of some cells, and its interval has two ends."""
        noise = self.weight**2 * self.right_variance + self.wrong_variance
        enough = self._whole > _KNOWN * math.sqrt(noise) and self._whole**2 > sum(self._spread)
        return self.there and enough

    @property
    def value(self) -> float:
        """The share, less the second-order bias that the denominator's noise gives a ratio.

        Like all that follows, it is defined only for a `known` share.
        """
        ratio, right = self.weight * self.right / self._whole, self.weight**2 * self.right_variance
        return ratio - (ratio * (right + self.wrong_variance) - right) / self._whole**2

    def interval(self) -> Interval:
        """The 95 % interval: all s for which weight * (1 - s) * right - s * wrong may be noise."""
        right, wrong = self._spread
        # Its square is at most its variance: a quadratic in s that is below 0 at the value.
        square = self._whole**2 - right - wrong
        half = self.weight * self.right * self._whole - right
        root = math.sqrt(max(half**2 - square * ((self.weight * self.right) ** 2 - right), 0.0))
        return (half - root) / square, (half + root) / square

    def error(self) -> float:
        """Standard deviation of the value from the noise alone."""
        noise = (self.weight * (1 - self.value)) ** 2 * self.right_variance
        return math.sqrt(noise + self.value**2 * self.wrong_variance) / self._whole

    @property
    def _whole(self) -> float:
        return self.weight * self.right + self.wrong

    @property
    def _spread(self) -> Interval:
        """Variances of weight * right and of wrong, times `Z_95` squared.

        They are those of the noise and of the cells' numbers, which vary from sample to sample as
        Poisson variables do.
        """
        right = self.weight**2 * (self.right_variance + max(self.right, 0.0))
        return Z_95**2 * right, Z_95**2 * (self.wrong_variance + max(self.wrong, 0.0))


@dataclass(frozen=True)
class NoisedTally:
    """Predictions of K classes, counted, with noise in each count.

    right, wrong: numbers of right and of wrong predictions over all cells. confusion: int64 (K, K),
    rows true, columns predicted. Any of them may be negative. variance: variance of the noise in
    each count; in a sum over sites, the variance of all their noise together.

    >>> confusion = np.array([[500, 40], [60, 400]])
    >>> tally = NoisedTally(right=900, wrong=100, confusion=confusion, variance=4.0)
    >>> f"{tally.metrics()['accuracy']:.3f} +- {tally.noise('accuracy'):.4f} by noise"
    '0.900 +- 0.0018 by noise'
    >>> [round(bound, 3) for bound in tally.intervals()["accuracy"]]
    [0.881, 0.919]
    """

    right: int
    wrong: int
    confusion: Counts
    variance: float

    @classmethod
    def of(cls, tally: Tally) -> Self:
        """The counts of an exact tally: their noise has variance 0."""
        confusion = tally.confusion
        right = int(confusion.trace())
        return cls(right, tally.total - right, confusion, 0.0)

    @classmethod
    def of_counts(cls, counts: Counts, variance: float) -> Self:
        """From `counts`, int64 (K^2 + 2,), in the order of the property `counts`."""
        classes = math.isqrt(len(counts) - 2)
        return cls(int(counts[0]), int(counts[1]), counts[2:].reshape(classes, classes), variance)

    @property
    def counts(self) -> Counts:
        """int64 (K^2 + 2,): right, wrong, and the matrix row by row."""
        return np.concatenate([[self.right, self.wrong], self.confusion.reshape(-1)])

    def to_bytes(self) -> bytes:
        """The counts as little-endian int64, for a message."""
        return self.counts.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, counts: bytes, classes: int, variance: float) -> Self:
        """Read what `to_bytes` wrote. Raises ValueError for a wrong size or an impossible count."""
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
        """The metric of each of NAMES; None where the counts say nothing, and for calibration.

        A mean over classes has no value, though it may have an interval, where not even the number
        of cells of some class is known.
        """
        values = dict.fromkeys(NAMES) | {
            "accuracy": _mean([self._accuracy]),
            "balanced_accuracy": _mean(self._recalls),
            "macro_f1": _mean(self._f1),
        }
        told = self.intervals()
        return {name: value if told[name] else None for name, value in values.items()}

    def intervals(self) -> dict[str, list[float] | None]:
        """The 95 % interval of each of NAMES, for noise and sampling of cells together.

        None where the counts say nothing.
        """
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
        """The recall of each class; None where the counts say nothing of it."""
        return [
            _mean([share]) if (bounds := _mean_interval([share])) and _tells(bounds) else None
            for share in self._recalls
        ]

    def noise(self, name: str) -> float:
        """Standard deviation, from the noise alone, of a metric that `metrics` has a value for."""
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
    """The sum of the tallies; a `NoisedTally` where one of them is."""
    given = list(tallies)
    exact = [one for one in given if isinstance(one, Tally)]
    noised = [one for one in given if isinstance(one, NoisedTally)]
    whole = sum(exact, Tally.empty(classes))
    return sum(noised, NoisedTally.of(whole)) if noised else whole


def accuracy_interval(right: float, wrong: float, variance: float) -> Interval | None:
    """The 95 % interval of the accuracy for such counts, whose noise has this variance.

    None where not even the number of cells would be known.

    >>> low, high = accuracy_interval(900, 100, variance=4.0)
    >>> f"{low:.3f} to {high:.3f}"
    '0.881 to 0.919'
    """
    return _mean_interval([NoisedShare(right, wrong, variance, variance)])


def _tells(interval: Interval) -> bool:
    return interval[1] - interval[0] <= TELLING


def _mean(shares: list[NoisedShare]) -> float | None:
    """The mean of the shares, cut off at 0 and 1; None unless all are known."""
    if not all(share.known for share in shares):
        return None
    return min(max(sum(share.value for share in shares) / len(shares), 0.0), 1.0)


def _mean_interval(shares: list[NoisedShare], shared: float = 1.0) -> Interval | None:
    """The interval of the mean over the classes that have cells, cut off at 0 and 1.

    None where no class is known. A class that is not known may have no cells and not count, or have
    any share. shared: the factor by which noise that classes share increases the variance of their
    sum at most.
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
