"""One round's work at one site, and what of it is public."""

import math
from dataclasses import dataclass

import torch

from client.training import feature_centring
from client.training.inputs import seed_of
from common.config.study import Participant, Study
from common.errors import DataError


@dataclass(frozen=True)
class Job:
    """One round's work at one site."""

    study: Study
    site: str
    member: Participant
    round: int
    noise_multiplier: float = 0.0
    """Of the Gaussian, relative to max_grad_norm; used only when the study has privacy."""
    max_weight: float = math.inf
    """No parameter's absolute value exceeds it, nor comes as near as an update's rounding, under
    privacy: what a step takes beyond is cut."""

    @property
    def normaliser(self) -> float:
        """Expected units of a step's batch: public constants both.

        Raises DataError: the study declares none.
        """
        if self.member.units <= 0:
            raise DataError(
                f"site {self.site}: the study declares {self.member.units} units for it; a private "
                "study needs a public number of units a site"
            )
        return self.study.privacy.sample_rate * self.member.units

    def check(self) -> None:
        """Raise DataError for what would stop a private round that was paid for."""
        if self.study.privacy.mode != "none":
            _ = self.normaliser

    @property
    def expected_rows(self) -> float:
        """Rows of a step's batch in the mean, were every patient to have its most cells."""
        privacy = self.study.privacy
        return self.normaliser * privacy.cells_of_a_unit * privacy.augmentations

    @property
    def learning_rate(self) -> float:
        """The round's learning rate: constant, or a half cosine over the rounds."""
        training = self.study.training
        if training.schedule == "constant":
            return training.learning_rate
        done = (self.round - 1) / self.study.rounds
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    @property
    def finds_centre(self) -> bool:
        """Whether the round finds the features' centre in place of training."""
        return self.study.model.centre and self.round == feature_centring.ROUND

    def seed(self, purpose: str) -> int:
        return seed_of(self.study.seed, self.site, self.round, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed(purpose))
