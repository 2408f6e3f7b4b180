"""The public constants of a sum over sites that is computed in integers modulo 2^bits.

Site i rounds its clipped sum to a grid, clamps each number to +- B_i, multiplies it by its weight
w_i, adds its share of the noise (`common.privacy.noise`), and masks it:

    B_i = ceil(C * grid * (mu_i + 12 sqrt(mu_i) + 12)),

mu_i being the units that it expects to draw, sample rate times declared units. A Poisson number of
units exceeds that with a chance of less than 1e-24, what is drawn of a known number less often yet,
and each unit adds at most C to a number.

Clamping keeps the sensitivity: |clamp(a) - clamp(b)| <= |a - b| for each number, so the L2 distance
of two neighbours' rounded sums does not grow.

The sum does not wrap: each number of it is at most T in size,

    T = min(sum_i w_i B_i, U) + sum_i (w_i + largest(sigma)),
    U = ceil(C * grid * (m + 12 sqrt(v) + 12 W)),
        m = 1.25 sum_i w_i mu_i,   v = 1.25 sum_i w_i^2 mu_i,   W = max_i w_i,

`largest` being the most that the sampler can draw, and `bits` is the least for which
T < 2^(bits - 1). Its residue modulo 2^bits, taken in [-2^(bits - 1), 2^(bits - 1)), is the sum.
Partial sums and masks may wrap as they like: all is computed modulo 2^bits.
    No site's part is more than w_i B_i, roundings and all. U is what the units of all sites come to
    together, each site having up to 1.25 times those that it declares, were every unit's whole
    gradient to lie in one and the same number; a site's rounding moves that by at most w_i / 2.
    The chance that they come to more is below 1e-24, for all P numbers at once. By Chernoff's
    bound for a sum of independent Poisson numbers of means mu_i, weighted by w_i, it is at most
    exp(-(v / W^2) h(t W / v)), h(x) = (1 + x) log(1 + x) - x (Bennett), at m + t; at
    t = 12 sqrt(v) + 12 W the exponent is 55.8 at the least, whatever v / W^2 is. A known number of
    units, each drawn by itself, has the smaller moments, and so the smaller chance.
    Privacy asks nothing of it: a sum that wrapped is still made from the noised sum alone.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import PrivacyError
from common.privacy.discrete_gaussian import REACH, largest
from common.privacy.noise import SHARED_ROUNDING, grid_for, quantise, share_sigma
from common.wire.packed_integers import Words, word_type

_MORE = 1.25
"""Each site may have so many times the units that it declares before a sum of aligned ones, which
no study's are, would wrap or be taken for none of honest sites."""
_WORD = 32
"""Bits of a float32, and of the smaller word."""
_PIECE = 1 << 16
"""Numbers that are decoded at a time, to bound the memory."""


@dataclass(frozen=True, kw_only=True)
class IntegerSum:
    """What all sites and the server must agree on for one sum; `integer_sum` makes it."""

    size: int
    """P, the numbers of the vector."""
    max_grad_norm: float
    """C, which bounds the L2 norm of each unit's part of a site's sum."""
    grid: float
    """Steps in 1.0, a power of two."""
    sigma: float
    """Of one site's share of the noise, in grid steps."""
    bound: int
    """The most that one number of any site's weighted sum can come to before noise, in steps."""
    bits: int
    """The sum is computed modulo 2^bits."""
    norm: float
    """The most that the noised sum of honest sites comes to in L2: all that the units may add, the
    roundings, and noise that is longer with a chance of less than exp(-13^2 / 2) alone."""

    @property
    def form(self) -> str:
        """The name of the packed integers: bits and grid, which both sides must have alike."""
        return f"hemofed.masked.{self.bits}.{math.log2(self.grid):g}"

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        """Of the words that are masked and added."""
        return word_type(self.bits)

    def encode(self, total: torch.Tensor, weight: int, expected: float) -> NDArray[np.int64]:
        """The clipped sum `total`, float (P,), in whole grid steps, clamped and weighted: int64.

        `weight` and `expected` are this site's own entries of what `integer_sum` was given. Noise
        is added to the result, which is nothing that may leave the site.

        Raises PrivacyError like `quantise`, for another length than P, and for a weight and an
        expected number of units that the constants were not made for.
        """
        limit = _limit(self.max_grad_norm, self.grid, expected)
        if weight < 1 or weight * limit > self.bound:
            raise PrivacyError(
                f"a site of weight {weight} that expects {expected:g} units may come to "
                f"{weight * limit}, and this sum has room for {self.bound} a site"
            )
        if total.numel() != self.size:
            raise PrivacyError(f"the sum has {total.numel():,} numbers; expected {self.size:,}")
        whole = quantise(total, self.grid)
        np.clip(whole, -limit, limit, out=whole)
        whole *= weight
        return whole

    def wrap(self, values: NDArray[np.int64]) -> Words:
        """The integers (P,) modulo 2^bits, as words to be masked."""
        words = values.astype(self.dtype)
        words &= self.dtype(2**self.bits - 1)
        return words

    def decode(self, total: Words) -> NDArray[np.float32]:
        """The sum of all sites' words, modulo 2^bits, as the number that it stands for: (P,)."""
        width = 8 * total.itemsize
        unused, signed = self.dtype(width - self.bits), np.dtype(f"i{total.itemsize}")
        out = np.empty(len(total), np.float32)
        for start in range(0, len(total), _PIECE):
            # Moved up to the word's sign bit, and down again with the sign.
            steps = (total[start : start + _PIECE] << unused).view(signed)
            steps >>= signed.type(unused)
            np.multiply(steps, 1 / self.grid, out=out[start : start + _PIECE], casting="unsafe")
        return out


