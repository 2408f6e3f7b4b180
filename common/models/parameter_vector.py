"""The parameters of a model that travel, as one flat float32 vector, and back.

The layout's digest covers names, shapes and the frozen weights: a vector counts only where it fits,
and a site with another encoder file is detected.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.models.classifier import federated
from common.models.tensor_digest import tensor_digest
from common.wire.vector_codec import Vector


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a flat vector's parameters, in order, and a digest of the frozen ones."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """(name, shape) of each parameter that travels, in order."""
    frozen: str
    """SHA-256 (hex) of the weights and buffers that do not travel: a frozen encoder, statistics."""

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        moving = federated(model)
        frozen = {name: v for name, v in model.state_dict().items() if name not in moving}
        shapes = tuple((name, tuple(value.shape)) for name, value in moving.items())
        return cls(shapes, tensor_digest(frozen))

    @cached_property
    def size(self) -> int:
        """The number of values in the vector (P)."""
        return sum(int(np.prod(shape)) for _, shape in self.shapes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of names and shapes in order, and of what is frozen."""
        return hashlib.sha256(json.dumps([self.shapes, self.frozen]).encode()).hexdigest()


def flatten(parameters: Mapping[str, Tensor]) -> Vector:
    """Concatenate all parameters, in order, as float32 (P,) on the CPU.

    >>> flatten({"weight": torch.ones(2, 1), "bias": torch.zeros(1)})
    array([1., 1., 0.], dtype=float32)
    """
    if not parameters:
        return np.zeros(0, np.float32)
    parts = [value.detach().reshape(-1).to("cpu", torch.float32) for value in parameters.values()]
    return np.asarray(torch.cat(parts).numpy())


def load(parameters: Mapping[str, Tensor], values: Vector) -> None:
    """Copy the vector (P,) into the parameters, in order. Raises ModelError if the size differs."""
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
