"""Inner products of a convolution's patches, without ever unfolding them.

Patches t and t' at kernel offset s read the pixels t * stride + s and t' * stride + s; so the
patches' Gram matrix is the sum, over the kernel's offsets, of shifted views of the pixels' Gram
matrix. Pixels in the padding are zero and add nothing.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from common.privacy.clipping.problem import squared_norms

Pair = tuple[int, ...]

_CANCELLATION = 2.0
"""Up to this ratio the norm's relative error stays near 2^-24, below `rule.MARGIN`. Networks with
normalisation have about 1; a constant image under a backprop that sums to zero has any."""


def patch_gram(
    inputs: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair
) -> torch.Tensor:
    """(units, width, C, H, W) -> (units, width, h, w, width, h, w), `size` = (h, w)."""
    units, width, channels, *pixels = inputs.shape
    columns = inputs.transpose(1, 2).reshape(units, channels, -1)
    gram = torch.bmm(columns.transpose(1, 2), columns).view(units, width, *pixels, width, *pixels)
    if kernel == (1, 1) and padding == (0, 0) and stride == (1, 1):
        return gram
    total = gram.new_zeros(units, width, *size, width, *size)
    for row in range(kernel[0]):
        to_h, from_h = _overlap(row * dilation[0] - padding[0], stride[0], pixels[0], size[0])
        for column in range(kernel[1]):
            shift = column * dilation[1] - padding[1]
            to_w, from_w = _overlap(shift, stride[1], pixels[1], size[1])
            total[:, :, to_h, to_w, :, to_h, to_w] += gram[:, :, from_h, from_w, :, from_h, from_w]
    return total


def patch_sums(
    inputs: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> torch.Tensor:
    """Sum of each patch's values: (rows, C, H, W) -> (rows, h, w)."""
    ones = inputs.new_ones(1, 1, *kernel)
    return F.conv2d(inputs.sum(1, keepdim=True), ones, None, stride, padding, dilation)[:, 0]


def gram_form(
    gram: torch.Tensor, backprops: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_tt' gram[t, t'] <b_t, b_t'>, and sum_t lengths[t] |b_t|^2; float64 (units,) each.

    `gram`: (units, T, T), overwritten; `backprops`: (units, C, T); `lengths`: (units, T), the
    squared lengths of the vectors behind `gram`. The rounding errors of the T^2 terms, each about
    2^-24 |x_t| |x_t'| |b_t| |b_t'|, add up to about 2^-24 times the second figure.
    """
    products = torch.bmm(backprops.transpose(1, 2), backprops)
    terms: torch.Tensor = (lengths * products.diagonal(dim1=1, dim2=2)).sum(1, dtype=torch.float64)
    gram *= products
    squares: torch.Tensor = gram.sum((1, 2), dtype=torch.float64)
    return squares.clamp(min=0), terms


def settled(
    squares: torch.Tensor, terms: torch.Tensor, gradient: Callable[[int], torch.Tensor]
) -> torch.Tensor:
    """`squares`, where cancellation spoilt them taken from the unit's own gradient.

    A sum much smaller than its terms is mostly rounding error, in the norm here and in the
    gradient that is summed later, by another route. So the unit's gradient is computed after all,
    and its norm is raised by 16 times the rounding error of such a gradient.
    """
    for unit in (terms > _CANCELLATION * squares).nonzero().flatten().tolist():
        found = gradient(unit)
        error = 16 * (torch.finfo(found.dtype).eps / 2) * terms[unit].sqrt()
        squares[unit] = (squared_norms(found[None])[0].sqrt() + error).square()
    return squares


def _overlap(shift: int, stride: int, pixels: int, size: int) -> tuple[slice, slice]:
    """Positions t of [0, size) whose pixel t * stride + shift is in [0, pixels), and the pixels."""
    first = max(0, -(shift // stride))
    last = min(size - 1, (pixels - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + shift, last * stride + shift + 1, stride)
