"""The first round of a study with `model.centre`: the mean of the features, and no training.

What all cells have in common says nothing of their types, but takes up much of each clipped
gradient. Under privacy the mean is computed from the same noisy sums as training uses: a unit's
share of a sum is its mean feature vector, scaled to the length that a clipped gradient may have.
"""

import torch
from torch import Tensor, nn

from client.training.inputs import Inputs, not_none
from common.models.centring import offset_scale
from common.models.layers import Centred, standardised


class Offset(nn.Module):
    """Subtracts an offset of zeros from standardised features (N, D) of length max_grad_norm.

    With `half_square` as loss, a row's gradient with respect to the offset is minus its scaled
    features.
    """

    def __init__(self, dim: int, max_grad_norm: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(dim))
        self.scale = offset_scale(dim, max_grad_norm)

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * standardised(features) - self.offset

    def mean(self, gradients: Tensor) -> Tensor:
        """The mean features (D,) that follow from the offset's mean gradients (steps, D)."""
        return -gradients.mean(0) / self.scale


def half_square(vectors: Tensor, _: Tensor) -> Tensor:
    """Half the squared length of each vector: (N, D) -> (N,)."""
    return vectors.square().sum(1) / 2


def centre_of(network: nn.Module) -> nn.Parameter:
    """The network's centre, (D,)."""
    (layer,) = (part for part in network.modules() if isinstance(part, Centred))
    return layer.centre


def plain_mean(inputs: Inputs) -> Tensor:
    """The mean (D,) of the site's standardised training features.

    Raises DataError when the site has no training cell.
    """
    return standardised(inputs.batch(not_none(inputs.cells.rows("train")))).mean(0)
