"""The discrete Gaussian on the integers, drawn exactly and by the million.

N_Z(0, sigma^2) gives the integer x the probability exp(-x^2 / 2 sigma^2) / sum_y exp(-y^2 / 2
sigma^2) (Canonne, Kamath, Steinke 2020, arXiv 2004.00010, definition 1).

The line is cut into buckets of 2^w integers, sigma/128 to sigma/64 wide. A table of 2^16 equally
likely entries names bucket b in n_b of them, n_b about proportional to the bucket's peak. An
integer of it, chosen uniformly, is accepted with probability p(x) = K exp(-x^2 / 2 sigma^2) / n_b,
where K makes p at most 1: what is accepted then has exactly the law above. One 64-bit word pays for
the entry, the place in the bucket and 24 bits of the comparison, which settle some 95 % of the
draws without an exponential; the others are compared in float64 with 64 bits more, and where that
falls within float64's error of p, in decimal arithmetic with as many bits as it takes.
"""

import functools
import math
from dataclasses import dataclass
from decimal import Context, Decimal

import numpy as np
from numpy.typing import NDArray

from common.errors import PrivacyError
from common.privacy.noise_source import WORDS_A_CALL, NoiseSource

REACH = 13
"""Every integer within this many sigma of zero can be drawn; none more than a bucket's width
further out can."""
TAIL = 1e-36
"""Bounds the distance in total variation between the law drawn and N_Z(0, sigma^2), for every
sigma: the mass beyond `REACH` sigma is at most 2 exp(-13^2 / 2) / (1 - exp(-13))."""
MIN_SIGMA, MAX_SIGMA = 2.0**-4, 2.0**30

_ENTRIES = 1 << 16
_COMPARED = 24
_MARGIN = 2.0**-40
"""Bounds the relative error of p in float64: the exponent is below 2^7 and carries a few units of
2^-53, so p is right within 2^-44."""


@dataclass(frozen=True, kw_only=True)
class SamplingTable:
    """What sampling at one sigma needs; the module's text explains the letters."""

    sigma: float
    shift: int
    """w: a bucket holds 2^w integers, and bucket b begins at b * 2^w."""
    bucket: NDArray[np.int16]
    """Entry -> bucket, int16 (2^16,)."""
    quick: NDArray[np.int32]
    """Entry -> how many of the 24-bit first comparands are accepted at once, int32 (2^16,)."""
    scale: float
    """The module text's K."""
    share: NDArray[np.int32]
    """Entry -> n_b of its bucket, int32 (2^16,)."""


def discrete_gaussian(n: int, sigma: float, source: NoiseSource) -> NDArray[np.int64]:
    """`n` independent draws from N_Z(0, sigma^2), int64 (n,).

    Formal guarantees: given uniform bits, each value's law is exactly N_Z(0, sigma^2) conditioned
    on an interval that holds [-13 sigma, 13 sigma); it lies within `TAIL` of N_Z(0, sigma^2) in
    total variation, so n values add at most n * TAIL (below 1e-28 for 11 million) to delta.

    Raises PrivacyError for n < 0 or a sigma outside [1/16, 2^30]. How long a batch of draws takes
    depends a little on their values: nobody untrusted may time this process from inside the host.
    """
    if n < 0 or not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise PrivacyError(
            f"discrete_gaussian(n={n}, sigma={sigma}): expected n >= 0 and 1/16 <= sigma <= 2^30"
        )
    table = _table(float(sigma))
    out = np.empty(n, dtype=np.int64)
    done = 0
    while done < n:
        kept = _draw(table, min(WORDS_A_CALL, int((n - done) * 1.12) + 16), source)
        kept = kept[: n - done]
        out[done : done + len(kept)] = kept
        done += len(kept)
    return out


def largest(sigma: float) -> int:
    """The largest absolute value that `discrete_gaussian` can draw: `REACH` sigma and less than a
    bucket's width more.

    >>> largest(sigma=10.0)
    130
    """
    shift, last = _buckets(sigma)
    return last << shift


