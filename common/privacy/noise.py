"""The Gaussian mechanism on an integer grid: a clipped sum goes in, a private one comes out.

A sum t of P numbers, to which one unit contributes a vector of L2 norm at most C, is released as

    ( round(t * grid) + N_Z(0, sigma^2)^P ) / grid,        grid a power of two,
    sigma^2 = (z * D)^2 + SMOOTHING^2,                     D = grid * C * (1 + SLACK) + sqrt(P).

z is the noise multiplier that the accountant is told. D bounds the L2 sensitivity of the rounded
sum: the exact sums of two neighbouring data sets differ by at most C; `SLACK` is for their float32
arithmetic; and each of the P roundings moves by at most 1/2 on either side.

Formal guarantees: the output is at least as private as the Poisson-subsampled Gaussian mechanism
with noise multiplier z, for any number of compositions and in any accounting of it.
    Let x be an integer, Y ~ N(x, s^2), and Z given Y = y an integer with probability proportional
    to exp(-(z - y)^2 / 2 r^2): Z is made from Y without looking at the data, so releasing it is as
    private as releasing Y. By Poisson summation the normaliser of Z's law is r sqrt(2 pi) (1 + e),
    |e| <= 2.01 exp(-2 pi^2 r^2), whatever y is; integrating over y, Z has the law of
    x + N_Z(0, s^2 + r^2) up to a factor within (1 + e)^2 (Peikert 2010, theorem 3.1; Micciancio and
    Regev 2007, lemma 4.4). With r = SMOOTHING = 3, e is below 1e-76, so P = 10^8 numbers and 10^6
    steps add less than 1e-60 to epsilon. With s = z D this is the Gaussian mechanism of noise
    multiplier z. Without sampling, theorem 14 of Canonne, Kamath, Steinke (2020, arXiv 2004.00010)
    gives the same zero-concentrated bound directly.
    The sampler's own distance from N_Z adds P * TAIL a step to delta: below 1e-20 for all of it.
One share of several. In a sum over sites that nobody sees the parts of, each site adds its share,
N_Z(0, sigma^2)^P, to w times its rounded sum, w an integer weight, with

    sigma^2 = (z * D * W)^2 / n + SMOOTHING^2,             W the largest weight of any site.

Formal guarantees: where m >= n sites add their shares honestly, the sum of what they release is at
least as private as above, whoever knows the other sites' parts and shares.
    A unit belongs to one site, so only that site's rounding moves: the weighted sums of neighbours
    differ by at most W D, and the known parts only shift what is seen.
    Let X ~ N_Z(0, a^2) and Y ~ N_Z(0, b^2) be independent. Completing the square, P(X + Y = k) is
    proportional to exp(-k^2 / 2 (a^2 + b^2)) times the sum over the integers j of
    exp(-(j - c)^2 / 2 t^2), with t^2 = a^2 b^2 / (a^2 + b^2) and c = k a^2 / (a^2 + b^2). As above
    that sum is t sqrt(2 pi) (1 + e), |e| <= 2.01 exp(-2 pi^2 t^2), whatever c is. Both a and b are
    at least SMOOTHING = 3, so t^2 >= 4.5 and |e| < 6e-39: X + Y has the law of N_Z(0, a^2 + b^2)
    up to a factor between exp(-3 |e|) and exp(3 |e|). Adding one share after the other, the sum of
    all m has the law of N_Z(0, m sigma^2) up to m - 1 such factors.
    N_Z(0, m sigma^2) is made from N(0, s^2) as above, with s = z D W sqrt(m / n) >= z D W and
    r = sqrt(m) SMOOTHING >= SMOOTHING.
    When each of two laws is changed by a factor between exp(-h) and exp(h), (epsilon, delta)
    becomes at most (epsilon + 2 h, exp(h) delta). P = 10^8 numbers, 10^6 steps and m = 10^3 shares
    have h = 3 * 6e-39 * 10^17 and add less than 1e-20 to epsilon; the sampler's own distance,
    m * P * TAIL a step, adds less than 1e-18 to delta.
    Without SMOOTHING there is no such bound: two shares of sigma 0.5 have a sum that lies 0.08
    from N_Z in total variation.
    Not covered: fewer than n honest shares. With m < n of them the noise multiplier is only
    z sqrt(m / n); a site that adds none, or one from bits that others know, counts as not honest.
    A person who is a unit at two sites is two units.
What is assumed: that the AES keystream is as good as uniform bits, and that the sums of two
neighbouring data sets, as the clipping engine makes them, differ by at most C * (1 + SLACK).
    Proved. A unit's own share is at most C as computed (`common.privacy.clipping`), and sums of
    some 32 units are added up in float64.
    Tested, not proved. In such a sum each coordinate is a sum of k float32 terms, wrong by at most
    k 2^-24 times the sum of their sizes (Higham 2002, section 4.2). A unit whose terms cancel is
    added by itself, so those of a unit of T positions come to at most sqrt(2 T) C. Were all
    roundings to conspire, that is no bound within SLACK where a unit's gradients are not kept
    (T up to some 250 in a convolution). The most that constant, waved and random maps of 144
    positions under 256 channels came to, for 31 units and one more, is 1.0e-4 C.
    Tested. No bit of a unit's share depends on the others: the shapes that it is computed in are
    fixed, so other units are other values in the same kernels. That a kernel computes a row the
    same wherever it stands and whatever stands beside it is not promised by its makers. On CPUs it
    was so for every layer, engine and number of threads tried; `client/training/selftest.py` asks
    it of the machine, the device and the study's model before a site takes part, and refuses where
    it fails. What remains are the sums' roundings: over adversarial models with weights of up to
    100 they came to less than 1e-4 C (docs/privacy.md has the command).
    Bounded, for a linear head on features alone. The weights that a site takes are at most
    `max_weight` of its policy, so a last bit that differs is not blown up to the size of a
    gradient: with weights of up to 100 and kernels that did choose by the number of rows, the sums
    of neighbours differed by 3e-4 C more than C. A normalisation blows it up whatever the weights:
    behind a convolution whose terms cancel GroupNorm turns a last bit into 1.5 C of each unit's
    share with no weight above 10, and so does a centre that is a cell's own features (1.4 C). For
    such models nothing stands behind "Tested".

The noise is at most 0.15 % larger than z * C, which is what all this costs in accuracy. There is no
second kind of noise: a rounded float64 Gaussian from the same stream takes longer (126 ms against
105 ms for 11.2 million values on one core, `torch.normal` 57 ms: `hemofed bench noise`) and has no
proof.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from common.errors import PrivacyError
from common.privacy.discrete_gaussian import MAX_SIGMA, discrete_gaussian
from common.privacy.noise_source import NoiseSource

__all__ = [
    "NoiseSource",
    "add_noise",
    "count_sigma",
    "discrete_gaussian",
    "grid_for",
    "grid_sigma",
    "privatise",
    "quantise",
    "share_count_sigma",
    "share_sigma",
]

ROUNDING = 5e-4
"""Most that rounding to the grid may add to the sensitivity, as a fraction of the clipping norm."""
SHARED_ROUNDING = 1e-2
"""The same where several sites' sums are added: a coarser grid needs fewer bits on the wire."""
SLACK = 1e-3
"""Most that float32 arithmetic may add to the sensitivity, as a fraction of the clipping norm."""
SMOOTHING = 3.0
"""The module text's r, in grid steps."""

