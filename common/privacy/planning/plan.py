"""What a study's privacy asks of its noise, and what other choices would: before anything runs."""

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
"""That distributed mode is forecast for where a study does not name its cohort."""
_CURVE_POINTS = 10


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The study with one setting changed."""

    change: str
    rounds: int
    local_steps: int
    sample_rate: float
    noise_multiplier: float
    """What this choice needs for the study's epsilon."""
    relative_noise: float
    """Noise on the sites' mean gradient of a step, with that multiplier, over the plan's."""
    epsilon_as_is: float
    """What this choice costs with the plan's own noise multiplier."""


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """A study's privacy in numbers; epsilon at `delta`, by `accountant`."""

    study: str
    digest: str
    unit: str
    adjacency: str
    accountant: str
    delta: float
    epsilon_asked: float
    epsilon: float
    """What all rounds together cost; never above what was asked."""
    epsilon_rdp: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    rounds: int
    spare_rounds: int
    """Rounds that may be done again after a crash: `epsilon` counts them."""
    local_steps: int
    cohort: Cohort
    """Whom distributed mode is forecast for."""
    views: tuple[AdversaryView, ...]
    """Each site's epsilon against each adversary; the first is local mode's, against anyone."""
    distributed: str
    """What distributed mode's numbers are."""
    choices: tuple[Choice, ...]
    by_patient: tuple[tuple[int, float], ...]
    """(images of a patient, epsilon of that patient)."""
    scores: Forecast | None
    """How sharp noised scores will be; None where the study does not say how many units train."""
    units: dict[str, float]
    """Site of the study's cohort -> the units that a step of it has on average."""
    enough: float
    """Such units from which on a site by itself has not more noise than gradients (meaning.py)."""
    doubts: tuple[str, ...]
    """Sentences on values that mean little for the cohort."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def make_plan(study: Study, cohort: Cohort) -> PrivacyPlan:
    """The plan of a private study, with a forecast of distributed mode for `cohort`.

    Raises PrivacyError for a study of mode "none".
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
        views=views(event, cohort, privacy.delta, _points(study.rounds), privacy.local_steps),
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
    """`sites` that share the noise, else the study's that train, or EXAMPLE_SITES of them.

    Raises PrivacyError: no share of the noise is left.
    """
    training = sum(member.role == "train" for member in study.cohort.values())
    named = training if training > 1 else EXAMPLE_SITES
    number = named if sites is None else sites
    return Cohort(sites=number, colluders=colluders, dropouts=dropouts)


def _points(rounds: int) -> list[int]:
    points = min(_CURVE_POINTS, rounds)
    return sorted({1, *(rounds * (point + 1) // points for point in range(points))})


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
    # Each site's noise is its own: the mean of more of them, all of one size, has less.
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
