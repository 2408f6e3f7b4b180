"""The contestants of `hemofed bench clipping`: ways to take a private step, and plain SGD."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from common.config.study import ModelSpec
from common.models.layers import WSConv2d
from common.models.registry import build
from common.privacy.clipping import EngineName, clipped_gradient_sum
from common.privacy.clipping.clip_rule import MARGIN

BOUND = 1.0
CLASSES = 8
FEATURES = 1280
RATE = 1e-3


@dataclass(frozen=True)
class Case:
    """A model and a batch. `model`: cnn, resnet18, resnet18-plain or head."""

    model: str
    side: int
    batch: int

    @property
    def title(self) -> str:
        size = f"{FEATURES} features" if self.model == "head" else f"{self.side} px"
        return f"{self.model}, {size}, batch {self.batch}"

    def make(self) -> tuple[nn.Module, Tensor, Tensor]:
        """Make the model and the batch, which are the same in every process."""
        generator = torch.Generator().manual_seed(7)
        targets = torch.randint(CLASSES, (self.batch,), generator=generator)
        if self.model == "head":
            head = nn.Linear(FEATURES, CLASSES)
            nn.init.normal_(head.weight, std=0.01, generator=generator)
            nn.init.zeros_(head.bias)
            return head, torch.randn(self.batch, FEATURES, generator=generator), targets
        spec = ModelSpec(name="cnn" if self.model == "cnn" else "resnet18", encoder="train")
        model: nn.Module = build(spec, CLASSES, self.side, seed=7)
        if self.model == "resnet18-plain":
            _without_standardisation(model)
        images = torch.randn(self.batch, 3, self.side, self.side, generator=generator)
        return model, images, targets


def _without_standardisation(model: nn.Module) -> None:
    """Replace the convolutions by plain ones, for which Opacus has its own formulas."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, WSConv2d):
                plain = nn.Conv2d(
                    child.in_channels,
                    child.out_channels,
                    child.kernel_size,  # type: ignore[arg-type]
                    child.stride,  # type: ignore[arg-type]
                    child.padding,  # type: ignore[arg-type]
                    bias=False,
                )
                plain.weight.data.copy_(child.standardised_weight().detach())
                setattr(parent, name, plain)


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


class Smooth(TorchFunctionMode):
    """Replaces relu by softplus inside its `with` block.

    Near 0, float32 and float64 may fall on different sides of relu's kink, which changes a gradient
    far more than the rounding of any engine.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return F.softplus(args[0]) if func is F.relu else func(*args, **(kwargs or {}))


class Contestant(ABC):
    """Takes steps on one batch. `clipped_sum` is a step's gradient before the noise."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        self.model, self.inputs, self.targets = model, inputs, targets
        self.parameters = list(model.parameters())

    @abstractmethod
    def step(self) -> None: ...

    def clipped_sum(self, rows: int) -> Tensor | None:
        """Return the clipped sum (P,) of the first `rows` rows; None if nothing is clipped."""
        return None


class Sgd(Contestant):
    """Plain SGD: forward, backward, step, in chunks whose gradients add up."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        super().__init__(model, inputs, targets)
        self.optimizer = torch.optim.SGD(self.parameters, RATE)
        self.chunk = len(inputs)

    def step(self) -> None:
        self.optimizer.zero_grad()
        pairs = (torch.split(t, self.chunk) for t in (self.inputs, self.targets))
        for inputs, targets in zip(*pairs, strict=True):
            loss = losses(self.model(inputs), targets).sum() / len(self.inputs)
            torch.autograd.backward(loss)
        self.optimizer.step()


class SgdBestChunk(Sgd):
    """Plain SGD with the chunk size that takes the least processor time in one step."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        super().__init__(model, inputs, targets)
        spent: dict[int, float] = {}
        for self.chunk in (8, 16, 32, 64, 128):
            if self.chunk < len(inputs):
                self.step()
                start = time.process_time()
                self.step()
                spent[self.chunk] = time.process_time() - start
        self.chunk = min(spent, key=spent.__getitem__)


