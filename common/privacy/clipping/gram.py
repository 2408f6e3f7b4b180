"""Inner products of a convolution's patches, computed without unfolding the patches.

Patches t and t' at kernel offset s read the pixels t * stride + s and t' * stride + s; so the
patches' Gram matrix is the sum, over the kernel's offsets, of shifted views of the pixels' Gram
matrix. Pixels in the padding are zero and add nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from common.privacy.clipping.engine_api import squared_norms

Pair = tuple[int, ...]

_CANCELLATION = 2.0
"""Up to this ratio of the terms' size to their sum, the sum is taken as the squared norm. Networks
with normalisation have about 1; a constant image under a backprop that sums to zero may have any
ratio."""

_UNDERFLOW = 2.0**-120
"""64 times the smallest normal number of float32, below which a result may be lost altogether."""


def patch_gram(
    inputs: torch.Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair
) -> torch.Tensor:
    """Inner products of all pairs of a unit's patches; `size` is (h, w), the outputs.

    (units, width, C, H, W) -> (units, width, h, w, width, h, w).
    """
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
    """The sum of each patch's values: (rows, C, H, W) -> (rows, h, w)."""
    ones = inputs.new_ones(1, 1, *kernel)
    return F.conv2d(inputs.sum(1, keepdim=True), ones, None, stride, padding, dilation)[:, 0]


@dataclass(frozen=True)
class GramForm:
    """Squared norms as sums of terms that may cancel; every field is float64 (units,)."""

    squares: torch.Tensor
    """The sums."""
    terms: torch.Tensor
    """The size of the terms: the sum of those with t = t'."""
    error: torch.Tensor
    """A bound on what rounding and underflow may have taken from `squares`."""

    def less(self, removed: torch.Tensor) -> "GramForm":
        """This form with `removed` (units,) subtracted from its squares."""
        return replace(self, squares=self.squares - removed)


def gram_form(
    gram: torch.Tensor, backprops: torch.Tensor, lengths: torch.Tensor, values: int
) -> GramForm:
    """sum_tt' gram[t, t'] <b_t, b_t'>, the terms' size sum_t lengths[t] |b_t|^2, and the error.

    `gram`: (units, T, T), is overwritten; `backprops`: (units, C, T); `lengths`: (units, T), the
    squared lengths of the vectors behind `gram`; `values`: how many values the gradient has whose
    norm this is.

    The rounding errors of the T^2 terms, each about 2^-24 |x_t| |x_t'| |b_t| |b_t'|, add up to at
    most 2^-24 (sum_t |x_t| |b_t|)^2 <= 2^-24 T terms. A product lost to underflow in an entry of
    either Gram matrix is multiplied by the other's entry, of which the diagonals bound the sum.
    """
    products = torch.bmm(backprops.transpose(1, 2), backprops)
    own, other = lengths.double(), products.diagonal(dim1=1, dim2=2).double()
    terms = (own * other).sum(1)
    gram *= products
    positions = gram.shape[1]
    underflow = (1 + own.sum(1)) * (1 + other.sum(1)) * (_UNDERFLOW * values * positions**2)
    rounding = torch.finfo(gram.dtype).eps * positions * terms
    return GramForm(gram.sum((1, 2), dtype=torch.float64), terms, rounding + underflow)


def settled(
    form: GramForm, gradient: Callable[[int], torch.Tensor]
) -> tuple[torch.Tensor, list[int]]:
    """Squared norms that are not too small, and the units that must not share a contraction.

    `gradient` computes one unit's gradient from its number. A sum much smaller than its terms is
    mostly rounding error; so would be the unit's share in a contraction over many units, and it
    would spoil the others' shares there. Such a unit's gradient is computed by itself, for its norm
    here and again for the sum. 16 times the rounding error of such a gradient is added to the norm,
    in case the second computation differs from the first.
    """
    squares = form.squares.clamp(min=0)
    alone: list[int] = (form.terms > _CANCELLATION * squares).nonzero().flatten().tolist()
    squares += form.error
    for unit in alone:
        found = gradient(unit)
        error = 16 * (torch.finfo(found.dtype).eps / 2) * form.terms[unit].sqrt()
        squares[unit] = (squared_norms(found[None])[0].sqrt() + error).square()
    return squares, alone


def _overlap(shift: int, stride: int, pixels: int, size: int) -> tuple[slice, slice]:
    """Positions t in [0, size) whose pixel t * stride + shift is in [0, pixels); those pixels."""
    first = max(0, -(shift // stride))
    last = min(size - 1, (pixels - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + shift, last * stride + shift + 1, stride)
