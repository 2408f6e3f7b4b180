"""The exact sum of clipped per-unit gradients, in bounded memory."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from common.errors import PrivacyError
from common.privacy.clipping.flat import Accumulator, trainable
from common.privacy.clipping.problem import Engine, Loss, Problem, Rectangle, weighted_loss
from common.privacy.clipping.rule import Clipping, ClipRule
from common.privacy.clipping.units import Chunk, chunks
from common.privacy.clipping.vmap_engine import VmapEngine

EngineName = Literal["bookkeeping", "opacus", "vmap"]


@dataclass(frozen=True)
class Spread:
    """A few figures of many values; zeros when there were none. Private: for a local log only."""

    mean: float = 0.0
    median: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, values: torch.Tensor) -> "Spread":
        values = values[torch.isfinite(values)]
        if not len(values):
            return cls()
        return cls(float(values.mean()), float(values.median()), float(values.max()))


@dataclass(frozen=True)
class ClippedSum:
    """What leaves the clipping of one batch; nothing of a single unit is kept.

    Everything here is private until noise is added to `gradient`.
    """

    gradient: torch.Tensor
    """float32 (P,): the sum, trainable parameters flattened in `named_parameters()` order."""
    units: int
    """Units in the batch; 0 for an empty batch, whose gradient is zeros."""
    nonfinite: int
    """Units whose gradient had no finite norm: counted as zero."""
    clipped: int
    """Units whose norm exceeded the bound."""
    norms: Spread
    factors: Spread


def clipped_gradient_sum(
    model: nn.Module,
    loss: Loss,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    max_grad_norm: float,
    clipping: Clipping = "flat",
    gamma: float = 0.01,
    engine: EngineName = "bookkeeping",
    units: torch.Tensor | None = None,
    chunk: int | None = None,
) -> ClippedSum:
    """Sum over units of the unit's gradient, each scaled to an L2 norm of at most `max_grad_norm`.

    A unit's gradient is the mean of its rows' gradients. The model's `.grad` fields, hooks, modes
    and parameters are left as they were.

    Args:
        loss: (logits, targets) -> (B,) losses, one a row, unreduced.
        inputs: (B, ...) rows; B may be 0.
        targets: (B, ...).
        max_grad_norm: the bound C.
        clipping: "flat" or "automatic"; see `ClipRule`.
        gamma: automatic clipping's stabiliser; flat ignores it.
        engine: how per-unit gradients are had; speed and memory only, the sum is the same.
        units: int64 (B,), the unit (patient, or image with several views) of each row, in any
            order; None: each row is a unit.
        chunk: rows at once, bounding memory; a unit is never split between chunks, and one that
            is larger is accumulated alone. None: the engine's choice.

    Formal guarantee: for a model and loss that treat rows separately, adding or removing one unit
    changes the exact sum by at most `max_grad_norm` in L2. The factors are lowered by 2^-22 for
    the rounding of float32.

    | edge case | result |
    |---|---|
    | empty batch | zeros, units=0 |
    | a unit's gradient has a NaN or infinity, or a norm beyond float32 | zero, in `nonfinite` |
    | zero gradient | zero |
    | parameter that the loss does not reach | zeros in its place |

    Raises:
        PrivacyError: the model mixes rows (BatchNorm in training mode), nothing trains, the loss
            is reduced, or an argument is out of range.
    """
    rule = ClipRule(max_grad_norm, clipping, gamma)
    refuse_row_mixing(model)
    parameters = trainable(model)
    total = Accumulator(parameters)
    problem = Problem(model, loss, parameters, rule)
    chosen = _engine(engine)
    rows = chunk if chunk is not None else chosen.chunk(problem)
    norms = [torch.zeros(0, dtype=torch.float64)]
    if len(inputs) != len(targets):
        raise PrivacyError(f"{len(inputs)} inputs, but {len(targets)} targets.")
    for piece in chunks(units, len(inputs), rows):
        if piece.rows.numel() > rows:
            found = _one_large_unit(problem, inputs, targets, piece, rows, total)
        else:
            found = chosen.add(problem, _rectangle(inputs, targets, piece), total)
        norms.append(found.cpu())
    return _summary(total.flat, torch.cat(norms), rule)


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


def _engine(name: EngineName) -> Engine:
    if name == "vmap":
        return VmapEngine()
    if name in ("opacus", "bookkeeping"):
        from common.privacy.clipping.opacus_engine import OpacusEngine  # slow to import

        return OpacusEngine()
    raise PrivacyError(f"Unknown engine={name!r}; choose 'bookkeeping', 'opacus' or 'vmap'.")


def _rectangle(inputs: torch.Tensor, targets: torch.Tensor, piece: Chunk) -> Rectangle:
    rows = piece.rows.flatten().to(inputs.device)
    weights = piece.weights.flatten().to(inputs.device)
    return Rectangle(inputs[rows], targets[rows], weights, piece.rows.shape[1])


def _one_large_unit(
    problem: Problem,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    piece: Chunk,
    limit: int,
    total: Accumulator,
) -> torch.Tensor:
    """A unit larger than a chunk: its mean gradient is accumulated first, then clipped."""
    own = Accumulator(problem.parameters)
    parameters = list(problem.parameters.values())
    rows, weights = piece.rows[0], piece.weights[0]
    for some, weight in zip(torch.split(rows, limit), torch.split(weights, limit), strict=True):
        part = _rectangle(inputs, targets, Chunk(some[:, None], weight[:, None]))
        scalar = weighted_loss(problem, part)
        gradients = torch.autograd.grad(scalar, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                own.add(parameter, gradient)
    norm = own.flat.double().square().sum().sqrt()[None]
    if bool(torch.isfinite(norm).all()):
        total.flat.add_(own.flat, alpha=float(problem.rule.factors(norm)))
    return norm


def _summary(gradient: torch.Tensor, norms: torch.Tensor, rule: ClipRule) -> ClippedSum:
    return ClippedSum(
        gradient=gradient,
        units=len(norms),
        nonfinite=int((~torch.isfinite(norms)).sum()),
        clipped=rule.exceeded(norms),
        norms=Spread.of(norms),
        factors=Spread.of(rule.factors(norms)),
    )
