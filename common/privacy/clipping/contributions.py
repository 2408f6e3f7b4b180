"""What one use of a layer adds to the units' gradients, held until the factors are known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from common.privacy.clipping.accumulator import Accumulator
from common.privacy.clipping.engine_api import scaled_sum, squared_norms


class Piece(Protocol):
    """The units' gradients of one parameter: first their squared norms, then their sum."""

    parameter: torch.nn.Parameter

    def squares(self) -> torch.Tensor:
        """The squared norm of each unit's gradient, float64 (units,)."""

    def add(self, factors: torch.Tensor, total: Accumulator) -> None:
        """Add sum_u factors[u] * gradient_u to `total`; `factors` is float64 (units,)."""


@dataclass
class KeptGradients:
    """Per-unit gradients, kept: cheap where the parameter is small beside its layer's work."""

    parameter: torch.nn.Parameter
    gradients: torch.Tensor
    """(units, *parameter.shape)"""
    order: tuple[int, ...] | None = None
    """Permutes a unit's gradient to the parameter's shape; None: it has that shape already."""

    def squares(self) -> torch.Tensor:
        return squared_norms(self.gradients)

    def add(self, factors: torch.Tensor, total: Accumulator) -> None:
        found = scaled_sum(self.gradients, factors)
        total.add(self.parameter, found if self.order is None else found.permute(self.order))


@dataclass(frozen=True)
class Apart:
    """Units whose gradients are computed one by one, since terms cancel in them."""

    units: list[int]
    gradient: Callable[[int], torch.Tensor]
    """A unit's number -> its gradient, of the parameter's shape."""


@dataclass
class Ghost:
    """Keeps only the norms; the weighted sum is one contraction of the inputs and backprops.

    Goodfellow 2015 (arXiv 1510.01799), Li et al. 2021 (arXiv 2110.05679, sec. 4), and the
    book-keeping of Bu et al. 2022 (arXiv 2210.00038, sec. 2).
    """

    parameter: torch.nn.Parameter
    squared: torch.Tensor
    inputs: torch.Tensor
    backprops: torch.Tensor
    contract: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """(inputs, backprops), one of them scaled by row -> gradient of the parameter's shape."""
    apart: Apart | None = None
    owe: Callable[[torch.Tensor], None] | None = None
    """Receives the contraction; None: it is added to the parameter's part of the total."""

    def squares(self) -> torch.Tensor:
        return self.squared

    def add(self, factors: torch.Tensor, total: Accumulator) -> None:
        """Scale the smaller of inputs and backprops by the factors, contract, and add.

        Both are zeroed where the factor is 0, since 0 * NaN is NaN.
        """
        if self.apart is not None and self.apart.units:
            factors = self._add_apart(self.apart, factors, total)
        inputs, backprops = self.inputs, self.backprops
        if not bool(factors.all()):
            inputs = _zero_where(inputs, factors == 0)
            backprops = _zero_where(backprops, factors == 0)
        if inputs.is_floating_point() and inputs.numel() < backprops.numel():
            inputs = _scaled(inputs, factors)
        else:
            backprops = _scaled(backprops, factors)
        found = self.contract(inputs, backprops)
        if self.owe is None:
            total.add(self.parameter, found)
        else:
            self.owe(found)

    def _add_apart(self, apart: Apart, factors: torch.Tensor, total: Accumulator) -> torch.Tensor:
        """Add the gradients of `apart`'s units; return the factors, with 0 for these units."""
        for unit in apart.units:
            if factors[unit] > 0:
                own = apart.gradient(unit)
                total.add(self.parameter, own * factors[unit].to(own.dtype))
        others = factors.clone()
        others[apart.units] = 0
        return others


@dataclass
class TokenRows:
    """An embedding's gradients: for each unit, only the rows of the tokens that occur in it."""

    parameter: torch.nn.Parameter
    tokens: torch.Tensor
    """int64 (n,)"""
    owners: torch.Tensor
    """int64 (n,): the unit that each row belongs to."""
    rows: torch.Tensor
    """(n, D): the gradient's row of each token."""
    units: int

    @classmethod
    def of(
        cls, parameter: torch.nn.Parameter, tokens: torch.Tensor, values: torch.Tensor
    ) -> "TokenRows":
        """From `tokens` (units, S) and `values` (units, S, D), summed by token within a unit."""
        units, size = len(tokens), len(parameter)
        offsets = torch.arange(units, device=tokens.device)[:, None] * size
        keys, inverse = torch.unique(tokens + offsets, return_inverse=True)
        rows = values.new_zeros(len(keys), values.shape[-1])
        rows.index_add_(0, inverse.flatten(), values.flatten(0, 1))
        return cls(parameter, keys % size, keys // size, rows, units)

    def squares(self) -> torch.Tensor:
        squares = torch.zeros(self.units, dtype=torch.float64, device=self.rows.device)
        return squares.index_add_(0, self.owners, squared_norms(self.rows))

    def add(self, factors: torch.Tensor, total: Accumulator) -> None:
        scales = factors[self.owners]
        rows = self.rows.masked_fill(scales[:, None] == 0, 0) * scales.to(self.rows.dtype)[:, None]
        total.views[id(self.parameter)].index_add_(0, self.tokens, rows.double())


def _by_row(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Per-unit values, repeated for each of the unit's rows and shaped to broadcast over `rows`."""
    width = len(rows) // len(values)
    repeated = values if width == 1 else values.repeat_interleave(width)
    return repeated.view(-1, *[1] * (rows.dim() - 1))


def _scaled(rows: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return rows * _by_row(factors.to(rows.dtype), rows)


def _zero_where(rows: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    return rows.masked_fill(_by_row(dropped, rows), 0)
