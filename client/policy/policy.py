"""What a site allows, whatever a study asks. Its policy is a file that no message changes."""

from collections.abc import Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from client.policy.budget import Budget
from client.policy.schedule import Window
from common.config.loading import load
from common.config.study import PrivacySpec, Strict, Study
from common.errors import PrivacyError, because_of
from common.wire.reasons import Fault, Reason


class Policy(Strict):
    """A site's `policy.yaml`.

    `lifetime_epsilon` holds over the ledger's whole life, the other bounds for each study.
    """

    lifetime_epsilon: float = Field(gt=0, le=1e6)
    """Largest epsilon that all studies on the data set together may ever spend, at `delta`."""
    study_epsilon: float = Field(gt=0, le=1e6)
    """Largest epsilon that one study may spend at `delta`, rounds that were cut off included."""
    delta: float = Field(gt=0, lt=1)
    unit: Literal["image", "patient"] = "patient"
    """The weakest unit that a study may protect: `patient` refuses studies that protect images."""
    min_noise_multiplier: float = Field(default=0.3, gt=0)
    """Smallest noise multiplier that a study's training may have."""
    max_grad_norm: float = Field(default=10.0, gt=0)
    """Largest clipping norm that a study may ask for."""
    max_weight: float = Field(default=100.0, gt=0)
    """Largest absolute value of a parameter in a model that the site accepts. Larger ones help only
    a server that wants to amplify rounding errors to the size of gradients; in a network with
    normalisations smaller ones suffice for that (`common/privacy/noise.py`)."""
    min_cohort: int = Field(default=2, ge=1)
    """Smallest number of sites that must train together."""
    shared_noise: bool = False
    """Whether studies with `privacy: {mode: distributed}` may train here: their epsilon holds only
    as long as no more sites collude than the study plans for."""
    min_colluders: int = Field(default=1, ge=0)
    """In mode distributed: how many other sites, at least, a study must withstand that tell the
    server all they know. Its epsilon holds against as many (`privacy.colluders`)."""
    statistics: bool = False
    """In mode distributed: whether a study may ask for the statistics of the training cells (cells
    of each type, mean colour), summed over the sites with noise that the ledger pays for
    (`privacy.statistics_epsilon`)."""
    max_rounds: int = Field(default=10_000, ge=1)
    """Largest number of rounds that a study may have."""
    without_privacy: bool = False
    """Whether studies with `privacy: {mode: none}` may train here at all."""
    metrics: Literal["none", "noised", "exact"] = "none"
    """What evaluations may release: nothing; confusion counts with noise, paid for in the ledger;
    or exact counts, losses and calibration."""

    hours: tuple[str, ...] = ()
    """Windows of local time (see `schedule`) in which the site computes; (): at any time."""
    gpu_memory_share: float = Field(default=1.0, gt=0, le=1)
    """Largest fraction of a GPU's memory that training may take."""

    @field_validator("hours", mode="before")
    @classmethod
    def _one_window_or_more(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("hours")
    @classmethod
    def _windows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            Window.parse(text)
        return value

    @model_validator(mode="after")
    def _study_within_lifetime(self) -> Self:
        if self.study_epsilon > self.lifetime_epsilon:
            raise ValueError(
                f"study_epsilon={self.study_epsilon} exceeds lifetime_epsilon="
                f"{self.lifetime_epsilon}"
            )
        return self

    def computes_at(self, moment: datetime) -> bool:
        """Whether the site computes for studies at the local time `moment`."""
        windows = [Window.parse(text) for text in self.hours]
        return not windows or any(window.holds(moment) for window in windows)

    @property
    def budget(self) -> Budget:
        """The bounds that the ledger compares each debit with."""
        return Budget(
            epsilon=self.lifetime_epsilon, delta=self.delta, study_epsilon=self.study_epsilon
        )


def read_policy(path: Path) -> Policy:
    """The site's policy. Raises PrivacyError when it is missing, ConfigError when wrong."""
    with because_of(Reason.NO_POLICY):
        if not path.is_file():
            raise PrivacyError(
                f"{path}: the site has no policy, so nothing is allowed; write one (see "
                "configs/sites/policy.yaml)"
            )
        return load(Policy, path)


def refusals(policy: Policy, study: Study, noise_multiplier: float) -> Iterator[Fault]:
    """Every reason for which the policy refuses the study; none: it may train here.

    noise_multiplier: the site's own calculation of what the study's epsilon requires.
    """
    privacy = study.privacy
    if fault := cohort_refusal(policy, study, study.cohort):
        yield fault
    if study.rounds > policy.max_rounds:
        said = f"{study.rounds} rounds; the policy's max_rounds is {policy.max_rounds}"
        yield Fault(Reason.MAX_ROUNDS, said)
    if privacy.mode != "none":
        yield from _of_privacy(policy, privacy, noise_multiplier)
    elif not policy.without_privacy:
        yield Fault(Reason.WITHOUT_PRIVACY, "privacy: none; the policy does not allow it")


def _of_privacy(policy: Policy, privacy: PrivacySpec, noise: float) -> Iterator[Fault]:
    if policy.unit == "patient" and privacy.unit == "image":
        said = "it protects single images; the policy's unit is patient"
        yield Fault(Reason.UNIT, said)
    if privacy.delta > policy.delta:
        said = f"delta {privacy.delta:g} exceeds the policy's {policy.delta:g}"
        yield Fault(Reason.DELTA, said)
    if privacy.epsilon > policy.study_epsilon:
        said = (
            f"epsilon {privacy.epsilon:g}; the policy's study_epsilon is {policy.study_epsilon:g}"
        )
        yield Fault(Reason.STUDY_EPSILON, said)
    if noise < policy.min_noise_multiplier:
        said = (
            f"noise multiplier {noise:.3g}; the policy's min_noise_multiplier is "
            f"{policy.min_noise_multiplier:g}"
        )
        yield Fault(Reason.MIN_NOISE, said)
    if privacy.mode == "distributed" and not policy.shared_noise:
        said = "the sites share its noise (mode distributed); the policy's shared_noise is false"
        yield Fault(Reason.SHARED_NOISE, said)
    if privacy.mode == "distributed" and privacy.colluders < policy.min_colluders:
        said = (
            f"its epsilon holds against {privacy.colluders} colluding sites; the policy's "
            f"min_colluders is {policy.min_colluders}"
        )
        yield Fault(Reason.COLLUDERS, said)
    if privacy.statistics_epsilon is not None and not policy.statistics:
        said = "it asks for statistics of the training cells; the policy's statistics is false"
        yield Fault(Reason.STATISTICS, said)
    if privacy.max_grad_norm > policy.max_grad_norm:
        said = (
            f"max_grad_norm {privacy.max_grad_norm:g} exceeds the policy's {policy.max_grad_norm:g}"
        )
        yield Fault(Reason.MAX_NORM, said)


def cohort_refusal(policy: Policy, study: Study, members: Collection[str]) -> Fault | None:
    """Why too few of `members` would train together, or None.

    Only those of `members` count that the study's cohort names with the role "train".
    """
    training = sum(m.role == "train" and name in members for name, m in study.cohort.items())
    if training >= policy.min_cohort:
        return None
    said = f"{training} sites train; the policy's min_cohort is {policy.min_cohort}"
    return Fault(Reason.MIN_COHORT, said)


def permit(policy: Policy, study: Study, noise_multiplier: float) -> None:
    """Raise PrivacyError, with all `refusals`, when the study may not train here."""
    faults = list(refusals(policy, study, noise_multiplier))
    if faults:
        raise PrivacyError(
            f"study {study.name} is refused by policy.yaml: {'; '.join(map(str, faults))}. No cell "
            "was looked at and nothing paid; the study must change, or its owner the policy",
            faults[0].reason,
        )
