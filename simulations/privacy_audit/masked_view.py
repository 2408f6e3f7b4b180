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

from client.masking.pairs import Pair
from client.training import dp_sgd
from client.training.masked_sum import OwnPart, masked
from common.config.distributed import noise_shares
from common.config.study import Study
from common.errors import PrivacyError
from common.privacy.masking.integer_sum import integer_sum
from common.privacy.masking.masks import add_mask, pair_sign
from common.privacy.masking.pairwise_keys import EphemeralKey, pair_key
from common.privacy.noise_source import NoiseSource
from common.privacy.planning.plan import EXAMPLE_SITES
from common.wire.packed_integers import pack
from server.aggregation.masked_sum import MaskedSum

_OTHER = "colluders"
"""Those who know their own sum and noise, and take their masks off."""


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
        found = EXAMPLE_SITES - privacy.colluders - privacy.dropouts
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
        keys = {lab: EphemeralKey(source.words(4).tobytes()) for lab in (*self._labs, _OTHER)}
        context, added = str(next(self._steps)).encode(), MaskedSum(plan.size, plan.bits)
        own = OwnPart(1, self._expected)
        for lab in self._labs:
            mine = total if lab == self._labs[0] else torch.zeros_like(total)
            added.add(masked(mine, plan, own, _pairs(lab, keys, context), source))
        masks = np.zeros(plan.size, plan.dtype)
        add_mask(masks, _pairs(_OTHER, keys, context))
        added.add(pack(masks, plan.bits))
        return torch.from_numpy(plan.decode(added.total()))


def _pairs(lab: str, keys: dict[str, EphemeralKey], context: bytes) -> list[Pair]:
    """The lab's masks with every other."""
    return [
        (pair_key(keys[lab].shared(keys[peer].public), context), pair_sign(lab, peer))
        for peer in keys
        if peer != lab
    ]
