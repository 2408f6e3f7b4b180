"""The sum of a study's round, from the study alone: every site and the server make the same."""

from functools import lru_cache

from common.config.distributed import noise_shares
from common.config.study import Study
from common.privacy.accounting import study_event
from common.privacy.masking.integer_sum import IntegerSum, integer_sum


@lru_cache(maxsize=64)
def study_sum(study: Study, size: int) -> IntegerSum:
    """The constants of the sum over a study's sites of vectors of `size` numbers.

    Each site's share of the noise is for the sites that neither collude nor drop out. A round with
    fewer sites than the cohort has uses the same constants.

    Raises:
        PrivacyError: the noise cannot be calibrated or drawn, or the sum needs more than 64 bits.
    """
    privacy = study.privacy
    members = [study.cohort[site] for site in study.training_sites]
    return integer_sum(
        size,
        privacy.max_grad_norm,
        study_event(privacy, study.rounds).noise_multiplier,
        noise_shares(study),
        [privacy.sample_rate * member.units for member in members],
        [int(member.weight) for member in members],
    )
