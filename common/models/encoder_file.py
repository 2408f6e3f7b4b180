"""A pretrained encoder as a safetensors file with a record of what it was trained on."""

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
    """Digest of the cells that it was trained and validated on."""
    classes: tuple[str, ...]
    images: int
    epochs: int
    seed: int
    learning_rate: float
    started_from: str | None
    """The `model.weights` that its training started from; None: random weights."""
    accuracy: float | None
    """Accuracy on the validation cells; None: there were none."""
    balanced_accuracy: float | None
    """Balanced accuracy on the validation cells; None: there were none."""
    validation_images: int
    """Number of validation cells."""
    privacy: Literal["none"] = "none"
    hemofed: str
    """The version of hemofed that wrote the file."""


def write_encoder(path: Path, encoder: nn.Module, record: EncoderRecord) -> None:
    """Write the encoder's state and its record, atomically."""
    write_recorded(path, _KEY, record, encoder.state_dict())


def read_record(path: Path) -> EncoderRecord:
    """The record in an encoder's file. Raises ModelError like `read_encoder`."""
    return read_encoder(path)[0]


def read_encoder(path: Path, sha256: str | None = None) -> tuple[EncoderRecord, dict[str, Tensor]]:
    """The record and the state in an encoder's file. Raises ModelError like `read_recorded`.

    sha256: the file's digest that a study names; None: it names none.
    """
    return read_recorded(path, _KEY, EncoderRecord, "hemofed model pretrain", sha256)
