"""A frozen encoder's features: computed once, kept on disk, and looked up by what made them."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from client.data.cache import default_root
from client.training.augmentation import fixed_batches
from common.device import Precision, autocast, laid_out
from common.errors import DataError
from common.files import replacing
from common.models.classifier import Classifier
from common.models.pixels import to_tensor
from common.models.tensor_digest import tensor_digest

Features = NDArray[np.float32]

BATCH = 32
"""Cells that the encoder gets at once, never fewer: a filled place costs as much as a cell."""

_PIECE = 128
"""Cells between two writes: whole batches, so that the features are those of one pass."""


class Cells(Protocol):
    """What features are computed from; `client.data.store.CellCache` is one."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint8]: ...


def extract(
    model: Classifier,
    cells: Cells,
    rows: NDArray[np.int64],
    device: torch.device,
    precision: Precision = "float32",
    batch: int = BATCH,
) -> Features:
    """Embeddings of the cells at `rows`, float32 (len(rows), D), without augmentation.

    This moves `model` to `device` and leaves its encoder in evaluation mode. It needs memory for
    one batch and the result. `precision` is that of the encoder's arithmetic. No bit of a cell's
    features depends on the other cells (see `fixed_batches`).
    """
    model.to(device)
    model.encoder.eval()
    features = np.empty((len(rows), model.embedding_dim), np.float32)
    with torch.inference_mode(), autocast(device, precision):
        done = 0
        for filled, count in fixed_batches(rows, batch):
            images = to_tensor(cells.take(filled), device)
            embedded = model.embed(laid_out(images, model.encoder))
            features[done : done + count] = embedded[:count].float().cpu().numpy()
            done += count
    return features


def cached_features(
    model: Classifier,
    cells: Cells,
    device: torch.device,
    precision: Precision = "float32",
    folder: Path | None = None,
) -> Features:
    """`extract` for all of `cells`, float32 (N, D), read from disk when computed before.

    The file lies in `folder` (None: `features` in the cells' cache root) under a name that changes
    with the encoder's weights, the cells, the precision and the kind of device. A damaged file is
    computed anew. What a killed process had computed is used again: a deployed site's process is
    ended whenever it has no answer in time, and the site is asked again. The features describe the
    cells and stay at the site, like the cells' cache.
    Raises DataError when the file cannot be written.
    """
    folder = folder or default_root() / "features"
    path = folder / f"{_key(model, cells, device, precision)}.npy"
    shape = (len(cells), model.embedding_dim)
    found = _read(path, shape)
    if found is not None:
        return found
    pieces = path.with_suffix("")
    features = _in_pieces(model, cells, device, precision, pieces)
    _write(path, features)
    shutil.rmtree(pieces, ignore_errors=True)
    return features


def _in_pieces(
    model: Classifier, cells: Cells, device: torch.device, precision: Precision, folder: Path
) -> Features:
    """`extract` for all of `cells`; writes each piece to `folder` as soon as it is computed."""
    found = [np.empty((0, model.embedding_dim), np.float32)]
    for start in range(0, len(cells), _PIECE):
        rows = np.arange(start, min(start + _PIECE, len(cells)))
        path = folder / f"{start}.npy"
        piece = _read(path, (len(rows), model.embedding_dim))
        if piece is None:
            piece = extract(model, cells, rows, device, precision)
            _write(path, piece)
        found.append(piece)
    return np.concatenate(found)


def _write(path: Path, features: Features) -> None:
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, features, allow_pickle=False)
    except OSError as error:
        raise DataError(
            f"{path}: features of {len(features)} cells ({features.nbytes / 2**20:.0f} MiB) cannot "
            f"be written ({error.strerror}); free space or set HEMOFED_CACHE to another disk"
        ) from error


def encoder_digest(model: Classifier) -> str:
    """Names the encoder by its kind, its input side, and all its weights and buffers."""
    encoder = model.encoder
    return f"{type(encoder).__name__}|{model.input_side}|{tensor_digest(encoder.state_dict())}"


def _key(model: Classifier, cells: Cells, device: torch.device, precision: Precision) -> str:
    parts = (encoder_digest(model), cells.fingerprint, str(len(cells)), device.type, precision)
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:40]


def _read(path: Path, shape: tuple[int, int]) -> Features | None:
    try:
        features: Features = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = features.shape == shape and features.dtype == np.float32
    return features if fits and bool(np.isfinite(features).all()) else None
