"""`server status`: every member and every study as they are, at this moment."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.membership.enrolment import make_site
from common.config.study import Participant, Study
from common.errors import ConfigError
from common.version import HEADER, version
from common.wire.reasons import Reason
from server.fleet_api import presence
from server.fleet_api.presence import GAP_SECONDS, Presence, sightings
from server.flower.link_state import database
from server.membership.provisioning import admit, make_server, revoke
from server.service import overview as looked_at
from server.service.cli import app
from server.service.overview import MemberState, ServerOverview, overview
from server.service.service import LISTENER, ROUNDS
from server.studies.store import Stored, below_minimum, next_wanted, propose

NOW = datetime.now(UTC)
SITES = ("munich", "ulm", "vienna")
PULL = "/v1/fleet/pull-messages"


@dataclass
class Server:
    """A server's home with three members, of whom the database knows what the tests write."""

    home: Path

    def __post_init__(self) -> None:
        make_server(self.home, "127.0.0.1:9092", NOW)
        for site in SITES:
            admit(self.home, make_site(self.home.parent / site, site, NOW), NOW)
        database(self.home).parent.mkdir()
        with closing(sqlite3.connect(database(self.home))) as connection:
            connection.execute(
                "CREATE TABLE node (name, online_until, heartbeat_interval, registered_at)"
            )

    def heard(self, site: str, ago: float) -> None:
        """Have the site's last sign of life lie so many seconds back."""
        until = NOW.timestamp() - ago + GAP_SECONDS
        with closing(sqlite3.connect(database(self.home))) as connection:
            connection.execute("DELETE FROM node WHERE name = ?", (site,))
            connection.execute("INSERT INTO node VALUES (?, ?, ?, '')", (site, until, 15.0))
            connection.commit()

    def proposed(self, name: str = "first", **changes: object) -> Stored:
        fields: dict[str, Any] = {
            "name": name,
            "cohort": dict.fromkeys(SITES, Participant(units=20)),
        }
        fields["round"] = {"min_sites": 2}
        return propose(self.home, Study.model_validate(fields | changes))

    def typed(self, *words: str) -> str:
        result = CliRunner().invoke(app, [words[0], str(self.home), *words[1:]])
        if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "server")


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The service runs."""
    monkeypatch.setattr(looked_at, "running_parts", lambda _: {LISTENER, ROUNDS})
    yield


def member(found: ServerOverview, site: str) -> MemberState:
    return next(one for one in found.members if one.site == site)


@pytest.mark.usefixtures("serving")
def test_every_member_is_listed_whether_it_is_there_or_not(server: Server) -> None:
    server.heard("munich", ago=3)
    server.heard("ulm", ago=3600)
    found = overview(server.home, NOW)
    assert [one.site for one in found.members] == sorted(SITES)
    assert [one.connected for one in found.members] == [True, False, False]
    last = NOW - timedelta(hours=1)
    assert member(found, "ulm").last_seen == last.isoformat(timespec="seconds")
    assert member(found, "vienna").last_seen is None
    revoke(server.home, "ulm", NOW)
    assert [one.site for one in overview(server.home, NOW).members] == ["munich", "vienna"]


def test_nothing_runs_and_nobody_is_connected_where_the_service_is_not(server: Server) -> None:
    server.heard("munich", ago=3)
    stored = server.proposed()
    stored.want("run")
    for state in ("running", "waiting for sites", "waiting for room"):
        stored.say(state, round=1, rounds=4, sites={"munich": "ok"})
        found = overview(server.home, NOW)
        assert not found.serves and not any(one.connected for one in found.members)
        (shown,) = found.studies
        assert shown.state == "interrupted" and "goes on when the service runs" in shown.note
        assert not any(one.ready for one in found.members)
    stored.want("stop")
    assert overview(server.home, NOW).studies[0].state == "stopped"


def test_rounds_that_are_started_again_take_no_site_away(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.heard("munich", ago=3)
    stored = server.proposed()
    stored.want("run")
    stored.say("running", round=1, rounds=4, sites={"munich": "ok"})
    monkeypatch.setattr(looked_at, "running_parts", lambda _: {LISTENER})
    found = overview(server.home, NOW)
    assert member(found, "munich").connected and not found.serves
    assert found.studies[0].state == "interrupted"


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize(
    ("words", "reason", "answers"),
    [
        ("ready", None, (True, True, False, True)),
        ("ok", None, (True, True, False, True)),
        ("asked", None, (None, None, None, None)),
        ("x", Reason.NOT_APPROVED, (False, False, False, None)),
        ("x", Reason.DECLINED, (False, False, False, None)),
        ("x", Reason.WITHDRAWN, (False, False, False, None)),
        ("x", Reason.EXPIRED, (False, False, False, None)),
        ("x", Reason.PAUSED, (None, False, True, None)),
        ("x", Reason.HOURS, (True, False, False, None)),
        ("x", Reason.MAX_ROUNDS, (True, False, False, None)),
        ("x", Reason.NO_LEDGER, (True, False, False, None)),
        ("x", Reason.BUDGET, (True, False, False, False)),
        ("x", Reason.NO_CELLS, (True, False, False, None)),
        ("x", Reason.OTHER_SIDE, (True, False, False, True)),
        ("x", Reason.OTHER_FIELD, (True, False, False, True)),
        ("x", Reason.INTERNAL, (None, False, False, None)),
    ],
)
def test_what_a_site_said_answers_what_an_operator_asks(
    server: Server, words: str, reason: Reason | None, answers: tuple[bool | None, ...]
) -> None:
    """approved, ready, paused, budget; None: it did not get so far."""
    server.heard("munich", ago=1)
    stored = server.proposed()
    stored.want("run")
    reasons = {"munich": reason.value} if reason else {}
    stored.say("waiting for sites", sites={"munich": words}, reasons=reasons)
    one = member(overview(server.home, NOW), "munich")
    assert (one.approved, one.ready, one.paused, one.budget) == answers
    assert one.reason == (reason.value if reason else None) and one.says == words
    assert one.study == stored.folder.name
    away = member(overview(server.home, NOW), "vienna")
    assert (away.approved, away.ready, away.reason, away.study) == (None, None, None, None)


@given(st.sampled_from(Reason))
def test_no_reason_of_the_list_leaves_a_site_ready_or_unsaid(reason: Reason) -> None:
    assert Reason.read(reason.value) is reason and reason.value == reason.value.strip().lower()


@pytest.mark.usefixtures("serving")
def test_the_study_behind_another_is_queued_and_says_behind_which(server: Server) -> None:
    first, second = server.proposed("a"), server.proposed("b")
    for stored in (first, second):
        stored.want("run")
        stored.say("waiting for sites", sites={})
    states = {one.study: one for one in overview(server.home, NOW).studies}
    assert states[first.folder.name].state == "waiting for sites"
    assert states[second.folder.name].state == "queued"
    assert f"after {first.folder.name}" in states[second.folder.name].note


@pytest.mark.usefixtures("serving")
def test_status_for_programs_is_one_object(server: Server) -> None:
    server.heard("munich", ago=1)
    server.proposed().want("run")
    content = json.loads(server.typed("status", "--json"))
    assert content["serves"] and [one["site"] for one in content["members"]] == sorted(SITES)
    assert content["studies"][0]["state"] == "queued"
    text = server.typed("status")
    assert "munich" in text and "vienna" in text and "never" in text


def test_status_again_and_again_until_it_is_ended(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([None, None])

    def sleep(_: float) -> None:
        if next(looks, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr("server.service.cli.time.sleep", sleep)
    result = CliRunner().invoke(app, ["status", str(server.home), "--json", "--watch"])
    assert len(result.output.splitlines()) == 3


def request(path: str = PULL, named: str = "1.2.3") -> dict[str, Any]:
    return {"path": path, "headers": [(HEADER.encode(), named.encode())]}


def test_since_when_and_with_which_version_a_site_is_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, steady = [1000.0], [0.0]
    monkeypatch.setattr(presence.time, "time", lambda: clock[0])
    monkeypatch.setattr(presence.time, "monotonic", lambda: steady[0])

    def goes_by(seconds: float) -> None:
        clock[0] += seconds
        steady[0] += seconds

    server.heard("munich", ago=0)
    notes = Presence(server.home)
    notes.note(request("/v1/fleet/activate-node"), "munich")  # `site check` asks for that
    assert sightings(server.home, NOW.timestamp())["munich"].since is None
    for _ in range(3):
        notes.note(request(), "munich")
        goes_by(GAP_SECONDS / 2)
    assert sightings(server.home, NOW.timestamp())["munich"].since == 1000.0
    goes_by(GAP_SECONDS)
    notes.note(request(), "munich")
    back = clock[0]
    found = sightings(server.home, NOW.timestamp())["munich"]
    assert (found.since, found.version, found.connected) == (back, "1.2.3", True)
    goes_by(1)
    Presence(server.home, {"munich"}).note(request(), "munich")
    assert sightings(server.home, NOW.timestamp())["munich"].since == back, "the listener restarted"
    Presence(server.home).note(request(), "munich")
    assert sightings(server.home, NOW.timestamp())["munich"].since == clock[0], "it was away"
    notes.note(request("/v1/fleet/deactivate-node"), "munich")
    assert sightings(server.home, NOW.timestamp())["munich"].last == clock[0]


@pytest.mark.parametrize("named", ["", "x" * 41, "1.0\x1b[2J", "a b", "<script>"])
def test_what_is_no_version_is_not_shown(server: Server, named: str) -> None:
    server.heard("munich", ago=0)
    Presence(server.home).note(request(named=named), "munich")
    assert sightings(server.home, NOW.timestamp())["munich"].version == ""


def test_a_damaged_note_costs_nothing_but_itself(server: Server) -> None:
    server.heard("munich", ago=0)
    (server.home / "state" / "presence.json").write_text("{")
    assert sightings(server.home, NOW.timestamp())["munich"].connected
    Presence(server.home).note(request(named=version()), "munich")
    assert sightings(server.home, NOW.timestamp())["munich"].version == version()
    database(server.home).write_text("no database")
    assert sightings(server.home, NOW.timestamp()) == {}


def test_stop_twice_says_so_and_so_does_what_is_over(server: Server) -> None:
    stored = server.proposed()
    name = stored.folder.name
    with pytest.raises(ConfigError, match="is proposed; nothing is to be stopped"):
        server.typed("stop", "first")
    stored.want("run")
    stored.say("running", round=1, rounds=3)
    assert "stops after the round under way" in server.typed("stop", "first")
    with pytest.raises(ConfigError, match="stops after the round under way already"):
        server.typed("stop", "first")
    assert "goes on from its last whole round" in server.typed("resume", "first")
    assert "is to run already" in server.typed("resume", "first")
    for state in ("completed", "finished"):
        stored.say(state)
        for command in ("stop", "resume", "finish", "withdraw"):
            with pytest.raises(ConfigError, match=f"{name}: is {state}, nothing is left to do"):
                server.typed(command, "first")


def test_only_what_stopped_and_has_a_whole_round_can_be_finished(server: Server) -> None:
    stored = server.proposed()
    with pytest.raises(ConfigError, match="has no whole round"):
        server.typed("finish", "first")
    stored.say("failed", round=2, rounds=3)
    stored.want("run")
    with pytest.raises(ConfigError, match="is to run on; `hemofed server stop` it first"):
        server.typed("finish", "first")
    stored.want("stop")
    assert "test the model of its 2 whole rounds" in server.typed("finish", "first")
    assert stored.wanted == "finish" and next_wanted([stored]) == stored


def test_a_proposal_is_withdrawn_and_proposed_again(server: Server) -> None:
    stored = server.proposed()
    stored.want("run")
    assert "withdrawn" in server.typed("withdraw", "first")
    assert overview(server.home, NOW).studies[0].state == "withdrawn"
    for command in ("withdraw", "resume", "stop"):
        with pytest.raises(ConfigError, match="was withdrawn; `hemofed server run` with its file"):
            server.typed(command, "first")
    assert next_wanted([stored]) is None
    again = server.proposed()
    assert again == stored and again.said()["state"] == "proposed"
    again.resume()
    assert again.wanted == "run"
    stored.say("stopped", round=1, rounds=3)
    with pytest.raises(ConfigError, match="has 1 whole round, and is no mere proposal"):
        server.typed("withdraw", "first")
    lines = (server.home / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines].count("withdrawn") == 1


def test_which_studies_fall_below_their_minimum_is_known(server: Server) -> None:
    stored, small = server.proposed(), server.proposed("small", round={"min_sites": 1})
    assert below_minimum(server.home, {"munich"}) == [], "neither is to run"
    for one in (stored, small):
        one.want("run")
    assert below_minimum(server.home, {"munich", "ulm"}) == []
    (line,) = below_minimum(server.home, {"munich"})
    assert line.startswith(f"{stored.folder.name}: 1 of the 2 sites")
    cohort = {
        "munich": Participant(units=20),
        "ulm": Participant(role="test"),
        "vienna": Participant(units=9),
    }
    server.proposed("tests", cohort=cohort).want("run")
    found = below_minimum(server.home, {"munich", "ulm"})
    assert len(found) == 1 and found[0].startswith("tests-")
    stored.file.write_text(stored.file.read_text().replace("min_sites: 2", "min_sites: 1"))
    assert any("is not the study of digest" in line for line in below_minimum(server.home, {"ulm"}))
