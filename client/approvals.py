"""The studies that a person at the site has approved, each with the site's signature."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from client.home import SiteHome
from client.membership import Membership
from client.policy import cohort_refusal, read_policy
from common.config import Site, Strict, Study
from common.errors import ConfigError, FederationError, PrivacyError
from common.files import write_text
from common.identity import sign, verify
from common.identity.signatures import statement
from common.yaml_files import dump, parse


class Approvals(Protocol):
    """What a site's ClientApp asks before it touches a cell for a study."""

    def check(self, site: Site, study: Study) -> None:
        """Raise PrivacyError unless the study, to the last digit, is approved, and enough of its
        cohort are members of the consortium."""
        ...


class Approval(Strict):
    """That this site takes part in the study of this digest."""

    site: str
    study: str
    digest: str
    approved: str
    """UTC, ISO 8601."""


class SignedApprovals:
    """The approvals in a site's home.

    An approval is for a digest: a study that differs in one number is another study. The signature
    is checked against the site's key in the signed registry, so that who can write files in the
    home, but does not hold the site's signing key, cannot approve.
    """

    def __init__(self, home: SiteHome) -> None:
        self._home = home

    def check(self, site: Site, study: Study) -> None:
        path = self._path(study.digest)
        if not self.given(study):
            raise PrivacyError(
                f"study {study.name}, digest {study.digest:.12}: is not approved at this site; "
                f"read it and decide with `hemofed site approve {self._home.folder} {study.name}`"
            )
        try:
            self._verify(path, site, study)
        except (ValueError, KeyError, ConfigError, FederationError) as error:
            raise PrivacyError(
                f"{path}: is not this site's approval of study {study.name} ({error}); approve it "
                "again if you mean to"
            ) from error
        self._check_cohort(site, study)

    def given(self, study: Study) -> bool:
        """Whether an approval lies there, good or not."""
        return self._path(study.digest).is_file()

    def approve(self, site: Site, study: Study, now: datetime | None = None) -> Path:
        """Record the approval, signed. Raises ConfigError when the signing key cannot be used."""
        approval = Approval(
            site=site.name,
            study=study.name,
            digest=study.digest,
            approved=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        )
        content = approval.model_dump(mode="json")
        membership = Membership.load(self._home.folder)
        signature = sign(membership.signing_key(), statement("approval", content))
        with membership.audit_log() as log:
            log.append("approved", study=study.name, digest=study.digest)
        write_text(self._path(study.digest).with_suffix(".yaml"), dump(study))
        signed = {"approval": content, "signature": signature}
        write_text(self._path(study.digest), json.dumps(signed, indent=2) + "\n")
        return self._path(study.digest)

    def decline(self, study: Study, reason: str) -> None:
        """Record that a person looked at the study and it was not approved."""
        with Membership.load(self._home.folder).audit_log() as log:
            log.append("not_approved", study=study.name, digest=study.digest, reason=reason[:500])

    def withdraw(self, study: Study) -> None:
        """Take the approval back; the next message for the study is refused."""
        with Membership.load(self._home.folder).audit_log() as log:
            log.append("approval_withdrawn", study=study.name, digest=study.digest)
        self._path(study.digest).unlink(missing_ok=True)

    def _verify(self, path: Path, site: Site, study: Study) -> None:
        signed: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        approval = parse(Approval, signed["approval"], str(path))
        if (approval.site, approval.digest) != (site.name, study.digest):
            raise FederationError(f"it is for {approval.site}, digest {approval.digest:.12}")
        membership = Membership.load(self._home.folder)
        if membership.name != site.name:
            raise FederationError(f"site.yaml says {site.name}, the identity {membership.name}")
        message, signature = statement("approval", signed["approval"]), str(signed["signature"])
        former = [request.claim.signing_public_key for request in membership.member.requests[:-1]]
        if any(_fits(key, message, signature) for key in former):
            raise PrivacyError(
                f"study {study.name}: was approved with keys that this site has changed since; "
                f"approve it again with `hemofed site approve {self._home.folder} {study.name}`"
            )
        verify(membership.member.signing_public_key, message, signature, "the approval")

    def _check_cohort(self, site: Site, study: Study) -> None:
        """Raise PrivacyError when too few of those who train are members still."""
        members = Membership.load(self._home.folder).registry.active()
        reason = cohort_refusal(read_policy(site.policy), study, members)
        if reason:
            raise PrivacyError(f"study {study.name}: of the registry's active members {reason}")

    def _path(self, digest: str) -> Path:
        return self._home.approvals / f"{digest}.json"


def _fits(public: str, message: bytes, signature: str) -> bool:
    """Whether the key (PEM) signed the message."""
    try:
        verify(public, message, signature)
    except FederationError:
        return False
    return True
