"""What every clipping engine receives, and what it must do with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from common.errors import PrivacyError
from common.privacy.clipping.accumulator import Accumulator, block_sum
from common.privacy.clipping.clip_rule import ClipRule
from common.privacy.clipping.precision import no_autocast

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits of B rows, targets of B rows) -> B losses; each depends on its own row alone."""

MakeRows = Callable[[torch.Tensor], torch.Tensor]
"""(int64 (n,) positions in a batch, on the CPU) -> (n, ...) rows on the model's device. For a given
n no bit of a row depends on the others."""

_KEPT = 2**26
"""How many values of per-unit gradients an engine that keeps them all may hold at once."""


@dataclass(frozen=True)
class Rectangle:
    """The rows of some whole units: each unit has `width` consecutive rows."""

    inputs: torch.Tensor
    """(units * width, ...)"""
    targets: torch.Tensor
    """(units * width, ...)"""
    weights: torch.Tensor
    """float64 (units * width,): each row's loss is multiplied by its weight. A unit's weights sum
    to 1, or are all 0: then the unit only fills the shape, and its gradient is zeros, or not
    finite."""
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
    """A way to compute clipped sums. It affects speed and memory, never the mechanism."""

    def chunk(self, problem: Problem, row: torch.Tensor) -> int:
        """How many rows like `row`, (1, ...), to take at once at most, unless the caller says."""

    def add(self, problem: Problem, part: Rectangle, total: Accumulator) -> torch.Tensor:
        """Add the part's clipped gradients to `total`; return the norms, float64 (units,).

        Raises:
            UnsupportedLayerError: the engine cannot treat this model; another must start again.
        """

    def finish(self, total: Accumulator) -> None:
        """Called once after the last `add`."""


def weighted_loss(problem: Problem, part: Rectangle) -> torch.Tensor:
    """The sum of the units' mean losses, a scalar. Raises PrivacyError like `total_loss`."""
    return total_loss(problem, problem.model(part.inputs), part)


def total_loss(problem: Problem, logits: torch.Tensor, part: Rectangle) -> torch.Tensor:
    """The weighted sum of the rows' losses, a scalar.

    Raises:
        PrivacyError: the loss is not one value a row.
    """
    losses = problem.loss(logits, part.targets)
    if losses.shape != (len(part.inputs),):
        raise PrivacyError(
            f"Expected the loss to give {len(part.inputs)} values, one a row, of shape "
            f"({len(part.inputs)},); got {tuple(losses.shape)}. Use reduction='none'."
        )
    return (losses * part.weights.to(losses.dtype)).sum()


def scaled_sum(gradients: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """sum_u factors[u] * gradients[u], float64; a unit with factor 0 adds nothing, NaN included.

    It stays in its place, as zeros: how a sum is computed must not depend on what others are.
    """
    rows = gradients.reshape(len(factors), -1)
    if not bool(factors.all()):
        rows = rows.masked_fill((factors == 0)[:, None], 0)
    with no_autocast(rows.device):
        found = block_sum(factors.to(rows.dtype)[:, None], rows)
    return found.view(gradients.shape[1:])


def add_clipped(
    problem: Problem, gradients: dict[str, torch.Tensor], total: Accumulator
) -> torch.Tensor:
    """Clip per-unit gradients and add them to `total`; return their norms, float64 (units,).

    `gradients` holds (units, *shape) for the name of every parameter.
    """
    norms = torch.stack([squared_norms(g) for g in gradients.values()]).sum(0).sqrt()
    factors = problem.rule.factors(norms)
    for name, parameter in problem.parameters.items():
        total.add(parameter, scaled_sum(gradients[name], factors))
    return norms


def cheap(row: torch.Tensor) -> bool:
    """Whether rows like `row`, (1, ...), are features: many of them cost less than a call."""
    return row.dim() == 2


def rows_within_memory(problem: Problem, at_most: int) -> int:
    """Rows, at most `at_most`, whose kept gradients fit in a quarter of a GiB in float32."""
    size = sum(p.numel() for p in problem.parameters.values())
    return max(1, min(at_most, _KEPT // size))


def squared_norms(gradients: torch.Tensor) -> torch.Tensor:
    """Squared L2 norm of each row of (units, ...), float64 (units,).

    It is never too small by more than rounding, which `clip_rule.MARGIN` covers. float32 sums run
    over at most 1,024 products each, and their results are added in float64: the relative error
    stays below 4e-6 for rows of any length, and is mostly below 1e-6, at the speed of float32. Each
    square and each sum may lose 2^-126 to underflow, so as much is added.
    """
    rows = gradients.reshape(len(gradients), -1)
    if rows.dtype == torch.float64:
        return rows.square().sum(1)
    whole = rows.shape[1] // 1024 * 1024
    lost = rows.shape[1] * 2.0**-125
    squares = torch.full((len(rows),), lost, dtype=torch.float64, device=rows.device)
    if whole:
        blocks = rows[:, :whole].reshape(len(rows), whole // 1024, 1024)
        squares += torch.linalg.vector_norm(blocks, dim=2).double().square().sum(1)
    if whole < rows.shape[1]:
        squares += torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square()
    return squares
