import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.files import replacing, write_text

LOOP = """
import sys
from pathlib import Path
from common.files import write_text
path = Path(sys.argv[1])
print("go", flush=True)
while True:
    for letter in "ab":
        write_text(path, letter * 200_000)
"""


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_killed_writer_leaves_one_whole_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for pause in range(6):
        command = [sys.executable, "-c", LOOP, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            writer.stdout.readline()
            for _ in range(5 + 7 * pause):
                os.stat(tmp_path)
            while not path.exists():
                pass
            writer.send_signal(signal.SIGKILL)
        assert path.read_text() in ("a" * 200_000, "b" * 200_000)
