"""The work of `hemofed bench rounds` in files that any framework's contestant can read.

`work.npz` holds the pixels as the networks take them, so a peer decodes and normalises nothing.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simulations.bench.peers.network import network

_ARRAYS, _SETTINGS = "work.npz", "work.json"


@dataclass(frozen=True, kw_only=True)
class WorkSettings:
    """What each client does in each round: one epoch of plain SGD over its batches, in order."""

    rounds: int
    batch_size: int
    learning_rate: float
    width: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class SharedWork:
    """The settings, the first model, and each client's cells in the order of its batches."""

    settings: WorkSettings
    weights: NDArray[np.float32]
    """(P,) the first model, parameter after parameter in the order of definition."""
    images: NDArray[np.float32]
    """(N, 3, S, S), normalised."""
    targets: NDArray[np.int64]
    """(N,) classes from 0."""
    rows: NDArray[np.int64]
    """(clients, cells of a client) into `images` and `targets`."""

    def write(self, folder: Path) -> None:
        (folder / _SETTINGS).write_text(json.dumps(asdict(self.settings)), encoding="utf-8")
        np.savez(
            folder / _ARRAYS,
            weights=self.weights,
            images=self.images,
            targets=self.targets,
            rows=self.rows,
        )

    @classmethod
    def read(cls, folder: Path) -> "SharedWork":
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS) as arrays:
            return cls(settings=WorkSettings(**settings), **arrays)

    def cells(self, client: int) -> tuple[Tensor, Tensor]:
        """The client's images (n, 3, S, S) and targets (n,), in the order of its batches."""
        rows = self.rows[client]
        return torch.from_numpy(self.images[rows]), torch.from_numpy(self.targets[rows])

    def model(self) -> nn.Module:
        """A network of its own with the first model's weights."""
        model = network(self.settings.width, self.settings.classes)
        parameters = list(model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        parts = torch.split(torch.from_numpy(self.weights), sizes)
        with torch.no_grad():
            for parameter, part in zip(parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))
        return model
