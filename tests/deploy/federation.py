"""A small federation of real processes on loopback, and the simulation of the same study."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.approvals import SignedApprovals
from client.home import SiteHome
from client.site import open_site
from common.config import Study, load
from common.identity.site_home import join, make_site
from server.provisioning import admit, make_kit, make_server
from server.studies import Stored, propose
from simulations.config import Simulation
from simulations.run import federate
from tests.simulations.small import Silent, simulation

DEADLINE = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds:g} s not yet: {what}"
        time.sleep(0.05)


class Federation:
    """A server's home and its sites' homes, made from a finished simulation's."""

    def __init__(self, folder: Path, config: Simulation | None = None) -> None:
        config = config or simulation(
            study={
                "round": {"min_sites": 3, "deadline_seconds": 60},
                "transport": {"up": "float16"},
            }
        )
        self.simulated = folder / "simulated"
        federate(config, self.simulated, Silent())
        self.study = load(Study, self.simulated / "study.yaml")
        self.server = folder / "server"
        self.address = f"127.0.0.1:{free_port()}"
        make_server(self.server, self.address, datetime.now(UTC))
        self.sites = {name: SiteHome(folder / name) for name in sorted(self.study.cohort)}
        for name, home in self.sites.items():
            shutil.copytree(self.simulated / "sites" / name, home.folder)
            self._join(name, home)
        for name, home in self.sites.items():
            kit = make_kit(self.server, name)
            join(home.folder, kit, kit.fingerprint)
            self.approve(home, self.study)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def _join(self, name: str, home: SiteHome) -> None:
        now = datetime.now(UTC)
        admit(self.server, make_site(home.folder, name, now), now)

    def approve(self, home: SiteHome, study: Study) -> None:
        SignedApprovals(home).approve(open_site(home.site_file), study)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """`server`, or a site."""
        if name == "server":
            command = ["server", "start", str(self.server)]
        else:
            command = ["site", "start", str(self.sites[name].folder)]
        return self._start(name, ["tests.deploy.command", *command])

    def start_part(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A part of the server alone, without the service around it."""
        return self._start(module, [module, str(self.server), *arguments])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.server / f"test-{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        return self.processes[name]

    def run(self, study: Study | None = None) -> Stored:
        stored = propose(self.server, study or self.study)
        stored.want("run")
        return stored

    def logs(self) -> str:
        files = [*self.server.glob("*.log"), *self.server.glob("logs/*.log")]
        for home in self.sites.values():
            files += [home.runner_log, home.folder / "site.log"]
        texts = [(file, file.read_text()) for file in files if file.exists()]
        return "\n".join(f"== {file}\n{text[-3000:]}" for file, text in texts)

    def wait_for(self, stored: Stored, state: str, seconds: float = DEADLINE) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while (said := stored.said())["state"] != state:
            assert time.monotonic() < end, f"{said}\n{self.logs()}"
            assert said["state"] not in ("failed", "completed"), f"{said}\n{self.logs()}"
            time.sleep(0.05)
        return said

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for name, process in self.processes.items():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"{name} did not stop in 15 s\n{self.logs()}") from None


@contextmanager
def running(folder: Path, config: Simulation | None = None) -> Iterator[Federation]:
    """The federation with its server and all its sites started."""
    federation = Federation(folder, config)
    try:
        federation.start("server")
        for name in federation.sites:
            federation.start(name)
        yield federation
    finally:
        federation.close()
