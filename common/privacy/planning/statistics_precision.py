"""Forecasts how precise the statistics of a study's training cells will be, and what they cost."""

import math
from dataclasses import dataclass

from common.config.study import Study
from common.privacy.accounting import epsilon, study_event
from common.privacy.statistics_noise import COLOUR, COUNT, statistics_event, statistics_sigma
from common.text import count

_Z = 1.959964
"""Standard deviations on either side of the mean within which 95 % of a normal law lies."""


@dataclass(frozen=True)
class StatisticsForecast:
    """What the sum of all sites' statistics will tell, with all sites in it."""

    sites: int
    epsilon: float
    """The epsilon of the statistics by themselves."""
    with_training: float
    """The epsilon of the statistics and of all rounds together, composed."""
    cells: float
    """Half the width of the 95 % interval of a type's number of cells."""
    colour: float
    """About the most that it is for a colour's mean, in [0, 1], if each declared unit has as many
    cells as it may; with fewer it is larger."""

    @property
    def words(self) -> str:
        """The forecast in a sentence, for a person who plans or approves the study."""
        return (
            f"the number of training cells of each type, to +-{self.cells:.3g}, and their mean "
            f"colour, to +-{255 * self.colour:.2g} of 255, over {count(self.sites, 'site')} "
            f"together (95 %): once, up to epsilon {self.epsilon:g} more, which makes "
            f"{self.with_training:.3g} with the training's"
        )


def statistics_forecast(study: Study) -> StatisticsForecast | None:
    """Return the forecast; None if the study asks for no statistics, or names no sites yet.

    Raises:
        PrivacyError: no noise gives an epsilon of the study, or it cannot be drawn.
    """
    privacy, sites = study.privacy, len(study.training_sites)
    event = statistics_event(privacy)
    if event is None or privacy.statistics_epsilon is None or not sites:
        return None
    noise = _Z * math.sqrt(sites) * statistics_sigma(study)
    units = sum(study.cohort[site].units for site in study.training_sites)
    cells = units * privacy.cells_of_a_unit
    # The noise of the colour's own sum, and, for pictures all black or white, of all counts.
    of_mean = math.hypot(1 / COLOUR, math.sqrt(len(study.cell_types)) / COUNT)
    return StatisticsForecast(
        sites=sites,
        epsilon=privacy.statistics_epsilon,
        with_training=epsilon([study_event(privacy, study.rounds), event], privacy.delta),
        cells=noise / COUNT,
        colour=noise * of_mean / (2 * cells),
    )
