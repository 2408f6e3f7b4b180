"""Safetensors files that carry a record of what made them; written atomically."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from common.config.study import Strict
from common.errors import ModelError
from common.files import replacing
from common.models.weights import read_bytes

Record = TypeVar("Record", bound=Strict)
_LENGTH = 8


def write_recorded(path: Path, key: str, record: Strict, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors atomically, with the record under `key` in the file's metadata."""
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        save_file(content, temporary, metadata={key: record.model_dump_json()})


def record_keys(path: Path) -> set[str]:
    """The keys of the records in the file's metadata; empty where the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.metadata() or {})
    except (SafetensorError, OSError):
        return set()


def read_recorded(
    path: Path, key: str, kind: type[Record], command: str, sha256: str | None = None
) -> tuple[Record, dict[str, Tensor]]:
    """The record and the tensors that `write_recorded` wrote.

    command: the command that makes such files, for errors. Raises ModelError like `read_bytes`, and
    when the file is damaged or has no record of this kind.
    """
    data = read_bytes(path, sha256, f"make one with `{command}`")
    try:
        tensors = load(data)
        return kind.model_validate_json(_metadata(data)[key]), tensors
    except SafetensorError as error:
        raise ModelError(f"{path}: is damaged or not a safetensors file ({error})") from error
    except KeyError as error:
        raise ModelError(
            f"{path}: holds tensors without the record that belongs to them; expected a file made "
            f"by `{command}`"
        ) from error
    except (ValidationError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: its record cannot be read: {error}") from error


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata in the head of a sound safetensors file, which is a length in 8 bytes and then
    that many bytes of JSON."""
    length = int.from_bytes(data[:_LENGTH], "little")
    head = json.loads(data[_LENGTH : _LENGTH + length])
    return dict(head.get("__metadata__") or {})
