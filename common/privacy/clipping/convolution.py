"""Per-unit gradients of two-dimensional convolutions, plain and weight-standardised."""

import torch
from torch import nn
from torch.nn import functional as F

from common.models.layers import WSConv2d
from common.privacy.clipping.accumulator import Accumulator
from common.privacy.clipping.contributions import Apart, Ghost, KeptGradients, Piece
from common.privacy.clipping.gram import GramForm, gram_form, patch_gram, patch_sums, settled
from common.privacy.clipping.layers import Call, Layer
from common.privacy.clipping.patches import padded_last, patches

_MULTIPLY = 0.03
_KEEP = 1.2
_SHIFT = 0.9
"""Nanoseconds on one AVX-512 core: for a multiply-add in a matrix product, for writing and reading
again one value of a per-unit gradient, and for adding one value of a shifted Gram matrix. They
choose between two exact methods, so they affect speed only. They are constants, not timings, so
that every run of a study makes the same choice."""

_FEW = 4
"""Units that share one call of a kernel."""

_SMALL = 2**16
"""A weight of at most this many values is not slower when a few units share a call."""

_SLOW = 20480
"""PyTorch does not use oneDNN's fast kernels for one image of at most this many values; it does for
several images as groups of one convolution."""

_FEW_PATCHES = 2**16
"""Up to this many values in a unit's patches, a product with them is faster than a convolution."""

_LINE = 64
"""Bytes of a processor's cache line, and of its largest vector."""

_SCALES = 2.0**60
"""A filter's scale must lie between 1 / _SCALES and _SCALES; see `WSConvLayer`."""

_CACHED = 2**15
"""Values to carry from W' to W at once, so that they stay in a processor's cache."""


