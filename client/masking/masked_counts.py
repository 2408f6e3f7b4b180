"""A site's counts under its masks, for a sum that the server reads of all sites together alone."""

from collections.abc import Sequence

import numpy as np

from client.masking.pairs import Pair
from common.metrics import Counts
from common.privacy.masking.masks import add_mask


def under_masks(counts: Counts, pairs: Sequence[Pair]) -> bytes:
    """`counts`, int64 (P,), plus the masks of `pairs`, modulo 2^64: little-endian words.

    No sum over sites wraps: a number is below 2^48 in size with its noise, and a cohort has at most
    10,000 sites.

    Args:
        counts: the numbers with this site's share of the noise; they stay as they are.
        pairs: one for each site that this one masks with; used for no other vector.
    """
    words = counts.astype("<i8").view(np.uint64)
    add_mask(words, pairs)
    return words.tobytes()
