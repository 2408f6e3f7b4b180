"""Per-unit norms from one forward and one backward pass (Bu et al. 2022, arXiv 2210.00038).

Plain training computes F + Bx + Bw: the forward pass and the gradients of inputs and weights. This
engine computes F + Bx + norms + Bw, with the factors inside Bw; nothing is computed twice.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from common.privacy.clipping.accumulator import Accumulator
from common.privacy.clipping.closed_forms import known_layers
from common.privacy.clipping.contributions import KeptGradients, Piece
from common.privacy.clipping.engine_api import (
    Problem,
    Rectangle,
    UnsupportedLayerError,
    cheap,
    weighted_loss,
)
from common.privacy.clipping.layers import Call, Layer, as_precise
from common.privacy.clipping.linear_head import LinearHead
from common.privacy.clipping.precision import no_autocast

_checked: WeakKeyDictionary[nn.Module, set[tuple[int, ...]]] = WeakKeyDictionary()


class BookkeepingEngine:
    """Computes with the layers' closed forms; each clipped sum needs an instance of its own.

    Raises UnsupportedLayerError for a model with a layer that has none.
    """

    def __init__(self, problem: Problem) -> None:
        self.layers = known_layers(problem.model)
        self.head = LinearHead.of(problem.model)
        self.probed = False

    def chunk(self, problem: Problem, row: torch.Tensor) -> int:
        return 512 if cheap(row) else 32

    def add(self, problem: Problem, part: Rectangle, total: Accumulator) -> torch.Tensor:
        if not self.probed:
            self._probe(problem, part)
        if self.head is not None and part.width == 1 and cheap(part.inputs):
            return self.head.add(problem, part, total)
        tape = _Tape(part)
        with _tapped(self.layers, tape, len(part.inputs)):
            scalar = weighted_loss(problem, part)
            # Autocast, if the caller wants it, ends with the forward pass: norms and sums that
            # were rounded to 8 bits would not keep the bound.
            with no_autocast(part.inputs.device):
                _backward(scalar, problem, tape)
        with torch.no_grad(), no_autocast(part.inputs.device):
            pieces = _merged(tape.pieces)
            norms = _norms(pieces, part)
            factors = problem.rule.factors(norms)
            for piece in pieces:
                piece.add(factors, total)
        return norms

    def _probe(self, problem: Problem, part: Rectangle) -> None:
        """Check with another number of rows that each layer's first dimension is the rows.

        This finds a layer on (time, rows, ...), or on rows folded with another dimension, even if
        its first dimension happens to equal the number of rows. Raises UnsupportedLayerError.
        """
        self.probed = True
        checked = _checked.setdefault(problem.model, set())
        shape = tuple(part.inputs.shape[1:])
        if shape in checked:
            return
        rows = part.inputs[:1] if len(part.inputs) > 1 else part.inputs.repeat_interleave(2, 0)
        with torch.no_grad(), _tapped(self.layers, _Tape(part), len(rows)):
            problem.model(rows)
        checked.add(shape)

    def finish(self, total: Accumulator) -> None:
        for layer in self.layers.values():
            layer.finish(total)


@dataclass
class _Tape:
    """What one pass over a rectangle of rows records."""

    part: Rectangle
    pieces: list[Piece] = field(default_factory=list)
    uses: Counter[int] = field(default_factory=Counter)
    """How often each parameter, by id, was used in the forward pass."""
    anchor: torch.Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))
    """An input of every tap: makes autograd call `backward` where the inputs need no gradient."""


class _Tap(torch.autograd.Function):
    """A layer whose backward returns the inputs' gradient and records the parameters' pieces."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, anchor: torch.Tensor, layer: Layer, tape: _Tape
    ) -> torch.Tensor:
        output, saved = layer.forward(inputs)
        ctx.save_for_backward(inputs)
        ctx.layer, ctx.tape = layer, tape
        ctx.kept = tuple((t.detach(), t._version) for t in saved)
        return output

    @staticmethod
    def backward(ctx: Any, *backprops: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer: Layer = ctx.layer
        tape: _Tape = ctx.tape
        own = layer.own
        given: torch.Tensor = ctx.saved_tensors[0].detach()
        inputs = as_precise(given, own[0])
        saved = tuple(t for t, v in ctx.kept if t._version == v and t.dtype == own[0].dtype)
        if len(saved) < len(ctx.kept):  # changed in place by an activation, or autocast's
            saved = layer.forward(inputs)[1]
        call = Call(
            inputs=inputs,
            backprops=as_precise(backprops[0], own[0]),
            rough=backprops[0],
            saved=saved,
            width=tape.part.width,
            keep=any(tape.uses[id(p)] > 1 for p in own),
            needs_input=ctx.needs_input_grad[0],
        )
        gradient, pieces = layer.backward(call)
        tape.pieces += pieces
        return None if gradient is None else gradient.to(given.dtype), None, None, None


@contextmanager
def _tapped(layers: dict[nn.Module, Layer], tape: _Tape, rows: int) -> Iterator[None]:
    """Inside the block the modules' `forward` goes through `_Tap`; hooks still run around it."""
    for module, layer in layers.items():
        module.forward = _forward(layer, tape, rows)
    try:
        yield
    finally:
        for module in layers:
            del module.forward


def _forward(layer: Layer, tape: _Tape, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) != rows:
            raise UnsupportedLayerError(
                f"{type(layer.module).__name__} on {len(inputs)} rows in a batch of {rows}"
            )
        for parameter in layer.own:
            tape.uses[id(parameter)] += 1
        output: torch.Tensor = _Tap.apply(inputs, tape.anchor, layer, tape)  # type: ignore[no-untyped-call]
        return output

    return forward


def _backward(scalar: torch.Tensor, problem: Problem, tape: _Tape) -> None:
    """Run the taps' backward.

    Raises UnsupportedLayerError when a gradient reaches a parameter otherwise than through a tap.
    """
    watched = (tape.anchor, *problem.parameters.values())
    if not scalar.requires_grad:
        return
    _, *leaked = torch.autograd.grad(scalar, watched, allow_unused=True)
    for name, gradient in zip(problem.parameters, leaked, strict=True):
        if gradient is not None:
            raise UnsupportedLayerError(f"{name}, used outside its own module")


def _norms(pieces: list[Piece], part: Rectangle) -> torch.Tensor:
    """The norm of each unit's whole gradient, float64 (units,)."""
    squares = torch.zeros(part.units, dtype=torch.float64, device=part.inputs.device)
    for piece in pieces:
        squares += piece.squares()
    return squares.sqrt()


def _merged(pieces: list[Piece]) -> list[Piece]:
    """One piece for each parameter: the kept gradients of a parameter's several uses are added."""
    by_parameter: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_parameter.setdefault(id(piece.parameter), []).append(piece)
    return [_sum(uses) for uses in by_parameter.values()]


def _sum(uses: list[Piece]) -> Piece:
    if len(uses) == 1:
        return uses[0]
    kept = [piece.gradients for piece in uses if isinstance(piece, KeptGradients)]
    assert len(kept) == len(uses), "a parameter with several uses has kept gradients only"
    return KeptGradients(uses[0].parameter, torch.stack(kept).sum(0))
