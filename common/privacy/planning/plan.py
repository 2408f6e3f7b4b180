"""Plans a study's privacy before it runs: its noise and epsilon, and those of other choices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from common.config.study import Study
from common.errors import PrivacyError
from common.privacy.accounting import ACCOUNTANT, Event, epsilon, study_event
from common.privacy.events import ADJACENCY
from common.privacy.planning.patient_level import patient_epsilon
from common.privacy.planning.plausibility import MUCH_NOISE, doubts, expected_units
from common.privacy.planning.score_precision import Forecast, forecast
from common.privacy.planning.threat_models import AdversaryView, Cohort, views

IMAGES_A_PATIENT = (1, 2, 5, 10, 50)
DISTRIBUTED = (
    "Distributed mode is only a forecast by the accountant: hemofed trains in local mode. It "
    "assumes a secure sum of every step, and that sites add their shares; a sum that fails and is "
    "asked for again costs one more step."
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
    """The sites in the forecast of distributed mode."""
    views: tuple[AdversaryView, ...]
    """Each site's epsilon against each adversary, without spare rounds. The first view is of local
    mode."""
    distributed: str
    """A note for readers on the numbers of distributed mode."""
    choices: tuple[Choice, ...]
    """Other choices; the first is the plan itself."""
    by_patient: tuple[tuple[int, float], ...]
    """(images of a patient, epsilon of that patient) in local mode."""
    scores: Forecast | None
    """How precise noised scores will be; None if there is no forecast (see `forecast`)."""
    units: dict[str, float]
    """Site of the study's cohort -> the mean number of units in a step of it."""
    enough: float
    """The mean number of units in a step from which on the noise of a single site is not longer
    than its gradients can be (see `plausibility`)."""
    doubts: tuple[str, ...]
    """Sentences on settings that mean little for the cohort."""

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as values for JSON."""
        return asdict(self)


def make_plan(study: Study, cohort: Cohort) -> PrivacyPlan:
    """Return the plan of a private study, with a forecast of distributed mode for `cohort`.

    Raises:
        PrivacyError: the study's mode is "none", or no noise gives its epsilon.
    """
    privacy = study.privacy
    if privacy.mode == "none":
        raise PrivacyError(
            f"study {study.name}: privacy.mode is none, so nothing is protected and there is "
            "nothing to plan; set privacy.mode: local"
        )
    event = study_event(privacy, study.rounds)
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
        distributed=DISTRIBUTED,
        choices=tuple(_choices(study, event)),
        by_patient=tuple(
            (images, patient_epsilon(event, privacy.delta, images)) for images in IMAGES_A_PATIENT
        ),
        scores=forecast(study),
        units=expected_units(study),
        enough=event.noise_multiplier / MUCH_NOISE / (study.rounds * privacy.local_steps) ** 0.5,
        doubts=tuple(doubts(study, event.noise_multiplier)),
    )


def cohort_of(
    study: Study, sites: int | None = None, colluders: int = 1, dropouts: int = 0
) -> Cohort:
    """Return the cohort that shares the noise in distributed mode.

    Args:
        study: the study.
        sites: the number of sites; None takes the study's training sites, or EXAMPLE_SITES if it
            has fewer than two.
        colluders: sites whose knowledge, pooled, the noise withstands.
        dropouts: sites whose noise may be missing from a sum.

    Raises:
        PrivacyError: there are fewer than two sites, a number is below 0, or no site is left that
            neither colludes nor drops out.
    """
    training = sum(member.role == "train" for member in study.cohort.values())
    named = training if training > 1 else EXAMPLE_SITES
    number = named if sites is None else sites
    return Cohort(sites=number, colluders=colluders, dropouts=dropouts)


def _points(study: Study) -> list[int]:
    """Numbers of rounds to tell epsilon at; the last is the most that a site may be asked for."""
    rounds, points = study.rounds, min(_CURVE_POINTS, study.rounds)
    planned = {1, *(rounds * (point + 1) // points for point in range(points))}
    return sorted(planned | {rounds + study.privacy.spare_rounds})


def _choices(study: Study, plan: Event) -> list[Choice]:
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
    ]
    # The sites' noise is independent, so the mean over more sites of one size has less of it.
    return planned + [
        replace(planned[0], change=f"sites {sign}", relative_noise=factor**-0.5)
        for sign, factor in (("/ 2", 0.5), ("x 2", 2.0))
    ]


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
