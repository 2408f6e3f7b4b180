"""The operator's overview: the service, its studies and every member.

It is read from the files of the home; no site is asked. A member's words are its answer to the
study that asked last, and do not depend on any cell (`common.wire.reasons`).
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.disk_space import lack_of_room
from common.identity import Registry
from common.wire.reasons import Reason
from server.fleet_api.presence import Sighting, sightings
from server.membership.provisioning import expiries
from server.service.service import LISTENER, ROUNDS, processes, running_parts
from server.studies.store import RUNS, Stored, next_wanted, stored_studies

_CONSENT = {
    *(Reason.NOT_APPROVED, Reason.DECLINED, Reason.WITHDRAWN, Reason.EXPIRED, Reason.MEMBERS),
}
_BEFORE_CONSENT = {
    *(Reason.PAUSED, Reason.NO_POLICY, Reason.HOME, Reason.NOT_ORDERED, Reason.OTHER_VERSION),
    *(Reason.ENDED, Reason.INTERNAL, Reason.BAD_QUESTION, Reason.NO_MEMORY, Reason.NO_ROOM),
}
"""The reasons that leave open whether the study is approved."""
_AFTER_BUDGET = {Reason.OTHER_SIDE, Reason.OTHER_FIELD, Reason.WEIGHTS, Reason.DEVICE}
"""The reasons that a site gives only after its ledger had enough budget."""
_READY = ("ready", "ok")


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """A study's progress."""

    study: str
    """The name of its folder: the study's name and the beginning of its digest."""
    wanted: str
    """What the operator wants of it."""
    state: str
    round: int
    """The number of whole rounds."""
    rounds: int | None
    """The number of planned rounds; None before the first one."""
    note: str
    """Why it does not continue, or for whom it waits."""
    sites: dict[str, str]
    """Site -> its last answer, in words."""
    reasons: dict[str, str]
    """Site -> why it refuses or sits out, from the closed list; only for sites that do."""


@dataclass(frozen=True, kw_only=True)
class MemberState:
    """A member of the consortium, connected or not. A field is None if it is not known."""

    site: str
    connected: bool
    since: str | None
    """When this connection, or the last one, began: UTC, ISO 8601."""
    last_seen: str | None
    """When the member was last heard: UTC, ISO 8601."""
    version: str
    """The version of hemofed that it names."""
    study: str | None
    """The study that the following fields are about."""
    approved: bool | None
    """Whether the member approved the study."""
    ready: bool | None
    """Whether it is ready to take part."""
    paused: bool | None
    budget: bool | None
    """Whether its budget is enough for the study."""
    reason: str | None
    """Why it does not take part, from the closed list."""
    says: str
    """Its answer in words, with the place in its log if there is one."""


@dataclass(frozen=True, kw_only=True)
class ServerOverview:
    """The whole overview."""

    serves: bool
    """Whether the sites can connect and studies can continue."""
    processes: list[str]
    warnings: list[str]
    studies: list[StudyState]
    members: list[MemberState]

    def as_dict(self) -> dict[str, Any]:
        """Return the overview as values for JSON."""
        return asdict(self)


def overview(home: Path, now: datetime) -> ServerOverview:
    """Return the overview of the server home at `now`.

    Raises:
        ConfigError, FederationError: it is not the home of a server.
    """
    registry, parts = Registry.load(home), running_parts(home)
    warnings = (lack_of_room(home), *expiries(home, registry, now))
    studies = stored_studies(home)
    seen = sightings(home, now.timestamp())
    about = _asked_last(studies)
    return ServerOverview(
        serves=parts >= {LISTENER, ROUNDS},
        processes=processes(home.absolute()),
        warnings=[warning for warning in warnings if warning],
        studies=[_study(stored, studies, ROUNDS in parts) for stored in studies],
        members=[
            _member(site, seen.get(site), LISTENER in parts, about) for site in registry.active(now)
        ],
    )


def _study(stored: Stored, studies: Collection[Stored], running: bool) -> StudyState:
    """Return the study's progress. running: whether the rounds' process runs."""
    said = stored.said()
    state, note = _state(stored, studies, running), _note(said)
    first = next_wanted(studies)
    if state == "queued" and first is not None and first != stored:
        note = f"after {first.folder.name}, which holds it back until it ends or is stopped"
    elif state in ("queued", "interrupted") and not running:
        hint = "goes on when the service runs (`hemofed server start`)"
        note = f"{hint}; {note}" if note else hint
    return StudyState(
        study=stored.folder.name,
        wanted=stored.wanted,
        state=state,
        round=stored.whole_rounds,
        rounds=said.get("rounds"),
        note=note,
        sites=said.get("sites", {}),
        reasons=said.get("reasons", {}),
    )


def _state(stored: Stored, studies: Collection[Stored], running: bool) -> str:
    """Return the true state: nothing runs unless the service does, and only one study at a time."""
    state = str(stored.said()["state"])
    wanted = stored.wanted in ("run", "finish")
    if stored.wanted == "withdraw":
        return "withdrawn"
    if state in RUNS and not running:
        return "interrupted" if wanted else "stopped"
    if wanted and (state not in RUNS or next_wanted(studies) != stored):
        return "queued"
    return state


def _note(said: Mapping[str, Any]) -> str:
    """Return why the study does not continue, or for whom it waits.

    In the latter case the last answers of other sites that are neither ready nor took part follow.
    """
    told = said.get("reason") or said.get("note")
    if told:
        return str(told)
    waits, sites = said.get("waits", []), said.get("sites", {})
    words = [f"waits for {', '.join(waits)}"] if waits else []
    for site, word in sorted(sites.items()):
        if site not in waits and word not in _READY:
            words.append(f"{site}: {word}")
    return "; ".join(words)


def _asked_last(studies: Collection[Stored]) -> StudyState | None:
    """Return the study that asked the sites last: the one that runs, or has the newest state."""
    asked = [stored for stored in studies if stored.said().get("sites")]
    first = next_wanted(studies)
    if first in asked and first is not None:
        return _study(first, studies, running=True)
    last = max(asked, key=Stored.noted, default=None)
    return None if last is None else _study(last, studies, running=True)


def _member(
    site: str, seen: Sighting | None, listening: bool, about: StudyState | None
) -> MemberState:
    connected = listening and seen is not None and seen.connected
    words = about.sites.get(site) if about else None
    named = about.reasons.get(site) if about else None
    reason = Reason.read(named) if named else None
    ready = words in _READY if reason or words in _READY else None
    return MemberState(
        site=site,
        connected=connected,
        since=_time(seen.since if seen else None),
        last_seen=_time(seen.last if seen else None),
        version=seen.version if seen else "",
        study=about.study if about and words else None,
        approved=_approved(ready, reason),
        ready=ready if connected or ready is None else False,
        paused=None if ready is None else reason is Reason.PAUSED,
        budget=_budget(ready, reason),
        reason=reason.value if reason else None,
        says="" if words is None else words,
    )


def _approved(ready: bool | None, reason: Reason | None) -> bool | None:
    if ready:
        return True
    if reason in _CONSENT:
        return False
    return None if reason is None or reason in _BEFORE_CONSENT else True


def _budget(ready: bool | None, reason: Reason | None) -> bool | None:
    if ready or reason in _AFTER_BUDGET:
        return True
    return False if reason is Reason.BUDGET else None


def _time(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
