"""A stored study: signed when it is proposed, refused when anything of it was changed since."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.errors import FederationError
from server.membership.provisioning import make_server
from server.studies.store import Stored, propose
from tests.client.lab import study


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    make_server(tmp_path / "server", "127.0.0.1:9092", datetime.now(UTC))
    return propose(tmp_path / "server", study())


def test_a_proposal_is_the_study_signed_by_the_server(stored: Stored) -> None:
    home = stored.folder.parent.parent
    proposal = stored.proposal()
    assert proposal.study == stored.study() == study()
    proposal.check((home / "signing.pub").read_text(), "test")
    again = propose(home, study())
    assert again == stored and again.proposal() == proposal
    rows = map(json.loads, (home / "audit.jsonl").read_text().splitlines())
    (line,) = [row["facts"] for row in rows if row["event"] == "proposed"]
    assert line["digest"] == study().digest


@pytest.mark.parametrize("what", ["study", "signature", "both swapped", "missing"])
def test_a_proposal_that_was_changed_is_refused(stored: Stored, what: str) -> None:
    path = stored.folder / "proposal.json"
    content = json.loads(path.read_text())
    if what == "study":
        content["study"]["rounds"] = 9
    if what == "signature":
        content["signature"] = "0" * 128
    if what == "both swapped":
        other = propose(stored.folder.parent.parent, study(rounds=9))
        content = json.loads((other.folder / "proposal.json").read_text())
    path.write_text(json.dumps(content))
    if what == "missing":
        path.unlink()
    with pytest.raises(FederationError, match="proposal.json"):
        stored.proposal()
