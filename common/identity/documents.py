"""Reading the JSON files that travel between sites and server; they are small, or not ours."""

import json
from pathlib import Path
from typing import Any, TypeVar

from common.config.loading import parse
from common.config.study import Strict
from common.errors import ConfigError, FederationError
from common.files import write_text

Document = TypeVar("Document", bound=Strict)
LARGEST_BYTES = 16 * 2**20


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises FederationError: unreadable, too large, not an object."""
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
    """The file as a `kind`. Raises FederationError naming what does not fit."""
    try:
        return parse(kind, read_json(path), str(path))
    except ConfigError as error:
        raise FederationError(str(error)) from error


def write_document(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON object for people to read too. Raises FederationError as `save` does."""
    save(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def save(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises FederationError: full disk, no permission."""
    try:
        write_text(path, text)
    except OSError as error:
        raise FederationError(
            f"{path}: cannot be written ({error.strerror}); what was there is unchanged"
        ) from error
