"""A round's local optimizer: SGD or AdamW, on torch's functional updates.

torch.optim's classes would do the same, but they load torch's compiler: that takes seconds and a
hundred megabytes in every process of a lab.
"""

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from common.config.study import TrainingSpec

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class LocalOptimizer:
    """Updates `parameters` in place from their gradients; one without a gradient stays as it is.

    Its state begins at zero, so a round takes over nothing from the one before.
    """

    def __init__(self, parameters: list[nn.Parameter], training: TrainingSpec) -> None:
        self._parameters, self._training = parameters, training
        pulled = training.proximal_mu > 0
        self._start = [value.detach().clone() for value in parameters] if pulled else []
        self._adam = training.optimizer == "adam"
        kept = self._adam or training.momentum > 0
        self._means = [torch.zeros_like(value) if kept else None for value in parameters]
        self._squares = [torch.zeros_like(value) for value in parameters] if self._adam else []
        self._steps = [torch.tensor(0.0) for _ in parameters] if self._adam else []

    def clear(self) -> None:
        """Forget the gradients."""
        for value in self._parameters:
            value.grad = None

    def pull_back(self) -> None:
        """Add FedProx's term mu/2 |w - w0|^2 as its gradient (Li et al. 2020, eq. 2).

        w0 are the parameters' values when this object was made.
        """
        for value, origin in zip(self._parameters, self._start, strict=False):
            if value.grad is not None:
                value.grad.add_(value.detach() - origin, alpha=self._training.proximal_mu)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Make one update along the gradients that the parameters hold."""
        moved = [at for at, value in enumerate(self._parameters) if value.grad is not None]
        update = self._adamw if self._adam else self._sgd
        update(moved, learning_rate)

    def _sgd(self, moved: list[int], learning_rate: float) -> None:
        sgd(
            *self._values_and_gradients(moved),
            [self._means[at] for at in moved],
            weight_decay=self._training.weight_decay,
            momentum=self._training.momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def _adamw(self, moved: list[int], learning_rate: float) -> None:
        adamw(
            *self._values_and_gradients(moved),
            [mean for at in moved if (mean := self._means[at]) is not None],
            [self._squares[at] for at in moved],
            [],
            [self._steps[at] for at in moved],
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=learning_rate,
            weight_decay=self._training.weight_decay,
            eps=_EPSILON,
            maximize=False,
        )

    def _values_and_gradients(self, moved: list[int]) -> tuple[list[Tensor], list[Tensor]]:
        values = [self._parameters[at] for at in moved]
        return list[Tensor](values), [value.grad for value in values if value.grad is not None]
