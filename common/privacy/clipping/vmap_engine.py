"""Per-unit gradients by `torch.func.vmap(grad)`: any model, at the cost of keeping them all."""

import torch
from torch.func import functional_call, grad, vmap

from common.privacy.clipping.flat import Accumulator
from common.privacy.clipping.problem import (
    SMALL_ROW,
    Problem,
    Rectangle,
    add_clipped,
    rows_within_memory,
    total_loss,
)


class VmapEngine:
    """Knows no layer by name; the fallback, and the tests' second opinion."""

    def chunk(self, problem: Problem, inputs: torch.Tensor) -> int:
        return rows_within_memory(problem, at_most=1024 if inputs[:1].numel() <= SMALL_ROW else 16)

    def add(self, problem: Problem, part: Rectangle, total: Accumulator) -> torch.Tensor:
        gradients = _unit_gradients(problem, part)
        return add_clipped(problem, gradients, total)

    def finish(self, total: Accumulator) -> None:
        return None


def _unit_gradients(problem: Problem, part: Rectangle) -> dict[str, torch.Tensor]:
    frozen = {
        name: tensor.detach()
        for name, tensor in (*problem.model.named_parameters(), *problem.model.named_buffers())
        if name not in problem.parameters
    }

    def unit_loss(
        parameters: dict[str, torch.Tensor],
        inputs: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
    ) -> torch.Tensor:
        logits = functional_call(problem.model, {**frozen, **parameters}, (inputs,))
        return total_loss(problem, logits, Rectangle(inputs, targets, weights, len(inputs)))

    current = {name: p.detach() for name, p in problem.parameters.items()}
    weights = None if part.weights is None else _by_unit(part.weights, part.width)
    in_dims = (None, 0, 0, None if weights is None else 0)
    per_unit = vmap(grad(unit_loss), in_dims=in_dims, randomness="different")
    gradients: dict[str, torch.Tensor] = per_unit(
        current, _by_unit(part.inputs, part.width), _by_unit(part.targets, part.width), weights
    )
    return gradients


def _by_unit(rows: torch.Tensor, width: int) -> torch.Tensor:
    return rows.reshape(-1, width, *rows.shape[1:])
