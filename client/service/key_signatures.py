"""Signs this site's masking keys, and checks the other sites': the server can swap none of them.

The node does this, for it has the signing key. The process that holds the cells and the private
masking key has none (`client.service.worker`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from flwr.app import Message

from client.membership.membership import Membership
from common.errors import HemofedError, PrivacyError
from common.identity.registry import Registry
from common.identity.signatures import sign, verify
from common.wire.agreement import Agreement, MaskingKey
from common.wire.messages import KEYS, Task
from common.wire.reasons import Reason


def check_keys(message: Message, membership: Membership) -> None:
    """Check that every masking key in the message is signed by the member whose key it is.

    A site whose registry has another fingerprint for a member signs another statement, which does
    not fit here.

    Raises:
        PrivacyError: a signature does not fit, a site is no active member, or the message cannot
            be read (MASKING_KEY). Nothing may be computed.
    """
    with _explained():
        agreement = Agreement.read(message)
        if agreement is None or not agreement.keys:
            return
        company = _company(message, agreement, membership.registry)
        for site, key in agreement.keys.items():
            public = membership.registry.sites[site].signing_public_key
            verify(public, key.statement(company, site), key.signature, f"{site}'s masking key")


def sign_key(message: Message, reply: Message, membership: Membership) -> None:
    """Sign the masking key in the reply to a question for it; leave any other reply as it is.

    Raises:
        PrivacyError: a site of the agreement is no active member, the reply cannot be read, or
            neither can the signing key (MASKING_KEY).
    """
    if message.metadata.message_type != KEYS or not reply.has_content():
        return
    with _explained():
        agreement, made = Agreement.read(message), MaskingKey.read(reply)
        if agreement is None or made is None:  # the reply is a refusal
            return
        company = _company(message, agreement, membership.registry)
        signature = sign(membership.signing_key(), made.statement(company, membership.name))
        reply.content = MaskingKey(made.public, signature).content()


@contextmanager
def _explained() -> Iterator[None]:
    """Raises every error of ours as a PrivacyError that says what it means for the sum."""
    try:
        yield
    except HemofedError as error:
        raise PrivacyError(
            f"{error}. No mask is made with it, and this answer is not paid for: the server "
            "swapped a key, or the sites do not trust the same registry",
            Reason.MASKING_KEY,
        ) from error


def _company(message: Message, agreement: Agreement, registry: Registry) -> str:
    """What every site of the agreement signs. Raises PrivacyError for one that is no member."""
    study = Task.read(message).study.digest
    return agreement.company(study, _fingerprints(agreement.sites, registry))


def _fingerprints(sites: Iterable[str], registry: Registry) -> dict[str, str]:
    """Site -> its fingerprint. Raises PrivacyError for a site that is no active member."""
    active = registry.active()
    for site in sites:
        if site not in active:
            raise PrivacyError(
                f"{site}: is no active member of the registry that this site trusts",
                Reason.MASKING_KEY,
            )
    return {site: active[site].fingerprint for site in sites}
