"""The lab's log: a line for each new thing, under a reference that is found again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.app import client_app
from client.lab_log import LabLog, text_of
from common import log_file
from common.errors import ConfigError, PrivacyError
from common.untrusted_text import shown
from common.wire.messages import read_refusal
from tests.client.lab import OPEN, context, make_lab, message, study


def test_the_same_thing_again_and_again_is_one_line(tmp_path: Path) -> None:
    site = make_lab(tmp_path, OPEN.model_copy(update={"max_rounds": 2}))
    app, log = client_app(), tmp_path / "site.log"

    def reference() -> str:
        said = read_refusal(app(message(study(), "query.prepare", 0), context(site)))
        assert said is not None
        return said.reference

    first = reference()
    assert {reference() for _ in range(3)} == {first}
    assert len(log.read_text().splitlines()) == 1
    assert "the policy's max_rounds is 2" in text_of(log, first)
    (tmp_path / "ledger.sqlite").unlink()
    (tmp_path / "policy.yaml").unlink()
    second = reference()
    assert second != first and "has no policy" in text_of(log, second)
    assert len(log.read_text().splitlines()) == 2


def test_what_is_said_in_between_makes_it_new(tmp_path: Path) -> None:
    log, path = LabLog(), tmp_path / "site.log"
    errors = [PrivacyError("a"), PrivacyError("b"), PrivacyError("a")]
    references = [log.note(path, "study", error) for error in errors]
    assert len(set(references)) == 3
    assert log.note(path, "another study", errors[-1]) not in references
    assert log.note(tmp_path / "another.log", "study", errors[-1]) not in references
    assert len(path.read_text().splitlines()) == 4


@given(st.text(max_size=200))
def test_a_text_is_found_by_its_reference_whatever_it_says(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path, log = tmp_path_factory.mktemp("log") / "site.log", LabLog()
    log.note(path, "before", ConfigError("something else"))
    reference = log.note(path, "about", ConfigError(text))
    log.note(path, "after", ConfigError("and another"))
    assert text_of(path, reference) == shown(text, lines=True).split("\n")[0]


def test_a_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert text_of(tmp_path / "site.log", "ab12") == ""
    (tmp_path / "folder").mkdir()
    assert text_of(tmp_path / "folder", "ab12") == ""
    assert len(LabLog().note(tmp_path / "folder", "about", ConfigError("x"))) == 8


def test_it_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file.keep_short, "__defaults__", (2000,))
    path, log = tmp_path / "site.log", LabLog()
    for number in range(200):
        reference = log.note(path, "about", ConfigError(f"fault {number} {'x' * 50}"))
        assert path.stat().st_size < 2200
        assert text_of(path, reference).startswith(f"fault {number} ")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["site.log", "site.log.1"]
    assert (tmp_path / "site.log.1").stat().st_mode & 0o077 == 0
