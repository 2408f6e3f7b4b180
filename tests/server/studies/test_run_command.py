"""`hemofed server run` says what a person should know of a study before the labs read it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.membership.enrolment import make_site
from common.config.loading import dump
from common.config.study import Participant, Study
from common.errors import ConfigError
from server.membership.provisioning import admit, make_server
from server.service.cli import app
from server.studies.store import find_stored

NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"mode": "local"}, True),
        ({"mode": "local", "spare_rounds": 2}, False),
        ({"mode": "none"}, False),
    ],
)
def test_a_private_study_that_no_round_may_fail_is_named(
    tmp_path: Path, privacy: dict[str, object], said: bool
) -> None:
    make_server(tmp_path / "server", "127.0.0.1:9092", NOW)
    for site in ("one", "two"):
        admit(tmp_path / "server", make_site(tmp_path / site, site, NOW), NOW)
    cohort = {"one": Participant(units=20), "two": Participant(units=20)}
    study = Study.model_validate({"name": "first", "privacy": privacy, "cohort": cohort})
    (tmp_path / "study.yaml").write_text(dump(study))
    asked = ["run", str(tmp_path / "server"), str(tmp_path / "study.yaml")]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.exception
    assert ("spare_rounds is 0" in found.output) == said


def test_a_completed_study_is_not_begun_again(tmp_path: Path) -> None:
    """Wanted again, it would wait for its labs and hold back every study behind it."""
    home, file = tmp_path / "server", tmp_path / "study.yaml"
    make_server(home, "127.0.0.1:9092", NOW)
    admit(home, make_site(tmp_path / "one", "one", NOW), NOW)
    file.write_text(dump(Study(name="first", cohort={"one": Participant(units=20)})))
    commands = (
        ["run", str(home), str(file)],
        *([do, str(home), "first"] for do in ("resume", "stop")),
    )
    for words in commands:
        assert CliRunner().invoke(app, words).exit_code == 0
    stored = find_stored(home, "first")
    stored.say("completed", round=3, rounds=3)
    for words in commands:
        error = CliRunner().invoke(app, words).exception
        assert isinstance(error, ConfigError) and "is completed, nothing is left" in str(error)
    assert stored.wanted == "stop"
