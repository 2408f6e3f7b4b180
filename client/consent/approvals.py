"""The studies that a person at the site has approved, each with the site's signature."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from client.consent.cohort import unseen
from client.consent.decisions import BEGINNING, Decision, DecisionFile, SignedDecision
from client.consent.rollback import DecisionMemory, Named
from client.home import SiteHome
from client.membership.membership import Membership
from client.policy.policy import Policy, cohort_refusal
from client.site import open_site
from common.audit.entry import check_event
from common.audit.log import AuditLog
from common.config.loading import dump, parse
from common.config.study import Site, Study
from common.errors import ConfigError, PrivacyError, because_of
from common.files import write_text
from common.text import typed
from common.wire.reasons import Fault, Reason


class Approvals(Protocol):
    """What a site's ClientApp asks before it touches a cell for a study, and before it answers."""

    def check(self, site: Site, policy: Policy, study: Study) -> None:
        """Raise PrivacyError unless exactly this study is approved at this moment, for the members
        that it has, and enough of its cohort are active members."""
        ...


@dataclass(frozen=True)
class Consent:
    """What a person agrees to, beside the study itself."""

    by: str
    purpose: str
    members: dict[str, str]
    """The fingerprints that were shown (`client.consent.cohort.pinned`)."""
    until: datetime | None = None
    """When the approval ends, with a time zone; None: with the study."""


