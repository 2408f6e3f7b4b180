"""EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; the "lite" variant of 2020).

EfficientNet-B0 without squeeze-and-excitation, with ReLU6, and with a stem and a head that no
width multiplier scales. The parameters are named as in the published weights.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.layers import FrozenBatchNorm, Recolour

DIM = 1280
BATCH_NORM_EPSILON = 1e-3
PIXEL_MEAN = (127 / 255,) * 3
PIXEL_STD = (128 / 255,) * 3
"""Of pixels in [0, 1]: TensorFlow's (x - 127) / 128."""

_STAGES = (
    # expansion, kernel, stride, channels out, blocks (B0, table 1)
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class SameConv2d(nn.Conv2d):
    """Convolution that pads as TensorFlow's "SAME" does: an odd pixel goes to the right and below.

    The published weights were trained with it; centred padding shifts every stride-2 layer by a
    pixel and costs accuracy.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )

    def forward(self, images: Tensor) -> Tensor:
        stride = self.stride[0]
        if stride == 1:
            return super().forward(images)
        bottom = self._missing(images.shape[-2])
        right = self._missing(images.shape[-1])
        padded = F.pad(images, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        return F.conv2d(padded, self.weight, None, self.stride, 0, 1, self.groups)

    def _missing(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)


class MBConv(nn.Module):
    """Inverted residual (Sandler et al. 2018, arXiv 1801.04381): expand, depthwise, project."""

    def __init__(
        self, channels_in: int, channels_out: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        inner = channels_in * expansion
        self.expands = expansion != 1
        self.skips = stride == 1 and channels_in == channels_out
        if self.expands:
            self._expand_conv = SameConv2d(channels_in, inner, 1)
            self._bn0 = FrozenBatchNorm(inner, BATCH_NORM_EPSILON)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self._bn1 = FrozenBatchNorm(inner, BATCH_NORM_EPSILON)
        self._project_conv = SameConv2d(inner, channels_out, 1)
        self._bn2 = FrozenBatchNorm(channels_out, BATCH_NORM_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        out = images
        if self.expands:
            out = F.relu6(self._bn0(self._expand_conv(out)))
        out = F.relu6(self._bn1(self._depthwise_conv(out)))
        out = self._bn2(self._project_conv(out))
        mixed: Tensor = images + out if self.skips else out
        return mixed


class EfficientNetLite0(nn.Module):
    """(N, 3, S, S) ImageNet-normalised -> (N, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.recolour = Recolour(mean=PIXEL_MEAN, std=PIXEL_STD)
        self._conv_stem = SameConv2d(3, 32, 3, 2)
        self._bn0 = FrozenBatchNorm(32, BATCH_NORM_EPSILON)
        self._blocks = nn.Sequential(*_blocks())
        self._conv_head = SameConv2d(320, DIM, 1)
        self._bn1 = FrozenBatchNorm(DIM, BATCH_NORM_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu6(self._bn0(self._conv_stem(self.recolour(images))))
        out = F.relu6(self._bn1(self._conv_head(self._blocks(out))))
        pooled: Tensor = out.mean(dim=(2, 3))
        return pooled


def _blocks() -> list[nn.Module]:
    blocks: list[nn.Module] = []
    channels = 32
    for expansion, kernel, stride, out, repeats in _STAGES:
        for index in range(repeats):
            blocks.append(MBConv(channels, out, expansion, kernel, 1 if index else stride))
            channels = out
    return blocks
