"""A model's trainable parameters as one flat vector."""

from collections.abc import Mapping

import torch
from torch import nn

from common.errors import PrivacyError


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that train, by name, in `named_parameters()` order; a shared one appears once.

    Raises:
        PrivacyError: nothing trains, or a parameter has fewer bits than float32.
    """
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise PrivacyError(
            f"{type(model).__name__} has no parameter with requires_grad; nothing can be trained."
        )
    for name, parameter in found.items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise PrivacyError(
                f"Parameter {name} is {parameter.dtype}; norms of so few bits keep no bound. "
                "Train in float32, under torch.autocast if speed matters."
            )
    return found


class Accumulator:
    """A float64 sum of gradients, (P,), with a view for each parameter.

    Not float32: a sum of B units is rounded by 2^-24 B C there, more than a unit's share may grow.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        sizes = [p.numel() for p in parameters.values()]
        device = next(iter(parameters.values())).device
        self.flat = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        pieces = torch.split(self.flat, sizes)
        self.views = {
            id(p): piece.view(p.shape) for p, piece in zip(parameters.values(), pieces, strict=True)
        }

    def add(self, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add a gradient of the parameter's shape."""
        self.views[id(parameter)].add_(gradient.reshape(parameter.shape))
