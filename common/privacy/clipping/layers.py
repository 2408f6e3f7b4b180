"""Layers whose per-unit gradients are known in closed form: one class for each kind of layer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from common.privacy.clipping.accumulator import Accumulator
from common.privacy.clipping.contributions import KeptGradients, Piece, TokenRows


@dataclass
class Call:
    """One use of a layer in one forward and backward pass."""

    inputs: torch.Tensor
    """(rows, ...)"""
    backprops: torch.Tensor
    """(rows, ...): the gradient of the weighted loss with respect to the layer's output."""
    rough: torch.Tensor
    """`backprops` in autocast's type, if any: for the inputs' gradient, never for a parameter's."""
    saved: tuple[torch.Tensor, ...]
    """What the layer's `forward` asked to keep."""
    width: int
    """Rows of each unit."""
    keep: bool
    """Whether a parameter has several uses, so that per-unit gradients must be added before their
    norm is taken."""
    needs_input: bool
    """Whether `backward` must compute the inputs' gradient."""

    @property
    def units(self) -> int:
        return len(self.inputs) // self.width

    def only(self, unit: int) -> "Call":
        """This call with the rows of one unit alone."""
        rows = slice(unit * self.width, (unit + 1) * self.width)
        own = {name: getattr(self, name)[rows] for name in ("inputs", "backprops", "rough")}
        return replace(self, **own, saved=tuple(t[rows] for t in self.saved))

    def by_unit(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, ...) -> (units, width, ...)."""
        return rows.reshape(self.units, self.width, *rows.shape[1:])


class Layer(ABC):
    """The closed form of one module, used for one clipped sum."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        every = (p for p in module._parameters.values() if p is not None)
        self.own = tuple(p for p in every if p.requires_grad)
        """The module's own parameters that train; there is at least one."""

    def parameter(self, name: str) -> nn.Parameter | None:
        """The module's parameter of that name; None where it is missing or does not train."""
        found = self.module._parameters.get(name)
        return found if found is not None and found.requires_grad else None

    def tensor(self, name: str) -> torch.Tensor | None:
        found = self.module._parameters.get(name)
        return None if found is None else found.detach()

    @abstractmethod
    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The module's output, without a graph, and the tensors that `backward` will need."""

    @abstractmethod
    def backward(self, call: Call) -> tuple[torch.Tensor | None, list[Piece]]:
        """The inputs' gradient, if needed, and a piece for each trainable parameter."""

    def finish(self, total: Accumulator) -> None:
        """Add to `total` what is still to be added; called once, after the last chunk."""
        return None


class GroupNormLayer(Layer):
    """GroupNorm. `backward` gives the kernel all rows' channels as channels of one big row."""

    module: nn.GroupNorm

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        inputs = as_precise(inputs, self.module.weight)
        rows, channels = inputs.shape[:2]
        output, mean, rstd = torch.native_group_norm(
            inputs.contiguous(),
            self.tensor("weight"),
            self.tensor("bias"),
            rows,
            channels,
            inputs[0, 0].numel(),
            self.module.num_groups,
            self.module.eps,
        )
        return output, (mean, rstd)

    def backward(self, call: Call) -> tuple[torch.Tensor | None, list[Piece]]:
        mean, rstd = call.saved
        rows, channels = call.inputs.shape[:2]
        weight = self.tensor("weight")
        gradient, weights, biases = torch.ops.aten.native_group_norm_backward(
            call.backprops.contiguous(),
            call.inputs.contiguous(),
            mean.view(1, -1),
            rstd.view(1, -1),
            None if weight is None else weight.repeat(rows),
            1,
            rows * channels,
            call.inputs[0, 0].numel(),
            rows * self.module.num_groups,
            [call.needs_input, True, True],
        )
        return gradient, list(self._pieces(call, channels, weight=weights, bias=biases))

    def _pieces(self, call: Call, channels: int, **found: torch.Tensor) -> Iterator[Piece]:
        for name, values in found.items():
            if (parameter := self.parameter(name)) is not None:
                by_unit = values.view(call.units, call.width, channels).sum(1)
                yield KeptGradients(parameter, by_unit)