_PIECE = 1 << 20
"""Numbers that are worked on at a time, to bound the memory."""


def privatise(
    total: torch.Tensor,
    *,
    max_grad_norm: float,
    noise_multiplier: float,
    source: NoiseSource,
    grid: float | None = None,
) -> torch.Tensor:
    """The clipped sum `total`, float (P,), with noise added: float32 (P,), on the same device.

    `max_grad_norm` (C) bounds each unit's L2 norm in the sum; the guarantee is the module's.
    `grid` is the number of grid steps in 1.0, a power of two; None takes `grid_for`. Raises
    PrivacyError like `grid_sigma` and `quantise`.

    | total              | result                                                    |
    |--------------------|-----------------------------------------------------------|
    | zeros (no unit)    | noise alone: an empty batch is a step like any other      |
    | not finite         | PrivacyError                                              |
    | P = 0, not 1-D     | PrivacyError                                              |
    | noise_multiplier 0 | PrivacyError: training without noise does not come here   |
    """
    size = total.numel()
    # An empty sum is refused below.
    steps = grid_for(max(size, 1), max_grad_norm) if grid is None else grid
    sigma = grid_sigma(size, max_grad_norm, noise_multiplier, steps)
    whole = quantise(total, steps)
    add_noise(whole, sigma, source)
    out = np.divide(whole, steps, out=np.empty(size, np.float32), casting="unsafe")
    return torch.from_numpy(out).to(total.device)


def quantise(total: torch.Tensor, grid: float) -> NDArray[np.int64]:
    """The clipped sum `total`, float (P,), rounded to multiples of 1 / grid: int64 (P,) multiples.

    Raises PrivacyError when `total` is not a vector of at least one number, or holds a number that
    is not finite or too large to be exact.

    >>> quantise(torch.tensor([0.26, -1.0]), grid=4.0)
    array([ 1, -4])
    """
    if total.dim() != 1 or total.numel() == 0:
        raise PrivacyError(f"privatise: total has shape {tuple(total.shape)}; expected (P,), P > 0")
    values, whole = total.detach().cpu().numpy(), np.empty(total.numel(), np.int64)
    for start in range(0, len(whole), _PIECE):
        piece = slice(start, start + _PIECE)
        scaled = values[piece].astype(np.float64) * grid
        if not np.all(np.abs(scaled) < 2.0**52):
            raise PrivacyError(
                "privatise: the sum holds a NaN, an infinity or a number beyond "
                f"{2.0**52 / grid:.3g}; nothing was released: look at the learning rate and the "
                "data"
            )
        whole[piece] = np.rint(scaled)
    return whole


def add_noise(whole: NDArray[np.int64], sigma: float, source: NoiseSource) -> None:
    """Add a discrete Gaussian of `sigma` grid steps to each of the integers (P,), in place."""
    for start in range(0, len(whole), _PIECE):
        piece = whole[start : start + _PIECE]
        piece += discrete_gaussian(len(piece), sigma, source)


