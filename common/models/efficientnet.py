"""EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; the "lite" variant of 2020).

EfficientNet-B0 without squeeze-and-excitation, with ReLU6, and with a stem and a head that no
width multiplier scales. The parameters are named as in the published weights.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.layers import FrozenBatchNorm, Recolour, standardised

DIM = 1280
BATCH_NORM_EPSILON = 1e-3
PIXEL_MEAN = (127 / 255,) * 3
PIXEL_STD = (128 / 255,) * 3
"""Mean and standard deviation of pixels in [0, 1] that amount to TensorFlow's (x - 127) / 128."""

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


def convolve_same(conv: nn.Conv2d, images: Tensor) -> Tensor:
    """Apply `conv` with TensorFlow's "SAME" padding: an odd pixel goes to the right and below.

    The published weights were trained with it; centred padding would shift every layer of stride
    2 by a pixel. At stride 1 the two agree and `conv` pads by itself. The padding is not a layer of
    its own, so that the engines that clip gradients see plain convolutions.
    """
    if conv.stride[0] > 1:
        right, bottom = _missing(conv, images.shape[-1]), _missing(conv, images.shape[-2])
        sides = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
        images = F.pad(images, sides)
    convolved: Tensor = conv(images)
    return convolved


def same_conv(
    channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias for `convolve_same`."""
    padding = kernel // 2 if stride == 1 else 0
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding, 1, groups, bias=False)


def _missing(conv: nn.Conv2d, side: int) -> int:
    kernel, stride = conv.kernel_size[0], conv.stride[0]
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
            self._expand_conv = same_conv(channels_in, inner, 1)
            self._bn0 = FrozenBatchNorm(inner, BATCH_NORM_EPSILON)
        self._depthwise_conv = same_conv(inner, inner, kernel, stride, groups=inner)
        self._bn1 = FrozenBatchNorm(inner, BATCH_NORM_EPSILON)
        self._project_conv = same_conv(inner, channels_out, 1)
        self._bn2 = FrozenBatchNorm(channels_out, BATCH_NORM_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        out = images
        if self.expands:
            out = F.relu6(self._bn0(self._expand_conv(out)))
        out = F.relu6(self._bn1(convolve_same(self._depthwise_conv, out)))
        out = self._bn2(self._project_conv(out))
        mixed: Tensor = images + out if self.skips else out
        return mixed


class EfficientNetLite0(nn.Module):
    """(N, 3, S, S) ImageNet-normalised -> (N, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.recolour = Recolour(mean=PIXEL_MEAN, std=PIXEL_STD)
        self._conv_stem = same_conv(3, 32, 3, 2)
        self._bn0 = FrozenBatchNorm(32, BATCH_NORM_EPSILON)
        self._blocks = nn.Sequential(*_blocks())
        self._conv_head = same_conv(320, DIM, 1)
        self._bn1 = FrozenBatchNorm(DIM, BATCH_NORM_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        out = _stem(self, images)
        out = F.relu6(self._bn1(self._conv_head(self._blocks(out))))
        pooled: Tensor = out.mean(dim=(2, 3))
        return pooled


class MiddleStages(nn.Module):
    """(N, 3, S, S) ImageNet-normalised -> (N, 424): the means of stages 3 to 6, one after another.

    The last layers of an ImageNet network serve to name its classes; texture and grain, which tell
    cells apart, are clearer in the layers before. Each stage's part is standardised, so that all
    have the same weight. What comes after stage 6 is left out.
    """

    FIRST, LAST = 3, 6
    DIM = sum(stage[3] for stage in _STAGES[FIRST - 1 : LAST])

    def __init__(self, network: EfficientNetLite0) -> None:
        """Take over the network's layers; their weights are shared, not copied."""
        super().__init__()
        self.recolour = network.recolour
        self._conv_stem, self._bn0 = network._conv_stem, network._bn0
        starts = [sum(stage[4] for stage in _STAGES[:n]) for n in range(self.LAST + 1)]
        self._stages = nn.ModuleList(
            network._blocks[start:end] for start, end in itertools.pairwise(starts)
        )

    def forward(self, images: Tensor) -> Tensor:
        out = _stem(self, images)
        means = []
        for number, stage in enumerate(self._stages, start=1):
            out = stage(out)
            if number >= self.FIRST:
                means.append(standardised(out.mean(dim=(2, 3))))
        return torch.cat(means, dim=1)


def _stem(network: EfficientNetLite0 | MiddleStages, images: Tensor) -> Tensor:
    """(N, 3, S, S) ImageNet-normalised -> (N, 32, ceil(S / 2), ceil(S / 2)): the first layer."""
    return F.relu6(network._bn0(convolve_same(network._conv_stem, network.recolour(images))))


def _blocks() -> list[nn.Module]:
    blocks: list[nn.Module] = []
    channels = 32
    for expansion, kernel, stride, out, repeats in _STAGES:
        for index in range(repeats):
            blocks.append(MBConv(channels, out, expansion, kernel, 1 if index else stride))
            channels = out
    return blocks
