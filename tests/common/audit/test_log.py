"""The audit log: no byte changes unseen, no crash or full disk breaks it, no patient is in it."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.audit.entry import BEGINNING, SIGN_EVERY, make_line
from common.audit.log import AuditLog, Witnessed, verify
from common.errors import FederationError, PrivacyError
from common.identity.keys import make_signing_key, signing_public_pem, write_private

KEY = make_signing_key()
PUBLIC = signing_public_pem(KEY)
ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture(scope="module")
def sound() -> Iterator[bytes]:
    """A log of 23 lines, two of them signatures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        with AuditLog.open(path, KEY) as log:
            for number in range(20):
                log.append("round_done", round=number, norm=0.5 * number, study="a" * 64)
        yield path.read_bytes()


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_follow_each_other_and_are_signed_at_intervals(path: Path) -> None:
    with AuditLog.open(path, KEY) as log:
        heads = [log.append("round_done", round=number) for number in range(2 * SIGN_EVERY)]
        assert log.head not in heads[:-1]
    lines = rows(path)
    assert [line["n"] for line in lines] == list(range(len(lines)))
    assert [line["previous"] for line in lines] == [BEGINNING, *(line["hash"] for line in lines)][
        :-1
    ]
    assert [line["n"] for line in lines if line["event"] == "signature"] == [16, 33, 35]
    assert verify(path, PUBLIC) is None
    for head in heads:
        assert verify(path, PUBLIC, [Witnessed(head)]) is None