def integer_sum(
    size: int,
    max_grad_norm: float,
    noise_multiplier: float,
    shares: int,
    expected_units: Sequence[float],
    weights: Sequence[int],
) -> IntegerSum:
    """The constants of a sum over len(weights) sites of vectors of `size` numbers.

    The grid is the finest one where the sum fits into 32 bits: as many as a float32 has, in words
    that lie on the wire as they are computed in. Its rounding may add at most `SHARED_ROUNDING` to
    the noise: if no such grid fits, it is the coarsest one, with as many bits as the sum needs.

    Args:
        size: P.
        max_grad_norm: C, each unit's bound.
        noise_multiplier: z of the whole sum, as the accountant is told.
        shares: how many honest sites' shares are left whatever happens (`share_sigma`).
        expected_units: for each site, the sample rate times its declared units.
        weights: for each site, the integer that its sum is multiplied by.

    Raises:
        PrivacyError: as `share_sigma` does; the two sequences do not have one entry a site; an
            expected number is negative or not finite, a weight is below 1; there are more shares
            than sites; or the sum does not fit into 64 bits.
    """
    if not 1 <= shares <= len(weights) == len(expected_units):
        raise PrivacyError(
            f"{shares} shares of {len(weights)} weights and {len(expected_units)} expected "
            "numbers of units; expected one of each a site, and 1 <= shares <= sites"
        )
    if min(weights) < 1 or not all(0 <= units < math.inf for units in expected_units):
        raise PrivacyError(
            f"weights {list(weights)}, expected units {list(expected_units)}: expected whole "
            "numbers of at least 1, and finite numbers of at least 0"
        )

    def at(grid: float) -> IntegerSum:
        sigma = share_sigma(size, max_grad_norm, noise_multiplier, grid, shares, max(weights))
        bounds = [
            weight * _limit(max_grad_norm, grid, units)
            for weight, units in zip(weights, expected_units, strict=True)
        ]
        together = _reach(max_grad_norm, grid, [_MORE * units for units in expected_units], weights)
        steps = min(sum(bounds), together) + sum(weights) + len(bounds) * largest(sigma)
        return IntegerSum(
            size=size,
            max_grad_norm=max_grad_norm,
            grid=grid,
            sigma=sigma,
            bound=max(bounds),
            bits=steps.bit_length() + 1,
            norm=(
                together
                + sum(weights) * math.sqrt(size) / 2
                + sigma * math.sqrt(len(bounds)) * (math.sqrt(size) + REACH)
            )
            / grid,
        )

    found = at(grid_for(size, max_grad_norm, SHARED_ROUNDING))
    while found.bits <= _WORD and (finer := at(2 * found.grid)).bits <= _WORD:
        found = finer
    if found.bits > 64:
        raise PrivacyError(
            f"a sum of {len(weights)} sites needs {found.bits} bits, and 64 is the most: give "
            "smaller weights or a smaller sample rate"
        )
    return found


def _limit(max_grad_norm: float, grid: float, expected: float) -> int:
    """The module text's B_i, in grid steps."""
    return _reach(max_grad_norm, grid, [expected], [1])


def _reach(
    max_grad_norm: float, grid: float, expected: Sequence[float], weights: Sequence[int]
) -> int:
    """The most, in grid steps, that one number of the sites' weighted units comes to.

    More has a chance below 1e-24; the module's text has the proof.
    """
    mean = math.fsum(map(operator.mul, weights, expected))
    squares = [weight * weight for weight in weights]
    variance = math.fsum(map(operator.mul, squares, expected))
    units = mean + 12 * math.sqrt(variance) + 12 * max(weights)
    return math.ceil(max_grad_norm * grid * units)
