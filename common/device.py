"""Where tensors are computed, and how they lie there."""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.wire.reasons import Reason

Precision = Literal["float32", "bfloat16"]


def resolve(device: str, turn: int = 0) -> torch.device:
    """The device that a runtime's setting means: auto, cpu, cuda, or one GPU, like cuda:1.

    turn: the worker's number on this machine: where none is named, worker i has GPU i modulo n of
    n. Raises ConfigError: a GPU is asked for that is not there.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not found):
        return torch.device("cpu")
    if not found:
        raise ConfigError(
            f"runtime.device: {device} was asked for and torch finds no CUDA device; "
            "set device to auto or cpu, or install a CUDA build of torch",
            Reason.DEVICE,
        )
    if device in ("auto", "cuda"):
        return torch.device("cuda", turn % found)
    named = torch.device(device)
    if named.index >= found:
        there = ", ".join(f"cuda:{number}" for number in range(found))
        raise ConfigError(
            f"runtime.device: {device} was asked for and is not there; this machine has {there}",
            Reason.DEVICE,
        )
    return named


def clients_on_gpus(share: float) -> int:
    """Clients that have room on this machine's GPUs, at `share` (0 to 1] of one each.

    Raises ConfigError: there is no GPU.
    """
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not found:
        raise ConfigError(
            f"runtime.gpus_per_client: {share:g} was asked for and torch finds no CUDA device; "
            "leave it out, or install a CUDA build of torch",
            Reason.DEVICE,
        )
    return found * int(1 / share)


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
