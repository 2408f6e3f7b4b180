"""The mechanism: what is released, how far two neighbours' sums can lie apart, and the proof."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from common.errors import PrivacyError
from common.privacy import noise
from common.privacy.noise import NoiseSource, grid_for, grid_sigma, privatise

CLIPS = st.floats(1e-4, 1e4)


def seeded(name: str = "mechanism") -> NoiseSource:
    return NoiseSource.seeded(name.encode())


@given(
    size=st.integers(1, 300),
    clip=CLIPS,
    units=st.integers(0, 400),
    aligned=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_neighbouring_sums_stay_within_the_sensitivity(
    size: int, clip: float, units: int, aligned: bool, seed: int
) -> None:
    """In float32, as the engine sums: one unit more moves the rounded sum by at most D."""
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((units + 1, size)) + 30.0 * aligned
    gradients *= clip / np.linalg.norm(gradients, axis=1, keepdims=True)
    gradients = gradients.astype(np.float32)
    grid = grid_for(size, clip)
    less = noise.quantise(torch.from_numpy(gradients[:-1].sum(axis=0, dtype=np.float32)), grid)
    more = noise.quantise(torch.from_numpy(gradients.sum(axis=0, dtype=np.float32)), grid)
    covered = math.sqrt(grid_sigma(size, clip, 1.0, grid) ** 2 - noise.SMOOTHING**2)
    assert np.linalg.norm(more - less) <= covered


@given(size=st.integers(1, 10**9), clip=CLIPS, multiplier=st.floats(0.1, 4))
@settings(max_examples=100)
def test_the_noise_is_what_was_asked_and_hardly_more(
    size: int, clip: float, multiplier: float
) -> None:
    grid = grid_for(size, clip)
    sigma = grid_sigma(size, clip, multiplier, grid)
    assert math.log2(grid).is_integer()
    assert math.sqrt(sigma**2 - noise.SMOOTHING**2) >= multiplier * grid * clip
    assert sigma / grid <= multiplier * clip * 1.0015 + 2 * noise.SMOOTHING / grid


def test_zeros_come_out_as_noise_of_the_stated_size() -> None:
    out = privatise(
        torch.zeros(1_000_000), max_grad_norm=0.5, noise_multiplier=2.0, source=seeded()
    )
    assert out.dtype == torch.float32
    assert float(out.std()) == pytest.approx(1.0, rel=4e-3)
    assert abs(float(out.mean())) < 5e-3
    assert stats.kstest(out[:200_000].numpy(), "norm", args=(0, float(out.std()))).pvalue > 1e-6


def test_the_same_noise_is_added_to_any_sum() -> None:
    total = torch.linspace(-3, 3, 5000)
    settings_ = {"max_grad_norm": 1.0, "noise_multiplier": 1.0}
    noisy = privatise(total, **settings_, source=seeded())
    alone = privatise(torch.zeros(5000), **settings_, source=seeded())
    assert torch.allclose(noisy - alone, total, atol=1e-5)


def test_two_steps_of_one_source_have_different_noise() -> None:
    bits = NoiseSource.secure()
    one, two = (
        privatise(torch.zeros(1000), max_grad_norm=1.0, noise_multiplier=1.0, source=bits)
        for _ in range(2)
    )
    assert not torch.any(one == two)


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_PIECE", 1000)
    out = privatise(torch.zeros(2500), max_grad_norm=1.0, noise_multiplier=1.0, source=seeded())
    assert len(torch.unique(out)) > 2400


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_sum_that_is_not_finite_is_refused(bad: float) -> None:
    total = torch.zeros(10)
    total[3] = bad
    with pytest.raises(PrivacyError, match="nothing was released"):
        privatise(total, max_grad_norm=1.0, noise_multiplier=1.0, source=seeded())


@pytest.mark.parametrize("shape", [(0,), (2, 2), ()])
def test_only_a_flat_vector_is_taken(shape: tuple[int, ...]) -> None:
    with pytest.raises(PrivacyError, match="shape"):
        privatise(torch.zeros(shape), max_grad_norm=1.0, noise_multiplier=1.0, source=seeded())


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["max_grad_norm", "noise_multiplier", "grid"])
def test_every_bound_is_named(name: str, value: float) -> None:
    given_ = {"max_grad_norm": 1.0, "noise_multiplier": 1.0, "grid": 2.0**16, name: value}
    with pytest.raises(PrivacyError, match=f"{name}="):
        privatise(torch.zeros(4), source=seeded(), **given_)


@pytest.mark.parametrize("grid", [65_537.0, 1024.0])
def test_a_grid_off_or_too_coarse_is_refused(grid: float) -> None:
    with pytest.raises(PrivacyError, match="power of two of at least 32768"):
        privatise(
            torch.zeros(100), max_grad_norm=1.0, noise_multiplier=1.0, source=seeded(), grid=grid
        )


@pytest.mark.parametrize("s", [0.5, 2.0, 7.3])
def test_the_discrete_gaussian_is_post_processing_of_the_continuous_one(s: float) -> None:
    """The module's lemma, by numerical integration: Z made from Y ~ N(0, s^2) has N_Z's law."""
    r = noise.SMOOTHING
    integers = np.arange(-200, 201)
    law = np.exp(-np.square(integers) / (2 * (s**2 + r**2)))
    law /= law.sum()

    def density(y: float, z: int) -> float:
        near = np.exp(-np.square(integers - y) / (2 * r**2))
        kernel = math.exp(-((z - y) ** 2) / (2 * r**2)) / near.sum()
        return float(stats.norm.pdf(y, scale=s)) * kernel

    for z in (0, 1, 5, 11):
        made, _ = integrate.quad(density, -9 * s, 9 * s, args=(z,), epsabs=1e-13, limit=200)
        assert made == pytest.approx(law[200 + z], rel=1e-8)


@pytest.mark.parametrize("rate", [1.0, 0.3, 0.05])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 3.0])
def test_discrete_noise_costs_no_more_than_the_accountant_is_told(
    multiplier: float, rate: float
) -> None:
    """Hockey-stick divergence, both ways: the sampled discrete one is within the continuous."""
    distance = 20
    sigma = math.hypot(multiplier * distance, noise.SMOOTHING)
    x = np.arange(-int(13 * sigma), int(13 * sigma) + distance)
    q = np.exp(-np.square(x / sigma) / 2)
    shifted = np.exp(-np.square((x - distance) / sigma) / 2)
    p = (1 - rate) * q / q.sum() + rate * shifted / shifted.sum()
    q = q / q.sum()
    y = np.linspace(-13, 13 + 1 / multiplier, 400_001)
    f = stats.norm.pdf(y)
    g = (1 - rate) * f + rate * stats.norm.pdf(y, loc=1 / multiplier)
    width = y[1] - y[0]
    for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0):
        for (one, other), (a, b) in (((p, q), (g, f)), ((q, p), (f, g))):
            discrete = np.maximum(one - math.exp(epsilon) * other, 0).sum()
            continuous = np.maximum(a - math.exp(epsilon) * b, 0).sum() * width
            assert discrete <= continuous + 1e-9
