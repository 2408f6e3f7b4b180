"""What the sum of a round in mode distributed does to the model: the server's side of DP-SGD."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common.config.study import Study
from common.models import federated, trainable
from common.models.centring import finds_centre, offset_scale


class MaskedStep:
    """Turns the sum of a round into the change of the model's parameters that travel."""

    def __init__(self, study: Study, model: nn.Module) -> None:
        self._study = study
        moving, training = federated(model), trainable(model)
        self._trains = np.concatenate(
            [np.full(value.numel(), name in training) for name, value in moving.items()]
        )
        """bool (P,): which of the numbers that travel a gradient moves; the centre is the rest."""

    def size(self, round_number: int) -> int:
        """Return how many numbers the sum of the round has."""
        return int(self._moved(round_number).sum())

    def change(
        self, round_number: int, sites: Iterable[str], total: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Return the change of the model, (P,) float64.

        The sum is divided by the number of units that the round's sites expect to draw, which is
        public. Training goes against the mean gradient by the round's learning rate. The round that
        finds the centre moves it from 0 to the mean of the features.

        Args:
            round_number: the round, from 1 on.
            sites: those whose sums it has.
            total: the noised sum over them, (n,) float32.
        """
        privacy, moved = self._study.privacy, self._moved(round_number)
        members = [self._study.cohort[site] for site in sites]
        expected = privacy.sample_rate * sum(one.weight * one.units for one in members)
        rate = self._study.training.rate_in(round_number, self._study.rounds)
        if finds_centre(self._study, round_number):
            rate = 1 / offset_scale(int(moved.sum()), privacy.max_grad_norm)
        change = np.zeros(len(moved))
        change[moved] = -rate * (total.astype(np.float64) / expected)
        return change

    def _moved(self, round_number: int) -> NDArray[np.bool_]:
        """bool (P,): which numbers the round moves."""
        return ~self._trains if finds_centre(self._study, round_number) else self._trains
