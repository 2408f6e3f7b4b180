"""The noise in the counts of evaluations. It is public: it follows from the study alone."""

from common.config.distributed import noise_shares
from common.config.study import Study
from common.noised_tally import SENSITIVITY
from common.privacy.accounting import calibrate
from common.privacy.noise import count_sigma, share_count_sigma


def evaluations(study: Study) -> int:
    """How often a site may be asked for noised counts.

    These are the planned evaluations, the test, and one for each spare round.
    """
    return -(-study.rounds // study.evaluation.every) + 1 + study.privacy.spare_rounds


def metrics_noise(study: Study) -> float:
    """The noise multiplier that keeps all evaluations together within `evaluation.epsilon`."""
    return calibrate(study.evaluation.epsilon, study.privacy.delta, 1.0, evaluations(study))


def metrics_sigma(study: Study) -> float:
    """Standard deviation, in cells, of the noise in each count that a site releases."""
    return count_sigma(SENSITIVITY * study.privacy.cells_of_a_unit, metrics_noise(study))


def shared_metrics_sigma(study: Study) -> float:
    """Standard deviation, in cells, of a site's share of the noise in counts summed under masks."""
    sensitivity = SENSITIVITY * study.privacy.cells_of_a_unit
    return share_count_sigma(sensitivity, metrics_noise(study), noise_shares(study))
