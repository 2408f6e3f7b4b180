"""`site status` and `site studies`: how each study stands, what it spent, what is left."""

import json
from pathlib import Path
from threading import Event

import pytest
from typer.testing import CliRunner

from client.consent.approvals import SignedApprovals
from client.consent.cli import app as consent
from client.ledger.ledger import Ledger
from client.service.cli import app
from client.service.overview import overview
from client.service.service import serve
from client.site import open_site
from common.config.loading import dump
from common.config.study import CellSource, Site
from common.privacy.accounting import epsilon
from tests.client.lab import OPEN, SPENT, approve, message, study
from tests.client.service.test_message_audit import Setting, prepare
from tests.client.service.test_node import handled


def typed(group: object, *words: str) -> str:
    result = CliRunner().invoke(group, words, env={"COLUMNS": "200"})  # type: ignore[arg-type]
    assert result.exit_code == 0, result.exception
    return result.output


def test_a_study_is_shown_from_its_proposal_to_its_end(setting: Setting) -> None:
    home, one = setting.home, study()
    setting.record.came(prepare(setting))
    (standing,) = overview(home).studies
    assert (standing.study, standing.state, standing.since) == ("lab-test", "not asked yet", "")
    handled(setting, prepare(setting))
    for number in (1, 2):
        handled(setting, setting.asked(number=number))
    found = overview(home)
    (standing,) = found.studies
    with Ledger.read(open_site(home.site_file).ledger) as ledger:
        spent = epsilon(ledger.events(one.digest), OPEN.delta)
    assert (standing.state, standing.round, standing.rounds) == ("trains", 2, 3)
    assert standing.spent == spent > 0 and found.left is not None
    assert 0 < found.left < OPEN.lifetime_epsilon
    for text in (
        typed(app, "status", str(home.folder)),
        typed(consent, "studies", str(home.folder)),
    ):
        text = " ".join(text.split())
        assert "trains" in text and "2/3" in text and f"epsilon {spent:.3g}" in text
        assert f"left for one more study: epsilon {found.left:.3g} of 100 for life" in text
    handled(setting, setting.ordered(message(one, "evaluate", 3, split="test")))
    content = json.loads(typed(app, "status", str(home.folder), "--json"))
    assert content["studies"][0]["state"] == "completed" and content["runs"] is False


def test_what_left_without_privacy_is_said_beside_the_epsilon(setting: Setting) -> None:
    bare = study(privacy={})
    handled(setting, setting.ordered(message(bare, "train", 1)))
    (standing,) = overview(setting.home).studies
    assert standing.cost == "1 answer WITHOUT privacy"
    with Ledger.read(open_site(setting.home.site_file).ledger) as ledger:
        ledger.debit(bare.digest, 2, 0, SPENT)
    (standing,) = overview(setting.home).studies
    assert standing.cost.startswith("epsilon ") and standing.cost.endswith(
        "1 answer WITHOUT privacy"
    )


def test_without_a_ledger_or_a_policy_the_rest_is_shown(setting: Setting) -> None:
    handled(setting, prepare(setting))
    open_site(setting.home.site_file).ledger.unlink()
    text = typed(app, "status", str(setting.home.folder))
    assert "ready" in text and "not known" in text and "the privacy ledger is missing" in text


def test_a_study_that_is_approved_and_withdrawn_by_its_operator_says_so(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(setting.home, study())
    handled(setting, setting.ordered(message(study(), "query.withdraw", 0)))
    text = typed(consent, "studies", str(setting.home.folder))
    assert "withdrawn" in text and "its proposal is not here any more" in text
    assert len(SignedApprovals(setting.home).approved()) == 1


def test_what_no_study_could_do_without_is_said_at_the_start(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """Before any study asks; the site starts all the same."""
    halt = Event()
    halt.set()
    serve(setting.home, halt)
    assert caplog.text == ""
    site = setting.home.site_file
    open_site(site).ledger.unlink()
    site.write_text(dump(Site(name="lab", cells=(CellSource(folder=Path("nowhere")),))))
    serve(setting.home, halt)
    assert "the privacy ledger is missing" in caplog.text
    assert "nowhere: is not a cell cache; make one with `hemofed data index" in caplog.text
