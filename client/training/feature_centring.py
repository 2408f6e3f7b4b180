"""The first round of a study with `model.centre`: the mean of the features, and no training.

What all cells have in common says nothing of their types, but takes up much of each clipped
gradient. Under privacy the mean is had by the sums that training has, of vectors as long as a
clipped gradient may be: a unit's share is its mean feature vector, scaled to that.
"""

import math

import torch
from torch import Tensor, nn

from client.training.inputs import Inputs, not_none
from common.models.layers import Centred, standardised

ROUND = 1
"""The round that finds the centre."""


class Offset(nn.Module):
    """Standardised features (N, D), scaled to length max_grad_norm, less an offset of zeros.

    With `half_square` as loss, a row's gradient by the offset is minus its scaled features.
    """

    def __init__(self, dim: int, max_grad_norm: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(dim))
        self.scale = max_grad_norm / math.sqrt(dim)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * standardised(features) - self.offset

    def mean(self, gradients: Tensor) -> Tensor:
        """The mean features (D,) that mean gradients (steps, D) of the offset tell."""
        return -gradients.mean(0) / self.scale


def half_square(vectors: Tensor, _: Tensor) -> Tensor:
    """(N,) half the squared lengths."""
    return vectors.square().sum(1) / 2


def centre_of(network: nn.Module) -> nn.Parameter:
    """The network's centre, (D,)."""
    (layer,) = (part for part in network.modules() if isinstance(part, Centred))
    return layer.centre


def plain_mean(inputs: Inputs) -> Tensor:
    """The mean (D,) of the site's standardised training features. Raises DataError: none."""
    return standardised(inputs.batch(not_none(inputs.cells.rows("train")))).mean(0)
