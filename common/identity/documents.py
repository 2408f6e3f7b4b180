"""Reads and writes the JSON files that people carry between sites and server."""

import json
from pathlib import Path
from typing import Any, TypeVar

from common.config.loading import parse
from common.config.study import Strict
from common.errors import ConfigError, FederationError
from common.files import write_text

Document = TypeVar("Document", bound=Strict)
LARGEST_BYTES = 16 * 2**20
"""Most bytes that a file may have; a larger one is refused."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file `path`.

    Raises:
        FederationError: the file cannot be read, exceeds `LARGEST_BYTES`, or is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise FederationError(f"{path}: cannot be read ({error.strerror})") from error
    if len(text) > LARGEST_BYTES:
        raise FederationError(f"{path}: is larger than {LARGEST_BYTES} bytes; not a file of ours")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FederationError(f"{path}: is not valid JSON; ask for the file again") from error
    if not isinstance(content, dict):
        raise FederationError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_document(kind: type[Document], path: Path) -> Document:
    """Return the JSON file `path` as a `kind`.

    Raises:
        FederationError: the file cannot be read, or is not a `kind`; the message names each fault.
    """
    try:
        return parse(kind, read_json(path), str(path))
    except ConfigError as error:
        raise FederationError(str(error)) from error


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as JSON with sorted keys and line breaks, whole or not at all.

    Raises:
        FederationError: the file cannot be written.
    """
    save(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def save(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        FederationError: the file cannot be written. What was there before is unchanged.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise FederationError(
            f"{path}: cannot be written ({error.strerror}); what was there is unchanged"
        ) from error
