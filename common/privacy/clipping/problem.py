"""What every clipping engine is given, and what it must do with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from common.privacy.clipping.flat import Accumulator
from common.privacy.clipping.rule import ClipRule

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits of B rows, targets of B rows) -> B losses, each of its own row alone."""


@dataclass(frozen=True)
class Rectangle:
    """The rows of some whole units, `width` consecutive rows a unit."""

    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    """(units * width,): multiplies each row's loss; a unit's weights sum to 1."""
    width: int

    @property
    def units(self) -> int:
        return len(self.inputs) // self.width


@dataclass(frozen=True)
class Problem:
    """The part of a call that is the same for every chunk."""

    model: nn.Module
    loss: Loss
    parameters: dict[str, nn.Parameter]
    rule: ClipRule


class UnsupportedLayerError(Exception):
    """Closed forms do not cover a use of a layer; `torch.func.vmap` does."""


class Engine(Protocol):
    """A way to compute clipped sums. Affects speed and memory, never the mechanism."""

    def chunk(self, problem: Problem, inputs: torch.Tensor) -> int:
        """Rows to take at once when the caller does not say."""

    def add(self, problem: Problem, part: Rectangle, total: Accumulator) -> torch.Tensor:
        """Add the part's clipped gradients to `total`; return the norms, float64 (units,).

        Raises:
            UnsupportedLayerError: the engine cannot treat this model; another must start again.
        """

    def finish(self, total: Accumulator) -> None:
        """Called once after the last `add`."""


def weighted_loss(problem: Problem, part: Rectangle) -> torch.Tensor:
    """Sum of the units' mean losses, a scalar."""
    losses = problem.loss(problem.model(part.inputs), part.targets)
    return (losses * part.weights.to(losses.dtype)).sum()


def add_scaled(
    gradients: torch.Tensor, factors: torch.Tensor, parameter: torch.Tensor, total: Accumulator
) -> None:
    """Add sum_u factors[u] * gradients[u]; a unit with factor 0 adds nothing, NaN included."""
    rows = gradients.reshape(len(factors), -1)
    if not bool((factors > 0).all()):
        rows = rows[factors > 0]
        factors = factors[factors > 0]
    total.add(parameter, factors.to(rows.dtype) @ rows)


def squared_norms(gradients: torch.Tensor) -> torch.Tensor:
    """Squared L2 norm of each row of (units, ...), float64 (units,).

    float32 sums over at most 1,024 products each, their results added in float64: the relative
    error stays below 1e-6 for rows of any length, at the speed of float32.
    """
    rows = gradients.flatten(1)
    if rows.dtype == torch.float64:
        return rows.square().sum(1)
    whole = rows.shape[1] // 1024 * 1024
    blocks = rows[:, :whole].reshape(len(rows), whole // 1024, 1024)
    long: torch.Tensor = torch.linalg.vector_norm(blocks, dim=2).double().square().sum(1)
    rest: torch.Tensor = rows[:, whole:].double().square().sum(1)
    total: torch.Tensor = long + rest
    return total
