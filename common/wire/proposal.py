"""A study as the server proposes it, signed: a site knows whose it is, whatever way it came."""

from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from common.config.study import Strict, Study
from common.identity.signatures import sign, statement, verify


class Proposal(Strict):
    """A signed study: the content of the operator's file, and what a site keeps of a message."""

    study: Study
    signature: str = Field(max_length=256)
    """Signature (hex) of the server's signing key over the study's digest."""

    @classmethod
    def make(cls, study: Study, key: Ed25519PrivateKey) -> Self:
        """The proposal of `study`, signed with the server's `key`."""
        return cls(study=study, signature=sign(key, _message(study)))

    def check(self, public: str, origin: str) -> None:
        """Raise FederationError that names `origin` unless `public` (PEM) signed this study."""
        what = f"{origin}: the proposal of study {self.study.name}"
        verify(public, _message(self.study), self.signature, what)


def _message(study: Study) -> bytes:
    return statement("proposal", {"study": study.digest})
