"""A pretrained encoder as a safetensors file with a record of what it saw."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.config import Strict
from common.errors import ModelError
from common.files import replacing

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
    state = {
        name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={_KEY: record.model_dump_json()})


def read_record(path: Path) -> EncoderRecord:
    """The record in an encoder's file. Raises ModelError like `read_encoder`."""
    return read_encoder(path)[0]


def read_encoder(path: Path) -> tuple[EncoderRecord, dict[str, Tensor]]:
    """Record and state of an encoder's file.

    Raises ModelError: no such file, damaged, or without a record.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file; make one with `hemofed model pretrain`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        record = EncoderRecord.model_validate_json(metadata[_KEY])
    except SafetensorError as error:
        raise ModelError(f"{path}: is damaged or not a safetensors file ({error})") from error
    except KeyError as error:
        raise ModelError(
            f"{path}: holds tensors without the record of a pretrained encoder; expected a file "
            "made by `hemofed model pretrain`"
        ) from error
    except (ValidationError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: its record cannot be read: {error}") from error
    return record, state
