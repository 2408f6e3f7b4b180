"""Where tensors are computed, and how they lie there."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.wire.reasons import Reason

Precision = Literal["float32", "bfloat16"]


def resolve(device: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that a runtime's setting means. Raises ConfigError: cuda asked for, none there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device: cuda was asked for and torch finds no CUDA device; "
            "set device to auto or cpu, or install a CUDA build of torch",
            Reason.DEVICE,
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def limit_memory(device: torch.device, share: float) -> None:
    """Let this process take at most `share` (0 to 1] of a GPU's memory; more is out of memory."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device.index)


def quickest(device: torch.device, allowed: Precision) -> Precision:
    """The precision to compute in there: float32 on a CPU, where bfloat16 may take ten times as
    long."""
    return "float32" if device.type == "cpu" else allowed


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context that computes in `precision` where that is safe."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def place(network: nn.Module, device: torch.device) -> None:
    """Move the network to `device`, laid out as it computes fastest there."""
    network.to(device, memory_format=_fastest(network, device))  # type: ignore[call-overload]


def laid_out(images: Tensor, network: nn.Module) -> Tensor:
    """Images (N, C, S, S), in memory as `network` computes on them fastest."""
    return images.contiguous(memory_format=_fastest(network, images.device))


def _fastest(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last on a GPU; on a CPU only depthwise convolutions gain, the others lose by it."""
    last = device.type == "cuda" or _is_depthwise(network)
    return torch.channels_last if last else torch.contiguous_format


@lru_cache(maxsize=2)
def _is_depthwise(network: nn.Module) -> bool:
    """Kept for the networks at hand: it is asked for each batch, and takes as long as a step's
    smaller parts."""
    return any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in network.modules())
