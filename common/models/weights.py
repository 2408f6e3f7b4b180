"""Weights from files: read without running code, and loaded only if every key fits."""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError


def read_bytes(path: Path, sha256: str | None, way_out: str) -> bytes:
    """The bytes of a weights file, read once: the caller parses the very bytes whose digest was
    checked, even if somebody replaces the file meanwhile.

    sha256: the digest that a study names; None: it names none. way_out: what the error for a
    missing file tells a person to do. Raises ModelError when the file is missing, cannot be read,
    or has another digest.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weights file; {way_out}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if sha256 and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ModelError(
            f"{path}: has SHA-256 {found:.12}, the study names {sha256:.12}; get the file that the "
            "study was made with"
        )
    return content


def read_checkpoint(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """The mapping in a file of `torch.save`, on the CPU; only tensors and containers are read.

    Raises ModelError like `read_bytes`, and when the file is not one of `torch.save`, holds objects
    other than tensors, or holds no mapping.
    """
    data = read_bytes(path, sha256, "give model.weights the path of one")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is not a checkpoint of tensors alone; it was not loaded, since reading other "
            f"objects could run code ({str(error).splitlines()[0]:.120})"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path}: is damaged or not a torch checkpoint ({error!s:.120})"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    return content


def fit(module: nn.Module, state: Mapping[str, Any], origin: str) -> None:
    """Load `state` into `module` if names and shapes are the same and values finite, else nothing.

    Raises ModelError that names `origin` and the first names that are missing, unknown, of another
    shape or not finite.
    """
    wanted = module.state_dict()
    faults = [f"missing {name}" for name in wanted if name not in state]
    faults += [f"unknown {name}" for name in state if name not in wanted]
    for name, tensor in wanted.items():
        faults += _mismatch(name, tensor, state[name]) if name in state else []
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ModelError(
            f"{origin}: these weights do not fit {type(module).__name__}: "
            f"{'; '.join(faults[:5])}{more}"
        )
    module.load_state_dict({name: state[name] for name in wanted}, strict=True, assign=False)


def _mismatch(name: str, wanted: Tensor, found: Any) -> list[str]:
    if not isinstance(found, Tensor):
        return [f"{name} is a {type(found).__name__}, not a tensor"]
    if found.shape != wanted.shape:
        return [f"{name} has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"]
    if not torch.isfinite(found).all():
        return [f"{name} holds values that are not finite"]
    return []
