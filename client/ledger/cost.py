"""What a study costs a site: known from the study alone, before it begins."""

from dataclasses import dataclass
from functools import cached_property

from common.config.study import Study
from common.privacy.accounting import Event, study_event
from common.privacy.metrics_noise import evaluations, metrics_noise
from common.privacy.noise import grid_for, grid_sigma


@dataclass(frozen=True)
class StudyCost:
    """The events of a study's answers, and how many of each its noise is calibrated for."""

    study: Study

    @property
    def unprotected(self) -> bool:
        """Whether answers leave without noise: no epsilon bounds what they cost."""
        return self.study.privacy.mode == "none"

    @cached_property
    def noise_multiplier(self) -> float:
        """The training's noise multiplier, which keeps all rounds within the study's epsilon.

        It is 0 without privacy.
        """
        if self.unprotected:
            return 0.0
        return study_event(self.study.privacy, self.study.rounds).noise_multiplier

    @property
    def training(self) -> Event:
        """The event of one round's steps."""
        privacy = self.study.privacy
        return self._event(self.noise_multiplier, privacy.sample_rate, privacy.local_steps)

    @property
    def trainings(self) -> int:
        """How often a site may be asked to train."""
        return self.study.rounds + self.study.privacy.spare_rounds

    @property
    def metrics(self) -> Event:
        """The event of one evaluation's noised counts."""
        return self._event(metrics_noise(self.study), 1.0, 1)

    @property
    def evaluations(self) -> int:
        """How often a site may be asked for noised counts."""
        return evaluations(self.study)

    def check_drawable(self, size: int) -> None:
        """Raise PrivacyError where the training's noise cannot be drawn.

        size: the number of trainable parameters of the study's model.
        """
        if not self.unprotected:
            bound = self.study.privacy.max_grad_norm
            grid_sigma(size, bound, self.noise_multiplier, grid_for(size, bound))

    def _event(self, noise: float, sample_rate: float, steps: int) -> Event:
        return Event(
            mechanism="poisson_discrete_gaussian",
            sample_rate=sample_rate,
            noise_multiplier=noise,
            steps=steps,
            unit=self.study.privacy.unit,
            mode="local",
        )
