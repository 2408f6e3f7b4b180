"""From the sites' updates to the next model: a running sum, then the server's optimizer."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from common.config import ServerOptimizer
from common.errors import ModelError
from common.payload import Vector

_SCALE = 2.0**40
_CHUNK = 1 << 18


def reject(values: Vector, max_norm: float) -> str | None:
    """Why an update may not enter the sum, or None: it must be finite and its norm bounded."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = update_norm(values)
    if not np.isfinite(norm):
        return "the update is not finite"
    if norm > max_norm:
        return f"the update's norm {norm:.3g} exceeds max_update_norm {max_norm:.3g}"
    return None


def update_norm(values: Vector) -> float:
    """L2 norm, in float64."""
    return float(np.sqrt(np.sum(values * values.astype(np.float64))))


class RunningSum:
    """The weighted mean of updates, added as they come; one accumulator whatever their number.

    Values are rounded to multiples of 2^-40 and summed as int64, so the sum is exact and the same
    in any order: no site waits for another and no reply is kept. The rounding is below 5e-13 a
    value. With norms up to 2^20 and weights that sum to at most 1 nothing overflows.
    """

    def __init__(self, size: int) -> None:
        self._sum: NDArray[np.int64] = np.zeros(size, np.int64)
        self._weights: list[float] = []

    def add(self, values: Vector, weight: float) -> None:
        """Add `weight * values` (P,). The caller has checked the values (`reject`)."""
        if not 0 <= weight <= 1:
            raise ModelError(f"expected 0 <= weight={weight} <= 1")
        self._weights.append(weight)
        for start in range(0, len(values), _CHUNK):
            piece = values[start : start + _CHUNK] * (weight * _SCALE)
            self._sum[start : start + _CHUNK] += np.rint(piece).astype(np.int64)

    def mean(self) -> NDArray[np.float64]:
        """sum(weight * values) / sum(weight), float64 (P,). Raises ModelError without weight."""
        weight = float(np.sum(np.sort(np.array(self._weights))))
        if weight <= 0:
            raise ModelError("no update with a positive weight to average")
        return self._sum / (_SCALE * weight)


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
