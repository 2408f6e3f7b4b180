"""A study's loss: cross-entropy, weighted by the rarity of a cell's type."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config.study import Study

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits (N, classes) and targets (N,): the loss (N,) of each row."""

_LEAST_WEIGHT = 1e-4
"""Of a class in the loss; a study cannot scale a class's gradients out of float32's range."""


def loss_of(study: Study, device: torch.device) -> Loss:
    """Cross-entropy a row, weighted by the class's public rarity.

    The weights are at most 1 and known to all, and they are applied before clipping: a cell's
    clipped gradient is bounded by max_grad_norm as before.
    """
    weights = _class_weights(study).to(device)

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, weight=weights, reduction="none")

    return loss


def _class_weights(study: Study) -> Tensor:
    power, prior = study.training.rare_class_power, study.training.class_prior
    if power == 0:
        return torch.ones(len(study.cell_types))
    shares = torch.tensor([prior[name] for name in study.cell_types])
    weights = shares.pow(-power)
    return (weights / weights.max()).clamp_min(_LEAST_WEIGHT)
