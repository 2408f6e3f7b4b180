"""The definition of a clipped sum, unit by unit in float64, for the engines to be held against."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.privacy.clipping.clip_rule import MARGIN

Reference = Callable[..., tuple[Tensor, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


@pytest.fixture(scope="session")
def reference() -> Reference:
    """(model, inputs, targets, units, bound) -> the clipped sum and the norms, in float64.

    The sum is short by `MARGIN`, as the engines' is.
    """

    def clip(
        model: nn.Module, inputs: Tensor, targets: Tensor, units: Tensor | None, bound: float
    ) -> tuple[Tensor, Tensor]:
        twin = copy.deepcopy(model).double()
        parameters = [p for p in twin.parameters() if p.requires_grad]
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        groups = torch.arange(len(inputs)) if units is None else units
        total, norms = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64), []
        for unit in groups.unique():
            rows = groups == unit
            loss = cross_entropy(twin(inputs[rows]), targets[rows]).mean()
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            gradient = torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for p, g in zip(parameters, found, strict=True)
                ]
            )
            norms.append(gradient.norm())
            total += gradient * MARGIN * min(1.0, bound / float(gradient.norm()))
        return total, torch.stack(norms)

    return clip
