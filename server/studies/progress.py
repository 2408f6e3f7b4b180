"""Reports a study's progress in its state (for `status`), the audit log and the server's log."""

import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress

from common.audit.entry import loggable
from common.audit.log import AuditLog
from common.config.study import Study
from common.wire.reply_status import ASKED, ReplyStatus
from server.rounds.observer import Observer
from server.rounds.record import RoundRecord
from server.studies.store import Stored

_WAITING = "waiting for sites"
_log = logging.getLogger("hemofed.rounds")


class StudyProgress(Observer):
    """Writes down what happens to a study, and checks after each round whether it may continue."""

    def __init__(
        self, stored: Stored, study: Study, log: AuditLog, may_go_on: Callable[[], None]
    ) -> None:
        """may_go_on: called after each round; an exception that it raises ends the rounds."""
        self._stored = stored
        self._study = study
        self._audit = log
        self._may_go_on = may_go_on
        self._waits: AbstractSet[str] | None = None

    def not_ready(self, sites: Mapping[str, ReplyStatus]) -> None:
        """Write down what each site answered while too few are ready for the first round."""
        words = {site: str(said) for site, said in sites.items()}
        before = self._stored.said()
        if before["state"] != _WAITING:
            _log.info("%s: waits for sites", self._stored.folder.name)
        news = words.items() - before.get("sites", {}).items()
        if told := {site: word for site, word in sorted(news) if word != str(ASKED)}:
            _log.info("%s: %s", self._stored.folder.name, _list(told))
        self._stored.say(_WAITING, sites=words, reasons=_reasons(sites))

    def waits_for(self, sites: AbstractSet[str]) -> None:
        if sites == self._waits:
            return
        self._waits = frozenset(sites)
        with suppress(OSError):  # a full disk costs the status a word, not the sites a round
            self._stored.say("running", rounds=self._study.rounds, waits=sorted(sites))

    def left_out(self, number: int, site: str, reason: str) -> None:
        digest, why = self._study.digest, loggable(reason)
        self._audit.append("reply_left_out", digest=digest, round=number, site=site, reason=why)

    def round_done(self, record: RoundRecord) -> None:
        statuses = {site: one.status for site, one in record.sites.items()}
        sites = {site: str(status) for site, status in statuses.items()}
        name, number, rounds = self._stored.folder.name, record.round, self._study.rounds
        self._stored.say(
            "running", round=number, rounds=rounds, sites=sites, reasons=_reasons(statuses)
        )
        _log.info("%s: round %d of %d: %s", name, number, rounds, _list(sites))
        self._audit.append("round", digest=self._study.digest, round=number, sites=record.good)
        self._audit_suspensions(record)
        self._may_go_on()

    def _audit_suspensions(self, record: RoundRecord) -> None:
        facts: dict[str, str | int] = {"digest": self._study.digest, "round": record.round}
        for site in record.lifted:
            self._audit.append("suspension_lifted", **facts, site=site)
        for site, one in record.sites.items():
            if one.suspended:
                why = loggable(str(one.status))
                self._audit.append("site_suspended", **facts, site=site, reason=why)


def _reasons(statuses: Mapping[str, ReplyStatus]) -> dict[str, str]:
    """Return site -> the reason it gives for refusing or sitting out, if it gives one."""
    return {site: status.reason.value for site, status in statuses.items() if status.reason}


def _list(sites: Mapping[str, str]) -> str:
    """Return the sites grouped by their words.

    >>> _list({"a": "ok", "b": "ok", "c": "paused"})
    'a, b: ok; c: paused'
    """
    named: dict[str, list[str]] = {}
    for site, words in sites.items():
        named.setdefault(words, []).append(site)
    return "; ".join(f"{', '.join(names)}: {words}" for words, names in sorted(named.items()))
