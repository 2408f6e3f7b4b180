"""Starts the processes of a benchmark, each with a log, and ends them with the benchmark."""

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

SERVER = "server"
"""The name that every contestant gives its server's process."""
_STOP_SECONDS = 20.0


class Processes:
    """Starts processes; at the end of its `with` block it ends them and what they started."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """Start a process; `environment` is added to the environment of this one."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603  the command is ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
            )

    def check(self) -> None:
        """Raise RuntimeError, with the end of its log, if a process has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                log = (self._logs / f"{name}.log").read_text("utf-8", "replace")
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{log[-3000:]}")

    def processor_seconds(self, *names: str) -> float:
        """Return the processor time so far of these processes, or of all if none is named.

        The time of the processes that they started is included, even of those that have ended.
        """
        total = 0.0
        for process in self._family(*names):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def _family(self, *names: str) -> list[psutil.Process]:
        """Return these processes (all if none is named) and the running ones that they started."""
        family = []
        for process in (self._running[name] for name in names or self._running):
            with suppress(psutil.NoSuchProcess):
                top = psutil.Process(process.pid)
                family += [top, *top.children(recursive=True)]
        return family

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        family = self._family()
        # In reverse order of their start: first the sites, so that they can sign off at the server.
        for process in reversed(self._running.values()):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._running.values()):
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        for process in self._running.values():
            process.wait()


def free_port() -> int:
    """Return a TCP port of this machine that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
