"""A round's line: what is written is what is read, and only whole rounds are."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire.reasons import Reason
from common.wire.reply_status import Kind, ReplyStatus
from server.rounds.record import LOG, RoundRecord, SiteRecord, append, count, cut, read

numbers = st.floats(allow_nan=False, allow_infinity=False)
statuses = st.builds(
    ReplyStatus,
    kind=st.sampled_from(Kind),
    words=st.text(max_size=20),
    reason=st.none() | st.sampled_from(Reason),
    reference=st.sampled_from(["", "0123abcd"]),
)
site_records = st.builds(
    SiteRecord,
    status=statuses,
    seconds=st.none() | numbers,
    update_norm=st.none() | numbers,
    loss=st.none() | numbers,
    epsilon=st.none() | numbers,
    suspended=st.booleans(),
)
records = st.builds(
    RoundRecord,
    round=st.integers(1, 10_000),
    attempt=st.integers(0, 99),
    lifted=st.lists(st.text(max_size=5), max_size=3),
    sites=st.dictionaries(st.text(max_size=5), site_records, max_size=4),
    evaluation=st.none() | st.just({"global": {"accuracy": None}, "sites": {}}),
    bytes_down=st.integers(0, 2**50),
    bytes_up=st.integers(0, 2**50),
    seconds=numbers,
)


@given(records)
def test_what_is_written_is_what_is_read(record: RoundRecord) -> None:
    assert RoundRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert record.good == sum(one.status.kind == "ok" for one in record.sites.values())


@given(statuses)
def test_a_status_says_its_kind_first_and_its_reason(status: ReplyStatus) -> None:
    assert str(status).startswith(status.kind.value)
    if status.reason:
        assert str(status).startswith(f"{status.kind}: {status.reason}")
        assert (status.reference in str(status)) and "why" in status.said("why")


def test_lines_are_added_counted_and_cut_back(tmp_path: Path) -> None:
    assert count(tmp_path / "run") == 0
    rounds = [RoundRecord(round=number, attempt=1) for number in (1, 2, 3)]
    for one in rounds:
        append(tmp_path / "run", one)
    assert read(tmp_path / "run") == rounds and count(tmp_path / "run") == 3
    with (tmp_path / "run" / LOG).open("a") as log:
        log.write('{"round": 4, "att')  # where a disk was full, or a reader is quick
    assert read(tmp_path / "run") == rounds and count(tmp_path / "run") == 3
    cut(tmp_path / "run", 2)
    assert read(tmp_path / "run") == rounds[:2]
    cut(tmp_path / "nothing", 2)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("line", ["{}", "[]", '{"round": 1, "sites": {"a": {"status": "x"}}}', "{"])
def test_a_line_that_is_none_of_a_round_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / LOG).write_text(f"{line}\n")
    with pytest.raises((ValueError, KeyError, TypeError)):
        read(tmp_path)
