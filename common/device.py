"""Where tensors are computed."""

from typing import Literal

import torch

from common.errors import ConfigError


def resolve(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that a runtime's setting means. Raises ConfigError: cuda asked for, none there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device: cuda was asked for and torch finds no CUDA device; "
            "set device to auto or cpu, or install a CUDA build of torch"
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
