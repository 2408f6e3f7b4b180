"""Confusion and calibration as counts that add up across sites, and the metrics made from them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

BINS = 15
MOST_CELLS = 2**36
"""Most cells that a site may say it counted in one place: sums over 18 x 18 x 15 places of 10,000
sites stay within int64."""
NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "ece")

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """Predictions of K classes, counted.

    counts: int64 (K, K, BINS), [true, predicted, confidence bin].
    confidence: float64 (K, K, BINS), the sum of the top-class probabilities counted there.

    >>> probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]])
    >>> tally = Tally.of(probabilities, labels=np.array([0, 1, 1]))
    >>> tally.confusion
    array([[1, 0],
           [1, 1]])
    >>> tally.metrics()["balanced_accuracy"], tally.recalls(), (tally + tally).total
    (0.75, [1.0, 0.5], 6)
    """

    counts: Counts
    confidence: Floats

    @classmethod
    def empty(cls, classes: int) -> Self:
        shape = (classes, classes, BINS)
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.float64))

    @classmethod
    def of(cls, probabilities: Floats, labels: Counts) -> Self:
        """Count predictions: probabilities float64 (N, K), labels int64 (N,) in 0..K-1."""
        tally = cls.empty(probabilities.shape[1])
        places, top = places_of(probabilities, labels)
        np.add.at(tally.counts.reshape(-1), places, 1)
        np.add.at(tally.confidence.reshape(-1), places, top)
        return tally

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.counts + other.counts, self.confidence + other.confidence)

    @property
    def confusion(self) -> Counts:
        """int64 (K, K): rows true, columns predicted."""
        confusion: Counts = self.counts.sum(2)
        return confusion

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def metrics(self) -> dict[str, float | None]:
        """The metric of each of NAMES; None where it is undefined or nothing was counted."""
        if not self.total:
            return dict.fromkeys(NAMES)
        values = metrics_of(self.counts[None].astype(float), self.confidence[None])
        return {
            name: float(value[0]) if np.isfinite(value[0]) else None
            for name, value in values.items()
        }

    def intervals(self, resamples: int = 1000, seed: int = 0) -> dict[str, list[float] | None]:
        """The 95 % percentile bootstrap interval of each metric (Efron & Tibshirani 1993, ch. 13).

        Each class's cells are resampled separately, as many as there are: were all resampled
        together, small classes would be missing from many draws, and the balanced metrics'
        intervals would miss their values. Cells counted in one place differ only in confidence, so
        their number is drawn (multinomial) and their confidence taken as the place's mean. None
        where a metric is undefined, and where all draws agree: three cells that are all right make
        nothing certain.
        """
        if not self.total:
            return dict.fromkeys(NAMES)
        places = self.counts.reshape(-1)
        used = np.flatnonzero(places)
        rng = np.random.default_rng(seed)
        counts = np.zeros((resamples, places.size))
        for mine in np.split(used, np.flatnonzero(np.diff(used // self.counts[0].size)) + 1):
            total = places[mine].sum()
            counts[:, mine] = rng.multinomial(total, places[mine] / total, size=resamples)
        mean = np.zeros(places.size)
        mean[used] = self.confidence.reshape(-1)[used] / places[used]
        shape = (resamples, *self.counts.shape)
        values = metrics_of(counts.reshape(shape), (counts * mean).reshape(shape))
        return {name: interval_of(value) for name, value in values.items()}

    def per_class(self) -> list[dict[str, float | int | None]]:
        """Precision, recall, F1 and support of each class; None where it is undefined."""
        confusion = self.confusion.astype(float)
        true, predicted, right = confusion.sum(1), confusion.sum(0), np.diag(confusion)
        return [
            {
                "precision": right[k] / predicted[k] if predicted[k] else None,
                "recall": right[k] / true[k] if true[k] else None,
                "f1": 2 * right[k] / (true[k] + predicted[k]) if true[k] else None,
                "support": int(true[k]),
            }
            for k in range(len(true))
        ]

    def recalls(self) -> list[float | None]:
        """The recall of each class; None for a class without cells."""
        confusion = self.confusion
        return [
            float(right / true) if true else None
            for right, true in zip(confusion.diagonal(), confusion.sum(1), strict=True)
        ]

    def to_json(self) -> list[list[float]]:
        """[true, predicted, bin, count, confidence] of each place whose count is not 0."""
        places = np.argwhere(self.counts)
        return [
            [*map(int, place), int(self.counts[tuple(place)]), float(self.confidence[tuple(place)])]
            for place in places
        ]

    @classmethod
    def from_json(cls, places: list[list[float]], classes: int) -> Self:
        """Read what `to_json` wrote, for `classes` classes."""
        tally = cls.empty(classes)
        for true, predicted, level, count, confidence in places:
            place = int(true), int(predicted), int(level)
            tally.counts[place], tally.confidence[place] = int(count), confidence
        return tally

    def to_bytes(self) -> tuple[bytes, bytes]:
        """(counts, confidence) as little-endian int64 and float64, for a message."""
        return self.counts.astype("<i8").tobytes(), self.confidence.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, counts: bytes, confidence: bytes, classes: int) -> Self:
        """Read what `to_bytes` wrote.

        Raises ValueError for a wrong size, or a value that is negative, too large or not finite.
        """
        shape = (classes, classes, BINS)
        tally = cls(
            np.frombuffer(counts, "<i8").reshape(shape).astype(np.int64),
            np.frombuffer(confidence, "<f8").reshape(shape).astype(np.float64),
        )
        inside = (tally.confidence >= 0) & (tally.confidence <= tally.counts + 1e-6)
        if (tally.counts < 0).any() or (tally.counts > MOST_CELLS).any() or not inside.all():
            raise ValueError(f"counts outside 0..{MOST_CELLS}, or confidences outside 0..1")
        return tally


def places_of(probabilities: Floats, labels: Counts) -> tuple[Counts, Floats]:
    """Where each prediction is counted, and the probability of the class that it names.

    probabilities: float64 (N, K); labels: int64 (N,) in 0..K-1. The first result is int64 (N,),
    places in a tally's counts flattened to one dimension; the second float64 (N,).
    """
    classes = probabilities.shape[1]
    predicted, top = probabilities.argmax(1), probabilities.max(1, initial=0.0)
    bins = np.minimum((top * BINS).astype(np.int64), BINS - 1)
    return (labels * classes + predicted) * BINS + bins, top


def interval_of(values: Floats) -> list[float] | None:
    """[low, high]: the middle 95 % of a metric's values (R,).

    None where a value is undefined, or all agree.
    """
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        return None
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]


def metrics_of(counts: Floats, confidence: Floats) -> dict[str, Floats]:
    """Metrics of R tallies at once: counts and confidence (R, K, K, BINS) -> (R,) for each name.

    Balanced accuracy and macro-F1 leave out classes without a true cell.
    """
    confusion = counts.sum(3)
    total = confusion.sum((1, 2))
    right = np.diagonal(confusion, axis1=1, axis2=2)
    true, predicted = confusion.sum(2), confusion.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(true > 0, right / true, np.nan)
        f1 = np.where(true > 0, 2 * right / (true + predicted), np.nan)
    return {
        "accuracy": right.sum(1) / total,
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "ece": _calibration_error(counts, confidence, total),
    }


def _calibration_error(counts: Floats, confidence: Floats, total: Floats) -> Floats:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    right = np.einsum("rkkb->rb", counts)
    error: Floats = np.abs(right - confidence.sum((1, 2))).sum(1) / total
    return error
