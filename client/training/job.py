"""One round's work at one site, and the public numbers that follow from it."""

import math
from dataclasses import dataclass

import torch

from client.training.inputs import seed_of
from common.config.study import Participant, Study
from common.errors import DataError
from common.models.centring import finds_centre


@dataclass(frozen=True)
class Job:
    """One round's work at one site."""

    study: Study
    site: str
    member: Participant
    round: int
    noise_multiplier: float = 0.0
    """Standard deviation of the Gaussian over max_grad_norm; used only under privacy."""
    max_weight: float = math.inf
    """Under privacy, each step ends by cutting the parameters: none exceeds this in absolute value,
    nor comes so near it that rounding the update could."""

    @property
    def normaliser(self) -> float:
        """The expected number of units in a step's batch, from public constants alone.

        Raises DataError when the study declares no units for the site.
        """
        if self.member.units <= 0:
            raise DataError(
                f"site {self.site}: the study declares {self.member.units} units for it; a private "
                "study needs a public number of units a site"
            )
        return self.study.privacy.sample_rate * self.member.units

    def check(self) -> None:
        """Raise DataError for what would stop a private round after it was paid for."""
        if self.study.privacy.mode != "none":
            _ = self.normaliser

    @property
    def expected_rows(self) -> float:
        """Mean number of rows in a step's batch, if every patient had as many cells as count."""
        privacy = self.study.privacy
        return self.normaliser * privacy.cells_of_a_unit * privacy.augmentations

    @property
    def learning_rate(self) -> float:
        """The learning rate of the round."""
        return self.study.training.rate_in(self.round, self.study.rounds)

    @property
    def finds_centre(self) -> bool:
        """Whether the round finds the features' centre in place of training."""
        return finds_centre(self.study, self.round)

    def seed(self, purpose: str) -> int:
        """A 63-bit seed for what is not secret in this round; see `seed_of`."""
        return seed_of(self.study.seed, self.site, self.round, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(purpose))
