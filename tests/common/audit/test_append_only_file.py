"""The file under an audit log: what a process knows of it, and when it is synced."""

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.audit import append_only_file
from common.audit.append_only_file import AuditFile
from common.audit.entry import BEGINNING, make_line, parse_line
from common.errors import FederationError


@pytest.fixture
def file(tmp_path: Path) -> Iterator[AuditFile]:
    one = AuditFile(tmp_path / "logs" / "audit.jsonl")
    yield one
    one.close()


def add(file: AuditFile, count: int = 1, event: str = "said", size: int = 0) -> None:
    """So many lines more, each with a lock of its own."""
    for _ in range(count):
        with file.locked() as held:
            facts = {"key": "k", "text": "x" * size}
            held.write(make_line(held.next, "", event, facts, held.head or BEGINNING))


def known(file: AuditFile) -> tuple[int, int, int, str]:
    """What a process knows once it has the lock."""
    with file.locked() as held:
        return held.size, held.next, held.unsigned, held.key


def test_a_file_that_is_new_is_its_owners_and_its_folder_is_synced(
    file: AuditFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(append_only_file, "sync", synced.append)
    assert known(file) == (0, 0, 0, "")
    assert synced == [file.path.parent]
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert file._handle is not None and not os.get_inheritable(file._handle)
    add(file)
    file.close()
    add(file)
    assert synced == [file.path.parent], "its name is there already"


def test_a_process_knows_each_line_that_it_or_another_wrote(file: AuditFile) -> None:
    other = AuditFile(file.path)
    add(file, 1, "begin")
    add(file, 2)
    add(other, 2)
    size = file.path.stat().st_size
    assert known(file) == known(other) == known(AuditFile(file.path)) == (size, 5, 5, "k")
    add(other, 1, "signature")
    add(other, 1)
    size = file.path.stat().st_size
    assert known(file) == known(AuditFile(file.path)) == (size, 7, 1, "k")
    other.close()


@pytest.mark.parametrize("size", [40, 1000, 17_000])
def test_of_a_long_file_the_last_lines_are_read(file: AuditFile, size: int) -> None:
    """The beginning of what is read is the middle of a line, most often."""
    add(file, 1, "begin")
    add(file, 1 + 150_000 // size, size=size)
    fresh = AuditFile(file.path)
    with fresh.locked() as held:
        assert (held.size, held.next, held.head) == (file.size, file.next, file.head)
        assert held.unsigned < file.next and held.key == ""
    add(fresh)
    assert known(file)[1] == fresh.next
    fresh.close()


def test_what_was_put_aside_is_followed_by_its_first_line(file: AuditFile) -> None:
    other = AuditFile(file.path)
    add(file, 1, "begin")
    add(file, 3)
    known(other)
    archive = file.path.with_name("audit-1.jsonl")
    with file.locked() as held:
        held.replace(archive, make_line(held.next, "", "continues", {"key": "n"}, held.head))
    assert archive.read_bytes().count(b"\n") == 4
    size = file.path.stat().st_size
    for one in (file, other, AuditFile(file.path)):
        assert known(one) == (size, 5, 1, "n")
    assert file.size == size
    add(file)
    lines = file.path.read_bytes().splitlines()
    assert [parse_line(line)["n"] for line in lines] == [4, 5]
    other.close()


def test_a_file_that_was_empty_and_is_another_begins_at_the_beginning(file: AuditFile) -> None:
    assert known(file) == (0, 0, 0, "")
    file.path.unlink()
    file.path.touch()
    add(file, 1, "begin")
    assert parse_line(file.path.read_bytes()[:-1])["n"] == 0


def test_half_a_line_is_cut_off_on_disk_and_counted(
    file: AuditFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(file, 1, "begin")
    sound = file.path.read_bytes()
    file.path.write_bytes(sound + b'{"half"')
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), fsync(handle)))
    fresh = AuditFile(file.path)
    with fresh.locked() as held:
        assert held.cut == 7 and held.size == len(sound) and synced == [held._handle]
    assert file.path.read_bytes() == sound
    fresh.close()


