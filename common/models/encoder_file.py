"""A pretrained encoder as a safetensors file with a record of what it saw."""

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from common.config.study import Strict
from common.models.safetensors_record import read_recorded, write_recorded

_KEY = "hemofed_encoder"


class EncoderRecord(Strict):
    """What an encoder is and what it was trained on. `privacy` says that nothing hides the data."""

    format: Literal[1] = 1
    model: str
    width: int | None
    side: int
    source: str
    """The data folder's name."""
    fingerprint: str
    """Digest of the cells it was trained and validated on."""
    classes: tuple[str, ...]
    images: int
    epochs: int
    seed: int
    learning_rate: float
    started_from: str | None
    """`model.weights` of its own start; None: random."""
    accuracy: float | None
    balanced_accuracy: float | None
    """On the validation cells, `validation_images` of them; None: there were none."""
    validation_images: int
    privacy: Literal["none"] = "none"
    hemofed: str
    """Version that wrote the file."""


def write_encoder(path: Path, encoder: nn.Module, record: EncoderRecord) -> None:
    """Write the encoder's state and its record, atomically."""
    write_recorded(path, _KEY, record, encoder.state_dict())


def read_record(path: Path) -> EncoderRecord:
    """The record in an encoder's file. Raises ModelError like `read_encoder`."""
    return read_encoder(path)[0]


def read_encoder(path: Path, sha256: str | None = None) -> tuple[EncoderRecord, dict[str, Tensor]]:
    """Record and state of an encoder's file. Raises ModelError like `read_recorded`."""
    return read_recorded(path, _KEY, EncoderRecord, "hemofed model pretrain", sha256)
