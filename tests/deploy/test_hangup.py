"""A terminal that is closed ends a server and a lab, and with each all that it started."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from client.home import SiteHome
from tests.deploy.federation import COMMAND, wait_until


@pytest.mark.parametrize("who", ["server", "site"])
def test_a_hangup_ends_all_that_was_started(
    homes: tuple[Path, SiteHome], who: str, tmp_path: Path
) -> None:
    server, site = homes
    home, expected = (server, 2) if who == "server" else (site.folder, 1)
    with (tmp_path / "said").open("wb") as said:
        one = subprocess.Popen(
            # Whatever the tests themselves were started by, like nohup.
            ["env", "--default-signal=HUP", sys.executable, "-m", COMMAND, who, "start", str(home)],
            stdout=said,
            stderr=said,
        )
    started: list[psutil.Process] = []
    try:
        process = psutil.Process(one.pid)
        wait_until(lambda: len(process.children()) == expected, "what it starts", 120.0)
        started = process.children()
        one.send_signal(signal.SIGHUP)
        assert one.wait(60) == 0, (tmp_path / "said").read_text()
        assert not any(child.is_running() for child in started)
    finally:
        for child in (one, *started):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        one.wait()
