"""A small federation of real processes on loopback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from client.home import SiteHome
from client.membership.enrolment import join, make_site
from common.config.loading import load
from common.config.study import Study
from common.identity.keys import new_passphrase
from common.wire.reasons import Reason
from server.membership.provisioning import admit, make_kit, make_server
from server.studies.store import Stored, propose
from simulations.bench.processes import free_port
from simulations.config import Simulation
from simulations.demo.own_cells import make_own
from simulations.run import federate, prepare
from tests.client.lab import approve
from tests.simulations.small import Silent, numbers, simulation

DEADLINE = 900.0
COMMAND = "tests.deploy.command"
WHOLE = {"min_sites": 3, "deadline_seconds": 60}
"""Rounds that need every site."""


def records(stored: Stored) -> list[dict[str, Any]]:
    """The rounds that are over."""
    log = stored.out / "rounds.jsonl"
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def has_begun(stored: Stored, number: int) -> bool:
    """Whether the round is under way, or over."""
    path = stored.out / "checkpoints" / "started.json"
    return path.exists() and json.loads(path.read_text())["round"] >= number


def all_refuse(stored: Stored) -> bool:
    """Whether all sites answer that they take no part, by a reason of the list."""
    reasons = stored.said().get("reasons", {})
    said = {Reason.read(reason) for reason in reasons.values()}
    return set(reasons) == set(stored.study().cohort) and said <= {
        Reason.NOT_APPROVED,
        Reason.OTHER_VERSION,
    }


def typed(group: object, *arguments: str) -> str:
    """What a command of a group prints, if it ends well."""
    result = CliRunner().invoke(group, arguments)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


def wait_until(
    true: Callable[[], bool], what: str, seconds: float = DEADLINE, pause: float = 0.02
) -> None:
    """pause: seconds between two looks; longer where a look itself takes the machine's time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds:g} s not yet: {what}"
        time.sleep(pause)


class Federation:
    """A server's home and its sites' homes, made from a simulation's."""

    def __init__(self, folder: Path, config: Simulation | None = None) -> None:
        whole = {"round": WHOLE, "transport": {"up": "float16"}}
        self._config = config or simulation(study=whole)
        self._folder = folder
        prepare(self._config, folder / "prepared", Silent())
        self.study = load(Study, folder / "prepared" / "study.yaml")
        self.server = folder / "server"
        self.address = f"127.0.0.1:{free_port()}"
        make_server(self.server, self.address, datetime.now(UTC), new_passphrase(ask=False))
        self.sites = {name: SiteHome(folder / name) for name in sorted(self.study.cohort)}
        for name, home in self.sites.items():
            shutil.copytree(folder / "prepared" / "sites" / name, home.folder)
            make_own(home.site_file)
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
        approve(home, study)

    def simulate(self, stored: Stored) -> bytes:
        """The bits of the model that a simulation of the study ends with."""
        study = stored.study().model_copy(update={"cohort": {}})
        out = self._folder / f"simulated-{study.name}"
        federate(self._config.model_copy(update={"study": study}), out, Silent())
        return numbers(out)

    def start(self, name: str, command: str = COMMAND) -> subprocess.Popen[bytes]:
        """`server`, or a site; `command` is the module that stands for `hemofed`."""
        if name == "server":
            arguments = ["server", "start", str(self.server)]
        else:
            arguments = ["site", "start", str(self.sites[name].folder)]
        return self._start(name, [command, *arguments])

    def start_part(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """A part of the server alone, without the service around it."""
        return self._start(module, [module, str(self.server), *arguments])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        return self.processes[name]

    def log(self, name: str) -> Path:
        """What a process that was started here printed."""
        return self.server.parent / f"{name}.log"

    def run(self, study: Study | None = None) -> Stored:
        stored = propose(self.server, study or self.study)
        stored.want("run")
        return stored

    def another(self, name: str, **changes: object) -> Stored:
        """Another study than the federation's, by its name, approved and under way."""
        study = self.study.model_copy(update={"name": name} | changes)
        for home in self.sites.values():
            self.approve(home, study)
        return self.run(study)

    def pids(self, name: str) -> dict[str, int]:
        """The processes of `server` (service, superlink, rounds) or a site (node, runner)."""
        if name == "server":
            told = json.loads((self.server / "service.json").read_text())
            parts = {part: content["pid"] for part, content in told["parts"].items()}
            return {"service": told["pid"]} | parts
        told = json.loads(self.sites[name].status.read_text())
        return {"node": told["pid"], "runner": told["runner"]}

    def kill(self, name: str) -> None:
        """Kill all processes of `server` or a site at once."""
        for pid in self.pids(name).values():
            os.kill(pid, signal.SIGKILL)
        self.processes[name].wait()

    def audit(self, name: str, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of the audit log of `server` or a site: all, or those of an event."""
        folder = self.server if name == "server" else self.sites[name].folder
        lines = [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def logs(self) -> str:
        files = [*self.server.parent.glob("*.log"), *self.server.glob("logs/*.log")]
        for home in self.sites.values():
            files += [home.runner_log, home.folder / "site.log"]
        texts = [(file, file.read_text()) for file in files if file.exists()]
        return "\n".join(f"== {file}\n{text[-3000:]}" for file, text in texts)

    def resume_if_short_of_sites(self, stored: Stored) -> None:
        """What the operator does when a round had no quorum: a site that dies with a message in its
        hands may miss it, and the round is then asked again on the operator's word."""
        said = stored.said()
        if said["state"] == "failed":
            assert "min_sites" in json.dumps(said) or "connected" in json.dumps(said), said
            stored.want("run")

    def wait_in(self, stored: Stored, true: Callable[[], bool], what: str) -> None:
        """Wait for what comes true while the study runs, however often it is resumed."""

        def there() -> bool:
            self.resume_if_short_of_sites(stored)
            return true()

        try:
            wait_until(there, what)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{stored.said()}\n{self.logs()}") from None

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
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"{name} did not stop in 60 s\n{self.logs()}") from None


@contextmanager
def running(
    folder: Path,
    config: Simulation | None = None,
    command: str = COMMAND,
    rounds: str | None = None,
) -> Iterator[Federation]:
    """The federation with its server and all its sites, by `command`, started.

    rounds: a module that stands for the server's rounds; listener and rounds run without the
    service around them then.
    """
    federation = Federation(folder, config)
    try:
        if rounds is None:
            federation.start("server")
        else:
            federation.start_part("server.fleet_api.superlink", *federation.address.split(":"))
            federation.start_part(rounds)
        for name in federation.sites:
            federation.start(name, command)
        yield federation
    finally:
        federation.close()
