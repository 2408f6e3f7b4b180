"""What a study costs a site: known from the study alone, before it begins."""

from dataclasses import dataclass, replace
from functools import cached_property

from common.config.study import Study
from common.privacy.accounting import Event, study_event
from common.privacy.masking.study_sum import study_sum
from common.privacy.metrics_noise import evaluations, metrics_noise
from common.privacy.noise import grid_for, grid_sigma
from common.privacy.statistics_noise import statistics_event, statistics_sigma


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
        return self._all_steps.noise_multiplier

    @property
    def training(self) -> Event:
        """The event of one round's steps."""
        return replace(self._all_steps, steps=self.study.privacy.local_steps)

    @property
    def trainings(self) -> int:
        """How often a site may be asked to train."""
        return self.study.rounds + self.study.privacy.spare_rounds

    @property
    def metrics(self) -> Event:
        """The event of one evaluation's noised counts.

        In mode distributed it is the same whether they are summed under masks, where this is the
        noise that is left against the planned colluders, or leave with the whole noise.
        """
        return Event(
            mechanism="poisson_discrete_gaussian",
            sample_rate=1.0,
            noise_multiplier=metrics_noise(self.study),
            steps=1,
            unit=self.study.privacy.unit,
            mode="distributed" if self.study.privacy.mode == "distributed" else "local",
        )

    @property
    def evaluations(self) -> int:
        """How often a site may be asked for noised counts."""
        return evaluations(self.study)

    @property
    def statistics(self) -> Event | None:
        """The event of the training cells' statistics; None where the study asks for none."""
        return statistics_event(self.study.privacy)

    def check_drawable(self, size: int) -> None:
        """Raise PrivacyError where the noise of training, or of statistics, cannot be drawn.

        size: the number of trainable parameters of the study's model.
        """
        privacy = self.study.privacy
        if privacy.mode == "local":
            bound = privacy.max_grad_norm
            grid_sigma(size, bound, self.noise_multiplier, grid_for(size, bound))
        elif privacy.mode == "distributed":
            study_sum(self.study, size)
            if privacy.statistics_epsilon is not None:
                statistics_sigma(self.study)

    @cached_property
    def _all_steps(self) -> Event:
        return study_event(self.study.privacy, self.study.rounds)
