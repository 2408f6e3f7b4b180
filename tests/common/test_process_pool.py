"""Processes that share out work keep to themselves, and do not outlive who started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.process_pool import process_pool
from tests.deploy.federation import wait_until

SCRIPT = """
import os, signal
from common.process_pool import process_pool
if __name__ == "__main__":
    with process_pool(2) as pool:
        for future in [pool.submit(os.getpid) for _ in range(8)]:
            future.result()
        print(*pool._processes, flush=True)
        signal.pause()
"""


def there(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "zombie" not in status.read_text()


def test_they_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    children = {int(pid) for pid in parent.stdout.readline().split()}
    assert children and all(map(there, children))
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(there, children)), "the children end")
    parent.stdout.close()


def limits(_: int) -> tuple[int, object]:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask, signal.getsignal(signal.SIGINT)


def test_their_files_are_their_users_alone_and_ctrl_c_is_the_parents() -> None:
    with process_pool(1) as pool:
        (found,) = pool.map(limits, [0])
    assert found == (0o077, signal.SIG_IGN)


def test_an_error_in_one_is_raised_and_the_rest_is_dropped() -> None:
    with pytest.raises(ZeroDivisionError), process_pool(2) as pool:
        list(pool.map(divmod, [1] * 1000, [0] * 1000))