class ConvLayer(Layer):
    """Conv2d with zero padding: any stride, dilation and groups."""

    module: nn.Conv2d

    def __init__(self, module: nn.Conv2d) -> None:
        super().__init__(module)
        self.padding = _explicit_padding(module)
        self.weight = module.weight.detach()

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        m = self.module
        output = F.conv2d(
            inputs, self.weight, self.tensor("bias"), m.stride, self.padding, m.dilation, m.groups
        )
        return output, ()

    def backward(self, call: Call) -> tuple[torch.Tensor | None, list[Piece]]:
        gradient = None
        if call.needs_input:
            rough = call.rough
            gradient = self._convolution_backward(
                rough, call.inputs.to(rough.dtype), needs_input=True
            )
        pieces: list[Piece] = []
        if (parameter := self.parameter("weight")) is not None:
            pieces.append(self._weight(parameter, call))
        if (bias := self.parameter("bias")) is not None:
            pieces.append(KeptGradients(bias, call.by_unit(call.backprops).sum((1, 3, 4))))
        return gradient, pieces

    def _weight(self, parameter: nn.Parameter, call: Call) -> Piece:
        if call.keep or self._keeping_is_cheaper(call):
            return self._kept(parameter, call)

        def gradient(unit: int) -> torch.Tensor:
            return self._unit_gradients(call.only(unit))[0]

        squares, alone = settled(self._form(call), gradient)
        apart = Apart(alone, gradient)
        return Ghost(parameter, squares, call.inputs, call.backprops, self._contract, apart)

    def _keeping_is_cheaper(self, call: Call) -> bool:
        if self.module.groups > 1:
            return True
        kernel = self.weight[0, 0].numel()
        pixels = call.width * call.inputs[0, 0].numel()
        outputs = call.width * call.backprops[0, 0].numel()
        channels_out, channels_in = self.weight.shape[:2]
        ghost = _MULTIPLY * (pixels**2 * channels_in + outputs**2 * channels_out)
        return _KEEP * self.weight.numel() < ghost + _SHIFT * kernel * outputs**2

    def _kept(self, parameter: nn.Parameter, call: Call) -> KeptGradients:
        """The units' gradients, as products of patches and backprops where the patches are few."""
        if call.keep or not self._patches_are_few(call):
            return KeptGradients(parameter, self._unit_gradients(call))
        m, size = self.module, (call.backprops.shape[2], call.backprops.shape[3])
        out, channels, *kernel = self.weight.shape
        gradients = self.weight.new_empty(call.units, out, *kernel, channels)
        products = gradients.view(call.units, out, -1)
        some = _FEW if call.units % _FEW == 0 else 1
        padded = padded_last(call.inputs, self.padding)
        backprops = _columns(call, call.backprops).contiguous()
        for start in range(0, call.units, some):
            units = slice(start, start + some)
            rows = padded[start * call.width : (start + some) * call.width]
            found = patches(rows, m.kernel_size, m.stride, m.dilation, size)
            torch.bmm(
                backprops[units], found.view(some, -1, products.shape[2]), out=products[units]
            )
        return KeptGradients(parameter, gradients, order=(0, 3, 1, 2))

    def _patches_are_few(self, call: Call) -> bool:
        """Whether a product with the patches is faster, and its bits depend on the unit alone.

        For the latter each unit's numbers must begin at a multiple of `_LINE` bytes: a product's
        last bits depend on that too, and otherwise a unit's company would decide it.
        """
        positions = call.width * call.backprops[0, 0].numel()
        values, out = self.weight[0].numel(), len(self.weight)
        if call.inputs.device.type != "cpu" or self.module.groups > 1:
            return False
        line = _LINE // self.weight.element_size()
        aligned = all(n % line == 0 for n in (positions * values, positions * out, out * values))
        return aligned and positions * values <= _FEW_PATCHES

    def _unit_gradients(self, call: Call) -> torch.Tensor:
        """The units' gradients (units, *weight.shape): a few units are the groups of one call."""
        gradients = self.weight.new_empty(call.units, *self.weight.shape)
        blocks = (
            torch.split(call.by_unit(t), self._block(call)) for t in (call.inputs, call.backprops)
        )
        done = 0
        for inputs, backprops in zip(*blocks, strict=True):
            found = self._convolution_backward(
                _units_as_channels(backprops),
                _units_as_channels(inputs),
                needs_input=False,
                repeat=len(inputs),
            )
            gradients[done : done + len(inputs)] = found.view(len(inputs), *self.weight.shape)
            done += len(inputs)
        return gradients

    def _block(self, call: Call) -> int:
        """How many units share a call: few on a processor, so that its cache holds their gradients.

        The number divides the number of units, so that all blocks are of the same size.
        """
        if call.inputs.device.type != "cpu":
            return call.units
        if call.width > 1 or self.weight.shape[1] <= 16 or call.units % _FEW:
            return 1
        return _FEW if call.inputs[0].numel() <= _SLOW or self.weight.numel() <= _SMALL else 1

    def _form(self, call: Call) -> GramForm:
        gram = self._patch_gram(call)
        lengths = gram.diagonal(dim1=1, dim2=2).clone()
        return gram_form(gram, _columns(call, call.backprops), lengths, self.weight.numel())

    def _patch_gram(self, call: Call) -> torch.Tensor:
        """Inner products of each unit's patches, (units, positions, positions)."""
        m = self.module
        size = (call.backprops.shape[2], call.backprops.shape[3])
        gram = patch_gram(
            call.by_unit(call.inputs), m.kernel_size, m.stride, self.padding, m.dilation, size
        )
        return gram.flatten(4).flatten(1, 3)

    def _contract(self, inputs: torch.Tensor, backprops: torch.Tensor) -> torch.Tensor:
        return self._convolution_backward(backprops, inputs, needs_input=False)

    def _convolution_backward(
        self, backprops: torch.Tensor, inputs: torch.Tensor, *, needs_input: bool, repeat: int = 1
    ) -> torch.Tensor:
        """The gradient of the inputs if `needs_input`, else of the weight (`repeat` weights, one
        for each group)."""
        m = self.module
        weight = self.weight.to(backprops.dtype)
        if not needs_input:
            weight = weight[:1, :1, :1, :1].expand(repeat * len(weight), *weight.shape[1:])
        found: tuple[torch.Tensor, ...] = torch.ops.aten.convolution_backward(
            backprops,
            inputs,
            weight,
            None,
            m.stride,
            self.padding,
            m.dilation,
            False,
            (0, 0),
            m.groups * repeat,
            [needs_input, not needs_input, False],
        )
        return found[0] if needs_input else found[1]


