"""The masks of one sum: a key for each site that this one masks with."""

from client.masking.held_keys import HeldKeys, agreement_of, check_company
from client.randomness import Entropy
from client.request import Request
from common.canonical_json import canonical
from common.privacy.masking.masks import pair_sign
from common.privacy.masking.neighbours import degree_for, neighbours
from common.privacy.masking.pairwise_keys import pair_key

Pair = tuple[bytes, int]
"""The key of the mask that two sites share, and 1 for the one that adds it, -1 for the other."""

EVERYBODY = 32
"""Up to so many sites each masks with all others; more mask along a random graph."""
_FAILURE = 2.0**-80
"""The chance that colluders cut the graph of the honest sites. A colluder may choose its key, which
draws the graph again: 2^40 tries leave 2^-40."""


def mask_pairs(request: Request, model: str, held: HeldKeys, entropy: Entropy) -> list[Pair]:
    """Return a pair for each site that this one masks the request's sum with.

    Args:
        request: has the agreement, with all keys.
        model: SHA-256 (hex) of the model vector as it came.
        held: has this site's private key.
        entropy: what the key was made with.

    Raises:
        PrivacyError: the study or the policy does not allow this company, the private key is lost,
            or a peer's key is none.
    """
    check_company(request)
    key, task, name = held.of(request, entropy), request.task, request.site.name
    agreement, study = agreement_of(request), request.study
    sum_of = agreement.context(study.digest, task.round, task.attempt, model)
    degree = None
    if len(agreement.sites) > EVERYBODY:
        degree = degree_for(len(agreement.sites), study.privacy.colluders, _FAILURE)
    seed = canonical(agreement.context(study.digest, 0, 0, ""))
    peers = neighbours(agreement.sites, seed, degree)
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