class LayerNormLayer(Layer):
    """LayerNorm. The weight's gradient is the sum of backprops times normalised inputs; the bias's
    is the sum of backprops."""

    module: nn.LayerNorm

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        output, mean, rstd = torch.native_layer_norm(
            as_precise(inputs, self.module.weight),
            self.module.normalized_shape,
            self.tensor("weight"),
            self.tensor("bias"),
            self.module.eps,
        )
        return output, (mean, rstd)

    def backward(self, call: Call) -> tuple[torch.Tensor | None, list[Piece]]:
        mean, rstd = call.saved
        gradient = torch.ops.aten.native_layer_norm_backward(
            call.backprops.contiguous(),
            call.inputs.contiguous(),
            self.module.normalized_shape,
            mean,
            rstd,
            self.tensor("weight"),
            self.tensor("bias"),
            [call.needs_input, False, False],
        )[0]
        pieces: list[Piece] = []
        if (weight := self.parameter("weight")) is not None:
            normalised = (call.inputs - mean) * rstd
            pieces.append(KeptGradients(weight, self._summed(call, call.backprops * normalised)))
        if (bias := self.parameter("bias")) is not None:
            pieces.append(KeptGradients(bias, self._summed(call, call.backprops)))
        return gradient, pieces

    def _summed(self, call: Call, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(call.units, -1, *self.module.normalized_shape).sum(1)


class AffineLayer(Layer):
    """Normalisation with fixed statistics: y = weight * (x - mean) / sqrt(variance + eps) + bias.

    This covers FrozenBatchNorm, and BatchNorm in evaluation mode.
    """

    def __init__(self, module: nn.Module, mean: str, variance: str, epsilon: float) -> None:
        super().__init__(module)
        self.mean: torch.Tensor = module.get_buffer(mean)
        self.rstd = torch.rsqrt(module.get_buffer(variance) + epsilon)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        scale, bias = self._scale(), self.tensor("bias")
        shift = -self.mean * scale if bias is None else bias - self.mean * scale
        return torch.addcmul(_channels(shift, inputs), inputs, _channels(scale, inputs)), ()

    def backward(self, call: Call) -> tuple[torch.Tensor | None, list[Piece]]:
        pieces: list[Piece] = []
        if (weight := self.parameter("weight")) is not None:
            centred = call.inputs - _channels(self.mean, call.inputs)
            pieces.append(
                KeptGradients(weight, _channel_sums(call, call.backprops * centred) * self.rstd)
            )
        if (bias := self.parameter("bias")) is not None:
            pieces.append(KeptGradients(bias, _channel_sums(call, call.backprops)))
        if not call.needs_input:
            return None, pieces
        return call.backprops * _channels(self._scale(), call.inputs), pieces

    def _scale(self) -> torch.Tensor:
        weight = self.tensor("weight")
        return self.rstd if weight is None else weight * self.rstd


class EmbeddingLayer(Layer):
    """Embedding. A unit's gradient has one row for each distinct token of the unit."""

    module: nn.Embedding

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        weight = self.module.weight.detach()
        return F.embedding(inputs, weight, self.module.padding_idx), ()

    def backward(self, call: Call) -> tuple[torch.Tensor | None, list[Piece]]:
        weight = self.parameter("weight")
        if weight is None:
            return None, []
        tokens = call.by_unit(call.inputs).reshape(call.units, -1)
        values = call.backprops.reshape(*tokens.shape, -1)
        if self.module.padding_idx is not None:
            values = values.masked_fill((tokens == self.module.padding_idx)[..., None], 0)
        if call.keep:
            return None, [KeptGradients(weight, _dense(tokens, values, len(weight)))]
        return None, [TokenRows.of(weight, tokens, values)]


def _dense(tokens: torch.Tensor, values: torch.Tensor, size: int) -> torch.Tensor:
    """(units, size, D): each unit's values summed by token."""
    offsets = torch.arange(len(tokens), device=tokens.device)[:, None] * size
    dense = values.new_zeros(len(tokens) * size, values.shape[-1])
    dense.index_add_(0, (tokens + offsets).flatten(), values.flatten(0, 1))
    return dense.view(len(tokens), size, -1)


def as_precise(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Floating-point values in the parameter's type, since autocast may have lowered them."""
    return values.to(parameter.dtype) if values.is_floating_point() else values


def _channels(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _channel_sums(call: Call, values: torch.Tensor) -> torch.Tensor:
    """(rows, channels, ...) -> (units, channels)."""
    by_unit = values.reshape(call.units, call.width, values.shape[1], -1)
    return by_unit.sum((1, 3))