def grid_for(size: int, max_grad_norm: float, rounding: float = ROUNDING) -> float:
    """The coarsest grid, in steps per 1.0, that is fine enough for `size` numbers.

    It is the least power of two for which sqrt(size) / grid is at most rounding * max_grad_norm.
    Raises PrivacyError when `max_grad_norm` is not a finite number above 0.

    >>> grid_for(1_000_000, max_grad_norm=1.0) == 2.0**21
    True
    """
    _positive("max_grad_norm", max_grad_norm)
    return 2.0 ** math.ceil(math.log2(math.sqrt(size) / (rounding * max_grad_norm)))


def grid_sigma(size: int, max_grad_norm: float, noise_multiplier: float, grid: float) -> float:
    """The module text's sigma, in grid steps, for `size` (P) numbers.

    Raises PrivacyError when the noise multiplier or the clipping norm is not a finite number above
    0, when the grid is not a power of two or is too coarse for the clipping norm, and when sigma is
    larger than can be drawn. A caller that asks here before it pays is not refused by `privatise`
    for these reasons afterwards.
    """
    sensitivity = _sensitivity(size, max_grad_norm, grid, ROUNDING)
    return _sigma(sensitivity, noise_multiplier, size)


def share_sigma(
    size: int,
    max_grad_norm: float,
    noise_multiplier: float,
    grid: float,
    shares: int,
    weight: int = 1,
) -> float:
    """The module text's sigma, in grid steps, of one site's share for `size` (P) numbers.

    `shares` (n) is the number of sites whose shares are left in the sum whatever happens: honest,
    and there to the end. `weight` (W) is the largest integer that any site's rounded sum is
    multiplied by before its share is added. The grid may be as coarse as `SHARED_ROUNDING` allows.

    Raises PrivacyError like `grid_sigma`, and when `shares` or `weight` is below 1.

    >>> round(share_sigma(1, max_grad_norm=1.0, noise_multiplier=3.0, grid=1024.0, shares=9))
    1026
    """
    for name, value in (("shares", shares), ("weight", weight)):
        if value < 1:
            raise PrivacyError(f"{name}={value}: expected a whole number of at least 1")
    sensitivity = _sensitivity(size, max_grad_norm, grid, SHARED_ROUNDING)
    return _sigma(weight * sensitivity / math.sqrt(shares), noise_multiplier, size)


def count_sigma(sensitivity: float, noise_multiplier: float) -> float:
    """sigma for a vector of counts to which one unit adds at most `sensitivity` in L2.

    Counts need no rounding, so the module text's D is `sensitivity`. Raises PrivacyError when
    either argument is not a finite number above 0.

    >>> count_sigma(sensitivity=2.0, noise_multiplier=2.0)
    5.0
    """
    _positive("sensitivity", sensitivity)
    _positive("noise_multiplier", noise_multiplier)
    return math.hypot(noise_multiplier * sensitivity, SMOOTHING)


def _sensitivity(size: int, max_grad_norm: float, grid: float, rounding: float) -> float:
    """The module text's D, in grid steps. Raises PrivacyError for a grid that is too coarse."""
    _positive("max_grad_norm", max_grad_norm)
    _positive("grid", grid)
    if math.frexp(grid)[0] != 0.5 or math.sqrt(size) > rounding * max_grad_norm * grid:
        raise PrivacyError(
            f"grid={grid}: expected a power of two of at least "
            f"{grid_for(size, max_grad_norm, rounding)} for {size} numbers and "
            f"max_grad_norm={max_grad_norm}"
        )
    return grid * max_grad_norm * (1.0 + SLACK) + math.sqrt(size)


def _sigma(sensitivity: float, noise_multiplier: float, size: int) -> float:
    """sigma with its smoothing. Raises PrivacyError when it is larger than can be drawn."""
    _positive("noise_multiplier", noise_multiplier)
    sigma = math.hypot(noise_multiplier * sensitivity, SMOOTHING)
    if sigma > MAX_SIGMA:
        raise PrivacyError(
            f"noise multiplier {noise_multiplier:.4g} for {size:,} numbers comes to {sigma:.3g} "
            f"grid steps, and at most {MAX_SIGMA:.3g} can be drawn exactly; give a larger epsilon, "
            "fewer steps, or a smaller model"
        )
    return sigma


def share_count_sigma(sensitivity: float, noise_multiplier: float, shares: int) -> float:
    """sigma of one site's share of the noise on a sum of counts; see `count_sigma`.

    At least `shares` honest sites' shares are in the sum, which then has the noise multiplier that
    is given, by the module text's argument on shares.

    >>> f"{share_count_sigma(sensitivity=2.0, noise_multiplier=4.0, shares=4):.0f}"
    '5'
    """
    if shares < 1:
        raise PrivacyError(f"shares={shares}: expected 1 or more")
    return count_sigma(sensitivity, noise_multiplier / math.sqrt(shares))


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise PrivacyError(f"{name}={value}: expected a finite number above 0")
