"""Which closed form handles which module."""

from torch import nn

from common.models.layers import FrozenBatchNorm, WSConv2d
from common.privacy.clipping.convolution import ConvLayer, WSConvLayer
from common.privacy.clipping.engine_api import UnsupportedLayerError
from common.privacy.clipping.layers import (
    AffineLayer,
    EmbeddingLayer,
    GroupNormLayer,
    Layer,
    LayerNormLayer,
)
from common.privacy.clipping.linear import LinearLayer

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def known_layers(model: nn.Module) -> dict[nn.Module, Layer]:
    """The closed form of every module that has trainable parameters of its own.

    Types are compared exactly: a subclass may compute something else.

    Raises:
        UnsupportedLayerError: there is no closed form for a module with trainable parameters.
    """
    found: dict[nn.Module, Layer] = {}
    for name, module in model.named_modules():
        own = {key for key, p in module._parameters.items() if p is not None and p.requires_grad}
        if not own:
            continue
        if not own <= {"weight", "bias"} or "forward" in vars(module):
            raise UnsupportedLayerError(f"{name or 'the model'} ({type(module).__name__})")
        found[module] = _layer(name, module)
    return found


def _layer(name: str, module: nn.Module) -> Layer:
    kind = type(module)
    if isinstance(module, nn.Conv2d) and kind in (nn.Conv2d, WSConv2d) and _zero_padded(module):
        return WSConvLayer(module) if isinstance(module, WSConv2d) else ConvLayer(module)
    if isinstance(module, FrozenBatchNorm) and kind is FrozenBatchNorm:
        return AffineLayer(module, "mean", "variance", module.epsilon)
    if (
        isinstance(module, _BATCH_NORMS)
        and kind in _BATCH_NORMS
        and module.running_mean is not None
    ):
        return AffineLayer(module, "running_mean", "running_var", module.eps)
    if kind is nn.Embedding and module.max_norm is None and not module.scale_grad_by_freq:
        return EmbeddingLayer(module)
    simple: dict[type, type[Layer]] = {
        nn.Linear: LinearLayer,
        nn.GroupNorm: GroupNormLayer,
        nn.LayerNorm: LayerNormLayer,
    }
    if kind in simple:
        return simple[kind](module)
    raise UnsupportedLayerError(f"{name or 'the model'} ({kind.__name__})")


def _zero_padded(module: nn.Conv2d) -> bool:
    if module.padding_mode != "zeros":
        return False
    extents = zip(module.kernel_size, module.dilation, strict=True)
    return module.padding != "same" or all(d * (k - 1) % 2 == 0 for k, d in extents)
