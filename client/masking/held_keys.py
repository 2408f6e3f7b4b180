"""A site's private masking keys: each for one sum, in memory alone, gone once it was used."""

from client.randomness import Entropy
from client.request import Request
from common.canonical_json import canonical
from common.errors import FederationError, PrivacyError
from common.privacy.masking.pairwise_keys import EphemeralKey
from common.wire.agreement import Agreement, MaskingKey, Purpose
from common.wire.reasons import Reason


class HeldKeys:
    """The keys of this process: one for each study and site, until its sum is masked.

    A key is never written down, and is forgotten when it is taken. So no key makes masks twice,
    even where a ledger was put back to an older copy, and who sees this memory later learns nothing
    of sums that have left. A process that was started anew has lost its key, and says so; the
    server begins the sum again.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[bytes, EphemeralKey]] = {}
        """(study's digest, site) -> the sum that the key is for, and the key."""

    def make(self, request: Request, entropy: Entropy) -> MaskingKey:
        """Return the public half of a fresh key for the request's sum.

        The same question gets the same key again until it is taken. A key for another sum of the
        study is forgotten.

        Raises:
            FederationError: the request is no question for a key.
            PrivacyError: the site takes no part in such a sum (`check_company`).
        """
        check_company(request, agreement_of(request).purpose)
        facts, key = self._held.get(_whose(request), (b"", None))
        if key is None or facts != _facts(request):
            key = _made(request, entropy)
            self._held[_whose(request)] = (_facts(request), key)
        return MaskingKey(key.public)

    def take(self, request: Request, entropy: Entropy) -> EphemeralKey:
        """Return the private key whose public half the request's agreement has, and forget it.

        Raises:
            PrivacyError: this process has no such key (LOST_KEY).
        """
        facts, key = self._held.pop(_whose(request), (b"", None))
        if entropy.repeats:  # a simulation's workers are many processes, which all make it alike
            facts, key = _facts(request), _made(request, entropy)
        agreed = agreement_of(request).keys.get(request.site.name)
        if key is None or facts != _facts(request) or agreed is None or agreed.public != key.public:
            raise PrivacyError(
                f"study {request.study.name}, round {request.task.round}: this process has not the "
                "masking key that the sites agreed on: it was started anew since, or the key was "
                "used. Nothing leaves, and the server will ask for a fresh key",
                Reason.LOST_KEY,
            )
        return key


def check_company(request: Request, purpose: Purpose) -> None:
    """Check that the request's sum is of sites that the study and the policy allow.

    All of them train in the study, this site is one of them, and there are at least as many as the
    study's noise is calibrated for and the policy's `min_cohort`. The agreement is for this very
    round, attempt and purpose.

    Raises:
        PrivacyError: they are not (COMPANY).
        FederationError: there is no agreement, or it is for another sum (BAD_QUESTION).
    """
    study, agreement, task = request.study, agreement_of(request), request.task
    agreed = agreement.round, agreement.attempt, agreement.purpose
    if agreed != (task.round, task.attempt, purpose):
        raise FederationError(
            f"study {study.name}: an agreement for (round, attempt, purpose) {agreed} in "
            f"{(task.round, task.attempt, purpose)}",
            Reason.BAD_QUESTION,
        )
    sites, least = agreement.sites, max(study.fewest_sites, request.policy.min_cohort)
    known = set(study.training_sites)
    if len(sites) < least or not set(sites) <= known or request.site.name not in sites:
        raise PrivacyError(
            f"study {study.name}, round {task.round}: a sum of {len(sites)} sites "
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
