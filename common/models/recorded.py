"""Safetensors files that carry a record of what made them; written atomically."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.config import Strict
from common.errors import ModelError
from common.files import replacing

Record = TypeVar("Record", bound=Strict)


def write_recorded(path: Path, key: str, record: Strict, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors, with the record under `key` in the file's metadata."""
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(content, temporary, metadata={key: record.model_dump_json()})


def record_keys(path: Path) -> set[str]:
    """The keys of the records in the file's metadata; none where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.metadata() or {})
    except (SafetensorError, OSError):
        return set()


def read_recorded(
    path: Path, key: str, kind: type[Record], command: str
) -> tuple[Record, dict[str, Tensor]]:
    """What `write_recorded` wrote. command: the one that makes such files, for the errors.

    Raises ModelError: no such file, damaged, or without a record of this kind.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file; make one with `{command}`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return kind.model_validate_json(metadata[key]), tensors
    except SafetensorError as error:
        raise ModelError(f"{path}: is damaged or not a safetensors file ({error})") from error
    except KeyError as error:
        raise ModelError(
            f"{path}: holds tensors without the record that belongs to them; expected a file made "
            f"by `{command}`"
        ) from error
    except (ValidationError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: its record cannot be read: {error}") from error
