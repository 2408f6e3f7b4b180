"""Layers that treat each image by itself, so that per-image gradients and clipping stay exact."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.device import laid_out
from common.models.pixels import MEAN, STD


class WSConv2d(nn.Conv2d):
    """Convolution with weight standardisation (Qiao et al., arXiv 1903.10520, eq. 6 to 9).

    Each filter is shifted to mean 0 and scaled to variance 1/fan_in before use, so activations
    keep their scale without batch statistics.
    """

    epsilon = 1e-6

    def standardised_weight(self) -> Tensor:
        """The weight that convolves, shape (out, in / groups, kh, kw), differentiable."""
        fan_in = self.weight[0].numel()
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return (self.weight - mean) * torch.rsqrt((variance + self.epsilon) * fan_in)

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(
            images,
            self.standardised_weight(),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with fixed statistics: a per-channel affine map, weight and bias train.

    Batch statistics would mix the images of a batch, so that no per-image gradient exists
    (differential privacy needs one), and would differ between sites whose stains differ. The
    pretrained statistics are kept as buffers and never updated, in training too.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        return F.batch_norm(
            images,
            self.mean,
            self.variance,
            self.weight,
            self.bias,
            training=False,
            eps=self.epsilon,
        )


class Recolour(nn.Module):
    """A fixed per-channel affine map from ImageNet-normalised pixels to what weights expect.

    Args: `mean` and `std` in units of a pixel in [0, 1]: the output is (pixel - mean) / std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        imagenet_mean = torch.tensor(MEAN)
        imagenet_std = torch.tensor(STD)
        scale = imagenet_std / torch.tensor(std)
        shift = (imagenet_mean - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift


class Standardise(nn.Module):
    """Shifts and scales each feature vector to mean 0 and variance 1 over its D values.

    It has no parameters. Every vector gets norm sqrt(D), which bounds the gradient of the linear
    layer behind it.
    """

    def forward(self, features: Tensor) -> Tensor:
        return standardised(features)


class Centred(nn.Module):
    """Vectors (N, D) less the centre, each scaled to norm sqrt(D) again.

    The centre travels with the model, but no gradient moves it: see
    `client/training/feature_centring.py`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(dim), requires_grad=False)

    def forward(self, vectors: Tensor) -> Tensor:
        moved = vectors - self.centre
        return F.normalize(moved) * math.sqrt(moved.shape[1])


class QuarterTurns(nn.Module):
    """The mean of an encoder's features over an image's four quarter turns.

    A cell on a slide has no upright position, but an encoder of photographs assumes one; what it
    finds in one pose alone says nothing about the cell. In the mean, the parts of a cell's features
    that depend on its pose cancel, and fewer directions suffice to tell cells apart.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, D)."""
        turned = [self.encoder(self._turned(images, turn)) for turn in range(4)]
        return torch.stack(turned).mean(0)

    def _turned(self, images: Tensor, quarters: int) -> Tensor:
        # A turn leaves strides that convolutions are slow on.
        return laid_out(torch.rot90(images, quarters, (2, 3)), self.encoder)


def standardised(features: Tensor) -> Tensor:
    """Each row of (N, D) shifted to mean 0 and scaled to variance 1 over its D values."""
    return F.layer_norm(features, features.shape[-1:])


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu & He, arXiv 1803.08494) with up to 8 groups that divide `channels`."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight of `module` anew, in module order, from `generator` alone.

    Convolutions: He et al. 2015 (arXiv 1502.01852, eq. 10), by fan out as in ResNet. Linear
    layers: normal with deviation 0.01, bias 0. Normalisations: identity.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(
                part.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.01, generator=generator)
        elif isinstance(part, nn.GroupNorm | nn.LayerNorm | FrozenBatchNorm):
            nn.init.ones_(part.weight)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
