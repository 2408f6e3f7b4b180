import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import ServerOptimizer
from common.errors import ModelError
from server.aggregation import Optimizer, RunningSum, averaged, reject

rng = np.random.default_rng(0)


def updates(seed: int, sites: int, size: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(seed)
    values = (draws.standard_normal((sites, size)) * scale).astype(np.float32)
    return values, draws.dirichlet(np.ones(sites))


cases = given(st.integers(0, 1000), st.integers(1, 12), st.integers(0, 300), st.floats(1e-6, 1e3))


@cases
def test_the_mean_is_the_weighted_mean(seed: int, sites: int, size: int, scale: float) -> None:
    values, weights = updates(seed, sites, size, scale)
    total = RunningSum(size)
    for value, weight in zip(values, weights, strict=True):
        total.add(value, weight)
    expected = (values.astype(np.float64) * weights[:, None]).sum(0) / weights.sum()
    np.testing.assert_allclose(total.mean(), expected, atol=1e-11 * sites, rtol=1e-12)


@cases
def test_the_order_of_arrival_changes_no_bit(
    seed: int, sites: int, size: int, scale: float
) -> None:
    values, weights = updates(seed, sites, size, scale)
    means = []
    for order in (range(sites), reversed(range(sites)), rng.permutation(sites)):
        total = RunningSum(size)
        for site in order:
            total.add(values[site], weights[site])
        means.append(total.mean())
    assert (means[0] == means[1]).all()
    assert (means[0] == means[2]).all()


def test_sites_left_out_do_not_shrink_the_mean() -> None:
    total = RunningSum(2)
    total.add(np.array([1, 2], np.float32), 0.25)
    np.testing.assert_allclose(total.mean(), [1, 2])


def test_no_weight_has_no_mean() -> None:
    with pytest.raises(ModelError, match="positive weight"):
        RunningSum(3).mean()


def test_the_largest_update_that_is_accepted_does_not_overflow() -> None:
    total = RunningSum(1)
    for _ in range(8):
        total.add(np.array([2.0**20], np.float32), 1 / 8)
    assert total.mean() == [2.0**20]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_an_update_that_is_not_finite_or_too_large_is_rejected(value: float) -> None:
    assert reject(np.array([0, value], np.float32), 1e4)


def test_an_update_at_the_bound_is_accepted() -> None:
    assert reject(np.array([3, 4], np.float32), 5.0) is None
    assert reject(np.zeros(0, np.float32), 5.0) is None
    assert "exceeds" in (reject(np.array([3, 4.001], np.float32), 5.0) or "")


def test_fedavg_with_rate_one_gives_the_mean_model() -> None:
    model, mean = np.ones(3, np.float32), np.array([0.5, -1, 0])
    np.testing.assert_allclose(Optimizer(ServerOptimizer()).step(model, mean), [1.5, 0, 1])


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_adaptive_optimizers_follow_their_formulas(name: str) -> None:
    spec = ServerOptimizer(name=name, learning_rate=0.1, beta1=0.9, beta2=0.99, tau=0.01)
    optimizer, model = Optimizer(spec), np.zeros(1, np.float32)
    x, m, v = 0.0, 0.0, 0.01**2
    for d in (0.3, -0.2, 0.05):
        model = optimizer.step(model, np.array([d]))
        m = 0.9 * m + (1.0 if name == "fedavgm" else 0.1) * d
        if name == "fedavgm":
            x += 0.1 * m
            continue
        v = 0.99 * v + 0.01 * d * d if name == "fedadam" else v - 0.01 * d * d * np.sign(v - d * d)
        x += 0.1 * m / (np.sqrt(v) + 0.01)
    assert model[0] == pytest.approx(x, rel=1e-5)


def test_an_optimizer_with_saved_moments_goes_on_bit_for_bit() -> None:
    spec = ServerOptimizer(name="fedadam", learning_rate=0.1)
    whole, model = Optimizer(spec), np.ones(4, np.float32)
    steps = [rng.standard_normal(4) for _ in range(4)]
    for step in steps[:2]:
        model = whole.step(model, step)
    again, copy = Optimizer(spec, {k: v.copy() for k, v in whole.moments.items()}), model.copy()
    for step in steps[2:]:
        model, copy = whole.step(model, step), again.step(copy, step)
    assert (model == copy).all()


def test_the_average_without_decay_is_the_model() -> None:
    model = rng.standard_normal(5).astype(np.float32)
    assert (averaged(np.zeros(5, np.float32), model, 0.0, 1) == model).all()
