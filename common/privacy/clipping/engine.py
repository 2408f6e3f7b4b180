"""The exact sum of clipped per-unit gradients, in bounded memory."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn

from common.errors import PrivacyError
from common.memory import keep_freed_memory
from common.privacy.clipping.accumulator import Accumulator, clippable
from common.privacy.clipping.bookkeeping_engine import BookkeepingEngine
from common.privacy.clipping.chunking import Chunk, chunk_rows, chunks
from common.privacy.clipping.clip_rule import Clipping, ClipRule
from common.privacy.clipping.engine_api import (
    Engine,
    Loss,
    MakeRows,
    Problem,
    Rectangle,
    UnsupportedLayerError,
    squared_norms,
    weighted_loss,
)
from common.privacy.clipping.precision import full_float32
from common.privacy.clipping.vmap_engine import VmapEngine

_log = logging.getLogger(__name__)

EngineName = Literal["bookkeeping", "opacus", "vmap"]

_ALIGNED = 64
"""A new tensor's address on a processor is a multiple of this many bytes."""


@dataclass(frozen=True)
class ClippedSum:
    """What the clipping of one batch gives. It is private until noise is added to `gradient`."""

    gradient: torch.Tensor
    """float64 (P,), finite: the sum, the trainable parameters in `named_parameters()` order."""
    norms: torch.Tensor
    """float64 (units,): the norm of each unit's gradient before it is clipped, never too small.

    A unit whose norm is not finite, or beyond `LARGEST_NORM`, counts as zero in the sum."""


def clipped_gradient_sum(
    model: nn.Module,
    loss: Loss,
    inputs: torch.Tensor | MakeRows,
    targets: torch.Tensor,
    *,
    max_grad_norm: float,
    clipping: Clipping = "flat",
    gamma: float = 0.01,
    engine: EngineName = "bookkeeping",
    units: torch.Tensor | None = None,
    views: int = 1,
    expected: float | None = None,
    chunk: int | None = None,
) -> ClippedSum:
    """The sum over units of the unit's gradient, scaled to an L2 norm of at most `max_grad_norm`.

    A unit's gradient is the mean of its rows' gradients. The model's `.grad` fields, hooks, modes
    and parameters are left as they were.

    Args:
        loss: (logits, targets) -> (B,) losses, one a row, unreduced.
        inputs: (B, ...) rows; B may be 0. Or a function that makes the rows at the positions it is
            given, int64 (n,) on the CPU: it is asked for one chunk at a time, so that memory does
            not grow with the batch, and for as many positions each time.
        targets: (B, ...).
        max_grad_norm: the bound C, at least `SMALLEST_BOUND`.
        clipping: "flat" or "automatic"; see `ClipRule`.
        gamma: automatic clipping's stabiliser; flat ignores it.
        engine: how per-unit gradients are computed. It affects speed and memory, not the sum.
        units: int64 (B,), the unit (patient, or image with several views) of each row, in any
            order; None: each row is a unit.
        views: how many rows each image of a unit has.
        expected: how many rows a batch has in the mean, a public number; chunks get the size that
            suits it. None: they are as large as the engine allows.
        chunk: rows of a chunk, instead of the engine's choice. A unit is never split between
            chunks; a unit larger than a chunk is accumulated by itself.

    Formal guarantees, for a model and loss that treat rows separately, as computed, whatever the
    parameters, the loss's scale and the inputs, non-finite ones included:
    1. A unit's share of the sum has an L2 norm of at most `max_grad_norm`, as computed: norms are
       rounded up by what float32 may lose to rounding (`MARGIN`, `gram_form`) and underflow.
    2. No bit of a unit's share depends on the other units, where a row's result depends on how many
       rows a kernel is given and not on the others' values or its place among them: the shapes that
       a unit is computed in are fixed by its own number of rows and by public numbers (`chunks`).
       `client.training.selftest` asks this of the machine at hand. So adding or removing one unit
       changes the sum by at most `max_grad_norm`, but for 4.
    3. The sum is finite. Nothing that depends on the data raises: an error would tell of it.
    4. Units are added up in float32 within a chunk, and in float64 over chunks; sums may be rounded
       otherwise when a unit is added. `common.privacy.noise.SLACK` is for that; its module states
       how much it is.

    | edge case | result |
    |---|---|
    | empty batch | zeros, no norms |
    | a unit's gradient, or a product on the way to its norm, is not finite | the unit adds zero |
    | a unit's norm is beyond `LARGEST_NORM` | the unit adds zero |
    | the sum is not finite after all | zeros, all norms NaN |
    | zero gradient | zero |
    | parameter that the loss does not reach | zeros in its place |

    Raises:
        PrivacyError: the model mixes rows (BatchNorm in training mode), nothing trains, a
            parameter has fewer bits than float32, the loss is reduced, or an argument is out of
            range.

    >>> model = nn.Linear(2, 3)
    >>> losses = nn.CrossEntropyLoss(reduction="none")
    >>> inputs, targets = torch.full((4, 2), 100.0), torch.tensor([0, 1, 2, 0])
    >>> found = clipped_gradient_sum(model, losses, inputs, targets, max_grad_norm=1.0)
    >>> found.gradient.shape, len(found.norms), bool(found.gradient.norm() <= 4.0)
    (torch.Size([9]), 4, True)
    """
    keep_freed_memory()
    rule = ClipRule(max_grad_norm, clipping, gamma)
    refuse_row_mixing(model)
    problem = Problem(model, loss, clippable(model), rule)
    if isinstance(inputs, torch.Tensor) and len(inputs) != len(targets):
        raise PrivacyError(f"{len(inputs)} inputs, but {len(targets)} targets.")
    batch = _Batch(inputs, targets, units, views, expected, chunk)
    with full_float32():
        try:
            return _clipped_sum(problem, _engine(engine, problem), batch)
        except UnsupportedLayerError as unsupported:
            _say_once(f"{unsupported}: no closed form for its gradients; using torch.func.vmap")
            return _clipped_sum(problem, VmapEngine(), batch)


