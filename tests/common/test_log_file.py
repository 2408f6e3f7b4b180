"""A log is put aside while a process appends to it, and read on over that."""

import subprocess
import sys
from pathlib import Path

from common.log_file import Follower, keep_short


def test_a_process_that_appends_goes_on_in_the_fresh_file(tmp_path: Path) -> None:
    path = tmp_path / "part.log"
    code = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=log, text=True
        )
    assert process.stdin is not None
    followed, seen = Follower(path), list[str]()
    for number in range(50):
        process.stdin.write(f"line {number}\n")
        process.stdin.flush()
        while len(seen) <= number:
            seen += followed.fresh()
        keep_short(path, most=100)
        assert path.stat().st_size <= 120
    process.stdin.close()
    process.wait()
    assert seen == [f"line {number}" for number in range(50)]
    assert (tmp_path / "part.log.1").read_text().startswith("line ")


def test_a_short_log_stays_as_it_is_and_a_missing_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    keep_short(path)
    path.write_text("one\n")
    keep_short(path, most=4)
    assert [file.name for file in tmp_path.iterdir()] == ["a.log"]
    assert path.read_text() == "one\n"


def test_a_line_is_read_when_all_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\ntwo\nthr")
    followed = Follower(path)
    assert followed.last(1) == ["two"] and followed.fresh() == []
    with path.open("a") as log:
        log.write("ee\n")
    assert followed.fresh() == ["three"]
    path.write_text("")
    with path.open("a") as log:
        log.write("four\n")
    assert followed.fresh() == ["four"]
