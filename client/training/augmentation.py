"""Cached pixels -> a normalised batch on the device, and its augmentation there."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.models.pixels import MEAN, STD

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""

GAIN = 0.08
"""Each channel is multiplied by at most 1 +- this: another stain, another white balance."""
SATURATION = 0.2
CONTRAST = 0.15
BRIGHTNESS = 0.05


def fixed_batches(rows: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Batches of `size` rows, each with the number of its rows that count.

    The last batch is filled up with its first row. A network uses other kernels for another number
    of images, and the last bits of an image's features depend on them, as does its class where two
    are equally likely: so every batch has the same number.

    >>> [(batch.tolist(), count) for batch, count in fixed_batches(np.arange(3), size=2)]
    [([0, 1], 2), ([2, 2], 1)]
    """
    for start in range(0, len(rows), size):
        own = rows[start : start + size]
        yield np.concatenate([own, np.repeat(own[:1], size - len(own))]), len(own)


VIEW_DRAWS = 7
"""How many uniform draws make one view of an image."""


def augment(batch: Tensor, draws: Tensor) -> Tensor:
    """A view of each image: turned, mirrored, and stained and lit a little differently.

    `batch` is float (N, 3, S, S) from `to_tensor`; the result is a new tensor of that shape.
    `draws` is (N, VIEW_DRAWS), uniform in [0, 1): each image has its own row of draws and depends
    on no other image, so clipping each image's gradient still bounds its influence.

    These are plain operations and not kornia's: kornia 0.9 draws from torch's global state, and its
    colour jitter goes through HSV, which takes 143 ms for 256 images of 64 px on one core, where
    these take 7 ms.
    """
    draws = draws.to(batch.device, batch.dtype)
    turns = (draws[:, 0] * 8).long().clamp_max(7)
    return _recolour(_turn(batch, turns), draws[:, 1:])


def draw_views(count: int, generator: torch.Generator) -> Tensor:
    """Draws for `augment`, (count, VIEW_DRAWS); equal generators give equal views."""
    return torch.rand((count, VIEW_DRAWS), generator=generator, device=generator.device)


def _turn(batch: Tensor, turns: Tensor) -> Tensor:
    """Each image under the symmetry of the square that its number in `turns` (0 to 7) names."""
    side = batch.shape[-1]
    pixels = torch.arange(side * side, device=batch.device).view(side, side)
    symmetries = torch.stack(
        [
            torch.rot90(face, quarter, (0, 1)).reshape(-1)
            for face in (pixels, pixels.flip(1))
            for quarter in range(4)
        ]
    )
    order = symmetries[turns][:, None, :].expand(-1, batch.shape[1], -1)
    return batch.flatten(2).gather(2, order).view_as(batch)


def _recolour(batch: Tensor, draws: Tensor) -> Tensor:
    """Each channel's gain, saturation, contrast and brightness, as one affine map of the colour.

    `draws` (N, 6) in [0, 1). Written for colours in [0, 1] as x -> A x + b, then carried over to
    normalised colours: D^-1 A D, with D = diag(STD).
    """
    spread = 2 * draws - 1
    gain = torch.diag_embed(1 + GAIN * spread[:, :3])
    saturation = (1 + SATURATION * spread[:, 3])[:, None, None]
    contrast = (1 + CONTRAST * spread[:, 4])[:, None, None]
    grey = batch.new_tensor(LUMA).expand(3, 3)
    identity = torch.eye(3, dtype=batch.dtype, device=batch.device)
    colour = contrast * gain @ (saturation * identity + (1 - saturation) * grey)
    mean, std = batch.new_tensor(MEAN), batch.new_tensor(STD)
    shift = 0.5 * (1 - contrast[:, :, 0]) + BRIGHTNESS * spread[:, 5:6]
    offset = (colour @ mean + shift - mean) / std
    matrix = colour * std / std[:, None]
    return torch.baddbmm(offset[:, :, None], matrix, batch.flatten(2)).view_as(batch)
