"""What the steps' inner products say of each canary: the adversary's statistic.

Any function of what was released is the adversary's right, and so is choosing between two by
looking at it: the bounds hold for whatever it does.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOOKED_THROUGH = 1024
"""Steps compared pair by pair."""
WEAKER = 0.9
"""A step whose noise looks weaker than this part of the claimed is weighed by how it looks."""
WEAKEST = 0.05
"""Noise that is not there is taken for this, in clipping norms: canaries overlap a little."""


def scores(seen: Floats, sizes: Floats, rate: float, noise: float) -> Floats:
    """Scores (m,); larger: more likely included.

    seen: (steps, m) inner products in clipping norms; sizes: (steps, m) what the canary would add
    if it were in the batch. The log-likelihood ratio is the best there is for independent Gaussian
    noise (Neyman and Pearson), with the noise of each step as it looks where it looks too weak.
    Noise that comes back is subtracted in place of averaged.
    """
    repeats = _repeats(seen[:LOOKED_THROUGH], _alike(rate, noise)) if rate < 1 else []
    if repeats:
        return np.asarray(np.sum([seen[group].var(0) for group in repeats], axis=0))
    looks = apparent_noise(seen, sizes, rate, noise)
    return np.asarray(log_ratios(seen, sizes, rate, looks[:, None]).sum(0))


def apparent_noise(seen: Floats, sizes: Floats, rate: float, noise: float) -> Floats:
    """(steps,) noise multipliers: the claimed one, unless a step spreads too little for it."""
    joined = rate / 2
    signal = sizes.mean(1) ** 2 * joined * (1 - joined)
    looks = np.sqrt(np.maximum(seen.var(1) - signal, WEAKEST**2))
    return np.where(looks < WEAKER * noise, looks, noise)


def log_ratios(seen: Floats, sizes: Floats, rate: float, noise: float | Floats) -> Floats:
    """Of N(size, noise^2) with probability `rate`, else N(0, noise^2), over the latter."""
    odds = sizes * (seen - sizes / 2) / noise**2
    with np.errstate(divide="ignore"):
        ratios: Floats = np.logaddexp(np.log1p(-rate), np.log(rate) + odds)
    return ratios


def _alike(rate: float, noise: float) -> float:
    """Correlation of two steps, over canaries, above which their noise is taken for the same:
    half way from what the included canaries make it, with noise of its own each, to 1."""
    shared = rate**2 / 4
    honest = shared / (noise**2 + rate / 2 - shared)
    return (1 + honest) / 2


def _repeats(seen: Floats, least: float) -> list[NDArray[np.int64]]:
    """Groups of two or more steps that correlate by `least` with the first of the group."""
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
