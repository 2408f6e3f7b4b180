"""The process that holds the cells is tried before a study needs it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.home import SiteHome
from client.service.cli import app
from client.service.preflight import check_site
from client.service.worker import Runner, RunnerDiedError
from common.files import last_line
from tests.client.lab import make_lab

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome(make_lab(tmp_path / "lab").parent)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that the runner needs and cannot load, in a folder that its person named."""
    module = tmp_path / "modules" / "flwr.py"
    module.parent.mkdir()
    module.write_text("raise ImportError('half installed')\n")
    monkeypatch.setenv("PYTHONPATH", f"{module.parent}:{ROOT}")
    return module


def verdict(home: SiteHome) -> tuple[str, str]:
    (line,) = [one for one in check_site(home) if one.topic == "runner"]
    return line.verdict, line.text


def test_check_starts_the_runner_once_and_ends_it(home: SiteHome) -> None:
    said, text = verdict(home)
    assert (said, text) == ("ok", "the process that opens the cells starts, and loads all it needs")
    assert not home.runner_log.read_text()


def test_check_says_why_the_runner_does_not_start(home: SiteHome, broken: Path) -> None:
    said, text = verdict(home)
    assert said == "wrong" and "the runner ended with code 1; the last line of" in text
    assert text.endswith("runner.log: ImportError: half installed")
    result = CliRunner().invoke(app, ["check", str(home.folder)])
    assert "runner" in str(result.exception)


def test_a_runner_that_does_not_come_up_in_time_is_ended(home: SiteHome) -> None:
    runner = Runner(home.site_file, home.runner_log)
    with pytest.raises(RunnerDiedError, match=r"is not ready after 0.01 s; .*runner.log: nothing"):
        runner.try_out(0.01)
    assert runner.pid is None


@pytest.mark.parametrize(
    ("content", "last"),
    [("", ""), ("\n \n", ""), ("one\ntwo\n\n", "two"), ("x" * 9000 + "\nend", "end"), ("ü", "ü")],
)
def test_the_last_line_of_a_log_is_its_last_word(tmp_path: Path, content: str, last: str) -> None:
    assert last_line(tmp_path / "log") == ""
    (tmp_path / "log").write_text(content, encoding="utf-8")
    assert last_line(tmp_path / "log") == last
