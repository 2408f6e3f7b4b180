"""A model's trainable parameters as one flat vector."""

from collections.abc import Mapping

import torch
from torch import nn

from common.errors import PrivacyError
from common.models.classifier import trainable

_BLOCK = 32
"""Rows that are added up in float32; one unit more or less changes how the others are rounded."""

_HELD = 2**22
"""Values of block products that `block_sum` holds at once, unless a single product has more."""

_FEW = 2**14
"""Up to this many values, converting them to float64 is faster than cutting them into blocks."""


def clippable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's trainable parameters by name; a shared one appears once.

    Raises:
        PrivacyError: nothing trains, or a parameter has fewer bits than float32.
    """
    found = trainable(model)
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


def block_sum(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left.T @ right for (n, a) and (n, b), as float64 (a, b).

    Blocks of a few rows are multiplied in float32, and their products are added in float64. Holds
    at most `_HELD` values, or one product.
    """
    rows, values = len(left), left.shape[1] * right.shape[1]
    if left.numel() + right.numel() <= _FEW:
        return left.double().T @ right.double()
    block = max(_BLOCK, -(-rows * values // _HELD))
    if rows <= block:
        return (left.T @ right).double()
    whole = rows // block * block
    first, second = (t[:whole].reshape(-1, block, t.shape[1]) for t in (left, right))
    total = torch.bmm(first.transpose(1, 2), second).sum(0, dtype=torch.float64)
    return total.add_(left[whole:].T @ right[whole:])


class Accumulator:
    """A float64 sum of gradients, (P,), with a view for each parameter.

    Not float32: that rounds a sum of B units by 2^-24 B C, which is more than a unit's share may
    grow by.
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
        """Add `gradient`, which has as many values as `parameter`, to the parameter's part."""
        self.views[id(parameter)].add_(gradient.reshape(parameter.shape))
