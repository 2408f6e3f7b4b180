"""A convolution's patches, cut from inputs in channels-last layout."""

import torch
from torch.nn import functional as F

Pair = tuple[int, ...]


def padded_last(inputs: torch.Tensor, padding: Pair) -> torch.Tensor:
    """(rows, C, H, W) -> (rows, H + 2 padding, W + 2 padding, C), with zeros as the border."""
    vertical, horizontal = padding
    last = inputs.permute(0, 2, 3, 1)
    return F.pad(last, (0, 0, horizontal, horizontal, vertical, vertical)).contiguous()


def patches(
    padded: torch.Tensor, kernel: Pair, stride: Pair, dilation: Pair, size: Pair
) -> torch.Tensor:
    """(rows, H, W, C) -> (rows, h, w, kh, kw, C): the patch that each of the h x w outputs reads.

    `size` is (h, w); `padded` comes from `padded_last`.
    """
    row, down, right, channel = padded.stride()
    steps = (down * stride[0], right * stride[1], down * dilation[0], right * dilation[1])
    shape = (len(padded), *size, *kernel, padded.shape[3])
    first = padded.storage_offset()
    return padded.as_strided(shape, (row, *steps, channel), first).contiguous()
