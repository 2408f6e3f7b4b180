"""`hemofed bench noise`: the time of private noise, beside torch's noise, which protects nobody."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from common.privacy.noise import NoiseSource, discrete_gaussian, privatise
from common.privacy.noise_source import WORDS_A_CALL
from simulations.bench.harness import Measure, in_turn, report

VALUES = 11_200_000
"""The number of parameters of a ResNet-18."""
_SIGMA = 2.0**23


def run(quick: bool, json_file: Path | None) -> None:
    """Measure, print the figures, and write them to `json_file` if given."""
    torch.set_num_threads(1)
    count = VALUES // 10 if quick else VALUES
    source, total = NoiseSource.secure(), torch.zeros(count)
    contestants = {
        "torch.normal": _timed(count, lambda: torch.normal(0.0, 1.0, (count,))),
        "AES-CTR words": _timed(count, lambda: source.words(count)),
        "rounded Gaussian": _timed(count, lambda: _rounded(count, _SIGMA, source)),
        "discrete Gaussian": _timed(count, lambda: discrete_gaussian(count, _SIGMA, source)),
        "privatise": _timed(
            count,
            lambda: privatise(total, max_grad_norm=1.0, noise_multiplier=1.0, source=source),
        ),
    }
    outcomes = in_turn(contestants, 2 if quick else 5)
    title = f"Noise for {count:,} values, one thread"
    report(title, outcomes, "torch.normal", json_file)


def _timed(count: int, draw: Callable[[], object]) -> Measure:
    def measure() -> dict[str, float]:
        start = time.perf_counter()
        draw()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "ns a value": seconds / count * 1e9}

    return measure


def _rounded(n: int, sigma: float, source: NoiseSource) -> NDArray[np.int64]:
    """Return n values of round(N(0, sigma^2)) by Box and Muller (1958), for comparison.

    Training does not offer this sampler: float64 has no uniform number below 2^-54 and an inexact
    logarithm, so the tail ends at 8.6 sigma and no bound on delta is proved (Mironov 2012).
    """
    out = np.empty(n, dtype=np.int64)
    for start in range(0, n, WORDS_A_CALL):
        piece = out[start : start + WORDS_A_CALL]
        half = (len(piece) + 1) // 2
        uniform = torch.from_numpy((source.words(2 * half) >> np.uint64(11)) + 0.5) * 2.0**-53
        radius = torch.sqrt(torch.log(uniform[:half]) * -2.0) * sigma
        angle = uniform[half:] * (2.0 * math.pi)
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])
        piece[:] = torch.round(both).numpy()[: len(piece)]
    return out