def test_opening_and_closing_adds_nothing(path: Path) -> None:
    for _ in range(3):
        with AuditLog.open(path, KEY):
            pass
    assert [line["event"] for line in rows(path)] == ["begin", "signature"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_changed_byte_is_found_in_its_line_or_the_next(
    data: st.DataObject, sound: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    position = data.draw(st.integers(0, len(sound) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != sound[position]))
    path = tmp_path_factory.getbasetemp() / "changed.jsonl"
    path.write_bytes(sound[:position] + bytes([other]) + sound[position + 1 :])
    fault = verify(path, PUBLIC)
    line = sound.count(b"\n", 0, position) + 1
    assert fault is not None and fault.line in (line, line + 1), (fault, line)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_lines_removed_repeated_or_exchanged_are_found(
    data: st.DataObject, sound: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = sound.splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 2))
    how = data.draw(st.sampled_from(["remove", "repeat", "exchange"]))
    middle = {
        "remove": [lines[at + 1]],
        "repeat": [lines[at], lines[at], lines[at + 1]],
        "exchange": [lines[at + 1], lines[at]],
    }[how]
    path = tmp_path_factory.getbasetemp() / "moved.jsonl"
    path.write_bytes(b"".join([*lines[:at], *middle, *lines[at + 2 :]]))
    fault = verify(path, PUBLIC)
    assert fault is not None and fault.line in (at + 1, at + 2)


def rewritten(sound: bytes, change: Callable[[int, dict[str, object]], bool]) -> bytes:
    """The log as one without the key would rewrite it: hashes right, lines left out or altered."""
    head = BEGINNING
    kept: list[bytes] = []
    for line in sound.splitlines():
        fields = json.loads(line)
        if change(len(kept), fields):
            made = make_line(len(kept), fields["time"], fields["event"], fields["facts"], head)
            head = json.loads(made)["hash"]
            kept.append(made + b"\n")
    return b"".join(kept)


def test_a_rewritten_chain_is_found_at_the_next_signature(path: Path, sound: bytes) -> None:
    def lie(number: int, fields: dict[str, object]) -> bool:
        if number == 4:
            fields["facts"] = {"round": 999}
        return True

    assert rewritten(sound, lambda _, __: True) == sound
    path.write_bytes(rewritten(sound, lie))
    fault = verify(path, PUBLIC)
    assert fault and fault.line == 17 and "rewritten" in fault.why


def test_a_chain_without_its_signatures_is_found(path: Path) -> None:
    with AuditLog.open(path, KEY) as log:
        for number in range(5 * SIGN_EVERY):
            log.append("round_done", round=number)
    bare = rewritten(path.read_bytes(), lambda _, fields: fields["event"] != "signature")
    path.write_bytes(bare)
    fault = verify(path, PUBLIC)
    assert fault and "without a signature" in fault.why


def test_another_spelling_and_a_gap_in_the_numbers_are_found(path: Path, sound: bytes) -> None:
    path.write_bytes(sound.replace(b'"n":5,', b'"n": 5,'))
    fault = verify(path, PUBLIC)
    assert fault and fault.line == 6 and "spelt" in fault.why
    begin = sound.splitlines()[0]
    line = make_line(2, "", "round_done", {}, json.loads(begin)["hash"])
    path.write_bytes(begin + b"\n" + line + b"\n")
    fault = verify(path, PUBLIC)
    assert fault and fault.line == 2 and "missing" in fault.why


def test_every_line_is_synced_before_append_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with AuditLog.open(path, KEY) as log:
        monkeypatch.setattr("os.fsync", lambda handle: synced.append(os.fstat(handle).st_size))
        for number in range(3):
            log.append("round_done", round=number)
            assert synced[-1] == path.stat().st_size and len(synced) == number + 1
        monkeypatch.undo()


def test_another_keys_log_is_not_ours(path: Path) -> None:
    other = make_signing_key()
    with AuditLog.open(path, other) as log:
        log.append("round_done", round=1)
    fault = verify(path, PUBLIC)
    assert fault and "neither began nor signed" in fault.why
    with pytest.raises(FederationError, match="is signed by the key"):
        AuditLog.open(path, KEY)
    assert verify(path, signing_public_pem(other)) is None


def test_removed_last_lines_are_found_by_a_head_that_was_noted(path: Path) -> None:
    with AuditLog.open(path, KEY) as log:
        log.append("round_done", round=1)
        head = log.append("round_done", round=2)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    assert verify(path, PUBLIC) is None
    assert "rewritten or removed" in str(verify(path, PUBLIC, [Witnessed(head)]))


def test_a_fork_takes_a_lock_of_its_own(path: Path) -> None:
    log = AuditLog.open(path, KEY)
    log.append("round_done", round=0)
    child = os.fork()
    for number in range(40):
        log.append("round_done", round=number, writer=int(child == 0))
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    log.close()
    assert verify(path, PUBLIC) is None
    assert sum(row["event"] == "round_done" for row in rows(path)) == 81


def test_rotation_keeps_the_chain(path: Path) -> None:
    with AuditLog.open(path, KEY, rotate_bytes=2000) as log:
        heads = [log.append("round_done", round=number) for number in range(30)]
    files = sorted(path.parent.iterdir())
    assert len(files) > 3 and all(file.stat().st_size < 3500 for file in files)
    assert verify(path, PUBLIC, [Witnessed(heads[0])]) is None
    first = files[0]
    first.write_bytes(first.read_bytes().replace(b'"round":1}', b'"round":7}'))
    fault = verify(path, PUBLIC)
    assert fault and fault.path == first and fault.line == 3
    first.unlink()
    assert verify(path, PUBLIC) is None
    fault = verify(path, PUBLIC, [Witnessed(heads[0])])
    assert fault and "rewritten or removed" in fault.why


def test_an_exchanged_archive_is_found(path: Path) -> None:
    with AuditLog.open(path, KEY) as log:
        log.append("round_done", round=1)
        archive = log.rotate()
        log.append("round_done", round=2)
    kept = archive.read_bytes()
    with AuditLog.open(path.with_name("other.jsonl"), KEY) as log:
        log.append("round_done", round=1)
    archive.write_bytes(path.with_name("other.jsonl").read_bytes())
    fault = verify(path, PUBLIC)
    assert fault and fault.path == path and fault.line == 1
    archive.write_bytes(kept)
    assert verify(path, PUBLIC) is None


def test_a_new_key_is_introduced_by_the_old_one(path: Path) -> None:
    following = make_signing_key()
    with AuditLog.open(path, KEY) as log:
        log.append("round_done", round=1)
        log.change_key(following)
        log.append("round_done", round=2)
    for key in (KEY, following):
        assert verify(path, signing_public_pem(key)) is None
    with AuditLog.open(path, following) as log:
        log.rotate()
        log.append("round_done", round=3)
    assert verify(path, PUBLIC) is None
    stranger = signing_public_pem(make_signing_key())
    old = path.with_name(str(rows(path)[0]["facts"]["file"]))  # type: ignore[index]
    forged = rewritten(
        old.read_bytes(),
        lambda _, fields: (
            fields["event"] != "signing_key" or not fields.update(facts={"key": stranger})
        ),
    )
    old.write_bytes(forged)
    fault = verify(old, PUBLIC)
    assert fault and fault.line == 3


def test_who_still_has_the_old_key_is_told_to_restart(path: Path) -> None:
    running = AuditLog.open(path, KEY)
    running.append("round_done", round=1)
    with AuditLog.open(path, KEY) as log:
        log.change_key(following := make_signing_key())
    with pytest.raises(FederationError, match="restart what still has the old one"):
        running.append("round_done", round=2)
    assert verify(path, signing_public_pem(following)) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"cell": "Patient Mueller 0012.TIF"},
        {"cell": "/data/aml/x.png"},
        {"text": "could not read a.jpeg (truncated)"},
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"text": "x" * 2001},
        {"cells": ["a"]},
        {"cells": None},
        {f"fact{number}": "x" * 2000 for number in range(9)},
    ],
)
def test_what_has_no_place_in_a_log_is_refused(path: Path, facts: dict[str, object]) -> None:
    with AuditLog.open(path, KEY) as log:
        before = log.head
        with pytest.raises(PrivacyError, match="audit event error") as caught:
            log.append("error", **facts)  # type: ignore[arg-type]
        assert log.head == before
    assert "Mueller" not in str(caught.value)


