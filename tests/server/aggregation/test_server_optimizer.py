import numpy as np
import pytest

from common.config.study import ServerOptimizer
from server.aggregation.server_optimizer import Optimizer, averaged

rng = np.random.default_rng(0)


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
