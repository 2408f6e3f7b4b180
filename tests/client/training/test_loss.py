"""The loss that weighs a cell by the rarity of its type."""

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from client.training.loss import loss_of
from common.config.study import Study
from tests.client.lab import TYPES, study

priors = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=2)


def weighted(prior: list[float], power: float) -> Study:
    shares = dict(zip(TYPES, prior, strict=True))
    return study(training={"rare_class_power": power, "class_prior": shares})


@given(prior=priors, power=st.floats(0, 1), seed=st.integers(0, 99))
@example(prior=[1e-6, 1.0], power=1.0, seed=0)
def test_no_class_weighs_more_than_one_and_the_rarest_weighs_one(
    prior: list[float], power: float, seed: int
) -> None:
    """So that a weighted loss is never above the plain one, whatever prior a study claims."""
    of = weighted(prior, power)
    logits = torch.randn(12, 2, generator=torch.Generator().manual_seed(seed))
    targets = torch.arange(12) % 2
    plain = F.cross_entropy(logits, targets, reduction="none")
    ratios = loss_of(of, torch.device("cpu"))(logits, targets) / plain
    rarest = int(np.argmin(prior))
    assert torch.allclose(ratios[targets == rarest], torch.tensor(1.0), atol=1e-5)
    expected = max((prior[1 - rarest] / prior[rarest]) ** -power, 1e-4)
    assert torch.allclose(ratios[targets != rarest], torch.tensor(expected), rtol=1e-3, atol=1e-6)
