"""A model's trainable parameters as ONE flat float32 vector, and back.

Flower's cost goes by the object, so a model travels as a single array. The layout's digest binds
names and shapes: a vector is only ever loaded where it fits.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array
from numpy.typing import NDArray
from torch import Tensor

from common.errors import ModelError

Vector = NDArray[np.float32]

_STYPE = "hemofed.float32"


@dataclass(frozen=True)
class Layout:
    """Names and shapes of the parameters in a flat vector, in order."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor]) -> "Layout":
        return cls(tuple((name, tuple(value.shape)) for name, value in parameters.items()))

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(int(np.prod(shape)) for _, shape in self.shapes)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of names and shapes in order."""
        return hashlib.sha256(json.dumps(self.shapes).encode()).hexdigest()


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
