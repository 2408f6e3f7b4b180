"""From a fresh folder to a model by typed commands: those that `server init --demo` prints."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hemofed
from simulations.bench.processes import free_port

ROOT = Path(__file__).parents[2]
SECONDS = 600.0
"""Longer than any step takes on a busy machine."""


class Shell:
    """Types `hemofed ...` in the present folder; what goes on until it is stopped runs beside.

    The first command of a kind is a process; the others of that kind are run in this one, which has
    loaded by then what each process loads for seconds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._running: list[subprocess.Popen[bytes]] = []
        self._typed: set[str] = set()

    def types(self, command: str) -> str:
        """What the command prints, if it ends well."""
        code, said = self._run(command)
        assert code == 0, f"{command}: {said}\n{self.logs()}"
        return said

    def types_until(self, command: str, wanted: str) -> str:
        """Type the command again and again, until it ends well and prints what matches `wanted`."""
        end = time.monotonic() + SECONDS
        while True:
            code, said = self._run(command)
            if code == 0 and re.search(wanted, said):
                return said
            assert time.monotonic() < end, f"{command}: {said}\n{self.logs()}"
            time.sleep(0.5)

    def leaves_running(self, command: str) -> None:
        log = self._folder / f"{len(self._running)}.log"
        with log.open("wb") as file:
            self._running.append(
                subprocess.Popen(
                    self._words(command), env=self._environment, stdout=file, stderr=file
                )
            )

    def stops_all(self) -> None:
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            process.wait(60)

    def logs(self) -> str:
        files = [*self._folder.glob("*.log"), *self._folder.rglob("logs/*.log")]
        return "\n".join(f"== {file}\n{file.read_text()[-3000:]}" for file in files)

    def _run(self, command: str) -> tuple[int, str]:
        """The command's exit code, and what it printed."""
        kind = " ".join(command.split()[:2])
        if kind in self._typed:
            result = CliRunner().invoke(hemofed.app, command.split())
            return result.exit_code, f"{result.output}{result.exception or ''}"
        self._typed.add(kind)
        done = subprocess.run(
            self._words(command),
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout

    def _words(self, command: str) -> list[str]:
        return [sys.executable, "-m", "hemofed", *command.split()]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    one = Shell(tmp_path)
    yield one
    one.stops_all()


def test_the_printed_commands_lead_to_a_model(shell: Shell, tmp_path: Path) -> None:
    told = shell.types(f"server init demo --demo 3 --address 127.0.0.1:{free_port()}")
    commands = re.findall(r"^hemofed (.*)$", told, re.MULTILINE)
    for command in commands:
        verb = " ".join(command.split()[:2])
        if verb in ("server start", "site start"):
            shell.leaves_running(command)
        elif verb == "site check":
            shell.types_until(command, r"service +│ ok")
        elif verb == "site approve":
            shell.types_until(command.replace("approve", "studies").rsplit(" ", 1)[0], "not yet")
            yes = f"{command} --yes --by Dr.Grün --purpose trying"
            assert "epsilon 3 at delta 1e-05 for each patient" in shell.types(yes)
        elif verb == "server status":
            shell.types_until(command, r"│ (completed|failed) ")
            assert re.search(r"│ completed +│ 8/8 ", shell.types(command)), shell.logs()
        else:
            assert verb == "server run"
            shorten(tmp_path / "demo" / "study.yaml")
            assert "runs once 3 sites stand ready" in shell.types(command)
    assert len(commands) == 4 + 3 + 4 + 1
    (pattern,) = re.findall(r"^ls (.*)$", told, re.MULTILINE)
    (model,) = tmp_path.glob(pattern)
    assert model.stat().st_size > 5778 * 4
    check_logs(shell)


def shorten(study: Path) -> None:
    """Ask for 8 rounds in place of 30; epsilon stays what it is."""
    text = study.read_text()
    assert "rounds: 30" in text
    study.write_text(text.replace("rounds: 30", "rounds: 8"))


def check_logs(shell: Shell) -> None:
    """Both sides' audit logs, each held against the other's, and each lab's ledger."""
    for site in ("demo/site-1", "demo/site-2", "demo/site-3"):
        name, log = site.removeprefix("demo/"), f"{site}/audit.jsonl"
        key = f"--key {site}/identity/request.json"
        witness = f"--witness demo/server/audit.jsonl --peer {name}"
        assert "all in their order" in shell.types(f"audit verify {log} {key} {witness}")
        key = "--key demo/server/signing.pub"
        witness = f"--witness {log} --peer server"
        said = shell.types(f"audit verify demo/server/audit.jsonl {key} {witness}")
        assert "all in their order" in said
        said = shell.types(f"site ledger show {site}/site.yaml")
        assert re.search(r"spent: epsilon 2\.6", said)
