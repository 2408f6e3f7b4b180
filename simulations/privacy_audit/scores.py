"""The adversary's statistic: scores the canaries by their inner products with the released steps.

The adversary may use any function of what was released, and may choose between two functions after
looking at it: the bounds hold whatever it does.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOOKED_THROUGH = 1024
"""How many steps are compared with each other, pair by pair."""
WEAKER = 0.9
"""A step whose noise appears to be less than this share of the claimed noise is scored with the
noise that it appears to have."""
WEAKEST = 0.05
"""The least noise that a step is scored with, in clipping norms, even if it has none; canaries
overlap a little."""


def scores(seen: Floats, sizes: Floats, rate: float, noise: float) -> Floats:
    """Return the canaries' scores (m,); larger means more likely included.

    The score is the log-likelihood ratio, the best one for independent Gaussian noise (Neyman and
    Pearson). A step whose noise appears too weak is scored with the noise that it appears to have.
    If steps repeat their noise, the variance over them is the score, which cancels the noise.

    Args:
        seen: (steps, m) inner products with the released sums, in clipping norms.
        sizes: (steps, m) what the canary would add if it were in the batch.
        rate: the claimed sample rate.
        noise: the claimed noise multiplier.
    """
    repeats = _repeats(seen[:LOOKED_THROUGH], _alike(rate, noise)) if rate < 1 else []
    if repeats:
        return np.asarray(np.sum([seen[group].var(0) for group in repeats], axis=0))
    looks = apparent_noise(seen, sizes, rate, noise)
    return np.asarray(log_ratios(seen, sizes, rate, looks[:, None]).sum(0))


def apparent_noise(seen: Floats, sizes: Floats, rate: float, noise: float) -> Floats:
    """Return (steps,) noise multipliers: the claimed one, or less if a step varies too little."""
    joined = rate / 2
    signal = sizes.mean(1) ** 2 * joined * (1 - joined)
    looks = np.sqrt(np.maximum(seen.var(1) - signal, WEAKEST**2))
    return np.where(looks < WEAKER * noise, looks, noise)


def log_ratios(seen: Floats, sizes: Floats, rate: float, noise: float | Floats) -> Floats:
    """Return the log-likelihood ratios of `seen` between included and not included.

    An included canary's inner product is N(size, noise^2) with probability `rate` and otherwise
    N(0, noise^2); that of any other canary is N(0, noise^2).

    >>> log_ratios(np.array([0.5, 1.0]), np.ones(2), rate=1.0, noise=1.0)
    array([0. , 0.5])
    """
    odds = sizes * (seen - sizes / 2) / noise**2
    with np.errstate(divide="ignore"):
        ratios: Floats = np.logaddexp(np.log1p(-rate), np.log(rate) + odds)
    return ratios


def _alike(rate: float, noise: float) -> float:
    """Return the correlation of two steps over canaries above which their noise counts as the same.

    It is half way between 1 and the correlation that the included canaries cause if each step has
    noise of its own.
    """
    shared = rate**2 / 4
    honest = shared / (noise**2 + rate / 2 - shared)
    return (1 + honest) / 2


def _repeats(seen: Floats, least: float) -> list[NDArray[np.int64]]:
    """Return groups of two or more steps that correlate above `least` with the group's first."""
    deviations = seen - seen.mean(1, keepdims=True)
    lengths = np.linalg.norm(deviations, axis=1, keepdims=True)
    directions = deviations / np.where(lengths > 0, lengths, 1)
    alike = directions @ directions.T > least
    left, groups = np.ones(len(seen), dtype=bool), []
    for step in range(len(seen)):
        group = np.flatnonzero(alike[step] & left)
        left[group] = False
        if len(group) > 1:
            groups.append(group)
    return groups
