"""A site's cells as tensors on the device, and which of them make a batch."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.data.site_cells import Rows, SiteCells
from client.training.augmentation import augment
from common.device import Precision, laid_out
from common.errors import DataError
from common.models.pixels import to_tensor
from common.privacy.noise_source import NoiseSource


@dataclass(frozen=True)
class Inputs:
    """What the trained part of the network receives: images, or a frozen encoder's features."""

    cells: SiteCells
    network: nn.Module
    device: torch.device
    features: Tensor | None = None
    """(N, D) on the device, when the encoder is frozen."""
    images: Tensor | None = None
    """uint8 (N, S, S, 3) on the device, where it has room for all; None: read batch by batch."""
    precision: Precision = "float32"
    """Precision of the network's arithmetic where no privacy depends on it."""

    def batch(self, positions: Rows, draws: Tensor | None = None) -> Tensor:
        """Network input for the cells at `positions`; augmented by `draws` (B, VIEW_DRAWS)."""
        if self.features is not None:
            return _chosen(self.features, positions)
        if self.images is not None:
            images = to_tensor(_chosen(self.images, positions), self.device)
        else:
            images = to_tensor(self.cells.take(positions), self.device)
        if draws is not None:
            images = augment(images, draws)
        return laid_out(images, self.network)

    def targets(self, positions: Rows) -> Tensor:
        return torch.from_numpy(self.cells.labels[positions]).to(self.device)


def _chosen(held: Tensor, positions: Rows) -> Tensor:
    return held[torch.from_numpy(positions).to(held.device)]


def not_none(rows: Rows) -> Rows:
    """Return `rows`, those of the training cells, as they are. Raises DataError if it is empty."""
    if not len(rows):
        raise DataError("the site has no training cell of the study's types")
    return rows


def shuffled(rows: Rows, batch_size: int, epochs: int, seed: int) -> Iterator[Rows]:
    """The positions of each batch in `epochs` passes over `rows`, in orders drawn from `seed`.

    Raises DataError when there are no rows.
    """
    rows, rng = not_none(rows), np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(rows)
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


@dataclass(frozen=True)
class Drawn:
    """A Poisson sample of units: (n,) the positions of its cells, and (n,) the unit of each."""

    rows: Rows
    units: Rows


def poisson(rows: Rows, units: Rows, rate: float, most: int, source: NoiseSource) -> Drawn:
    """A sample that each unit joins with probability `rate`, independently of the others.

    A unit joins with at most `most` of its cells, chosen at random. rows, units: (N,) positions and
    the unit of each. The sample may be empty.
    Formal guarantee: the probability is floor(rate * 2^64) / 2^64, never above `rate`, and each
    unit is decided by its own words of the stream.
    """
    count, index = _numbered(units)
    chosen = source.words(count) < np.uint64(min(int(rate * 2**64), 2**64 - 1))
    if rate >= 1:
        chosen[:] = True
    mine = chosen[index]
    kept, kept_units = rows[mine], units[mine]
    order = np.lexsort((source.words(len(kept)), kept_units))
    kept, kept_units = kept[order], kept_units[order]
    first = np.searchsorted(kept_units, kept_units)
    few = np.arange(len(kept)) - first < most
    return Drawn(kept[few], kept_units[few])


def _numbered(units: Rows) -> tuple[int, Rows]:
    """How many units there are, and for each cell the number of its unit in ascending order."""
    if (units[1:] > units[:-1]).all():  # each cell is a unit: nothing to sort
        return len(units), np.arange(len(units))
    names, index = np.unique(units, return_inverse=True)
    return len(names), index


def first_of_each(units: Rows, most: int) -> NDArray[np.bool_]:
    """bool (N,): which rows are among the first `most` of their unit, whatever other units do.

    >>> first_of_each(np.array([7, 7, 5, 7]), most=2).tolist()
    [True, True, True, False]
    """
    order = np.argsort(units, kind="stable")
    ranked = units[order]
    first = np.empty(len(units), bool)
    first[order] = np.arange(len(order)) - np.searchsorted(ranked, ranked) < most
    return first


def seed_of(*purpose: str | int) -> int:
    """A 63-bit seed for what is not secret (shuffling, augmentation), derived from its purpose.

    >>> seed_of(7, "site-a", 1, "shuffle") == seed_of(7, "site-a", 1, "shuffle")
    True
    """
    digest = hashlib.sha256("\0".join(str(part) for part in purpose).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
