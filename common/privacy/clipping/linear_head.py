"""Per-unit gradients of a model that ends in the one layer that trains, a Linear on features.

With a unit a row, a gradient is one outer product of what the loss sends back and what the layer
is given. No pass back through the model is needed, and no graph of it.
"""

from dataclasses import dataclass

import torch
from torch import nn

from common.privacy.clipping.accumulator import Accumulator
from common.privacy.clipping.contributions import Ghost
from common.privacy.clipping.engine_api import (
    Problem,
    Rectangle,
    UnsupportedLayerError,
    scaled_sum,
    squared_norms,
    total_loss,
)
from common.privacy.clipping.layers import as_precise
from common.privacy.clipping.linear import contract
from common.privacy.clipping.precision import no_autocast


@dataclass(frozen=True)
class LinearHead:
    """The clipped sums of such a model.

    They are to the bit what the layers' closed forms give, from 2 inputs and 2 classes on.
    """

    before: tuple[nn.Module, ...]
    """Modules without trainable parameters that the inputs pass first."""
    last: nn.Linear

    @classmethod
    def of(cls, model: nn.Module) -> "LinearHead | None":
        """The model as a head; None where more than its last layer trains, or hooks look at it."""
        *before, last = model if type(model) is nn.Sequential else (model,)
        if type(last) is not nn.Linear or _hooked(model) or _hooked(last):
            return None
        if any(value.requires_grad for module in before for value in module.parameters()):
            return None
        if not all(value.requires_grad for value in last.parameters()):
            return None
        return cls(tuple(before), last)

    def add(self, problem: Problem, part: Rectangle, total: Accumulator) -> torch.Tensor:
        """Add the clipped gradients of the part's units, a row each; return their norms."""
        inputs, backprops = self._passed(problem, part)
        with torch.no_grad(), no_autocast(inputs.device):
            behind = squared_norms(backprops)
            squares = squared_norms(inputs) * behind
            norms = (squares if self.last.bias is None else squares + behind).sqrt()
            factors = problem.rule.factors(norms)
            rows = inputs[:, None], backprops[:, None]
            Ghost(self.last.get_parameter("weight"), squares, *rows, contract).add(factors, total)
            if self.last.bias is not None:
                total.add(self.last.bias, scaled_sum(backprops, factors))
        return norms

    def _passed(self, problem: Problem, part: Rectangle) -> tuple[torch.Tensor, torch.Tensor]:
        """What the layer is given, (rows, in), and the loss's gradient by its output, (rows, out).

        Raises UnsupportedLayerError where that is not one vector a row.
        """
        with torch.no_grad():
            inputs = part.inputs
            for module in self.before:
                inputs = module(inputs)
            if inputs.shape != (len(part.inputs), self.last.in_features):
                raise UnsupportedLayerError(f"Linear on {tuple(inputs.shape)} in a head")
            logits = self.last(inputs)
        scalar = total_loss(problem, logits.requires_grad_(), part)
        (backprops,) = torch.autograd.grad(scalar, logits, materialize_grads=True)
        weight = self.last.weight
        return as_precise(inputs, weight), as_precise(backprops, weight)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
