"""What a study in privacy mode `distributed` must be, so that its sum is one secret of many sites.

In a round each site sends one clipped sum with its share of the noise, under masks; the server adds
the sums up and takes the step (`docs/privacy.md`).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.config.study import Study

FEWEST = 3
"""Of two sites each would learn the other's sum: its own, subtracted from the total."""
MOST_WEIGHT = 1000
"""The largest weight of a site. Weights are whole numbers: they multiply integers."""


def noise_shares(study: "Study") -> int:
    """How many sites' shares make up the whole noise: those that neither collude nor drop out."""
    return len(study.training_sites) - study.privacy.colluders - study.privacy.dropouts


def faults(study: "Study") -> Iterator[str]:
    """What keeps the study from running in this mode, in words."""
    yield from _of_cohort(study)
    yield from _of_steps(study)
    if study.transport.up != "float32":
        yield (
            f"transport.up={study.transport.up}: sums under masks are integers of as many bits as "
            "they need; leave it out"
        )
    if study.server.aggregation != "mean":
        yield (
            f"server.aggregation={study.server.aggregation}: a server that sees the sum alone "
            "cannot compare the sites; set it to mean, or privacy.mode to local"
        )


def _of_cohort(study: "Study") -> Iterator[str]:
    sites, privacy = len(study.training_sites), study.privacy
    if not study.cohort:
        return
    if sites - privacy.dropouts < FEWEST:
        yield (
            f"cohort: {sites} sites train, and privacy.dropouts={privacy.dropouts} may be away: "
            f"a sum of fewer than {FEWEST} sites is no secret; name more, or set privacy.mode to "
            "local"
        )
    if noise_shares(study) < 1:
        yield (
            f"privacy.colluders={privacy.colluders}, dropouts={privacy.dropouts}: of {sites} "
            "sites that train none is left to add noise; plan for fewer of either"
        )
    for name in study.training_sites:
        member = study.cohort[name]
        if member.units < 1:
            yield f"cohort.{name}.units={member.units}: the sum is divided by units; declare them"
        if not (member.weight.is_integer() and 1 <= member.weight <= MOST_WEIGHT):
            yield (
                f"cohort.{name}.weight={member.weight:g}: sums under masks are integers, so their "
                f"weights are whole numbers from 1 to {MOST_WEIGHT}"
            )


def _of_steps(study: "Study") -> Iterator[str]:
    training, privacy = study.training, study.privacy
    if privacy.local_steps != 1:
        yield (
            f"privacy.local_steps={privacy.local_steps}: in mode distributed a round is one step, "
            "of all sites together; set it to 1, and give more rounds, or a larger sample_rate: "
            "that costs less than several samples of one model"
        )
    at_server = {
        "training.optimizer": training.optimizer != "sgd",
        "training.momentum": training.momentum != 0,
        "training.weight_decay": training.weight_decay != 0,
        "training.proximal_mu": training.proximal_mu != 0,
    }
    for key in (key for key, used in at_server.items() if used):
        yield f"{key}: in mode distributed the server takes the step; set server.* in its place"
