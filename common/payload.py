"""A model's trainable parameters as ONE flat float32 vector, and back.

Flower's cost goes by the object, so a model travels as a single array. The layout's digest binds
names, shapes and the frozen weights: a vector only ever counts where it fits, and a site whose
encoder file is another one is noticed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import ModelError

Vector = NDArray[np.float32]

_STYPE = "hemofed.float32"


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a flat vector's parameters, in order, and what stands around them."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    frozen: str
    """SHA-256 (hex) of the weights and buffers that do not travel: a frozen encoder, statistics."""

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        digest = hashlib.sha256()
        for name, value in model.state_dict().items():
            if name not in trained:
                digest.update(f"{name}|{tuple(value.shape)}|{value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        shapes = tuple((name, tuple(value.shape)) for name, value in trained.items())
        return cls(shapes, digest.hexdigest())

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(int(np.prod(shape)) for _, shape in self.shapes)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of names and shapes in order, and of what is frozen."""
        return hashlib.sha256(json.dumps([self.shapes, self.frozen]).encode()).hexdigest()


def flatten(parameters: Mapping[str, Tensor]) -> Vector:
    """Concatenate all parameters, in order, as float32 (P,) on the CPU."""
    if not parameters:
        return np.zeros(0, np.float32)
    parts = [value.detach().reshape(-1).to("cpu", torch.float32) for value in parameters.values()]
    return np.asarray(torch.cat(parts).numpy())


def load(parameters: Mapping[str, Tensor], values: Vector) -> None:
    """Copy the vector (P,) into the parameters. Raises ModelError when the size differs."""
    size = sum(value.numel() for value in parameters.values())
    if values.shape != (size,):
        raise ModelError(f"a vector of shape {values.shape} does not fit {size} parameters")
    flat = torch.from_numpy(np.array(values, dtype=np.float32))
    start = 0
    with torch.no_grad():
        for value in parameters.values():
            piece = flat[start : start + value.numel()]
            value.copy_(piece.view_as(value))
            start += value.numel()


def encode(values: Vector) -> Array:
    """The vector as a Flower array of raw little-endian float32."""
    data = np.ascontiguousarray(values, dtype="<f4").tobytes()
    return Array(dtype="float32", shape=values.shape, stype=_STYPE, data=data)


def decode(array: Array, size: int) -> Vector:
    """Read what `encode` wrote. Raises ModelError unless it is exactly `size` float32 values."""
    if array.stype != _STYPE or tuple(array.shape) != (size,) or len(array.data) != 4 * size:
        raise ModelError(
            f"expected {size} values as {_STYPE}; got shape {tuple(array.shape)}, "
            f"{len(array.data)} bytes as {array.stype!r:.40}"
        )
    return np.frombuffer(array.data, dtype="<f4")
