"""A study's loss: cross-entropy, weighted by how rare a cell's type is."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from common.config.study import Study

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, classes), targets (N,)) -> the loss of each row, (N,)."""

_LEAST_WEIGHT = 1e-4
"""Least weight of a class in the loss: a study cannot scale a class's gradients out of float32's
range."""


def loss_of(study: Study, device: torch.device) -> Loss:
    """The cross-entropy of each row, weighted by the public rarity of the row's class.

    The weights are at most 1 and known to all, and they are applied before clipping: a cell's
    clipped gradient stays bounded by max_grad_norm.
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
