"""A line of the audit log and what it may say; which files make a log; the log's own lines."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.audit.entry import (
    BEGINNING,
    LONGEST_FACT,
    LONGEST_FACTS,
    check_event,
    loggable,
    make_line,
    parse_line,
)
from common.audit.log import ROTATE_BYTES, AuditLog, verify
from common.audit.reader import log_files, present_key
from common.errors import FederationError, PrivacyError
from common.identity.keys import make_signing_key, signing_public_pem

KEY, OTHER = make_signing_key(), make_signing_key()
PUBLIC = signing_public_pem(KEY)


def line(n: Any = 1, facts: Any = None, **changes: Any) -> bytes:
    made = make_line(n, "now", "round_done", {"round": 1} if facts is None else facts, BEGINNING)
    if not changes:
        return made
    return json.dumps(json.loads(made) | changes, sort_keys=True, separators=(",", ":")).encode()


def test_a_line_is_what_was_put_into_it() -> None:
    fields = parse_line(line())
    assert fields["n"] == 1 and fields["facts"] == {"round": 1} and fields["previous"] == BEGINNING
    assert set(fields) == {"n", "time", "event", "facts", "previous", "hash"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is not JSON; it was altered or cut short"),
        (b"[" * 100_000, "is not JSON; it was altered or cut short"),
        (b"[]", "does not have the fields of an audit line"),
        (b'{"n": 1}', "does not have the fields of an audit line"),
        (line(more=1), "does not have the fields of an audit line"),
        (line(time=float("nan")), "is not spelt as it was written"),
        (line() + b" ", "is not spelt as it was written"),
        (line(time="then"), "does not fit its own hash; it was altered"),
        (line(facts=[1]), "does not have the fields of an audit line"),
        (line(n="1"), "does not have the fields of an audit line"),
        (line(n=True), "does not have the fields of an audit line"),
        (line(n=1.0), "does not have the fields of an audit line"),
    ],
)
def test_what_is_no_line_is_named(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        parse_line(text)


def test_facts_are_logged_to_their_longest_and_no_further() -> None:
    check_event("said", {"text": "x" * LONGEST_FACT})
    with pytest.raises(PrivacyError, match="2001 characters, at most 2000 are logged"):
        check_event("said", {"text": "x" * (LONGEST_FACT + 1)})
    facts = {f"f{n}": "x" * 1900 for n in range(8)}
    facts["last"] = "x" * (16_000 - len(json.dumps(facts | {"last": ""}, separators=(",", ":"))))
    assert len(json.dumps(facts, separators=(",", ":"))) == LONGEST_FACTS == 16_000
    check_event("said", facts)
    with pytest.raises(PrivacyError, match="facts of more than 16000 bytes"):
        check_event("said", facts | {"last": facts["last"] + "x"})


def test_what_others_said_is_logged_where_it_may_be() -> None:
    for text in ("", "no quorum", "x" * LONGEST_FACT):
        assert loggable(text) == text
    for text in ("patient 12.png is broken", "x" * (LONGEST_FACT + 1)):
        assert loggable(text) == "said in words that are not logged"


def events(path: Path) -> list[str]:
    return [json.loads(one)["event"] for one in path.read_text().splitlines()]


def test_a_log_has_a_path_and_a_head_and_is_closed(tmp_path: Path) -> None:
    opened = len(os.listdir("/proc/self/fd"))
    with AuditLog.open(tmp_path / "audit.jsonl", KEY) as log:
        assert log.path == tmp_path / "audit.jsonl" and ROTATE_BYTES < 2**28
        assert log.append("round_done", round=1) == log.head
        assert log.head == json.loads(log.path.read_text().splitlines()[-1])["hash"]
    assert len(os.listdir("/proc/self/fd")) == opened


def test_what_a_log_says_of_itself_stands_where_it_belongs(tmp_path: Path) -> None:
    """A file that is put aside ends with a signature, and so does the introduction of a key."""
    path = tmp_path / "audit.jsonl"
    with AuditLog.open(path, KEY) as log:
        log.append("round_done", round=1)
        archive = log.rotate()
        assert events(archive) == ["begin", "round_done", "signature"]
        head = log.signed_head()
        log.witness(head, "paris", round=3)
        facts = json.loads(path.read_text().splitlines()[-1])["facts"]
        said = {"head": head.hash, "signature": head.signature, "peer": "paris", "round": 3}
        assert facts == said
        log.change_key(OTHER)
        assert events(path) == ["continues", "witness", "signing_key", "signature"]
        assert present_key(path) == signing_public_pem(OTHER)
    assert verify(path, PUBLIC) is None


def test_a_log_of_another_key_is_refused_however_long_ago_it_was_named(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with AuditLog.open(path, KEY) as log:
        for _ in range(80):
            log.append("said", text="x" * 1500)
    before = path.read_bytes()
    assert len(before) > 2**16 and present_key(path) == PUBLIC
    with pytest.raises(FederationError, match="is signed by the key"):
        AuditLog.open(path, OTHER)
    assert path.read_bytes() == before
    AuditLog.open(path, KEY).close()


def test_the_last_key_that_can_be_read_is_the_present_one(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    assert present_key(path) is None
    with AuditLog.open(path, KEY) as log:
        log.append("said", text='"event":"begin"')
        assert present_key(path) == PUBLIC
        log.change_key(OTHER)
    lines = path.read_bytes().splitlines(True)
    (at,) = (n for n, one in enumerate(lines) if b'"event":"signing_key"' in one)
    nameless = make_line(9, "now", "signing_key", {}, BEGINNING) + b"\n"
    path.write_bytes(b"".join([nameless, b'"event":"begin" altered\n', *lines]))
    assert present_key(path) == signing_public_pem(OTHER)
    path.write_bytes(b"".join([*lines[:at], nameless]))
    assert present_key(path) == PUBLIC


def test_only_a_line_that_continues_leads_to_the_file_before(tmp_path: Path) -> None:
    path, other = tmp_path / "audit.jsonl", tmp_path / "other.jsonl"
    AuditLog.open(other, KEY).close()
    for facts in ({}, {"file": ""}, {"file": "none.jsonl"}, {"file": path.name}, {"file": "/"}):
        path.write_bytes(make_line(3, "", "continues", facts, BEGINNING) + b"\n")
        assert log_files(path) == [path]
    for name in (other.name, f"elsewhere/{other.name}"):
        path.write_bytes(make_line(3, "", "continues", {"file": name}, BEGINNING) + b"\n")
        assert log_files(path) == [other, path], "beside it, whatever folder it names"
    path.write_bytes(make_line(3, "", "begin", {"file": other.name}, BEGINNING) + b"\n")
    assert log_files(path) == [path]
    path.write_bytes(b"")
    assert log_files(path) == [path]
