"""Pixels of 8 bits -> what the networks take: normalised floats, channels first."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB, in [0, 1]; pretrained encoders expect them."""


def to_tensor(images: NDArray[np.uint8] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (N, S, S, 3) -> float32 (N, 3, S, S) on `device`, normalised by `MEAN` and `STD`.

    The bytes are moved to the device first, since they are a quarter of the size of floats.

    >>> to_tensor(np.zeros((2, 8, 8, 3), np.uint8)).shape
    torch.Size([2, 3, 8, 8])
    """
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images if images.flags.writeable else images.copy())
    moved = images.to(device).permute(0, 3, 1, 2)
    batch = torch.empty(moved.shape, dtype=torch.float32, device=moved.device).copy_(moved)
    scale = 1 / (255.0 * _channels(STD, batch))
    return batch.mul_(scale).sub_(_channels(MEAN, batch) / _channels(STD, batch))


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
