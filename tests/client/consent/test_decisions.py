"""The list of decisions, line by line, and what the site's audit log remembers of it."""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.consent import decisions
from client.consent.decisions import BEGINNING, Decision, DecisionFile, Signed, SignedDecision
from client.consent.rollback import DecisionMemory, Named
from common.audit.log import AuditLog
from common.canonical_json import canonical
from common.errors import FederationError, PrivacyError
from common.identity import sign
from common.identity.keys import make_signing_key, signing_public_pem

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FORMER, KEY, STRANGER = make_signing_key(), make_signing_key(), make_signing_key()
KEYS = [signing_public_pem(FORMER), signing_public_pem(KEY)]


def decision(number: int = 1, previous: str = BEGINNING, **changes: Any) -> Decision:
    fields = {
        "number": number,
        "verdict": "approved",
        "site": "lab",
        "study": "leukaemia",
        "digest": "d" * 64,
        "decided": NOW,
        "by": "Dr. Grün",
        "previous": previous,
    }
    return Decision.model_validate(fields | changes)


@pytest.fixture
def file(tmp_path: Path) -> DecisionFile:
    """Three decisions, of which the former key signed the first."""
    one = DecisionFile(tmp_path / "home" / "decisions.jsonl")
    previous = BEGINNING
    for number, key in ((1, FORMER), (2, KEY), (3, KEY)):
        with one.alone():
            one.append(decision(number, previous), key)
        previous = one.entries(KEYS)[-1].decision.hash
    return one


def test_decisions_come_back_in_order_with_whose_key_it_was(file: DecisionFile) -> None:
    entries = file.entries(KEYS)
    assert [entry.decision.number for entry in entries] == [1, 2, 3]
    assert [entry.current for entry in entries] == [False, True, True]
    first = decision()
    assert entries[0] == SignedDecision(first, current=False)
    assert entries[1].decision.previous == first.hash
    assert DecisionFile(file.path.with_name("none")).entries(KEYS) == ()


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("how", ["twice", "altered", "stranger's", "no line"])
def test_a_line_that_does_not_fit_is_named(file: DecisionFile, number: int, how: str) -> None:
    lines = file.path.read_text().splitlines(True)
    line = lines[number - 1]
    if how == "twice":
        lines.insert(number, line)
    elif how == "altered":
        lines[number - 1] = line.replace("leukaemia", "leukemia")
    elif how == "no line":
        lines[number - 1] = "[" * 100_000 + "\n"
    else:
        content = Signed.model_validate_json(line).decision
        forged = Signed(decision=content, signature=sign(STRANGER, content.message))
        lines[number - 1] = canonical(forged.model_dump(mode="json")).decode() + "\n"
    file.path.write_text("".join(lines))
    first = number + (how == "twice")
    with pytest.raises(PrivacyError, match=rf"line {first} is not what this site decided \("):
        file.entries(KEYS)


def test_a_line_left_out_is_missed_by_the_one_after_it(file: DecisionFile) -> None:
    """At the ends of the list the audit log misses it (`client.consent.rollback`)."""
    lines = file.path.read_text().splitlines(True)
    file.path.write_text(lines[0] + lines[2])
    with pytest.raises(PrivacyError, match=r"line 2 .*it does not follow the line before"):
        file.entries(KEYS)
    for rest in (lines[:2], lines[1:]):
        file.path.write_text("".join(rest))
        assert len(file.entries(KEYS)) == 2


def test_what_follows_names_the_number_and_the_hash_before_it(tmp_path: Path) -> None:
    first = decision()
    for following in (decision(3, first.hash), decision(2, BEGINNING), decision(1, first.hash)):
        file = DecisionFile(tmp_path / f"{following.hash}.jsonl")
        file.append(first, KEY)
        file.append(following, KEY)
        with pytest.raises(PrivacyError, match=r"line 2 .*it does not follow the line before"):
            file.entries(KEYS)
    sound = DecisionFile(tmp_path / "sound.jsonl")
    sound.append(first, KEY)
    sound.append(decision(2, first.hash), KEY)
    assert len(sound.entries(KEYS)) == 2


