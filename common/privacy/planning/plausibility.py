"""Finds settings of a study that are valid, but protect or teach little at its cohort's sizes.

They are not errors. The study's plan and report state each in a sentence for the reader.
"""

from collections.abc import Mapping

from common.config.distributed import noise_shares
from common.config.study import Participant, Study
from common.text import count

MUCH_NOISE = 0.02
"""Standard deviation of the noise on a coordinate of the mean gradient of all steps, in clipping
norms. From here on, the noise on MANY_PARAMETERS coordinates is at least as long as the mean
gradient, whose length clipping limits to one clipping norm."""
MANY_PARAMETERS = round(MUCH_NOISE**-2)
"""The number of parameters for which noise of MUCH_NOISE has the length of one clipping norm."""


def doubts(study: Study, noise_multiplier: float) -> list[str]:
    """Return a sentence for each setting that means little at the cohort's declared sizes.

    The list is empty if there is none, or if the study has no privacy or no training site.

    noise_multiplier: the study's, of `study_event`.
    """
    training = _training(study)
    if study.privacy.mode == "none" or not training:
        return []
    found = [_of_delta(study, training), _of_noise(study, training, noise_multiplier)]
    return [sentence for sentence in found if sentence]


def expected_units(study: Study) -> dict[str, float]:
    """Return training site -> the mean number of units in a step of it."""
    rate = study.privacy.sample_rate
    return {name: rate * member.units for name, member in _training(study).items()}


def noise_of_mean(study: Study, noise_multiplier: float) -> float:
    """Return the standard deviation of the noise on a coordinate of the mean gradient of all steps.

    The unit is the clipping norm. All training sites are assumed to answer. In mode local each site
    divides a step's noised sum by the number of units that it expects, and the server takes the
    sites' weighted mean. In mode distributed it divides the sum of all, with the shares of all, by
    the weighted number of all.
    """
    training, expected = _training(study), expected_units(study)
    steps = study.rounds * study.privacy.local_steps
    if study.privacy.mode == "distributed":
        whole = sum(member.weight * expected[name] for name, member in training.items())
        most = max(member.weight for member in training.values())
        shares = (len(training) / noise_shares(study)) ** 0.5
        return float(noise_multiplier * most * shares / whole / steps**0.5)
    whole = sum(member.weight for member in training.values())
    parts = (member.weight / whole / expected[name] for name, member in training.items())
    return float(noise_multiplier * (sum(part**2 for part in parts) / steps) ** 0.5)


def _training(study: Study) -> Mapping[str, Participant]:
    """Return the training sites that have units and a weight."""
    return {
        name: member
        for name, member in study.cohort.items()
        if member.role == "train" and member.units and member.weight
    }


def _of_delta(study: Study, training: Mapping[str, Participant]) -> str | None:
    """Return a sentence if delta is too large for the largest site.

    A mechanism that publishes one of n units, chosen at random, has delta 1/n.
    """
    delta, unit = study.privacy.delta, study.privacy.unit
    name, most = max(training.items(), key=lambda item: item[1].units)
    if delta * most.units < 1:
        return None
    return (
        f"privacy.delta is {delta:g}, and {name} has {count(most.units, unit)}: a method that "
        f"publishes one {unit} of a site whole keeps such a promise; set delta well below 1 in "
        f"{most.units:,}, a tenth of it or less"
    )


def _of_noise(study: Study, training: Mapping[str, Participant], noise: float) -> str | None:
    blur = noise_of_mean(study, noise)
    if blur < MUCH_NOISE:
        return None
    expected, unit = expected_units(study), study.privacy.unit
    name = min(training, key=lambda name: expected[name])
    its = count(training[name].units, unit)
    return (
        f"a step of {name} has about {expected[name]:.2g} of its {its} against noise of "
        f"{noise:.3g}; on the mean gradient of all sites and steps the noise is {blur:.2g} of the "
        f"clipping norm a parameter, and from {MUCH_NOISE:g} on it is longer than the gradients of "
        f"{MANY_PARAMETERS:,} parameters can be: take more {unit}s, a larger sample_rate or epsilon"
    )
