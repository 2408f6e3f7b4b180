"""Forecasts how precise a study's noised scores will be, and what more precision would cost."""

from dataclasses import dataclass

from common.config.distributed import noise_shares
from common.config.study import SPLIT_FRACTIONS, Study
from common.errors import PrivacyError
from common.noised_tally import SENSITIVITY, TELLING, accuracy_interval
from common.privacy.accounting import Event, epsilon
from common.privacy.metrics_noise import evaluations, metrics_noise
from common.privacy.noise import count_sigma, share_count_sigma
from common.text import count

ACCURACY = 0.8
"""The accuracy for which the forecast is computed."""
WIDTHS = (0.05, 0.1, 0.2)
"""Widths of the interval for which the forecast gives a price."""
_LEAST, _MOST = 2.0**-6, 2.0**12
"""The range of noise multipliers in the search for a price."""
_HALVINGS = 30


@dataclass(frozen=True)
class Forecast:
    """How precise the accuracy of the sites' pooled noised counts will be, if it is about 80 %."""

    cells: int
    """Validation cells of all sites, estimated from the units that they declare."""
    sites: int
    evaluations: int
    """The number of evaluations that share `evaluation.epsilon`."""
    sigma: float
    """Standard deviation of the noise in each count of each site."""
    width: float | None
    """Width of the accuracy's 95 % interval; None: noise hides the accuracy."""
    prices: tuple[tuple[float, float | None], ...]
    """(width of the interval, evaluation.epsilon that gives it); None: there are too few cells."""

    @property
    def words(self) -> str:
        """The forecast in a few sentences, for a person who plans or approves the study."""
        comes = "is hidden by the noise: no figure will be given"
        if self.width is not None:
            comes = f"will come out with a 95 % interval {100 * self.width:.0f} points wide"
        prices = [
            f"{100 * width:.0f} points: " + (f"{price:.2g}" if price else "none, too few cells")
            for width, price in self.prices
        ]
        return (
            f"noise of {self.sigma:.3g} on each count that leaves noised; over about "
            f"{count(self.cells, 'validation cell')} at {count(self.sites, 'site')} an accuracy of "
            f"{ACCURACY:.0%} {comes}. The evaluation.epsilon for an interval of "
            f"{'; '.join(prices)}. {count(self.evaluations, 'evaluation')} share it: fewer "
            "(evaluation.every) are sharper"
        )


def forecast(study: Study) -> Forecast | None:
    """Return the forecast, or None if there is none.

    There is none if the study's training sites declare no units, or if no noise meets
    `evaluation.epsilon`. The forecast assumes that each patient has the largest permitted number of
    cells; if patients have fewer, the scores are less precise.
    """
    units = [member.units for member in study.cohort.values() if member.role == "train"]
    train, validation, _ = SPLIT_FRACTIONS
    cells = round(sum(units) * validation / train) * study.privacy.cells_of_a_unit
    if not cells:
        return None
    try:
        sigma, sites = _sigma(study, metrics_noise(study)), len(units)
    except PrivacyError:
        return None
    width = _width(cells, sites, sigma)
    return Forecast(
        cells=cells,
        sites=sites,
        evaluations=evaluations(study),
        sigma=sigma,
        width=width if width <= TELLING else None,
        prices=tuple((wanted, _price(study, cells, sites, wanted)) for wanted in WIDTHS),
    )


def _sigma(study: Study, noise_multiplier: float) -> float:
    """Standard deviation, in cells, of the noise that each site adds to a count."""
    sensitivity = SENSITIVITY * study.privacy.cells_of_a_unit
    if study.privacy.mode == "distributed":
        return share_count_sigma(sensitivity, noise_multiplier, noise_shares(study))
    return count_sigma(sensitivity, noise_multiplier)


def _width(cells: int, sites: int, sigma: float) -> float:
    interval = accuracy_interval(ACCURACY * cells, (1 - ACCURACY) * cells, sites * sigma**2)
    return interval[1] - interval[0] if interval else 1.0


def _price(study: Study, cells: int, sites: int, wanted: float) -> float | None:
    """Return the smallest epsilon of all evaluations that makes the interval at most `wanted` wide.

    None: no noise in the range of the search does.
    """

    def enough(multiplier: float) -> bool:
        return _width(cells, sites, _sigma(study, multiplier)) <= wanted

    if not enough(_LEAST):
        return None
    low, high = _LEAST, _MOST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if enough(middle) else (low, middle)
    noise = Event(
        mechanism="poisson_discrete_gaussian",
        sample_rate=1.0,
        noise_multiplier=low,
        steps=evaluations(study),
        unit=study.privacy.unit,
        mode="distributed" if study.privacy.mode == "distributed" else "local",
    )
    return epsilon([noise], study.privacy.delta)