def test_no_key_answers_for_nothing(file: DecisionFile) -> None:
    with pytest.raises(PrivacyError, match=r"line 1 .*the signature does not fit"):
        file.entries([signing_public_pem(STRANGER)])
    with pytest.raises(PrivacyError, match=r"line 2 .*the signature does not fit"):
        file.entries(KEYS[:1])


def test_a_line_is_written_as_json_that_is_read_anywhere(file: DecisionFile) -> None:
    for line in file.path.read_text().splitlines():
        content = json.loads(line)
        assert canonical(content).decode() == line
        assert content["decision"]["decided"] == "2026-11-30T12:00:00Z"


def test_a_list_is_read_to_its_largest_and_no_byte_further(
    file: DecisionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decisions._MOST_BYTES == 67_108_864
    size = file.path.stat().st_size
    monkeypatch.setattr(decisions, "_MOST_BYTES", size)
    assert len(file.entries(KEYS)) == 3
    monkeypatch.setattr(decisions, "_MOST_BYTES", size - 1)
    with pytest.raises(PrivacyError, match=rf"is larger than {size - 1} bytes; not ours"):
        file.entries(KEYS)


def test_a_list_that_cannot_be_read_is_named(file: DecisionFile) -> None:
    file.path.write_bytes(b"\xff\xfe")
    with pytest.raises(PrivacyError, match=r"decisions.jsonl: cannot be read \('utf-8' codec"):
        file.entries(KEYS)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(PrivacyError, match=r"decisions.jsonl: cannot be read \(.*Is a directory"):
        file.entries(KEYS)


def test_one_decides_at_a_time_and_leaves_no_handle(file: DecisionFile) -> None:
    opened = len(os.listdir("/proc/self/fd"))
    other = os.open(file.path.parent, os.O_RDONLY)
    with file.alone(), pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    assert len(os.listdir("/proc/self/fd")) == opened


def test_who_decides_first_makes_the_folder(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path / "a" / "b" / "decisions.jsonl")
    with file.alone():
        file.append(decision(), KEY)
    assert len(file.entries(KEYS)) == 1


def test_a_decision_has_its_bounds() -> None:
    decision(by="x", purpose="", previous="")
    decision(by="x" * 200, purpose="y" * 500, members={str(n): "" for n in range(10_000)})
    for wrong in (
        {"by": ""},
        {"by": "x" * 201},
        {"purpose": "y" * 501},
        {"members": {str(n): "" for n in range(10_001)}},
        {"number": 0},
        {"decided": datetime(2026, 11, 30)},
        {"verdict": "postponed"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            decision(**wrong)
    Signed(decision=decision(), signature="0" * 256)
    with pytest.raises(ValueError, match="signature"):
        Signed(decision=decision(), signature="0" * 257)
    assert decision(number=1) == decision()


@given(st.integers(-3, 3))
def test_an_approval_ends_at_its_last_moment(seconds: int) -> None:
    until = NOW + timedelta(seconds=seconds)
    assert decision(until=until).ended(NOW) == (seconds <= 0)
    assert not decision().ended(NOW)


def test_what_the_log_says_of_a_decision_is_all_but_the_members() -> None:
    end = NOW + timedelta(days=1)
    yes = decision(until=end, purpose="research", members={"lab": "aa", "other": "bb"})
    said = {"study": "leukaemia", "digest": "d" * 64, "decision": 1, "record": yes.hash}
    said |= {"by": "Dr. Grün"}
    assert yes.event == "approved"
    assert yes.facts == said | {
        "purpose": "research",
        "until": "2026-12-01T12:00:00+00:00",
        "members": 2,
    }
    assert decision().facts["until"] == "none" and decision().facts["purpose"] == ""
    for reason, more in (("", {}), ("no more", {"reason": "no more"})):
        no = decision(verdict="withdrawn", purpose=reason, members={"lab": "aa"})
        assert no.event == "approval_withdrawn"
        assert no.facts == said | {"record": no.hash} | more
    assert len({yes.hash, decision().hash, decision(2).hash, decision(previous="").hash}) == 4


def named(number: int, **facts: Any) -> dict[str, Any]:
    return {"decision": number, "record": f"{number:064x}", "study": "s"} | facts


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    with AuditLog.open(tmp_path / "audit.jsonl", KEY) as one:
        yield one


def test_the_newest_decision_is_that_of_the_highest_number(log: AuditLog, tmp_path: Path) -> None:
    assert DecisionMemory(tmp_path / "none.jsonl").newest() == Named(0, "")
    memory = DecisionMemory(log.path)
    assert memory.newest() == Named()
    log.append("released", ledger="", round=1)
    assert memory.newest() == Named()
    for number, event in ((1, "approved"), (3, "approval_withdrawn"), (2, "approved")):
        log.append(event, **named(number))
        highest = max(number, memory.newest().number)
        assert memory.newest() == Named(highest, f"{highest:064x}")
        assert DecisionMemory(log.path).newest() == memory.newest()
    log.append("refused", reason='"event":"approved"')
    assert memory.newest().number == 3


def test_decisions_are_found_in_every_part_of_the_log(log: AuditLog) -> None:
    memory = DecisionMemory(log.path)
    log.append("approved", **named(1))
    log.rotate()
    log.append("approved", **named(2))
    late = DecisionMemory(log.path)
    assert memory.newest().number == late.newest().number == 2
    log.rotate()
    assert memory.newest().number == late.newest().number == 2
    log.append("approved", **named(3))
    log.rotate()
    log.append("released", ledger="", round=1)
    for one in (memory, late, DecisionMemory(log.path)):
        assert one.newest().number == 3


def test_a_shorter_log_is_an_older_one_and_what_was_named_is_not_forgotten(
    log: AuditLog, tmp_path: Path
) -> None:
    log.append("approved", **named(1))
    before = log.path.read_bytes()
    log.append("approved", **named(2))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(log.path.read_bytes())
    memory = DecisionMemory(copy)
    assert memory.newest().number == 2
    copy.write_bytes(before)
    with pytest.raises(PrivacyError, match="is shorter than it was; an older copy"):
        memory.newest()
    copy.rename(tmp_path / "kept.jsonl")
    assert memory.newest().number == 2
    copy.write_bytes(before)
    assert memory.newest().number == 2, "another file, read from its beginning"


def test_a_line_is_read_when_it_is_whole_and_once(
    log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.append("approved", **named(1))
    log.append("approved", **named(2))
    *lines, last = log.path.read_bytes().splitlines(True)
    copy = tmp_path / "copy.jsonl"
    memory = DecisionMemory(copy)
    copy.write_bytes(b"".join(lines) + last[:20])
    assert memory.newest().number == 1
    taken: list[bytes] = []
    take = DecisionMemory._take

    def counted(one: DecisionMemory, path: Path, line: bytes) -> None:
        taken.append(line)
        take(one, path, line)

    monkeypatch.setattr(DecisionMemory, "_take", counted)
    with copy.open("ab") as file:
        file.write(last[20:])
    assert memory.newest().number == 2 and taken == [last]
    assert memory.newest().number == 2 and taken == [last]


def test_a_damaged_line_about_a_decision_stops(log: AuditLog, tmp_path: Path) -> None:
    log.append("approved", **named(1))
    sound = log.path.read_bytes()
    copy = tmp_path / "copy.jsonl"
    for damaged in (
        sound.replace(b'"decision":1', b'"decision":2'),
        sound.replace(b'"event":"approved"', b'"event":"approved" '),
    ):
        copy.write_bytes(damaged)
        with pytest.raises(PrivacyError, match=r"a line about a decision cannot be read \("):
            DecisionMemory(copy).newest()
    log.append("approved", study="s")
    with pytest.raises(PrivacyError, match="a line about a decision cannot be read"):
        DecisionMemory(log.path).newest()


def test_whose_signature_it_is_is_asked_of_each_key() -> None:
    message = decision().message
    assert decisions._fits(KEYS[1], message, sign(KEY, message))
    assert not decisions._fits(KEYS[0], message, sign(KEY, message))
    assert not decisions._fits(KEYS[1], message + b" ", sign(KEY, message))
    with pytest.raises(FederationError, match="PEM"):
        decisions.verify("no key", message, "")
