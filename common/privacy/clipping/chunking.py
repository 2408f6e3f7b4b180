"""Rows of a batch grouped into privacy units, and units into chunks of fixed shapes.

A matrix product or a convolution may use another kernel for another number of rows, and that
changes the last bits of a row's result. So every chunk of a given width has the same number of
rows, whatever the batch holds: rows of weight 0 fill up the last one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from common.errors import PrivacyError

FINEST = 8
"""The chunk's size is chosen among this many sizes up to the largest."""

_MANY = 64
"""A batch that fills this many of the largest chunks is cut into those, however full the last."""

_OVERHEAD = 1 / 16
"""What a chunk costs beside its rows, as a fraction of the largest chunk's. Measured: about 2 rows
of 32 for `cnn` and `resnet18` at 64 px."""


@dataclass(frozen=True)
class Chunk:
    """Some whole units as a rectangle whose shape is fixed by the units' width alone.

    A unit of fewer rows than its width repeats its first row with weight 0; a chunk of fewer units
    than it has room for repeats its first unit with weight 0. The weights of a real unit sum to 1,
    so the gradient of the weighted sum of its rows' losses is the unit's mean gradient.
    """

    rows: torch.Tensor
    """int64 (room, width): positions in the batch."""
    weights: torch.Tensor
    """float64 (room, width)."""
    units: int
    """How many units are real: they come first in the rectangle."""
    run: slice | None = None
    """The positions as a slice, if they are known to be consecutive."""


def chunks(units: torch.Tensor | None, batch: int, limit: int, views: int = 1) -> Iterator[Chunk]:
    """Cut a batch of `batch` rows into chunks of at most `limit` rows; no unit is ever split.

    `units`: int64 (batch,), the unit of each row in any order; None: each row is a unit. A unit
    whose width is more than `limit` rows is a chunk by itself. `views`: how many rows each image of
    a unit has; a unit's width is the least of views, 2 views, 4 views, ... that its rows fit in.

    Formal guarantee: the shape of the chunk that a unit is in depends on the unit's own number of
    rows, `limit` and `views`, and on nothing else in the batch.

    Raises:
        PrivacyError: `units` does not fit the batch, or `limit` or `views` < 1.
    """
    if limit < 1 or views < 1:
        raise PrivacyError(f"Expected chunk={limit} >= 1 rows and views={views} >= 1.")
    if batch == 0:
        return
    if views == 1 and (units is None or _in_order(units, batch)):
        yield from (_rows(start, batch, limit) for start in range(0, batch, limit))
        return
    order, counts = _by_unit(units, batch)
    starts = counts.cumsum(0) - counts
    widths = _widths(counts, views)
    for width in sorted(set(widths.tolist())):
        mine = widths == width
        rows, weights = _rectangle(order, starts[mine], counts[mine], width)
        if width > limit:
            yield from (_alone(*unit) for unit in zip(rows, weights, strict=True))
        else:
            room = limit // width
            pieces = zip(torch.split(rows, room), torch.split(weights, room), strict=True)
            yield from (_filled(*piece, room) for piece in pieces)


@lru_cache(maxsize=32)
def chunk_rows(expected: float, most: int) -> int:
    """The chunk size, at most `most` rows, that takes least time for Poisson(expected) rows.

    It depends on public numbers alone, so the chunk says nothing of who joined. The model of the
    time counts the chunks' rows, filled ones included, and `_OVERHEAD` for each chunk.
    """
    if expected >= _MANY * most:
        return most
    step = max(1, most // FINEST)
    sizes = range(step, most + 1, step)
    return min(sizes, key=lambda rows: _chunks_expected(expected, rows) * (rows + _OVERHEAD * most))


def _chunks_expected(expected: float, rows: int) -> float:
    """Mean number of chunks: the sum over j of the chance that there are more than j * rows."""
    spread = math.sqrt(2 * expected) or 1.0
    most = int((expected + 8 * spread) / rows) + 1
    return sum(0.5 * math.erfc((j * rows + 0.5 - expected) / spread) for j in range(most + 1))


def _by_unit(units: torch.Tensor | None, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (batch,), unit after unit, and how many rows each unit has (units,)."""
    if units is None:
        return torch.arange(batch), torch.ones(batch, dtype=torch.int64)
    _check_units(units, batch)
    _, inverse, counts = torch.unique(units.cpu(), return_inverse=True, return_counts=True)
    return torch.argsort(inverse, stable=True), counts


def _widths(counts: torch.Tensor, views: int) -> torch.Tensor:
    """For each number of rows, the least of views, 2 views, 4 views, ... that is not smaller."""
    distinct, which = torch.unique(counts, return_inverse=True)
    widths = [views << (-(-rows // views) - 1).bit_length() for rows in distinct.tolist()]
    return torch.tensor(widths)[which]


def _rectangle(
    order: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and weights (units, width); after a unit's own rows its first repeats with weight 0."""
    column = torch.arange(width)
    own = column < counts[:, None]
    return order[starts[:, None] + column * own], own / counts[:, None].double()


def _in_order(units: torch.Tensor, batch: int) -> bool:
    """Whether each row is its own unit and the units ascend, as they do in a sample of images."""
    _check_units(units, batch)
    return bool((units[1:] > units[:-1]).all())


def _check_units(units: torch.Tensor, batch: int) -> None:
    if units.shape != (batch,) or units.dtype != torch.int64:
        raise PrivacyError(
            f"Expected units to be int64 of shape ({batch},), one unit a row; "
            f"got {units.dtype} of shape {tuple(units.shape)}."
        )


def _rows(start: int, batch: int, room: int) -> Chunk:
    """A chunk of `room` units of one row each, from position `start` on."""
    there = min(room, batch - start)
    rows, weights = torch.arange(start, start + room), torch.ones(room, 1, dtype=torch.float64)
    if there == room:
        return Chunk(rows[:, None], weights, there, run=slice(start, start + room))
    rows[there:], weights[there:] = start, 0
    return Chunk(rows[:, None], weights, there)


def _filled(rows: torch.Tensor, weights: torch.Tensor, room: int) -> Chunk:
    """A chunk of `room` units: the first unit, with weight 0, stands in for the missing ones."""
    there = len(rows)
    rows = torch.cat([rows, rows[:1].expand(room - there, -1)])
    return Chunk(rows, torch.cat([weights, weights.new_zeros(room - there, rows.shape[1])]), there)


def _alone(rows: torch.Tensor, weights: torch.Tensor) -> Chunk:
    """A chunk of one unit that no other has room for: its own rows, with nothing to fill."""
    own = weights > 0
    return Chunk(rows[own][None], weights[own][None], 1)
