"""The classifier `cnn` of `common.models`, written in torch alone; a test holds them equal."""

from torch import Tensor, nn

_GROUPS = 8
"""Groups of a GroupNorm; the width must be a multiple."""


def network(width: int, classes: int) -> nn.Module:
    """Images (N, 3, S, S) -> logits (N, classes); parameters in the order of `common.models`."""
    return nn.Sequential(
        _block(3, width, kernel=5, stride=2),
        _block(width, 2 * width, stride=2),
        _Skip(_block(2 * width, 2 * width)),
        _block(2 * width, 4 * width),
        nn.MaxPool2d(2),
        _Skip(_block(4 * width, 4 * width)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


class _Skip(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        total: Tensor = images + self.inner(images)
        return total


def _block(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.GroupNorm(_GROUPS, channels_out),
        nn.ReLU(),
    )