class Ours(Contestant):
    """hemofed's `clipped_gradient_sum`, then Gaussian noise from torch and the update."""

    engine: EngineName = "bookkeeping"

    def step(self) -> None:
        gradient = self._sum(len(self.inputs))
        self.update(gradient + torch.normal(0.0, BOUND, gradient.shape, device=gradient.device))

    def update(self, gradient: Tensor) -> None:
        """Update the parameters against the noisy sum (P,)."""
        pieces = torch.split(gradient, [p.numel() for p in self.parameters])
        with torch.no_grad():
            for parameter, piece in zip(self.parameters, pieces, strict=True):
                parameter.sub_(piece.view(parameter.shape), alpha=RATE / len(self.inputs))

    def clipped_sum(self, rows: int) -> Tensor:
        """Return the sum without the engine's margin, which is a choice and not an error."""
        return self._sum(rows) / MARGIN

    def _sum(self, rows: int) -> Tensor:
        return clipped_gradient_sum(
            self.model,
            losses,
            self.inputs[:rows],
            self.targets[:rows],
            max_grad_norm=BOUND,
            engine=self.engine,
            # Features: one chunk; images: the engine's, of which the batch is a multiple.
            chunk=len(self.inputs) if self.inputs.dim() == 2 else None,
        ).gradient


class Vmap(Ours):
    """torch.func.vmap(grad) in chunks of 16."""

    engine: EngineName = "vmap"


class OpacusHooks(Contestant):
    """Opacus's GradSampleModule and DPOptimizer."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        from opacus.grad_sample import GradSampleModule
        from opacus.optimizers import DPOptimizer

        super().__init__(model, inputs, targets)
        self.wrapped = GradSampleModule(model, loss_reduction="mean")
        self.optimizer = self._optimizer(DPOptimizer)

    def _optimizer(self, kind: Callable[..., Any]) -> Any:
        return kind(
            torch.optim.SGD(self.parameters, RATE),
            noise_multiplier=1.0,
            max_grad_norm=BOUND,
            expected_batch_size=len(self.inputs),
        )

    def step(self) -> None:
        self.optimizer.zero_grad()
        self._backward(self.inputs, self.targets)
        self.optimizer.step()

    def clipped_sum(self, rows: int) -> Tensor:
        self.optimizer.zero_grad()
        self._backward(self.inputs[:rows], self.targets[:rows])
        return self._summed()

    def _backward(self, inputs: Tensor, targets: Tensor) -> None:
        torch.autograd.backward(losses(self.wrapped(inputs), targets).mean())

    def _summed(self) -> Tensor:
        self.optimizer.clip_and_accumulate()
        return torch.cat([p.summed_grad.flatten() for p in self.parameters])  # type: ignore[attr-defined]


class OpacusGhost(OpacusHooks):
    """Opacus's fast gradient clipping: norms first, then a second, weighted backward pass."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
            GradSampleModuleFastGradientClipping,
        )
        from opacus.optimizers.optimizer_fast_gradient_clipping import (
            DPOptimizerFastGradientClipping,
        )
        from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping

        Contestant.__init__(self, model, inputs, targets)
        self.wrapped = GradSampleModuleFastGradientClipping(
            model, max_grad_norm=BOUND, use_ghost_clipping=True, loss_reduction="mean"
        )
        self.optimizer = self._optimizer(DPOptimizerFastGradientClipping)
        criterion = nn.CrossEntropyLoss(reduction="mean")
        self.criterion = DPLossFastGradientClipping(self.wrapped, self.optimizer, criterion)

    def _backward(self, inputs: Tensor, targets: Tensor) -> None:
        self.criterion(self.wrapped(inputs), targets).backward()

    def _summed(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])


CONTESTANTS: dict[str, type[Contestant]] = {
    "sgd": Sgd,
    "sgd, best chunk": SgdBestChunk,
    "hemofed": Ours,
    "opacus hooks": OpacusHooks,
    "opacus ghost": OpacusGhost,
    "vmap": Vmap,
}