@dataclass(frozen=True)
class _Batch:
    inputs: torch.Tensor | MakeRows
    targets: torch.Tensor
    units: torch.Tensor | None
    views: int
    expected: float | None
    chunk: int | None

    def chunks(self, limit: int) -> Iterator[Chunk]:
        return chunks(self.units, len(self.targets), limit, self.views)

    def limit(self, engine: Engine, problem: Problem) -> int:
        """How many rows a chunk has at most."""
        if self.chunk is not None:
            return self.chunk
        most = engine.chunk(problem, self._made(torch.zeros(1, dtype=torch.int64)))
        return most if self.expected is None else chunk_rows(self.expected, most)

    def part(
        self, rows: torch.Tensor, weights: torch.Tensor, run: slice | None = None
    ) -> Rectangle:
        """The batch's rows at `rows` (units, width); `run` is the same positions as a slice."""
        positions, width = rows.flatten(), rows.shape[1]
        inputs = self._made(positions, run)
        targets = _taken(self.targets, positions, run)
        return Rectangle(inputs, targets, weights.flatten().to(inputs.device), width)

    def _made(self, positions: torch.Tensor, run: slice | None = None) -> torch.Tensor:
        if isinstance(self.inputs, torch.Tensor):
            return _taken(self.inputs, positions, run)
        return self.inputs(positions)


def _taken(values: torch.Tensor, positions: torch.Tensor, run: slice | None) -> torch.Tensor:
    """values[positions], copied only where needed.

    A run is not copied if it is aligned in memory as its copy would be. Otherwise it is: kernels
    may choose by alignment too, and a unit's company decides where in a batch the unit lies.
    """
    if run is not None and values.device.type == "cpu" and values.is_contiguous():
        found = values[run]
        if found.data_ptr() % _ALIGNED == 0:
            return found
    return values[positions.to(values.device)]


def _clipped_sum(problem: Problem, engine: Engine, batch: _Batch) -> ClippedSum:
    total = Accumulator(problem.parameters)
    norms = [torch.zeros(0, dtype=torch.float64)]
    if not len(batch.targets):
        return ClippedSum(total.flat, norms[0])
    limit = batch.limit(engine, problem)
    large: list[Chunk] = []
    with torch.enable_grad():
        for piece in batch.chunks(limit):
            if piece.rows.numel() > limit:
                large.append(piece)
            else:
                part = batch.part(piece.rows, piece.weights, piece.run)
                found = engine.add(problem, part, total)
                norms.append(found[: piece.units].cpu())
        engine.finish(total)
        for piece in large:
            norms.append(_add_large_unit(problem, batch, piece, limit, total).cpu())
    return _finite(total.flat, torch.cat(norms))


def refuse_row_mixing(model: nn.Module) -> None:
    """Raise PrivacyError if a layer's output for a row depends on the batch's other rows."""
    for name, module in model.named_modules():
        batch_norm = isinstance(module, nn.modules.batchnorm._NormBase) and module.training
        if batch_norm and not (
            isinstance(module, nn.modules.instancenorm._InstanceNorm)
            and not module.track_running_stats
        ):
            raise PrivacyError(
                f"Layer {name or '(the model)'} is {type(module).__name__} in training mode: it "
                "normalises with statistics of the whole batch, so one unit's data enters every "
                "other unit's gradient and clipping bounds nothing. Use GroupNorm, or freeze the "
                "statistics (FrozenBatchNorm, or module.eval())."
            )


def _engine(name: EngineName, problem: Problem) -> Engine:
    if name == "bookkeeping":
        return BookkeepingEngine(problem)
    if name == "vmap":
        return VmapEngine()
    if name == "opacus":
        from common.privacy.clipping.opacus_engine import OpacusEngine  # slow to import

        return OpacusEngine(problem)
    raise PrivacyError(f"Unknown engine={name!r}; choose 'bookkeeping', 'opacus' or 'vmap'.")


@cache
def _say_once(message: str) -> None:
    _log.warning(message)


def _add_large_unit(
    problem: Problem, batch: _Batch, piece: Chunk, limit: int, total: Accumulator
) -> torch.Tensor:
    """A unit larger than a chunk: its mean gradient is accumulated first, then clipped."""
    rule = problem.rule
    own = Accumulator(problem.parameters)
    parameters = list(problem.parameters.values())
    splits = (torch.split(t[0], limit) for t in (piece.rows, piece.weights))
    for rows, weights in zip(*splits, strict=True):
        scalar = weighted_loss(problem, batch.part(rows[:, None], weights[:, None]))
        gradients = torch.autograd.grad(scalar, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                own.add(parameter, gradient)
    norm = squared_norms(own.flat[None]).sqrt()
    if bool(rule.usable(norm)):
        total.flat.add_(own.flat, alpha=float(rule.factors(norm)))
    return norm


def _finite(gradient: torch.Tensor, norms: torch.Tensor) -> ClippedSum:
    """The sum, or zeros where it is not finite: then no unit counts."""
    if not bool(gradient.sum().isfinite()):
        gradient, norms = torch.zeros_like(gradient), torch.full_like(norms, torch.nan)
    return ClippedSum(gradient, norms)
