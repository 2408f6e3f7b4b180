"""The policy's hours and its share of the GPU: when a site sits out, and that it pays nothing."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import torch
from flwr.app import Message, RecordDict
from typer.testing import CliRunner

from client.app import client_app
from client.ledger.ledger import Ledger
from client.policy.policy import Policy
from client.policy.schedule import Window
from client.service.cli import app as site_app
from client.site import open_site
from common.config.loading import dump, load, parse
from common.config.study import RoundPolicy
from common.device import limit_memory
from common.errors import ConfigError
from common.wire.messages import read_absence, read_refusal
from common.wire.reasons import Reason
from common.wire.reply_status import Kind, ReplyStatus
from server.rounds.record import RoundRecord, SiteRecord
from server.rounds.rounds import Rounds
from tests.client.lab import OPEN, context, make_lab, message, study
from tests.server.fake_grid import AfterRound, Answer, FakeGrid

MONDAY, TUESDAY, SUNDAY = "2026-11-23", "2026-11-24", "2026-11-29"


def at(day: str, time: str) -> datetime:
    return datetime.fromisoformat(f"{day}T{time}")


@pytest.mark.parametrize(
    ("window", "day", "time", "inside"),
    [
        ("20:00-06:00", MONDAY, "20:00", True),
        ("20:00-06:00", MONDAY, "19:59:59", False),
        ("20:00-06:00", MONDAY, "05:59:59", True),
        ("20:00-06:00", MONDAY, "06:00", False),
        ("09:00-17:00", MONDAY, "12:00", True),
        ("09:00-17:00", MONDAY, "17:00", False),
        ("00:00-24:00", SUNDAY, "23:59:59", True),
        ("Mon 22:00-04:00", TUESDAY, "03:00", True),
        ("Mon 22:00-04:00", MONDAY, "03:00", False),
        ("Sun 22:00-04:00", MONDAY, "03:00", True),
        ("sat-mon 08:00-09:00", SUNDAY, "08:30", True),
        ("sat-mon 08:00-09:00", TUESDAY, "08:30", False),
    ],
)
def test_a_window_holds_the_moments_in_it(window: str, day: str, time: str, inside: bool) -> None:
    assert Window.parse(window).holds(at(day, time)) == inside


@pytest.mark.parametrize(
    "text",
    ["", "20-06", "8:00-9:00", "20:00-20:00", "24:00-06:00", "25:00-26:00", "10:60-11:00", "Foo 1"],
)
def test_what_is_no_window_is_named(tmp_path: Path, text: str) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(dump(OPEN).replace("hours: []", f"hours: {json.dumps(text)}"))
    with pytest.raises(ConfigError, match=r"policy.yaml: 1 wrong\n  hours: "):
        load(Policy, policy)


def test_one_window_or_a_list() -> None:
    whole = OPEN.model_dump()
    one = parse(Policy, whole | {"hours": "20:00-06:00"}, "test")
    assert one.hours == ("20:00-06:00",)
    two = parse(Policy, whole | {"hours": ["Mon 20:00-22:00", "Tue 20:00-22:00"]}, "test")
    assert two.computes_at(at(TUESDAY, "21:00")) and not two.computes_at(at(SUNDAY, "21:00"))
    assert OPEN.computes_at(at(SUNDAY, "04:00"))


@pytest.mark.parametrize("kind", ["train", "evaluate", "query.prepare"])
def test_a_site_sits_out_unpaid_and_is_back_in_its_hours(tmp_path: Path, kind: str) -> None:
    night = OPEN.model_copy(update={"hours": ("20:00-06:00",), "metrics": "noised"})
    site, now = make_lab(tmp_path, night), at(MONDAY, "12:00")
    app = client_app(clock=lambda: now)
    reply = app(message(study(), kind), context(site))
    assert (
        read_absence(reply) == ReplyStatus(Kind.SITS_OUT, reason=Reason.HOURS)
        and read_refusal(reply) is None
    )
    with Ledger.read(open_site(site).ledger) as ledger:
        assert ledger.rows("debit") == ()
    now = at(MONDAY, "23:00")
    again = app(message(study(), kind), context(site))
    assert read_absence(again) is None and read_refusal(again) is None


def test_a_round_goes_on_without_who_sits_out_and_asks_it_again(tmp_path: Path) -> None:
    one = study(
        cohort={"lab": {"units": 20}, "night": {"units": 20}},
        round=RoundPolicy(deadline_seconds=60),
        privacy={"mode": "none"},
        rounds=2,
    )
    now = at(MONDAY, "12:00")
    app = client_app(clock=lambda: now)

    def site(name: str, hours: tuple[str, ...]) -> Answer:
        file = make_lab(tmp_path / name, OPEN.model_copy(update={"hours": hours}))
        file.write_text(file.read_text().replace("name: lab", f"name: {name}"))

        def answer(asked: Message) -> RecordDict:
            return app(asked, context(file)).content

        return answer

    records: list[dict[str, SiteRecord]] = []

    def then_night(record: RoundRecord) -> None:
        nonlocal now
        records.append(record.sites)
        now = at(MONDAY, "23:00")

    sites = {"lab": site("lab", ()), "night": site("night", ("20:00-06:00",))}
    Rounds(one, FakeGrid(sites), tmp_path / "out", AfterRound(then_night)).run()
    said = [[str(record[name].status) for name in sites] for record in records]
    assert said == [["ok", "sits out: outside its hours"], ["ok", "ok"]]


def test_the_share_of_the_gpu_is_the_policys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, int | None]] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given)
    )
    limit_memory(torch.device("cuda"), 0.5)
    limit_memory(torch.device("cuda", 1), 0.25)
    limit_memory(torch.device("cpu"), 0.5)
    assert asked == [(0.5, None), (0.25, 1)]
    told: list[float] = []
    monkeypatch.setattr("client.app.limit_memory", lambda _, share: told.append(share))
    site = make_lab(tmp_path, OPEN.model_copy(update={"gpu_memory_share": 0.3}))
    for kind in ("query.prepare", "train", "evaluate"):
        client_app()(message(study(), kind), context(site))
    assert told == [0.3] * 3


def test_check_shows_both(tmp_path: Path) -> None:
    policy = OPEN.model_copy(update={"hours": ("20:00-06:00",), "gpu_memory_share": 0.5})
    site = make_lab(tmp_path, policy)
    said = CliRunner().invoke(site_app, ["check", str(site.parent), "--json"]).output
    lines = {line["topic"]: line["text"] for line in json.loads(said.splitlines()[0])}
    assert "20:00-06:00" in lines["hours"] and "50% of a GPU" in lines["policy"]
