"""Values of a study that are allowed, and mean little for the sites of its cohort.

They break nothing, so nothing refuses them; a person who reads the study, its plan or its report is
told in a sentence each.
"""

from collections.abc import Mapping

from common.config.study import Participant, Study
from common.text import count

MUCH_NOISE = 0.02
"""Noise on a coordinate of the mean gradient of all steps, in clipping norms. With it the noise on
MANY_PARAMETERS is as long as the gradients can be: each is clipped, and so is their mean."""
MANY_PARAMETERS = round(MUCH_NOISE**-2)


def doubts(study: Study, noise_multiplier: float) -> list[str]:
    """What to say of the study's privacy at the declared sizes of its cohort; [] is well.

    noise_multiplier: of its gradients (`study_event`). Without privacy, or a cohort that trains,
    there is nothing to say.
    """
    training = _training(study)
    if study.privacy.mode == "none" or not training:
        return []
    found = [_of_delta(study, training), _of_noise(study, training, noise_multiplier)]
    return [sentence for sentence in found if sentence]


def expected_units(study: Study) -> dict[str, float]:
    """Site -> the units that a step of it has on average."""
    rate = study.privacy.sample_rate
    return {name: rate * member.units for name, member in _training(study).items()}


def noise_of_mean(study: Study, noise_multiplier: float) -> float:
    """The standard deviation of the noise on each coordinate of the mean gradient of all steps, in
    clipping norms, where all training sites answer.

    Each site divides a step's noised sum by the units that it expects; the server weighs the sites.
    """
    training, expected = _training(study), expected_units(study)
    whole = sum(member.weight for member in training.values())
    parts = (member.weight / whole / expected[name] for name, member in training.items())
    steps = study.rounds * study.privacy.local_steps
    return float(noise_multiplier * (sum(part**2 for part in parts) / steps) ** 0.5)


def _training(study: Study) -> Mapping[str, Participant]:
    """The sites that train and have a say."""
    return {
        name: member
        for name, member in study.cohort.items()
        if member.role == "train" and member.units and member.weight
    }


def _of_delta(study: Study, training: Mapping[str, Participant]) -> str | None:
    """A mechanism that publishes one unit in n whole has delta 1/n."""
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
