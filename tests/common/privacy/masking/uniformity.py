"""Tests of whether integers modulo 2^bits look uniform, and unlike a vector that they may hide."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def p_values(
    values: NDArray[np.unsignedinteger], bits: int, plain: NDArray[np.int64]
) -> dict[str, float]:
    """Test -> p-value, for `values` (P,) modulo 2^bits that may hide `plain` (P,)."""
    values = values.astype(np.uint64) & np.uint64(2**bits - 1)
    table = (values[:, None] >> np.arange(bits, dtype=np.uint64) & np.uint64(1)).astype(bool)
    centred = ((values << np.uint64(64 - bits)).view(np.int64) / 2.0**64).astype(np.float64)
    leading = (values >> np.uint64(bits - 8)).astype(np.intp)
    octets = np.packbits(table[:, : bits - bits % 8], axis=1).ravel()
    return {
        "bytes": stats.chisquare(np.bincount(octets, minlength=256)).pvalue,
        "leading byte": stats.chisquare(np.bincount(leading, minlength=256)).pvalue,
        "bits": _balance(table),
        "neighbouring bits": _balance(table[:, 1:] ^ table[:, :-1]),
        "bits of the next value": _balance(table[1:] ^ table[:-1]),
        "runs": _runs(table.ravel()),
        "spread": stats.kstest(centred, "uniform", args=(-0.5, 1)).pvalue,
        "next value": _correlation(centred[1:], centred[:-1]),
        "the vector": _correlation(centred, plain),
        "the vector's signs": _correlation(table[:, -1], plain < 0),
        "the vector's last bits": _correlation(table[:, 0], plain & 1),
    }


def _balance(table: NDArray[np.bool_]) -> float:
    """Whether every column has as many ones as zeros: of all their p-values the least (Sidak)."""
    deviations = (table.mean(axis=0) - 0.5) * 2 * np.sqrt(len(table))
    least = float(2 * stats.norm.sf(np.abs(deviations).max()))
    return float(-np.expm1(table.shape[1] * np.log1p(-min(least, 1 - 1e-16))))


def _correlation(found: NDArray[Any], other: NDArray[Any]) -> float:
    """Pearson's; a constant goes with everything."""
    one, two = (side.astype(np.float64) - side.mean() for side in (found, other))
    size = np.sqrt(one.dot(one) * two.dot(two))
    return float(2 * stats.norm.sf(abs(one.dot(two)) / size * np.sqrt(len(one)))) if size else 0.0


def _runs(bits: NDArray[np.bool_]) -> float:
    """Wald and Wolfowitz's: too few or too many runs of equal bits."""
    ones, zeros = float(bits.sum()), float((~bits).sum())
    expected = 2 * ones * zeros / len(bits) + 1
    deviation = np.sqrt((expected - 1) * (expected - 2) / (len(bits) - 1))
    found = 1 + int((bits[1:] != bits[:-1]).sum())
    return float(2 * stats.norm.sf(abs(found - expected) / deviation))
