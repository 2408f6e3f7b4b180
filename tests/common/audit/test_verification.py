"""Where a log stops being sound: the line, to the number."""

import json
from pathlib import Path

import pytest

from common.audit.entry import BEGINNING, SIGN_EVERY, make_line, seal_message
from common.audit.log import AuditLog, Witnessed, verify
from common.identity.keys import make_signing_key, signing_public_pem
from common.identity.signatures import sign

KEY = make_signing_key()
PUBLIC = signing_public_pem(KEY)
MOST = 4 * SIGN_EVERY


def chain(path: Path, *events: str) -> list[str]:
    """A log of these events, each line following the one before; their hashes."""
    lines, hashes = [], [BEGINNING]
    for number, event in enumerate(events):
        facts = {"key": PUBLIC} if event in ("begin", "continues") else {}
        if event == "signature":
            facts = {"signature": sign(KEY, seal_message(hashes[-1]))}
        lines.append(make_line(number, "", event, facts, hashes[-1]))
        hashes.append(json.loads(lines[-1])["hash"])
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return hashes[1:]


def found(path: Path, *heads: str) -> tuple[Path, int, str] | None:
    fault = verify(path, PUBLIC, [Witnessed(head) for head in heads])
    return fault and (fault.path, fault.line, fault.why)


@pytest.mark.parametrize("before", [[], ["said", "signature"], ["signature"] * 3])
def test_as_many_lines_may_go_unsigned_as_crashes_explain(
    tmp_path: Path, before: list[str]
) -> None:
    path = tmp_path / "audit.jsonl"
    unsigned = MOST if before else MOST - 1
    chain(path, "begin", *before, *["said"] * unsigned)
    assert found(path) is None
    chain(path, "begin", *before, *["said"] * (unsigned + 1))
    last = 1 + len(before) + unsigned + 1
    assert found(path) == (path, last, "is the 65th without a signature; they were removed")


@pytest.mark.parametrize(
    ("events", "line"),
    [
        (["said", "begin"], 1),
        (["signature"], 1),
        (["begin", "said", "begin"], 3),
    ],
)
def test_a_log_begins_at_its_beginning_and_nowhere_else(
    tmp_path: Path, events: list[str], line: int
) -> None:
    path = tmp_path / "audit.jsonl"
    chain(path, *events)
    assert found(path) == (path, line, "is not where a log begins")
    chain(path, "continues", "said")
    assert found(path) is None


def test_what_is_missing_is_missed_after_the_last_head_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    hashes = chain(path, "begin", "said", "said", "signature")
    for heads, line in (
        ([], None),
        (hashes, None),
        (["0" * 64], 1),
        (["0" * 64, hashes[2]], 1),
        ([hashes[0], "0" * 64], 2),
        ([hashes[2], "0" * 64], 4),
        ([hashes[3], "0" * 64], 5),
    ):
        fault = found(path, *heads)
        assert (fault and fault[:2]) == (line and (path, line)), heads
    assert found(path, hashes[1], hashes[1]) is None, "the same head twice, for the same thing"
    fault = found(path, hashes[2], hashes[1])
    assert fault and fault[:2] == (path, 2) and "once more after it had been" in fault[2]


def test_a_line_is_missed_in_the_file_where_it_belongs(tmp_path: Path) -> None:
    with AuditLog.open(tmp_path / "audit.jsonl", KEY) as log:
        log.append("said")
        archive = log.rotate()
        head = log.append("said")
        path = log.path
    assert found(path, "0" * 64) == (archive, 1, found(path, "0" * 64)[2])  # type: ignore[index]
    fault = found(path, head, "0" * 64)
    assert fault and fault[:2] == (path, 3)
    archive.write_bytes(archive.read_bytes()[:-1])
    assert found(path) == (archive, 3, "is cut short")
    archive.unlink()
    assert found(path) is None


def test_another_keys_log_is_named_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    chain(path, "begin", "said", "said")
    fault = verify(path, signing_public_pem(make_signing_key()))
    assert fault and (fault.path, fault.line) == (path, 3)
    assert str(fault) == f"{path}: line 3 ends a log that the given key neither began nor signed"