class SignedApprovals:
    """The approvals in a site's home, as the list of decisions has them
    (`client.consent.decisions`).

    An approval is for a digest: a study that differs in one number is another study. It holds until
    the date that it names, or until it is withdrawn, and for the members' keys that were shown. The
    signatures are checked against the site's keys in the signed registry, and the audit log names
    the newest decision. So whoever can write files in the home, but does not hold the site's
    signing key, can neither approve nor restore an approval that was withdrawn.
    """

    def __init__(
        self, home: SiteHome, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._home = home
        self._clock = clock
        self._file = DecisionFile(home.decisions)
        self._memory = DecisionMemory(home.audit)

    def check(self, site: Site, policy: Policy, study: Study) -> None:
        with because_of(Reason.HOME):
            self._home.check_ours(site)
            membership = Membership.load(self._home.folder)
            if membership.name != site.name:
                raise PrivacyError(f"site.yaml says {site.name}, the identity {membership.name}")
            entries = self._entries(membership)
        decision = self._standing(entries, study)
        members = membership.registry.active(self._clock())
        strangers = unseen(study, decision.members, members)
        if strangers:
            raise PrivacyError(
                f"study {study.name}: {', '.join(strangers)}: the key is none that was shown when "
                f"the study was approved; look at it and decide with {self._command(study)}",
                Reason.MEMBERS,
            )
        fault = cohort_refusal(policy, study, members)
        if fault:
            said = f"study {study.name}: of the registry's active members {fault}"
            raise PrivacyError(said, fault.reason)

    def approved(self) -> list[Decision]:
        """The last decision about each study, if it is an approval, even one that has ended."""
        last = {entry.decision.digest: entry.decision for entry in self._entries(self._member())}
        return [decision for decision in last.values() if decision.verdict == "approved"]

    def last(self, study: Study) -> Decision | None:
        """The last decision about the study, or None."""
        entry = _last(self._entries(self._member()), study.digest)
        return entry.decision if entry else None

    def lost(self) -> bool:
        """Whether the audit log names decisions, and the list of them is missing."""
        return bool(self._memory.newest().number) and not self._file.path.exists()

    def seen(self) -> set[str]:
        """The fingerprints that this site's approvals have shown."""
        shown = (entry.decision.members for entry in self._entries(self._member()))
        return {fingerprint for members in shown for fingerprint in members.values()}

    def approve(self, study: Study, consent: Consent) -> Path:
        """Sign and record the approval; return the path of the list of decisions.

        Raises ConfigError when the signing key cannot be used, a text of the consent has characters
        that are not allowed, or its end is past, and PrivacyError when the list is not whole.
        """
        if consent.until is not None and consent.until <= self._clock():
            raise ConfigError(
                f"--until: the approval would have ended at {consent.until:%Y-%m-%d %H:%M %Z}, "
                "which is past; nothing is written"
            )
        write_text(self._home.approvals / f"{study.digest}.yaml", dump(study))
        self._home.declined(study.digest).unlink(missing_ok=True)
        said = {"purpose": consent.purpose, "until": consent.until, "members": consent.members}
        about = {"study": study.name, "digest": study.digest}
        return self._decide("approved", consent.by, about | said)

    def withdraw(self, wanted: str, by: str, reason: str = "") -> Decision:
        """Withdraw an approval and return it. The site refuses the next message for the study, and
        an answer that is being computed does not leave.

        wanted: the study's name, or its digest or the beginning of it. Raises ConfigError when no
        approved study, or more than one, is called so.
        """
        approved = self.approved()
        found = [one for one in approved if wanted in (one.study, one.digest[: len(wanted)])]
        if len(found) != 1:
            known = ", ".join(f"{one.study} ({one.digest:.12})" for one in approved) or "none"
            raise ConfigError(
                f"study {wanted!r}: {len(found)} approved studies are called so; there are: {known}"
            )
        taken = found[0]
        about = {"study": taken.study, "digest": taken.digest}
        self._decide("withdrawn", by, about | {"purpose": reason})
        return taken

    def decline(self, study: Study, fault: Fault) -> None:
        """Record that a person looked at the study and it was not approved.

        The server is told the fault's reason when it asks.
        """
        with Membership.load(self._home.folder).audit_log() as log:
            text = fault.text[:500]
            log.append("not_approved", study=study.name, digest=study.digest, reason=text)
        write_text(self._home.declined(study.digest), fault.reason)

    def catch_up(self) -> None:
        """Write the audit lines of decisions that a crash kept out of the log."""
        membership = self._member()
        with self._file.alone():
            entries = self._entries(membership)
            if entries and entries[-1].decision.number > self._memory.newest().number:
                with membership.audit_log() as log:
                    self._say(entries, log)

    def _decide(self, verdict: str, by: str, about: dict[str, Any]) -> Path:
        """Add a decision to the list, then to the audit log. After a crash in between, the decision
        holds, and the next decision or the next start adds it to the log."""
        membership = self._member()
        self._home.check_ours(open_site(self._home.site_file))
        with self._file.alone(), membership.audit_log() as log:
            entries = self._entries(membership)
            named = self._memory.newest()
            number, previous = named.number, named.hash or BEGINNING
            if entries:
                number, previous = entries[-1].decision.number, entries[-1].decision.hash
            place = {"site": membership.name, "number": number + 1, "previous": previous}
            content = {"verdict": verdict, "by": by, "decided": self._clock()} | place | about
            decision = parse(Decision, content, "the decision")
            check_event(decision.event, decision.facts)
            self._file.append(decision, membership.signing_key())
            self._say((*entries, SignedDecision(decision, current=True)), log)
        return self._file.path

    def _say(self, entries: tuple[SignedDecision, ...], log: AuditLog) -> None:
        named = self._memory.newest()
        for decision in (entry.decision for entry in entries):
            if decision.number > named.number:
                log.append(decision.event, **decision.facts)

    def _member(self) -> Membership:
        return Membership.load(self._home.folder)

    def _entries(self, membership: Membership) -> tuple[SignedDecision, ...]:
        """The whole list, with the newest decision that the audit log names.

        A missing list counts as empty: a person may decide anew, and nothing that the log names is
        approved. Raises PrivacyError when the list was altered or shortened.
        """
        keys = [request.claim.signing_public_key for request in membership.member.requests]
        # The list is written first, the log after it: read the other way round, neither is behind.
        named = self._memory.newest()
        entries = self._file.entries(keys)
        if entries and named.number:
            held = {entry.decision.number: entry.decision.hash for entry in entries}
            if held.get(named.number) != named.hash and not _follows(entries[0].decision, named):
                raise PrivacyError(
                    f"{self._file.path}: lacks decision {named.number}, which this site's audit "
                    "log names: it is an older copy, and may lack a withdrawal. Restore the newest "
                    "one, or move the file aside and approve again what may go on"
                )
        return entries

    def _standing(self, entries: tuple[SignedDecision, ...], study: Study) -> Decision:
        """The approval of the study that holds now. Raises PrivacyError when there is none."""
        entry = _last(entries, study.digest)
        again = f"with {self._command(study)}"
        what = f"study {study.name}, digest {study.digest:.12}"
        if entry is None:
            why = f" ({self._file.path} is missing)" if self.lost() else ""
            raise PrivacyError(
                f"{what}: is not approved at this site{why}; read it and decide {again}",
                self._undecided(study),
            )
        decision = entry.decision
        if decision.verdict == "withdrawn":
            raise PrivacyError(
                f"{what}: its approval was withdrawn on {decision.decided:%Y-%m-%d} by "
                f"{decision.by}; to take part after all, decide {again}",
                Reason.WITHDRAWN,
            )
        if not entry.current:
            raise PrivacyError(
                f"study {study.name}: was approved with keys that this site has changed since; "
                f"approve it again {again}",
                Reason.NOT_APPROVED,
            )
        if decision.ended(self._clock()):
            raise PrivacyError(
                f"{what}: its approval ended at {decision.until:%Y-%m-%d %H:%M %Z}; decide {again}",
                Reason.EXPIRED,
            )
        return decision

    def _undecided(self, study: Study) -> Reason:
        """Why a study without a decision is not approved: nobody looked, or it was declined."""
        try:
            said = self._home.declined(study.digest).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return Reason.NOT_APPROVED
        return Reason.read(said)

    def _command(self, study: Study) -> str:
        return f"`{typed('hemofed', 'site', 'approve', self._home.folder, study.name)}`"


def _follows(first: Decision, named: Named) -> bool:
    """Whether a list that was begun anew continues from the decision that the audit log names."""
    return (first.number, first.previous) == (named.number + 1, named.hash)


def _last(entries: tuple[SignedDecision, ...], digest: str) -> SignedDecision | None:
    """The last decision about the study of this digest."""
    return next((one for one in reversed(entries) if one.decision.digest == digest), None)
