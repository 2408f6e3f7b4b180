"""A round in mode distributed: the site's one clipped sum, with its share of the noise, masked.

The site takes no step. The server adds up all sites' sums, where the masks cancel, and takes it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from client.masking.pairs import Pair
from client.randomness import Entropy
from client.training.dp_sgd import sampled_sum, sources, summand
from client.training.inputs import Inputs
from client.training.job import Job
from common.privacy.masking.integer_sum import IntegerSum
from common.privacy.masking.masks import add_mask
from common.privacy.masking.study_sum import study_sum
from common.privacy.noise import add_noise
from common.privacy.noise_source import NoiseSource
from common.wire.packed_integers import pack


def masked_sum(
    job: Job, inputs: Inputs, pairs: Iterable[Pair], entropy: Entropy
) -> tuple[bytes, IntegerSum]:
    """Return the site's masked integers as they leave, and the constants of their sum.

    The caller has paid for the round. Whoever lacks one of the masks' keys sees uniform integers;
    whoever has the sum over all sites sees the noise of `common.privacy.noise.share_sigma` on it.

    Args:
        job: the site's round.
        inputs: the round's model, and the site's cells.
        pairs: one for each site that this one masks with; used for no other vector.
        entropy: draws the sample and the noise.
    """
    of = summand(job, inputs)
    plan = study_sum(job.study, of.size)
    sampling, noise = sources(job, entropy)
    total = sampled_sum(job, inputs, of, sampling)
    own = OwnPart(int(job.member.weight), job.normaliser)
    return masked(total, plan, own, pairs, noise), plan


@dataclass(frozen=True)
class OwnPart:
    """What of a sum's public constants is a site's own."""

    weight: int
    """What its clipped sum is multiplied by."""
    expected: float
    """How many units its step has on average."""


def masked(
    total: Tensor, plan: IntegerSum, own: OwnPart, pairs: Iterable[Pair], noise: NoiseSource
) -> bytes:
    """Return the clipped sum (P,) as it leaves the site: noised, masked and packed."""
    whole = plan.encode(total, own.weight, own.expected)
    add_noise(whole, plan.sigma, noise)
    words = plan.wrap(whole)
    add_mask(words, pairs)
    return pack(words, plan.bits)
