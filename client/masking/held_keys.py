"""A site's private masking keys: made for one agreement, in memory alone, gone with the process."""

from client.randomness import Entropy
from client.request import Request
from common.canonical_json import canonical
from common.errors import FederationError, PrivacyError
from common.privacy.masking.pairwise_keys import EphemeralKey
from common.wire.agreement import Agreement, MaskingKey
from common.wire.reasons import Reason


class HeldKeys:
    """The keys of this process: the last one of each study and site.

    A key is never written down. A process that was started anew has lost it, and says so; the
    server then asks all sites for fresh ones.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[bytes, EphemeralKey]] = {}
        """(study's digest, site) -> the agreement that the key is for, and the key."""

    def make(self, request: Request, entropy: Entropy) -> MaskingKey:
        """Return the public half of a fresh key for the request's agreement.

        The same question gets the same key again. An earlier agreement's key is forgotten.

        Raises:
            FederationError: the request is no question for a key.
            PrivacyError: the site takes no part in such a sum (`check_company`).
        """
        check_company(request)
        key = self._known(request, entropy) or _made(request, entropy)
        self._held[_whose(request)] = (_facts(request), key)
        return MaskingKey(key.public)

    def of(self, request: Request, entropy: Entropy) -> EphemeralKey:
        """Return the private key whose public half the request's agreement has for this site.

        Raises:
            PrivacyError: this process has no such key (LOST_KEY).
        """
        key, agreed = self._known(request, entropy), agreement_of(request).keys
        name = request.site.name
        if key is None or name not in agreed or agreed[name].public != key.public:
            raise PrivacyError(
                f"study {request.study.name}, round {request.task.round}: the masking key that the "
                "sites agreed on is not this process's; it was started anew since, and the server "
                "will ask for a fresh one. Nothing was paid",
                Reason.LOST_KEY,
            )
        return key

    def _known(self, request: Request, entropy: Entropy) -> EphemeralKey | None:
        if entropy.repeats:  # a simulation's workers are many processes, which all make it alike
            return _made(request, entropy)
        facts, key = self._held.get(_whose(request), (b"", None))
        return key if facts == _facts(request) else None


def check_company(request: Request) -> None:
    """Raise PrivacyError unless the request's sum is of sites that the study and policy allow.

    All of them train in the study, this site is one of them, and there are at least as many as the
    study's noise is calibrated for and the policy's `min_cohort`.
    """
    study, sites = request.study, agreement_of(request).sites
    least = max(study.fewest_sites, request.policy.min_cohort)
    known = set(study.training_sites)
    if len(sites) < least or not set(sites) <= known or request.site.name not in sites:
        raise PrivacyError(
            f"study {study.name}, round {request.task.round}: a sum of {len(sites)} sites "
            f"({', '.join(sites)[:200]}); expected at least {least} of those that train, this one "
            "among them. Nothing was paid",
            Reason.COMPANY,
        )


def agreement_of(request: Request) -> Agreement:
    """The request's agreement. Raises FederationError where it has none, or needs none."""
    agreement = request.task.agreement
    if agreement is None or request.study.privacy.mode != "distributed":
        raise FederationError(
            f"study {request.study.name}: mode {request.study.privacy.mode}, and an agreement on "
            f"masks is {'missing' if agreement is None else 'there'}",
            Reason.BAD_QUESTION,
        )
    return agreement


def _whose(request: Request) -> tuple[str, str]:
    return request.study.digest, request.site.name


def _facts(request: Request) -> bytes:
    return canonical(agreement_of(request).facts(request.study.digest))


def _made(request: Request, entropy: Entropy) -> EphemeralKey:
    purpose = (*_whose(request), "masking key", _facts(request).decode())
    return EphemeralKey(entropy.source(*purpose).words(4).tobytes())
