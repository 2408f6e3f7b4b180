"""Models that a hostile server might send: their outputs consist of rounding errors.

If the second half of an embedding repeats the first, the logits of a head with rows [w, -w] are 0
except for rounding errors, which grow with w. If the presence of one cell changes the last bits of
another cell's output, the other cell's whole gradient then changes. With normalisation, small
weights suffice: a convolution whose inputs cancel leaves rounding errors, and GroupNorm makes them
as large as any signal.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.config.study import ModelSpec
from common.models import Classifier, build
from common.privacy.clipping import EngineName


@dataclass(frozen=True)
class Attack:
    """A kind of model and of cells."""

    kind: str
    """"head", "cnn", or "cancelling": a cnn whose second convolution gives rounding errors."""
    size: int
    """The number of features of a head, or pixels along the edge of a cnn's images."""
    classes: int
    engine: EngineName = "bookkeeping"
    cells_of_a_unit: int = 1
    """The largest number of cells of a unit; the smallest is 1."""

    @property
    def title(self) -> str:
        """The attack in words."""
        what = f"{self.size} features" if self.kind == "head" else f"{self.size} px"
        units = f", units of 1 to {self.cells_of_a_unit}" if self.cells_of_a_unit > 1 else ""
        return f"{self.kind}, {what}, {self.classes} classes, {self.engine}{units}"

    def model(self, weight: float, generator: torch.Generator) -> nn.Module:
        """Return a random model of this kind, with no parameter above `weight`."""
        if self.kind == "head":
            head = nn.Linear(self.size, self.classes)
            _make_residual(head, weight, generator)
            return head
        network = _network(self)
        _repeat_channels(network, generator)
        assert isinstance(network.head, nn.Linear)
        if self.kind == "cancelling":
            _make_cancel(network, weight, generator)
        else:
            _make_residual(network.head, weight, generator)
        return network

    def rows(self, count: int, generator: torch.Generator) -> Tensor:
        """Return random cells for the model: (count, features) or images (count, 3, H, W)."""
        if self.kind == "head":
            half = torch.randn(count, self.size // 2, generator=generator)
            return torch.cat([half, half], dim=1)
        return torch.randn(count, 3, self.size, self.size, generator=generator)


def _network(attack: Attack) -> Classifier:
    spec = ModelSpec(name="cnn", width=8)
    return build(spec, attack.classes, attack.size, seed=0)


@torch.no_grad()
def _make_residual(head: nn.Linear, weight: float, generator: torch.Generator) -> None:
    """Set the rows of a head to [w, -w] with w up to `weight`; in half of the heads, some are 0."""
    half = torch.rand(head.out_features, head.in_features // 2, generator=generator) * 2 - 1
    if bool(torch.rand((), generator=generator) < 0.5):
        half[1 + head.out_features // 2 :] = 0
    head.weight.copy_(weight * torch.cat([half, -half], dim=1))
    head.bias.zero_()


@torch.no_grad()
def _repeat_channels(network: Classifier, generator: torch.Generator) -> None:
    """Set random filters; the second half of each layer's filters repeats the first."""
    for module in network.encoder.modules():
        if isinstance(module, nn.Conv2d):
            half = torch.randn(module.weight[::2].shape, generator=generator)
            module.weight.copy_(torch.cat([half, half]))


@torch.no_grad()
def _make_cancel(network: Classifier, weight: float, generator: torch.Generator) -> None:
    """Set the second convolution to filters [f, -f], whose repeated inputs cancel.

    The layers after it enlarge the rounding errors that remain.
    """
    second = [part for part in network.encoder.modules() if isinstance(part, nn.Conv2d)][1]
    half = torch.randn(second.weight[:, ::2].shape, generator=generator)
    second.weight.copy_((weight / 5) * torch.cat([half, -half], dim=1).clamp(-5, 5))
    for part in network.encoder.modules():
        if isinstance(part, nn.GroupNorm):
            part.weight.fill_(weight)
    assert isinstance(network.head, nn.Linear)
    rows = torch.rand(network.head.weight.shape, generator=generator) * 2 - 1
    network.head.weight.copy_(weight * rows)


ENGINES: tuple[EngineName, ...] = ("bookkeeping", "vmap", "opacus")

ATTACKS: dict[str, tuple[Attack, ...]] = {
    "head": tuple(
        Attack("head", size, classes, engine, most)
        for size, classes in ((64, 18), (320, 18), (424, 8), (1280, 12))
        for engine in ENGINES[::2]
        for most in (1, 8)
    ),
    "small images": tuple(
        Attack(kind, 16, 18, engine, most)
        for kind in ("cnn", "cancelling")
        for engine in ENGINES
        for most in (1, 8)
    ),
    "images": tuple(Attack("cnn", 64, 18, engine) for engine in ENGINES),
}
EVALUATED = (
    Attack("head", 320, 18),
    Attack("head", 1280, 12),
    Attack("cnn", 16, 18),
    Attack("cancelling", 16, 18),
)
