"""ResNet-18 (He et al. 2016, arXiv 1512.03385) with GroupNorm and weight standardisation.

The pair replaces BatchNorm at small batches (Qiao et al., arXiv 1903.10520) and, as neither mixes
images, under differential privacy (De et al., arXiv 2204.13650, sec. 3.1).
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.layers import WSConv2d

DIM = 512


class ResNet18(nn.Module):
    """(N, 3, S, S) -> (N, 512). The stem depends on `side`, so that maps do not shrink too soon.

    | side     | stem                           | last map for an even side |
    |----------|--------------------------------|---------------------------|
    | to 40    | 3x3, stride 1                  | side / 8                  |
    | to 127   | 3x3, stride 2                  | side / 16                 |
    | from 128 | 7x7, stride 2, 3x3 max-pooling | side / 32                 |
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.stem = _stem(side)
        self.blocks = nn.Sequential(
            BasicBlock(64, 64, 1),
            BasicBlock(64, 64, 1),
            BasicBlock(64, 128, 2),
            BasicBlock(128, 128, 1),
            BasicBlock(128, 256, 2),
            BasicBlock(256, 256, 1),
            BasicBlock(256, DIM, 2),
            BasicBlock(DIM, DIM, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.blocks(self.stem(images)).mean(dim=(2, 3))
        return pooled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection, projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = WSConv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = _norm(channels_out)
        self.conv2 = WSConv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = _norm(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                WSConv2d(channels_in, channels_out, 1, stride, bias=False), _norm(channels_out)
            )

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(images)))
        out = self.norm2(self.conv2(out))
        return F.relu(out + self.shortcut(images))


def _stem(side: int) -> nn.Sequential:
    large = side >= 128
    kernel, stride = (7, 2) if large else (3, 1 if side <= 40 else 2)
    conv = WSConv2d(3, 64, kernel, stride, padding=kernel // 2, bias=False)
    pool = [nn.MaxPool2d(3, 2, padding=1)] if large else []
    return nn.Sequential(conv, _norm(64), nn.ReLU(), *pool)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels), channels)
