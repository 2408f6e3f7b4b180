"""Whose keys stand behind a study's cohort: what a person is shown, and what an approval pins.

The operator admits members, and could admit labs that it made up. So an approval holds for the keys
that were shown to the person who gave it. A member that has changed its keys since, each pair with
the consent of the pair before (`common.identity.registry`), is still the lab that was shown:
without the old private key nobody, not even the operator, can make such a change. A name of the
cohort that was no member then, or a member under keys that do not go back to those shown, needs a
new approval.
Members outside the cohort concern no study.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from common.config.study import Study
from common.identity import Member, Registry

_NEW = "NEW: no approval of this site has shown it; compare the fingerprint with that lab"


def pinned(study: Study, registry: Registry) -> dict[str, str]:
    """The fingerprint (name and keys) of each site of the cohort that the registry knows."""
    known = registry.sites
    return {name: known[name].fingerprint for name in study.cohort if name in known}


def unseen(study: Study, shown: Mapping[str, str], active: Mapping[str, Member]) -> list[str]:
    """Active members of the cohort under keys that do not go back to the `shown` fingerprint."""
    return [
        name
        for name in study.cohort
        if name in active and shown.get(name) not in _fingerprints(active[name])
    ]


def describe(
    study: Study, site: str, registry: Registry, seen: Collection[str], now: datetime
) -> tuple[tuple[str, str], ...]:
    """A topic ("member", text) for each site of the cohort: its fingerprint and its state.

    seen: the fingerprints that this site's approvals have shown before. now: with a time zone.
    """
    active = registry.active(now)
    return tuple(
        ("member", f"{name}: {_said(name, site, registry.sites.get(name), name in active, seen)}")
        for name in study.cohort
    )


def _said(name: str, site: str, member: Member | None, active: bool, seen: Collection[str]) -> str:
    if member is None:
        return "NO MEMBER: once it is one, the study must be approved again"
    if name == site:
        return f"{member.fingerprint}; this site"
    state = "" if active else f"; {'REVOKED' if member.status == 'revoked' else 'ENDED'}"
    if member.fingerprint in seen:
        return f"{member.fingerprint}; shown before{state}"
    if any(one in seen for one in _fingerprints(member)):
        return f"{member.fingerprint}; changed its keys since, by consent of the old ones{state}"
    return f"{member.fingerprint}; {_NEW}{state}"


def _fingerprints(member: Member) -> list[str]:
    """The fingerprints of all keys that the member has had, each by consent of those before."""
    return [request.fingerprint for request in member.requests]
