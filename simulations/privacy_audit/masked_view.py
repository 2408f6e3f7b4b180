"""What a server and the planned colluders see in mode distributed: the sum, less what they put in.

The audit attacks the very parts that a round uses: rounding, clamping, shares of noise, masks,
packing, and the server's sum. The audited lab's sum has the canaries; the other honest labs' sums
are zeros. The colluders' shares and those of absent labs are not in the view, since whoever drew
them can subtract them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from client.training import dp_sgd
from common.config.distributed import FEWEST, noise_shares
from common.config.study import Study
from common.errors import PrivacyError
from common.privacy.masking.integer_sum import IntegerSum, integer_sum
from common.privacy.masking.masks import add_mask, pair_sign
from common.privacy.masking.pairwise_keys import EphemeralKey, pair_key
from common.privacy.noise import add_noise
from common.privacy.noise_source import NoiseSource
from common.wire.packed_integers import pack
from server.aggregation.masked_sum import MaskedSum

EXAMPLE_SITES = 5
"""Sites of the sum where the study names no cohort."""


@contextmanager
def seen(study: Study, expected: float) -> Iterator[None]:
    """Let DP-SGD release each step as it is seen in the study's mode.

    Args:
        study: the study that is audited; in mode local nothing changes.
        expected: how many units the audited lab's step has on average.

    Raises:
        PrivacyError: the study's cohort leaves no honest share of the noise.
    """
    if study.privacy.mode != "distributed":
        yield
        return
    sized = sized_for(study)
    view = _View(sized, in_view(sized), expected)
    with patch.object(dp_sgd, "privatise", view.release):
        yield


def sized_for(study: Study) -> int:
    """How many shares make up the whole noise."""
    privacy = study.privacy
    found = noise_shares(study)
    if not study.cohort:
        found = max(EXAMPLE_SITES, FEWEST) - privacy.colluders - privacy.dropouts
    if found < 1:
        raise PrivacyError(
            f"study {study.name}: {privacy.colluders} colluders and {privacy.dropouts} dropouts "
            "leave no honest share of the noise to audit; name the cohort, or plan for fewer"
        )
    return found


def in_view(shares: int) -> int:
    """How many honest shares the view has: all that the noise is sized for, and no more."""
    return shares


class _View:
    """The sums of one audit."""

    def __init__(self, sized: int, there: int, expected: float) -> None:
        self._sized = sized
        self._labs = [f"lab-{number}" for number in range(there)]
        self._expected = expected
        self._steps = count()

    def release(
        self, total: Tensor, *, max_grad_norm: float, noise_multiplier: float, source: NoiseSource
    ) -> Tensor:
        """Return what is seen of the clipped sum `total`, (P,) float32."""
        plan = integer_sum(
            total.numel(),
            max_grad_norm,
            noise_multiplier,
            self._sized,
            [self._expected] * self._sized,
            [1] * self._sized,
        )
        keys = {lab: EphemeralKey(source.words(4).tobytes()) for lab in self._labs}
        context, added = str(next(self._steps)).encode(), MaskedSum(plan.size, plan.bits)
        for lab in self._labs:
            mine = total if lab == self._labs[0] else torch.zeros_like(total)
            added.add(self._upload(plan, mine, lab, keys, context, source))
        return torch.from_numpy(plan.decode(added.total()).astype(np.float32))

    def _upload(
        self,
        plan: IntegerSum,
        mine: Tensor,
        lab: str,
        keys: dict[str, EphemeralKey],
        context: bytes,
        source: NoiseSource,
    ) -> bytes:
        """What leaves the lab: its sum, its share of the noise, and its masks."""
        whole = plan.encode(mine, 1, self._expected)
        add_noise(whole, plan.sigma, source)
        words = plan.wrap(whole)
        pairs = [
            (pair_key(keys[lab].shared(keys[peer].public), context), pair_sign(lab, peer))
            for peer in self._labs
            if peer != lab
        ]
        if pairs:
            add_mask(words, pairs)
        return pack(words, plan.bits)
