"""Forecasts how precise the statistics of a study's training cells will be, and what they cost."""

import math
from dataclasses import dataclass

from common.config.study import Study
from common.noised_tally import Z_95
from common.privacy.accounting import epsilon, study_event
from common.privacy.statistics_noise import COLOUR, COUNT, statistics_event, statistics_sigma
from common.text import count


@dataclass(frozen=True)
class StatisticsForecast:
    """What the sum of all sites' statistics will tell, with all sites in it."""

    sites: int
    """How many sites the study names; 0: how precise the sum is depends on them."""
    epsilon: float
    """The epsilon of the statistics by themselves."""
    with_training: float
    """The epsilon of the statistics and of all rounds together, composed."""
    cells: float | None
    """Half the width of the 95 % interval of a type's number of cells; None without sites."""
    colour: float | None
    """About the most that it is for a colour's mean, in [0, 1], if each declared unit has as many
    cells as it may; with fewer it is larger. None without sites."""

    @property
    def words(self) -> str:
        """The forecast in a sentence, for a person who plans or approves the study."""
        cost = (
            f"once, up to epsilon {self.epsilon:g} more, which makes {self.with_training:.3g} with "
            "the training's"
        )
        if self.cells is None or self.colour is None:
            return (
                f"the number of training cells of each type and their mean colour: {cost}; how "
                "precise is told where the cohort names the sites' units"
            )
        colour = f"to +-{255 * self.colour:.2g} of 255"
        if self.colour >= 0.5:  # the interval of a medium colour holds all there are
            colour = "which the noise hides"
        return (
            f"the number of training cells of each type, to +-{self.cells:.3g}, and their mean "
            f"colour, {colour}, over {count(self.sites, 'site')} together (95 %): {cost}"
        )


def statistics_forecast(study: Study) -> StatisticsForecast | None:
    """Return the forecast; None if the study asks for no statistics.

    Raises:
        PrivacyError: no noise gives an epsilon of the study, or it cannot be drawn.
    """
    privacy = study.privacy
    event = statistics_event(privacy)
    if event is None or privacy.statistics_epsilon is None:
        return None
    cells, colour = _precision(study) if study.training_sites else (None, None)
    return StatisticsForecast(
        sites=len(study.training_sites),
        epsilon=privacy.statistics_epsilon,
        with_training=epsilon([study_event(privacy, study.rounds), event], privacy.delta),
        cells=cells,
        colour=colour,
    )


def _precision(study: Study) -> tuple[float, float]:
    """`StatisticsForecast.cells` and `.colour` of a study that names its sites."""
    privacy, sites = study.privacy, len(study.training_sites)
    noise = Z_95 * math.sqrt(sites) * statistics_sigma(study)
    units = sum(study.cohort[site].units for site in study.training_sites)
    cells = units * privacy.cells_of_a_unit
    # The noise of the colour's own sum, and, for pictures all black or white, of all counts.
    of_mean = math.hypot(1 / COLOUR, math.sqrt(len(study.cell_types)) / COUNT)
    return noise / COUNT, noise * of_mean / (2 * cells)
