"""Per-unit gradients of nn.Linear, on (rows, in) and (rows, ..., in)."""

import torch
from torch import nn
from torch.nn import functional as F

from common.privacy.clipping.accumulator import block_sum
from common.privacy.clipping.contributions import Apart, Ghost, KeptGradients, Piece
from common.privacy.clipping.engine_api import squared_norms
from common.privacy.clipping.gram import gram_form, settled
from common.privacy.clipping.layers import Call, Layer


class LinearLayer(Layer):
    """Linear. The weight's gradient of a unit sums backprop (out) x input (in) over S positions."""

    module: nn.Linear

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        return F.linear(inputs, self.module.weight.detach(), self.tensor("bias")), ()

    def backward(self, call: Call) -> tuple[torch.Tensor | None, list[Piece]]:
        weight = self.module.weight.detach()
        gradient = call.rough @ weight.to(call.rough.dtype) if call.needs_input else None
        inputs = call.inputs.reshape(call.units, -1, weight.shape[1])
        backprops = call.backprops.reshape(call.units, -1, weight.shape[0])
        pieces: list[Piece] = []
        if (parameter := self.parameter("weight")) is not None:
            pieces.append(_weight(parameter, inputs, backprops, call.keep))
        if (bias := self.parameter("bias")) is not None:
            pieces.append(
                KeptGradients(bias, backprops.sum(1) if backprops.shape[1] > 1 else backprops[:, 0])
            )
        return gradient, pieces


def _weight(
    parameter: nn.Parameter, inputs: torch.Tensor, backprops: torch.Tensor, keep: bool
) -> Piece:
    """The weight's piece: the units' gradients, or where that is cheaper only their norms, from two
    Gram matrices.

    `inputs` is (units, S, in), `backprops` (units, S, out); `keep` asks for the gradients.
    """
    positions, outputs, features = inputs.shape[1], backprops.shape[2], inputs.shape[2]
    if keep or positions * (outputs + features) > outputs * features:
        return KeptGradients(parameter, torch.bmm(backprops.transpose(1, 2), inputs))
    if positions == 1:
        squares = squared_norms(inputs) * squared_norms(backprops)
        return Ghost(parameter, squares, inputs, backprops, contract)

    def gradient(unit: int) -> torch.Tensor:
        return backprops[unit].T @ inputs[unit]

    gram = torch.bmm(inputs, inputs.transpose(1, 2))
    lengths = gram.diagonal(dim1=1, dim2=2).clone()
    form = gram_form(gram, backprops.transpose(1, 2), lengths, outputs * features)
    squares, alone = settled(form, gradient)
    return Ghost(parameter, squares, inputs, backprops, contract, Apart(alone, gradient))


def contract(inputs: torch.Tensor, backprops: torch.Tensor) -> torch.Tensor:
    return block_sum(backprops.flatten(0, 1), inputs.flatten(0, 1))
