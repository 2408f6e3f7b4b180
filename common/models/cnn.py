"""A small convolutional network that trains on a CPU: about 0.3 M weights at width 32."""

from torch import Tensor, nn

from common.models.layers import group_norm

DEFAULT_WIDTH = 32


class SmallCNN(nn.Module):
    """Five convolutions with GroupNorm in three resolutions; (N, 3, S, S) -> (N, 4 * width).

    The first two halve the side by their stride: at full side a small network spends most of its
    time on normalising large maps. Two blocks have a skip connection.
    """

    def __init__(self, width: int = DEFAULT_WIDTH) -> None:
        super().__init__()
        self.dim = 4 * width
        self.layers = nn.Sequential(
            _block(3, width, kernel=5, stride=2),
            _block(width, 2 * width, stride=2),
            Residual(_block(2 * width, 2 * width)),
            _block(2 * width, 4 * width),
            nn.MaxPool2d(2),
            Residual(_block(4 * width, 4 * width)),
        )

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.layers(images).mean(dim=(2, 3))
        return pooled


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        total: Tensor = images + self.inner(images)
        return total


def _block(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        group_norm(channels_out),
        nn.ReLU(),
    )
