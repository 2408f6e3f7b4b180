"""The adversary's statistic: the best there is, and sharper where the noise is at fault."""

import numpy as np
import pytest
from scipy.stats import norm

from simulations.privacy_audit.guesses import correct
from simulations.privacy_audit.scores import apparent_noise, log_ratios, scores
from simulations.privacy_audit.tradeoff import claimed

RATE, NOISE = 0.5, 2.0


def seen(noise: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(steps, 2000) inner products under noise (steps, 1) or (steps, 2000), and the coins."""
    rng = np.random.default_rng(seed)
    coins = rng.integers(0, 2, 2000).astype(bool)
    joined = coins & (rng.random((len(noise), 2000)) < RATE)
    return joined + noise, coins


def gaussian(steps: int, scale: float, seed: int = 1) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal((steps, 2000))


def test_the_ratio_is_that_of_the_densities() -> None:
    values = np.linspace(-3, 4, 15)[None]
    sizes = np.full_like(values, 0.8)
    inside = RATE * norm.pdf(values, 0.8, NOISE) + (1 - RATE) * norm.pdf(values, 0, NOISE)
    expected = np.log(inside / norm.pdf(values, 0, NOISE))
    assert log_ratios(values, sizes, RATE, NOISE) == pytest.approx(expected)
    assert log_ratios(values, sizes, 1.0, NOISE) == pytest.approx(
        np.log(norm.pdf(values, 0.8, NOISE) / norm.pdf(values, 0, NOISE))
    )


def test_honest_noise_is_weighed_as_claimed_and_guessed_as_well_as_can_be() -> None:
    values, coins = seen(gaussian(12, NOISE))
    ones = np.ones_like(values)
    assert (apparent_noise(values, ones, RATE, NOISE) == NOISE).all()
    best = (1 + claimed(NOISE, RATE, 12).deltas[0]) / 2
    right = correct(scores(values, ones, RATE, NOISE), coins, 2000) / 2000
    assert right == pytest.approx(best, abs=0.03)


def test_one_step_without_noise_is_seen_and_used() -> None:
    noise = gaussian(12, NOISE)
    noise[5] = 0
    values, coins = seen(noise)
    ones = np.ones_like(values)
    looks = apparent_noise(values, ones, RATE, NOISE)
    assert looks[5] < 0.1 and (np.delete(looks, 5) == NOISE).all()
    used = correct(scores(values, ones, RATE, NOISE), coins, 2000)
    plain = correct(log_ratios(values, ones, RATE, NOISE).sum(0), coins, 2000)
    assert used > plain + 50


@pytest.mark.parametrize("period", [1, 3])
def test_noise_that_comes_back_hides_nothing(period: int) -> None:
    values, coins = seen(np.tile(gaussian(period, NOISE), (12 // period, 1)))
    right = correct(scores(values, np.ones_like(values), RATE, NOISE), coins, 2000)
    assert right > 0.97 * 2000
