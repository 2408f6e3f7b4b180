"""A fixed linear map behind a frozen encoder: fewer features, so less noise in a private head.

Noise of one size falls on every coordinate of the head's gradient, so its length grows with the
square root of the number of features, while most of what tells cells apart lies in few of their
directions. The directions come from cells that need no protection, rendered or public ones, by
principal component analysis without labels; they are a constant of the study and cost no privacy
(public subspaces for private learning: Zhou et al. 2020, arXiv 2007.03813; Yu et al. 2021,
arXiv 2102.12677).
"""

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from common.config.study import Strict
from common.errors import DataError, ModelError
from common.models.layers import standardised
from common.models.safetensors_record import read_recorded, record_keys, write_recorded
from common.models.tensor_digest import tensor_digest

RENDERED = "rendered"
"""The name of the shipped map, fitted on rendered cells for the middle features of
EfficientNet-Lite0 with ImageNet weights."""

WHITENING = 0.5
"""Each direction is divided by this power of its scale: 0 keeps the features' shape, 1 makes all
directions equally long. One half trained best: it needs few steps and does not amplify directions
that are nearly noise."""

_KEY = "hemofed_projection"
_SHIPPED = Path(__file__).parent / "projections" / "rendered.safetensors"


class ProjectionRecord(Strict):
    """What a projection was fitted on."""

    format: int = Field(default=1, ge=1, le=1)
    sources: dict[str, str]
    """The data folders' names, and the digest of the cells in each."""
    images: int
    side: int
    encoder: str
    """`tensor_digest` of the encoder whose features the projection maps."""
    hemofed: str
    """The version of hemofed that wrote the file."""


class Projection(nn.Module):
    """Features (N, D) -> (N, K): standardised one by one, centred, projected. Nothing trains."""

    mean: Tensor
    matrix: Tensor

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        """mean: (D,). matrix: (D, K)."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)

    @property
    def dim(self) -> int:
        """The number of features that come out, K."""
        return self.matrix.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        return (standardised(features) - self.mean) @ self.matrix


def fit_projection(features: Tensor, dim: int) -> Projection:
    """The `dim` leading principal directions of standardised features (N, D), half whitened.

    Raises DataError unless there are more cells than directions and at least as many features.
    """
    count, width = features.shape
    if not dim <= min(count - 1, width):
        raise DataError(
            f"{dim} directions need more cells than that and no more than {width} features; there "
            f"are {count} cells"
        )
    values = standardised(features.double())
    mean = values.mean(0)
    spreads, directions = torch.linalg.eigh((values - mean).T @ (values - mean) / count)
    spreads, directions = spreads.flip(0)[:dim].sqrt(), directions.flip(1)[:, :dim]
    # A direction is found up to its sign; the largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    matrix = directions * largest.sign() * (spreads[0] / spreads) ** WHITENING
    return Projection(mean.float(), matrix.half().float())


def write_projection(path: Path, projection: Projection, record: ProjectionRecord) -> None:
    """Write the map (its matrix as float16, which it was rounded to) and its record, atomically."""
    tensors = {"mean": projection.mean, "matrix": projection.matrix.half()}
    write_recorded(path, _KEY, record, tensors)


def projection_file(name: str) -> Path:
    """The file that a study's `model.projection` names."""
    return _SHIPPED if name == RENDERED else Path(name)


def read_projection(path: Path, sha256: str | None = None) -> tuple[Projection, ProjectionRecord]:
    """What `write_projection` wrote.

    Raises ModelError like `read_recorded`, and when the tensors are not a projection's.
    """
    record, tensors = read_recorded(path, _KEY, ProjectionRecord, "hemofed model project", sha256)
    if set(tensors) != {"mean", "matrix"}:
        raise ModelError(f"{path}: its tensors are not a projection's; make it again")
    mean, matrix = tensors["mean"], tensors["matrix"].float()
    fits = mean.ndim == 1 and matrix.ndim == 2 and matrix.shape[0] == mean.shape[0]
    if not (fits and mean.isfinite().all() and matrix.isfinite().all()):
        raise ModelError(f"{path}: its tensors are not a projection's; make it again")
    return Projection(mean, matrix), record


def is_projection(path: Path) -> bool:
    """Whether the file is one that `write_projection` wrote."""
    return _KEY in record_keys(path)


def projected(encoder: nn.Module, name: str, sha256: str | None = None) -> tuple[nn.Module, int]:
    """The encoder with the projection that a study names behind it, and its output's size.

    sha256: the digest of the projection's file, where the study names it. Raises ModelError when
    the file cannot be read, has another digest, or was fitted on another encoder's features.
    """
    path = projection_file(name)
    projection, record = read_projection(path, sha256)
    if record.encoder != tensor_digest(encoder.state_dict()):
        raise ModelError(
            f"{path}: was fitted on the features of another encoder ({record.encoder:.12}); fit "
            "one for this encoder with `hemofed model project`"
        )
    return nn.Sequential(encoder, projection), projection.dim
