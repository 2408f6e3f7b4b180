"""The masks of one sum: a key for each site that this one masks with."""

from client.masking.held_keys import HeldKeys, agreement_of, check_company
from client.randomness import Entropy
from client.request import Request
from common.canonical_json import canonical
from common.errors import because_of
from common.privacy.masking.masks import pair_sign
from common.privacy.masking.neighbours import degree_for, neighbours
from common.privacy.masking.pairwise_keys import pair_key
from common.wire.agreement import Purpose
from common.wire.reasons import Reason

Pair = tuple[bytes, int]
"""The key of the mask that two sites share, and 1 for the one that adds it, -1 for the other."""

EVERYBODY = 32
"""Up to so many sites each masks with all others; more mask along a random graph."""
_FAILURE = 2.0**-80
"""The chance that colluders cut the graph of the honest sites. A colluder may choose its key, which
draws the graph again: 2^40 tries leave 2^-40."""


def mask_pairs(
    request: Request, purpose: Purpose, model: str, held: HeldKeys, entropy: Entropy
) -> list[Pair]:
    """Return a pair for each site that this one masks the request's sum with.

    The private key is used up: a second call with the same request raises LOST_KEY.

    Args:
        request: has the agreement, with all keys.
        purpose: what the site is asked to sum.
        model: SHA-256 (hex) of the model vector as it came.
        held: has this site's private key.
        entropy: what the key was made with.

    Raises:
        PrivacyError: the study or the policy does not allow this company, the private key is lost,
            or a peer's key is none.
    """
    check_company(request, purpose)
    key, name = held.take(request, entropy), request.site.name
    agreement, study = agreement_of(request), request.study
    sum_of = agreement.context(study.digest, model)
    seed = canonical(agreement.context(study.digest, ""))
    peers = neighbours(agreement.sites, seed, _degree(len(agreement.sites), request))
    with because_of(Reason.MASKING_KEY):
        return [
            (
                pair_key(
                    key.shared(agreement.keys[peer].public),
                    canonical(sum_of | {"pair": sorted((name, peer))}),
                ),
                pair_sign(name, peer),
            )
            for peer in sorted(peers[name])
        ]


def _degree(sites: int, request: Request) -> int | None:
    """How many sites each masks with; None: all others.

    The graph is sound for as many colluders as the study plans for, and for a third of the sites if
    that is more: otherwise a little more collusion than was planned would cut it, where the noise
    only wears thin.
    """
    if sites <= EVERYBODY:
        return None
    return degree_for(sites, max(request.study.privacy.colluders, sites // 3), _FAILURE)