class WSConvLayer(ConvLayer):
    """WSConv2d: the norm is that of the raw weight's gradient, through the standardisation.

    With W' = s (W - mean), s = 1 / sqrt((variance + eps) fan_in) for each filter, and G the
    gradient with respect to W', the raw gradient is s (G - mean(G) - <G, W'> W'). That is linear
    in G: for units whose gradients are not kept, G is summed, and the sum is carried to W once, at
    the end.

    The formula for the norm needs a W' of mean 0, which float32 does not quite give to a filter
    whose weights are far from 0; so the mean is subtracted again. A filter whose s is beyond
    `_SCALES` makes every unit's norm NaN, so that none counts: its sums might overflow.
    """

    module: WSConv2d

    def __init__(self, module: WSConv2d) -> None:
        super().__init__(module)
        raw = module.weight.detach().flatten(1)
        variance, mean = torch.var_mean(raw, dim=1, keepdim=True, correction=0)
        scale = ((variance + module.epsilon) * raw.shape[1]).rsqrt_()
        weight = (raw - mean).mul_(scale)
        weight -= weight.mean(1, keepdim=True)
        self.weight = weight.view_as(module.weight)
        self.lengths = torch.linalg.vecdot(weight, weight)
        sane = (scale[:, 0] > 1 / _SCALES) & (scale[:, 0] < _SCALES) & self.lengths.isfinite()
        self.sane = bool(sane.all())
        self.scale = scale[:, 0].where(sane, torch.nan)
        self.owed: torch.Tensor | None = None
        """The sum of factor * G, float64 of the weight's shape, to be carried to W by `finish`."""

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Save the output without its bias: subtracting a large bias again would lose precision."""
        m = self.module
        plain = F.conv2d(inputs, self.weight, None, m.stride, self.padding, m.dilation, m.groups)
        bias = self.tensor("bias")
        return plain if bias is None else plain + bias[:, None, None], (plain,)

    def finish(self, total: Accumulator) -> None:
        parameter = self.parameter("weight")
        if self.owed is not None and self.sane and parameter is not None:
            view = total.views[id(parameter)]
            some = max(1, _CACHED // self.weight[0].numel())
            for start in range(0, len(view), some):
                filters = slice(start, start + some)
                view[filters] += self._to_raw(self.owed[None, filters], filters)[0]
        self.owed = None

    def _kept(self, parameter: nn.Parameter, call: Call) -> KeptGradients:
        return KeptGradients(parameter, self._unit_gradients(call))

    def _weight(self, parameter: nn.Parameter, call: Call) -> Piece:
        piece = super()._weight(parameter, call)
        if isinstance(piece, Ghost):
            piece.owe = self._owe
        return piece

    def _owe(self, found: torch.Tensor) -> None:
        if self.owed is None:
            self.owed = found.to(torch.float64, memory_format=torch.contiguous_format)
        else:
            self.owed += found

    def _unit_gradients(self, call: Call) -> torch.Tensor:
        return self._to_raw(super()._unit_gradients(call), slice(None))

    def _to_raw(self, gradients: torch.Tensor, filters: slice) -> torch.Tensor:
        """Turn gradients (n, filters, ...) with respect to W' into those of W, in place."""
        rows = gradients.view(*gradients.shape[:2], -1)
        weight = self.weight.flatten(1)[filters].to(rows.dtype)
        scale = self.scale[filters].to(rows.dtype)
        rows -= rows.mean(2, keepdim=True)
        along = torch.linalg.vecdot(rows, weight)[..., None]
        rows.addcmul_(along, weight, value=-1)
        rows *= scale[:, None]
        return gradients

    def _form(self, call: Call) -> GramForm:
        """sum_o s_o^2 (|G_o - mean(G_o)|^2 - (2 - |W'_o|^2) <G_o, W'_o>^2).

        The first term is a Gram form on centred patches; <G_o, W'_o> = sum_t backprop * output.
        """
        m = self.module
        patches = patch_sums(call.inputs, m.kernel_size, m.stride, self.padding, m.dilation)
        sums = call.by_unit(patches).flatten(1)
        gram = self._patch_gram(call)
        lengths = gram.diagonal(dim1=1, dim2=2).clone()
        gram -= sums[:, :, None] * (sums / self.weight[0].numel())[:, None, :]
        scaled = call.backprops * self.scale[:, None, None]
        (output,) = call.saved
        along = (call.by_unit(scaled) * call.by_unit(output)).sum((1, 3, 4), dtype=torch.float64)
        removed = (along.square() * (2 - self.lengths)).sum(1)
        form = gram_form(gram, _columns(call, scaled), lengths, self.weight.numel())
        return form.less(removed)


def _explicit_padding(module: nn.Conv2d) -> tuple[int, int]:
    """The zero padding as (vertical, horizontal); a lopsided "same" is refused before this."""
    if module.padding == "valid":
        return 0, 0
    if module.padding == "same":
        (a, b), (i, j) = module.kernel_size, module.dilation
        return i * (a - 1) // 2, j * (b - 1) // 2
    assert not isinstance(module.padding, str)
    vertical, horizontal = module.padding
    return vertical, horizontal


def _units_as_channels(rows: torch.Tensor) -> torch.Tensor:
    """(units, width, C, H, W) -> (width, units * C, H, W)."""
    return rows.transpose(0, 1).flatten(1, 2)


def _columns(call: Call, rows: torch.Tensor) -> torch.Tensor:
    """(rows, C, h, w) -> (units, C, positions of all the unit's rows)."""
    return call.by_unit(rows).transpose(1, 2).flatten(2)
