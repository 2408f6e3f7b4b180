"""Rows of a batch grouped into privacy units, and units into chunks of bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from common.errors import PrivacyError

PADDING = 1.25
"""A chunk may hold this many times its true rows, so that units of similar size share one."""


@dataclass(frozen=True)
class Chunk:
    """Some whole units as a rectangle: every unit has the same number of rows.

    A smaller unit repeats its first row with weight 0. The weights of a unit sum to 1, so the
    weighted sum of its rows' losses has the unit's mean gradient.
    """

    rows: torch.Tensor
    """int64 (units, rows a unit): positions in the batch."""
    weights: torch.Tensor | None
    """float64 (units, rows a unit); None: each row is a unit, and the rows are consecutive."""

    @property
    def units(self) -> int:
        return self.rows.shape[0]


def chunks(units: torch.Tensor | None, batch: int, limit: int) -> Iterator[Chunk]:
    """Cut a batch of `batch` rows into chunks of about `limit` rows; no unit is ever split.

    `units`: int64 (batch,), the unit of each row in any order; None: each row is a unit. A unit of
    more than `limit` rows is a chunk by itself. What a chunk holds depends on the units' sizes
    only through grouping; a unit's gradient is the same in any chunk. No chunk has a single row:
    libraries multiply one row by a matrix with another kernel than several, whose sums come in
    another order, so that a unit's gradient would depend on whether another is in the batch.

    Raises:
        PrivacyError: `units` does not fit the batch, or `limit` < 1.
    """
    if limit < 1:
        raise PrivacyError(f"Expected chunk={limit} >= 1 rows.")
    if batch == 0:
        return
    if units is None:
        split = torch.split(torch.arange(batch), limit)
        found: Iterator[Chunk] = (Chunk(rows[:, None], None) for rows in split)
    else:
        found = _pack(_members(units, batch), limit)
    yield from (_accompanied(chunk) if chunk.rows.numel() == 1 else chunk for chunk in found)


def _members(units: torch.Tensor, batch: int) -> list[torch.Tensor]:
    """Each unit's rows, smallest units first."""
    if units.shape != (batch,) or units.dtype != torch.int64:
        raise PrivacyError(
            f"Expected units to be int64 of shape ({batch},), one unit a row; "
            f"got {units.dtype} of shape {tuple(units.shape)}."
        )
    _, inverse, counts = torch.unique(units.cpu(), return_inverse=True, return_counts=True)
    order = torch.argsort(inverse, stable=True)
    return sorted(torch.split(order, counts.tolist()), key=len)


def _pack(members: list[torch.Tensor], limit: int) -> Iterator[Chunk]:
    group: list[torch.Tensor] = []
    true_rows = 0
    for rows in members:
        padded = (len(group) + 1) * len(rows)
        if group and (padded > limit or padded > PADDING * (true_rows + len(rows))):
            yield _rectangle(group)
            group, true_rows = [], 0
        group.append(rows)
        true_rows += len(rows)
    if group:
        yield _rectangle(group)


def _rectangle(group: list[torch.Tensor]) -> Chunk:
    width = max(len(rows) for rows in group)
    positions = torch.stack([_padded(rows, width) for rows in group])
    weights = torch.zeros(positions.shape, dtype=torch.float64)
    for index, rows in enumerate(group):
        weights[index, : len(rows)] = 1 / len(rows)
    return Chunk(positions, weights)


def _accompanied(chunk: Chunk) -> Chunk:
    """A lone row, twice; the second time without weight."""
    return Chunk(chunk.rows.expand(1, 2), torch.tensor([[1.0, 0.0]], dtype=torch.float64))


def _padded(rows: torch.Tensor, width: int) -> torch.Tensor:
    return torch.cat([rows, rows[:1].expand(width - len(rows))])
