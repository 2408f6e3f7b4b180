"""The server's optimizer: makes the next model from the round's aggregated update."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.config.study import ServerOptimizer
from common.wire.vector_codec import Vector


@dataclass
class Optimizer:
    """The server optimizers of Reddi et al. 2021 (arXiv 2003.00295), algorithm 2.

    With the model x, the aggregated update d, the moments m and v, and the learning rate lr:

    fedavg   x += lr * d
    fedavgm  m = beta1 m + d;              x += lr * m   (Hsu et al. 2019, arXiv 1909.06335)
    fedadam  m = beta1 m + (1-beta1) d;    v = beta2 v + (1-beta2) d^2
    fedyogi  m as fedadam;                 v -= (1-beta2) d^2 sign(v - d^2)
             both:                         x += lr * m / (sqrt(v) + tau)

    >>> optimizer = Optimizer(ServerOptimizer(name="fedavgm", learning_rate=1.0, beta1=0.5))
    >>> model, update = np.zeros(1, np.float32), np.ones(1)
    >>> model = optimizer.step(model, update)
    >>> optimizer.step(model, update), optimizer.moments
    (array([2.5], dtype=float32), {'m': array([1.5])})
    """

    spec: ServerOptimizer
    """The optimizer's name and parameters."""
    moments: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """The moments "m" and "v" that the optimizer has set, each (P,) float64."""

    def step(self, model: Vector, mean: NDArray[np.float64]) -> Vector:
        """Return the next model, (P,) float32, and update the moments.

        Args:
            model: the model (P,) float32 that the sites started from.
            mean: the aggregated update (P,) float64.
        """
        spec = self.spec
        direction = mean if spec.name == "fedavg" else self._momentum(mean)
        if spec.name in ("fedadam", "fedyogi"):
            direction = direction / (np.sqrt(self._second(mean)) + spec.tau)
        step = spec.learning_rate * direction
        step += model
        return step.astype(np.float32)

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
    """Return the next exponential moving average of the models, (P,) float32.

    The decay is min(decay, (1 + round) / (10 + round)), the warm-up of De et al. (arXiv 2204.13650,
    appendix C.1). A decay of 0 gives the model itself.

    >>> averaged(np.float32([0]), np.float32([8]), decay=0.5, round_number=8)
    array([4.], dtype=float32)
    """
    if decay == 0:
        return model
    decay = min(decay, (1 + round_number) / (10 + round_number))
    return (decay * average + (1 - decay) * model).astype(np.float32)
