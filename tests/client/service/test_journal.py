"""What a node notes of a study: whatever was asked, it goes on, and says what it knows."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from client.home import SiteHome
from client.service.journal import Journal, read_notes
from common.errors import FederationError
from common.wire.messages import Task, refusal_content
from common.wire.reasons import Reason
from tests.client.lab import make_lab, message, study

NESTED = "[" * 100_000
TASKS = {
    "no study": {"round": 1, "attempt": 0},
    "no JSON": {"study": "hello", "round": 1, "attempt": 0, "split": "test", "head": ""},
    "no number": {
        "study": study().model_dump_json(),
        "round": "one",
        "attempt": 0,
        "split": "test",
        "head": "",
    },
    "nested": {"study": NESTED, "round": 1, "attempt": 0, "split": "test", "head": ""},
}


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    return SiteHome(make_lab(tmp_path / "lab", cells=10).parent)


@pytest.mark.parametrize("which", TASKS)
@pytest.mark.parametrize("reason", [Reason.NOT_ORDERED, Reason.BAD_QUESTION])
def test_a_message_that_cannot_be_read_ends_no_node(
    home: SiteHome, which: str, reason: Reason
) -> None:
    asked = message(study())
    strange = Message(RecordDict({"task": ConfigRecord(TASKS[which])}), 2, "train")
    Journal(home).note(strange, Message(refusal_content(reason, "ab12"), reply_to=asked))
    assert read_notes(home.studies) == {}
    with pytest.raises(FederationError, match="whose task cannot be read"):
        Task.read(strange)


def test_a_test_that_failed_is_not_told_as_one_that_was_done(home: SiteHome) -> None:
    one = study()
    asked = message(one, "evaluate", 3, split="test")
    Journal(home).note(asked, Message(Error(code=1, reason="died"), reply_to=asked))
    assert read_notes(home.studies)[one.digest].state == "refused: internal"
