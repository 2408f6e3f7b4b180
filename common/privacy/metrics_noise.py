"""The noise in the counts of evaluations: public, as the study says it."""

from common.config.study import Study
from common.noised_tally import SENSITIVITY
from common.privacy.accounting import calibrate
from common.privacy.noise import count_sigma


def evaluations(study: Study) -> int:
    """How often a site may be asked for noised counts: as planned, the test, and the spare ones."""
    return -(-study.rounds // study.evaluation.every) + 1 + study.privacy.spare_rounds


def metrics_noise(study: Study) -> float:
    """The evaluations' noise multiplier: meets `evaluation.epsilon` over all of them."""
    return calibrate(study.evaluation.epsilon, study.privacy.delta, 1.0, evaluations(study))


def metrics_sigma(study: Study) -> float:
    """Standard deviation of the noise in each count that a site lets leave noised."""
    return count_sigma(SENSITIVITY * study.privacy.cells_of_a_unit, metrics_noise(study))
