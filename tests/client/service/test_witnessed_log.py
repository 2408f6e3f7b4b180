"""A log that lacks what was shown of it is an older copy, and only a person may go on with it."""

from pathlib import Path

import pytest

from client.service.witnessed_log import OLDER, WitnessedLog
from common.audit.entry import Fact
from common.audit.log import AuditLog, SignedHead
from common.audit.witness import NO_HEAD
from common.errors import PrivacyError
from common.identity.keys import make_signing_key, signing_public_pem

KEY = make_signing_key()
KEYS = [signing_public_pem(make_signing_key()), signing_public_pem(KEY)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    add(tmp_path / "audit.jsonl", "released", ledger="", round=0)
    return tmp_path / "audit.jsonl"


def add(log: Path, event: str, **facts: Fact) -> SignedHead:
    """A line more; the head that it makes. Another process each time: a copy may be put back."""
    with AuditLog.open(log, KEY) as one:
        one.append(event, **facts)
        return one.signed_head()


def shown(log: Path) -> SignedHead:
    return add(log, "released", ledger="", round=1)


def older(log: Path, round: int = 1) -> SignedHead:
    """A head that was shown and that the log has no more; two of one round may be alike."""
    before = log.read_bytes()
    head = add(log, "released", ledger="", round=round)
    log.write_bytes(before)
    return head


def check(log: Path, head: SignedHead) -> None:
    """By a process that remembers nothing."""
    WitnessedLog(log).check(head, KEYS)


def check_lacks(log: Path, head: SignedHead) -> None:
    with pytest.raises(PrivacyError, match=f"lacks the line {head.hash[:12]} that this site"):
        check(log, head)


def test_a_log_that_went_on_holds_every_head_that_was_shown(log: Path) -> None:
    heads = [shown(log) for _ in range(3)]
    with AuditLog.open(log, KEY) as one:
        one.rotate()
        heads.append(one.signed_head())
    heads.append(shown(log))
    assert len(list(log.parent.iterdir())) == 2
    for head in heads:
        check(log, head)


def test_a_log_that_lacks_a_head_is_an_older_copy(log: Path) -> None:
    head = older(log)
    check_lacks(log, head)
    shown(log)
    check_lacks(log, head)
    log.unlink()
    check_lacks(log, head)


def test_the_first_line_is_a_head_too(log: Path) -> None:
    log.write_bytes(log.read_bytes().splitlines(True)[0])
    with AuditLog.open(log, KEY) as one:
        check(log, one.signed_head())


def test_what_none_of_the_keys_signed_is_nobodys_word(log: Path) -> None:
    head = older(log)
    WitnessedLog(log).check(head, KEYS[:1])
    check(log, SignedHead(head.hash, "0" * 128))
    check(log, NO_HEAD)


def test_what_was_shown_or_found_once_is_not_looked_for_again(log: Path) -> None:
    """The log is read at each message otherwise, and it grows."""
    witnessed, first, second = WitnessedLog(log), shown(log), shown(log)
    witnessed.check(first, KEYS)
    witnessed.shown(second)
    log.unlink()
    for head in (first, second):
        witnessed.check(head, KEYS)
        check_lacks(log, head)


def test_a_line_copied_behind_an_older_log_does_not_make_it_whole(log: Path) -> None:
    before = log.read_bytes()
    heads = [shown(log), shown(log)]
    lines = log.read_bytes().splitlines(True)
    first, _, second, _ = lines[len(before.splitlines()) :]
    log.write_bytes(before + second)
    check_lacks(log, heads[1])
    log.write_bytes(before + second + first)
    check_lacks(log, heads[0])
    log.write_bytes(before + first)
    check(log, heads[0])


def test_the_heads_hash_in_another_line_is_no_such_line(log: Path) -> None:
    head = older(log)
    add(log, "witness", head=head.hash, signature="", peer="server")
    check_lacks(log, head)


def test_a_person_goes_on_with_an_older_log_by_adopting_after_it_told_so(log: Path) -> None:
    head, other = older(log), older(log, round=9)
    add(log, "ledger_adopted", ledger="", lost=0)
    check_lacks(log, head)
    add(log, OLDER, head=head.hash)
    check_lacks(log, head)
    add(log, "released", ledger="", round=2)
    check_lacks(log, head)
    add(log, "ledger_adopted", ledger="", lost=0)
    check(log, head)
    add(log, "released", ledger="", round=3)
    check(log, head)
    check_lacks(log, other)