def test_words_that_only_resemble_image_names_are_logged(path: Path) -> None:
    with AuditLog.open(path, KEY) as log:
        log.append("refused", reason="policy.yaml: max_rounds is 3", study="png-study", share=0.25)
        with pytest.raises(PrivacyError, match="expected a word"):
            log.append("Not A Word")
        for own in ("begin", "signature", "continues", "signing_key"):
            with pytest.raises(ValueError, match="log's own"):
                log.append(own)
    assert verify(path, PUBLIC) is None


WRITER = """
import sys
from pathlib import Path
from common.audit.log import AuditLog
from common.identity.keys import load_signing_key
folder, writer, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
log = AuditLog.open(folder / "audit.jsonl", load_signing_key(folder / "key"), rotate_bytes=20_000)
print("ready", flush=True)
for number in range(count):
    log.append("round_done", writer=writer, round=number)
    print(number, flush=True)
log.close()
"""


def start(folder: Path, writer: int, count: int) -> subprocess.Popen[str]:
    write_private(folder / "key", KEY)
    words = [sys.executable, "-c", WRITER, str(folder), str(writer), str(count)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def all_rows(folder: Path) -> list[dict[str, object]]:
    return [row for file in sorted(folder.glob("audit*.jsonl")) for row in rows(file)]


def test_two_processes_and_threads_write_at_once(tmp_path: Path) -> None:
    with start(tmp_path, 1, 60) as one, start(tmp_path, 2, 60) as two:
        log = AuditLog.open(tmp_path / "audit.jsonl", KEY, rotate_bytes=20_000)

        def write(writer: int) -> None:
            for number in range(30):
                log.append("round_done", writer=writer, round=number)

        threads = [threading.Thread(target=write, args=(writer,)) for writer in (3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert one.stdout and two.stdout
        one.stdout.read(), two.stdout.read()
    log.close()
    assert (one.returncode, two.returncode) == (0, 0)
    assert verify(tmp_path / "audit.jsonl", PUBLIC) is None
    found = [row["facts"] for row in all_rows(tmp_path) if row["event"] == "round_done"]
    for writer, count in ((1, 60), (2, 60), (3, 30), (4, 30)):
        mine = [facts["round"] for facts in found if facts["writer"] == writer]  # type: ignore[index]
        assert mine == list(range(count))


def test_no_acknowledged_line_is_lost_to_kill_9(tmp_path: Path) -> None:
    told = -1
    with start(tmp_path, 1, 10_000) as process:
        assert process.stdout
        for line in process.stdout:
            if line.strip() == "40":
                process.send_signal(signal.SIGKILL)
            if line.strip().isdigit():
                told = int(line)
    with AuditLog.open(tmp_path / "audit.jsonl", KEY) as log:
        log.append("restarted")
    assert verify(tmp_path / "audit.jsonl", PUBLIC) is None
    found = [row["facts"] for row in all_rows(tmp_path) if row["event"] == "round_done"]
    rounds = [facts["round"] for facts in found]  # type: ignore[index]
    assert told >= 40 and rounds == list(range(len(rounds))) and len(rounds) > told


@pytest.mark.parametrize("keep", [1, 50, -1])
def test_a_half_line_is_removed_and_said(path: Path, sound: bytes, keep: int) -> None:
    lines = sound.splitlines(keepends=True)
    half = lines[7][:keep]
    path.write_bytes(b"".join(lines[:7]) + half)
    fault = verify(path, PUBLIC)
    assert fault and fault.line == 8
    with AuditLog.open(path, KEY) as log:
        log.append("restarted")
    assert verify(path, PUBLIC) is None
    assert [row["event"] for row in rows(path)[7:]] == [
        "half_line_removed",
        "restarted",
        "signature",
    ]
    assert rows(path)[7]["facts"] == {"bytes": len(half)}


def test_a_crash_before_the_first_line_was_whole(path: Path, sound: bytes) -> None:
    path.write_bytes(sound[:40])
    with AuditLog.open(path, KEY) as log:
        log.append("restarted")
    assert [row["event"] for row in rows(path)][:3] == ["begin", "half_line_removed", "restarted"]
    assert verify(path, PUBLIC) is None


def put_back(path: Path, before: bytes) -> None:
    path.write_bytes(before)


def put_in_its_place(path: Path, before: bytes) -> None:
    path.with_name("copy").write_bytes(before)
    path.with_name("copy").replace(path)


def put_longer_in_its_place(path: Path, before: bytes) -> None:
    path.rename(path.with_name("kept"))
    with AuditLog.open(path, KEY) as other:
        for number in range(40):
            other.append("round_done", round=number)


def remove(path: Path, before: bytes) -> None:
    path.unlink()


@pytest.mark.parametrize("roll", [put_back, put_in_its_place, put_longer_in_its_place, remove])
def test_an_open_log_notices_that_an_older_copy_was_put_back(
    path: Path, roll: Callable[[Path, bytes], None]
) -> None:
    log = AuditLog.open(path, KEY)
    log.append("round_done", round=1)
    before = path.read_bytes()
    log.append("approval_withdrawn", study="a")
    roll(path, before)
    for _ in range(2):
        with pytest.raises(FederationError, match="lacks lines that were in it a moment ago"):
            log.append("round_done", round=2)


def test_a_crash_in_a_rotation_goes_on_in_the_same_file(path: Path) -> None:
    with AuditLog.open(path, KEY) as log:
        log.append("round_done", round=1)
    os.link(path, path.with_name(f"audit-{len(rows(path)):09d}.jsonl"))
    with AuditLog.open(path, KEY) as log:
        log.append("round_done", round=2)
        log.rotate()
        log.append("round_done", round=3)
    assert verify(path, PUBLIC) is None
    done = [row["facts"] for row in rows(path) if row["event"] == "round_done"]
    assert done == [{"round": 3}]


def test_a_damaged_end_stops_the_log(path: Path, sound: bytes) -> None:
    path.write_bytes(sound[:-40] + b"x" + sound[-39:])
    with pytest.raises(FederationError, match=r"audit.jsonl: a line near its end .*move the file"):
        AuditLog.open(path, KEY)


def test_a_full_disk_loses_nothing(path: Path) -> None:
    log = AuditLog.open(path, KEY)
    log.append("round_done", round=1)
    before, head = path.read_bytes(), log.head
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, old[1]))
        with pytest.raises(FederationError, match="cannot be written .File too large"):
            log.append("round_done", round=2)
        assert path.read_bytes() == before and log.head == head
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    log.append("round_done", round=2)
    log.close()
    assert verify(path, PUBLIC) is None and len(rows(path)) == 4


def test_what_is_no_log_is_named(path: Path) -> None:
    with pytest.raises(FederationError, match="cannot be read"):
        verify(path, PUBLIC)
    path.write_bytes(b"")
    fault = verify(path, PUBLIC)
    assert fault and fault.line == 1
    for text in (b"[]\n", b"{}\n", b"null\n", b"[" * 100_000 + b"\n", b'{"n":NaN}\n', b"\xff\n"):
        path.write_bytes(text)
        fault = verify(path, PUBLIC)
        assert fault and fault.line == 1
    with pytest.raises(FederationError, match="PEM"):
        verify(path, "no key")