def test_a_file_that_lost_lines_is_written_to_no_more(file: AuditFile) -> None:
    add(file, 1, "begin")
    before = file.path.read_bytes()
    add(file)
    whole = file.path.read_bytes()
    file.path.write_bytes(before)
    with pytest.raises(FederationError, match="lacks lines that were in it a moment ago"):
        add(file)
    copy = file.path.with_name("copy")
    copy.write_bytes(before)
    copy.replace(file.path)
    for content in (before, whole):
        file.path.write_bytes(content)
        with pytest.raises(FederationError, match="lacks lines that were in it a moment ago"):
            add(file)
    assert file.path.read_bytes() == whole


def test_the_same_lines_in_another_file_are_gone_on_with(file: AuditFile) -> None:
    add(file, 1, "begin")
    add(file, 2)
    copy = file.path.with_name("copy")
    copy.write_bytes(file.path.read_bytes())
    copy.replace(file.path)
    add(file)
    assert known(file)[1:] == (4, 4, "k")


def test_what_cannot_be_written_leaves_the_file_as_it_was(
    file: AuditFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(file, 1, "begin")
    before, write = file.path.read_bytes(), os.write

    def full(handle: int, text: bytes) -> int:
        if len(text) > 10:
            return write(handle, text[:10])
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(FederationError, match=r"cannot be written \(No space left on device\)"):
            add(file)
    assert file.path.read_bytes() == before
    add(file)
    assert known(file)[1] == 2


def test_a_lock_is_let_go_and_a_closed_file_opens_again(file: AuditFile) -> None:
    opened = len(os.listdir("/proc/self/fd"))
    other = AuditFile(file.path)
    add(file, 1, "begin")
    with pytest.raises(ZeroDivisionError), file.locked():
        raise ZeroDivisionError
    add(other)
    file.close()
    file.close()
    add(file)
    other.close()
    file.close()
    assert len(os.listdir("/proc/self/fd")) == opened


def test_what_cannot_be_opened_or_put_aside_is_named(file: AuditFile) -> None:
    add(file, 1, "begin")
    with file.locked() as held:
        line = make_line(1, "", "continues", {}, held.head)
        with pytest.raises(FederationError, match=r"cannot be put aside as x \(No such file"):
            held.replace(file.path.parent / "none" / "x", line)
    assert known(file)[1] == 1
    file.close()
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(FederationError, match=r"the audit log cannot be opened \(Is a directory\)"):
        known(file)


def test_who_holds_it_holds_it_alone(file: AuditFile) -> None:
    add(file, 1, "begin")
    other = os.open(file.path, os.O_RDONLY)
    with file.locked(), pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_what_a_crash_left_under_the_archives_name_is_taken_away(file: AuditFile) -> None:
    add(file, 1, "begin")
    archive, before = file.path.with_name("x"), file.path.read_bytes()
    archive.write_text("half")
    with file.locked() as held:
        held.replace(archive, make_line(held.next, "", "continues", {}, held.head))
    assert archive.read_bytes() == before and known(file)[1] == 2


def test_a_damaged_line_stops_each_time(file: AuditFile) -> None:
    add(file, 1, "begin")
    with file.path.open("ab") as more:
        more.write(b"damaged\n")
    for one in (file, file, AuditFile(file.path)):
        with pytest.raises(FederationError, match="a line near its end is not JSON"):
            known(one)


def test_a_forked_process_opens_the_file_for_itself(
    file: AuditFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on what it inherited would be its parent's, and what it knows may be half of what a
    thread of the parent's was about to write."""
    add(file, 1, "begin")
    opened: list[Path] = []
    open_ = AuditFile._open

    def counted(one: AuditFile) -> int:
        opened.append(one.path)
        return open_(one)

    monkeypatch.setattr(AuditFile, "_open", counted)
    add(file)
    assert opened == []
    monkeypatch.setattr(os, "getpid", lambda: 1)
    file.next, file.head = 9, "half"
    add(file, 2)
    assert opened == [file.path] and known(file)[1] == 4
