"""Plans a study's privacy before it runs: its noise and epsilon, and those of other choices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from common.config.distributed import FEWEST
from common.config.study import Study
from common.errors import PrivacyError
from common.privacy.accounting import ACCOUNTANT, Event, epsilon, study_event
from common.privacy.events import ADJACENCY
from common.privacy.planning.patient_level import patient_epsilon
from common.privacy.planning.plausibility import MUCH_NOISE, doubts, expected_units
from common.privacy.planning.score_precision import Forecast, forecast
from common.privacy.planning.statistics_precision import StatisticsForecast, statistics_forecast
from common.privacy.planning.threat_models import AdversaryView, Cohort, views, whole_sum

IMAGES_A_PATIENT = (1, 2, 5, 10, 50)
DISTRIBUTED = (
    "The rows of mode distributed are what this study does, and that of mode local is beside them "
    "for comparison. A round is one sum under masks. An attempt that loses a site is begun again, "
    "and every site that answered it has paid for it: one of the spare rounds."
)
FORECAST = (
    "The rows of mode distributed are a forecast, of one sum under masks a round: the study is in "
    "another mode, or names no sites yet, or other numbers than its own were given."
)
EXAMPLE_SITES = 5
"""The number of sites in the forecast of distributed mode, if the study names no cohort."""
_CURVE_POINTS = 10


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The study's noise and epsilon after a change of one setting."""

    change: str
    """The change in words, such as "rounds x 2"."""
    rounds: int
    local_steps: int
    sample_rate: float
    noise_multiplier: float
    """The noise multiplier that gives the study's epsilon after this change."""
    relative_noise: float
    """The noise on a step's mean gradient over all sites with that multiplier, divided by the noise
    without the change."""
    epsilon_as_is: float
    """The epsilon after this change with the plan's noise multiplier."""


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """A study's privacy in numbers. Every epsilon is at `delta`."""

    study: str
    digest: str
    unit: str
    adjacency: str
    """In words, which two data sets count as neighbours."""
    accountant: str
    """In words, how `epsilon` is computed."""
    delta: float
    epsilon_asked: float
    """The epsilon that the study asks for."""
    epsilon: float
    """The epsilon of all rounds together, spare rounds included; never above `epsilon_asked`."""
    epsilon_rdp: float
    """The same by the RDP accountant, which gives a larger bound."""
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    rounds: int
    spare_rounds: int
    """Rounds that may be repeated after a crash; `epsilon` includes them."""
    local_steps: int
    cohort: Cohort
    """The sites that share the noise in distributed mode."""
    views: tuple[AdversaryView, ...]
    """Each site's epsilon against each adversary. The first view is of local mode."""
    forecast: bool
    """Whether the views of distributed mode are not what the study does."""
    distributed: str
    """A note for readers on the numbers of distributed mode."""
    choices: tuple[Choice, ...]
    """Other choices; the first is the plan itself."""
    by_patient: tuple[tuple[int, float], ...]
    """(images of a patient, epsilon of that patient) against whom the whole noise is left."""
    scores: Forecast | None
    """How precise noised scores will be; None if there is no forecast (see `forecast`)."""
    statistics: StatisticsForecast | None
    """What the statistics of the training cells tell and cost; None if there are none. `epsilon`
    does not count them."""
    units: dict[str, float]
    """Site of the study's cohort -> the mean number of units in a step of it."""
    enough: float
    """The mean number of units in a step from which on the noise is not longer than the gradients
    can be (see `plausibility`): of a single site, or, in mode distributed, of all sites."""
    enough_of: Literal["a site", "all sites"]
    """Whose units `enough` counts."""
    doubts: tuple[str, ...]
    """Sentences on settings that mean little for the cohort."""

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as values for JSON."""
        return asdict(self)


def make_plan(study: Study, cohort: Cohort) -> PrivacyPlan:
    """Return the plan of a private study, with the views of distributed mode for `cohort`.

    Raises:
        PrivacyError: the study's mode is "none", or no noise gives its epsilon.
    """
    privacy = study.privacy
    if privacy.mode == "none":
        raise PrivacyError(
            f"study {study.name}: privacy.mode is none, so nothing is protected and there is "
            "nothing to plan; set privacy.mode to local or distributed"
        )
    event = study_event(privacy, study.rounds)
    shared = privacy.mode == "distributed"
    forecast_only = not (shared and study.cohort and cohort == cohort_of(study))
    noise = event.noise_multiplier * (whole_sum(cohort) if shared else 1)
    return PrivacyPlan(
        study=study.name,
        digest=study.digest,
        unit=privacy.unit,
        adjacency=ADJACENCY[privacy.unit],
        accountant=ACCOUNTANT["pld"],
        delta=privacy.delta,
        epsilon_asked=privacy.epsilon,
        epsilon=epsilon([event], privacy.delta),
        epsilon_rdp=epsilon([event], privacy.delta, "rdp"),
        noise_multiplier=event.noise_multiplier,
        max_grad_norm=privacy.max_grad_norm,
        sample_rate=privacy.sample_rate,
        rounds=study.rounds,
        spare_rounds=privacy.spare_rounds,
        local_steps=privacy.local_steps,
        cohort=cohort,
        views=views(event, cohort, privacy.delta, _points(study), privacy.local_steps),
        forecast=forecast_only,
        distributed=FORECAST if forecast_only else DISTRIBUTED,
        choices=tuple(_choices(study, event, cohort)),
        by_patient=tuple(
            (images, patient_epsilon(event, privacy.delta, images)) for images in IMAGES_A_PATIENT
        ),
        scores=forecast(study),
        statistics=statistics_forecast(study),
        units=expected_units(study),
        enough=noise / MUCH_NOISE / (study.rounds * privacy.local_steps) ** 0.5,
        enough_of="all sites" if shared else "a site",
        doubts=tuple(doubts(study, event.noise_multiplier)),
    )


def cohort_of(
    study: Study,
    sites: int | None = None,
    colluders: int | None = None,
    dropouts: int | None = None,
) -> Cohort:
    """Return the cohort that shares the noise in distributed mode.

    Args:
        study: the study.
        sites: the number of sites; None takes the study's training sites, or EXAMPLE_SITES if it
            has fewer than two.
        colluders: sites whose knowledge, pooled, the noise withstands; None takes the study's.
        dropouts: sites whose noise may be missing from a sum; None takes the study's.

    Raises:
        PrivacyError: there are fewer than two sites, a number is below 0, or no site is left that
            neither colludes nor drops out.
    """
    training, privacy = len(study.training_sites), study.privacy
    named = training if training > 1 else EXAMPLE_SITES
    return Cohort(
        sites=named if sites is None else sites,
        colluders=privacy.colluders if colluders is None else colluders,
        dropouts=privacy.dropouts if dropouts is None else dropouts,
    )


def _points(study: Study) -> list[int]:
    """Numbers of rounds to tell epsilon at; the last is the most that a site may be asked for."""
    rounds, points = study.rounds, min(_CURVE_POINTS, study.rounds)
    planned = {1, *(rounds * (point + 1) // points for point in range(points))}
    return sorted(planned | {rounds + study.privacy.spare_rounds})


def _choices(study: Study, plan: Event, cohort: Cohort) -> list[Choice]:
    rounds, privacy = study.rounds, study.privacy
    steps, rate = privacy.local_steps, privacy.sample_rate
    changes: dict[str, Mapping[str, float]] = {
        "as planned": {},
        "rounds / 2": {"rounds": max(1, rounds // 2)},
        "rounds x 2": {"rounds": 2 * rounds},
        "steps / 2": {"local_steps": max(1, steps // 2)},
        "steps x 2": {"local_steps": 2 * steps},
        "rate / 2": {"sample_rate": rate / 2},
        "rate x 2": {"sample_rate": min(1.0, 2 * rate)},
    }
    planned = [
        _choice(name, study, plan, change)
        for name, change in changes.items()
        if name == "as planned" or any(change[key] != _now(study, key) for key in change)
        # In mode distributed a round is one step.
        if privacy.mode != "distributed" or "local_steps" not in change
    ]
    return planned + [
        replace(planned[0], change=f"sites {sign}", relative_noise=noise)
        for sign, factor in (("/ 2", 0.5), ("x 2", 2.0))
        if (noise := _noise_of_sites(study, cohort, factor)) is not None
    ]


def _noise_of_sites(study: Study, cohort: Cohort, factor: float) -> float | None:
    """Return the noise on the mean over `factor` as many sites of one size, as a factor.

    In local mode the sites' noise is independent, so it falls with the root of their number. In
    mode distributed it is one noise for all, divided by the units of all. None: a sum of so few
    sites is not allowed.
    """
    if study.privacy.mode != "distributed":
        return float(factor**-0.5)
    changed = int(factor * cohort.sites)
    shares = changed - cohort.colluders - cohort.dropouts
    if changed - cohort.dropouts < FEWEST or shares < 1:
        return None
    then = whole_sum(replace(cohort, sites=changed)) / changed
    return then / (whole_sum(cohort) / cohort.sites)


def _now(study: Study, key: str) -> float:
    return float(study.rounds if key == "rounds" else getattr(study.privacy, key))


def _choice(name: str, study: Study, plan: Event, change: Mapping[str, float]) -> Choice:
    rounds = int(change.get("rounds", study.rounds))
    update = {key: value for key, value in change.items() if key != "rounds"}
    privacy = study.privacy.model_copy(update=update)
    event = study_event(privacy, rounds)
    noise = event.noise_multiplier / event.sample_rate
    return Choice(
        change=name,
        rounds=rounds,
        local_steps=privacy.local_steps,
        sample_rate=privacy.sample_rate,
        noise_multiplier=event.noise_multiplier,
        relative_noise=noise / (plan.noise_multiplier / plan.sample_rate),
        epsilon_as_is=epsilon(
            [replace(event, noise_multiplier=plan.noise_multiplier)], privacy.delta
        ),
    )