def _draw(table: SamplingTable, tries: int, source: NoiseSource) -> NDArray[np.int64]:
    """The accepted ones of `tries` proposals, int64 (at most tries,)."""
    words = source.words(tries)
    entry = (words >> np.uint64(64 - 16)).astype(np.intp)
    first = ((words >> np.uint64(24)) & np.uint64((1 << _COMPARED) - 1)).astype(np.int32)
    place = (words & np.uint64((1 << table.shift) - 1)).view(np.int64)
    place += table.bucket.take(entry).astype(np.int64) << table.shift
    accepted = first < table.quick.take(entry)
    rest = np.flatnonzero(~accepted)
    accepted[rest] = _compare(
        table, place[rest], table.share.take(entry[rest]), first[rest], source
    )
    return place[accepted]


def _compare(
    table: SamplingTable,
    x: NDArray[np.int64],
    share: NDArray[np.int32],
    first: NDArray[np.int32],
    source: NoiseSource,
) -> NDArray[np.bool_]:
    """bool (n,): whether u < p(x), for u uniform in [0, 1) with the 24 leading bits `first`."""
    more = source.words(len(x))
    p = np.exp(np.square(x / table.sigma) / -2.0) * (table.scale / share)
    u = (first + more * 2.0**-64) * 2.0**-_COMPARED
    accepted: NDArray[np.bool_] = u < p
    # 2^-86: u has 88 bits; a p below that is for `_settle`.
    for i in np.flatnonzero(np.abs(u - p) <= _MARGIN * p + 2.0**-86):
        numerator = (int(first[i]) << 64) + int(more[i])
        accepted[i] = _settle(table, int(x[i]), int(share[i]), numerator, source)
    return accepted


def _settle(table: SamplingTable, x: int, share: int, numerator: int, source: NoiseSource) -> bool:
    """Whether u < p(x), for u in [numerator, numerator + 1) / 2^88: draws bits until it is sure."""
    bits = _COMPARED + 64
    while True:
        context = Context(prec=60 + bits // 3)
        ratio = context.divide(Decimal(x), Decimal(table.sigma))
        p = context.exp(context.divide(context.multiply(ratio, ratio), Decimal(-2)))
        p = context.divide(context.multiply(p, Decimal(table.scale)), Decimal(share))
        scaled = context.multiply(p, Decimal(1 << bits))
        # The four roundings are far below one unit in the 30th decimal place of `scaled`.
        error = Decimal(10) ** -30
        if numerator + 1 <= context.subtract(scaled, error):
            return True
        if numerator >= context.add(scaled, error):
            return False
        numerator = (numerator << 64) + int(source.words(1)[0])
        bits += 64


@functools.lru_cache(maxsize=8)
def _table(sigma: float) -> SamplingTable:
    shift, last = _buckets(sigma)
    width = 1 << shift
    buckets = np.arange(-last, last)
    ends = np.stack([buckets * width, buckets * width + width - 1]).astype(np.float64)
    low, high = np.sort(np.exp(np.square(ends / sigma) / -2.0), axis=0)
    share = _shares(high)
    scale = float(np.min(share / high)) * (1 - _MARGIN)
    quick = np.floor(scale * low / share * (1 - _MARGIN) * 2.0**_COMPARED)
    repeat = functools.partial(np.repeat, repeats=share)
    return SamplingTable(
        sigma=sigma,
        shift=shift,
        bucket=repeat(buckets.astype(np.int16)),
        quick=repeat(quick.astype(np.int32)),
        scale=scale,
        share=repeat(share.astype(np.int32)),
    )


def _buckets(sigma: float) -> tuple[int, int]:
    """The module text's w, and how many buckets there are on either side of zero."""
    # Exact, so that all machines agree on the most that can be drawn.
    shift = max(0, math.frexp(sigma)[1] - 7)
    return shift, math.ceil(REACH * sigma / (1 << shift))


def _shares(peak: NDArray[np.float64]) -> NDArray[np.int64]:
    """Table entries of each bucket, int64 (buckets,): 2^16 in all, about proportional to `peak`."""
    low, high = 0.0, float(_ENTRIES)
    for _ in range(60):
        middle = (low + high) / 2
        if np.maximum(np.ceil(middle * peak), 1).sum() <= _ENTRIES:
            low = middle
        else:
            high = middle
    share = np.maximum(np.ceil(low * peak), 1).astype(np.int64)
    share[int(np.argmax(peak))] += _ENTRIES - share.sum()
    return share
