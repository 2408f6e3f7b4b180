"""From the round's aggregated update to the next model: the server's optimizer."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.config.study import ServerOptimizer
from common.wire.vector_codec import Vector


@dataclass
class Optimizer:
    """Server optimizers of Reddi et al. 2021 (arXiv 2003.00295), algorithm 2.

    fedavg   x += lr * d
    fedavgm  m = beta1 m + d;              x += lr * m   (Hsu et al. 2019, arXiv 1909.06335)
    fedadam  m = beta1 m + (1-beta1) d;    v = beta2 v + (1-beta2) d^2
    fedyogi  m as fedadam;                 v -= (1-beta2) d^2 sign(v - d^2)
             both:                         x += lr * m / (sqrt(v) + tau)
    """

    spec: ServerOptimizer
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def step(self, model: Vector, mean: NDArray[np.float64]) -> Vector:
        """The next model (P,) float32 from the mean update (P,)."""
        spec = self.spec
        direction = mean if spec.name == "fedavg" else self._momentum(mean)
        if spec.name in ("fedadam", "fedyogi"):
            direction = direction / (np.sqrt(self._second(mean)) + spec.tau)
        return (model + spec.learning_rate * direction).astype(np.float32)

    def _momentum(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        share = 1.0 if self.spec.name == "fedavgm" else 1 - self.spec.beta1
        before = self.moments.get("m", np.zeros_like(mean))
        self.moments["m"] = self.spec.beta1 * before + share * mean
        return self.moments["m"]

    def _second(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        square, beta2 = mean * mean, self.spec.beta2
        before = self.moments.get("v", np.full_like(mean, self.spec.tau**2))
        if self.spec.name == "fedadam":
            self.moments["v"] = beta2 * before + (1 - beta2) * square
        else:
            self.moments["v"] = before - (1 - beta2) * square * np.sign(before - square)
        return self.moments["v"]


def averaged(average: Vector, model: Vector, decay: float, round_number: int) -> Vector:
    """Exponential moving average of the model, with De et al.'s warm-up (arXiv 2204.13650, C.1):
    the decay is min(decay, (1 + round) / (10 + round))."""
    decay = min(decay, (1 + round_number) / (10 + round_number))
    return (decay * average + (1 - decay) * model).astype(np.float32)
