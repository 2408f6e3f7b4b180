"""Per-unit gradients by `torch.func.vmap(grad)`: for any model, but they are all kept in memory."""

import torch
from torch.func import functional_call, grad, vmap

from common.privacy.clipping.accumulator import Accumulator
from common.privacy.clipping.engine_api import (
    Problem,
    Rectangle,
    add_clipped,
    cheap,
    rows_within_memory,
    total_loss,
)


class VmapEngine:
    """Works for layers of any kind: the fallback, and what the tests compare the others with."""

    def chunk(self, problem: Problem, row: torch.Tensor) -> int:
        return rows_within_memory(problem, at_most=512 if cheap(row) else 16)

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
        weights: torch.Tensor,
    ) -> torch.Tensor:
        logits = functional_call(problem.model, {**frozen, **parameters}, (inputs,))
        return total_loss(problem, logits, Rectangle(inputs, targets, weights, len(inputs)))

    current = {name: p.detach() for name, p in problem.parameters.items()}
    per_unit = vmap(grad(unit_loss), in_dims=(None, 0, 0, 0), randomness="different")
    rows = (_by_unit(t, part.width) for t in (part.inputs, part.targets, part.weights))
    gradients: dict[str, torch.Tensor] = per_unit(current, *rows)
    return gradients


def _by_unit(rows: torch.Tensor, width: int) -> torch.Tensor:
    return rows.reshape(-1, width, *rows.shape[1:])
