"""The aggregator as one service: the closed SuperLink and the rounds, each a process of its own.

A part that ends is started again, sooner the longer it had lived. Both keep what they need on
disk, so a restart loses no reply and no round.
"""

import ipaddress
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from common.errors import ConfigError, FederationError
from common.files import write_text
from common.identity import Registry
from common.identity.certificates import check_certificate, is_expired, split_address

SERVICE, CERTIFICATE = "service.json", "server.crt"
_log = logging.getLogger("hemofed.server")
_LOOK_SECONDS, _STOP_SECONDS = 0.3, 12.0
_FIRST_PAUSE, _LONGEST_PAUSE, _LONG_LIFE = 0.5, 30.0, 60.0

SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_OIDC_ENABLED": "0",
}
"""Flower's switches: it phones home and installs packages by default."""


@dataclass
class Part:
    """A supervised process."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    restarts: int = -1
    _started: float = 0.0
    _pause: float = field(default=_FIRST_PAUSE)
    _due: float = 0.0

    def look(self) -> None:
        """Start the process when it is not there and due."""
        if self.process is not None and self.process.poll() is None:
            return
        now = time.monotonic()
        if self.process is not None:
            lived, self.process = now - self._started, None
            self._pause = (
                _FIRST_PAUSE if lived > _LONG_LIFE else min(2 * self._pause, _LONGEST_PAUSE)
            )
            self._due = now + (self._pause if self.restarts else 0.0)
        if now < self._due:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  the command is ours
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.environment,
                start_new_session=True,
            )
        self._started, self.restarts = now, self.restarts + 1

    def stop(self, seconds: float) -> None:
        """End the process, by force after `seconds`."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Service:
    """Supervises the parts of a server home until halted."""

    def __init__(self, home: Path, listen: str | None = None) -> None:
        registry = Registry.load(home)
        for certificate in (home / "ca.crt", home / CERTIFICATE):
            if is_expired(certificate, now := datetime.now(UTC)):
                (fault,) = check_certificate(certificate, now)
                raise FederationError(f"{fault}; until then no site would connect")
        host, port = split_address(listen or _everywhere(registry.address))
        logs = home / "logs"
        logs.mkdir(exist_ok=True)
        environment = SETTINGS | {"FLWR_HOME": str(home / "state" / "flwr")}
        python = [sys.executable, "-m"]
        self._home = home
        self._told: dict[str, Any] = {}
        self._complained = False
        self._certificate = (home / CERTIFICATE).read_bytes()
        self._parts = [
            Part(name, [*python, module, str(home), *arguments], logs / f"{name}.log", environment)
            for name, module, arguments in (
                ("superlink", "server.superlink", [host, str(port)]),
                ("rounds", "server.runner", []),
            )
        ]
        self._check_alone()

    def run(self, halt: Event) -> None:
        """Keep the parts alive until `halt`; then stop the rounds first, and the listener last."""
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
        while not halt.wait(_LOOK_SECONDS):
            self._renew()
            for part in self._parts:
                part.look()
            self._tell()
        for part in reversed(self._parts):
            part.stop(_STOP_SECONDS)
        (self._home / SERVICE).unlink(missing_ok=True)

    def _renew(self) -> None:
        """Start the listener again when its certificate was renewed; the sites wait meanwhile."""
        certificate = (self._home / CERTIFICATE).read_bytes()
        if certificate != self._certificate:
            self._certificate = certificate
            self._parts[0].stop(_STOP_SECONDS)

    def _tell(self) -> None:
        """Keep the service file right; a full disk is complained of once, and tried again."""
        parts = {
            part.name: {"pid": part.process.pid, "restarts": part.restarts}
            for part in self._parts
            if part.process is not None
        }
        content = {"pid": os.getpid(), "parts": parts}
        if content == self._told:
            return
        try:
            write_text(self._home / SERVICE, json.dumps(content))
        except OSError as error:
            if not self._complained:
                _log.error("%s: cannot be written (%s); make room", self._home, error.strerror)
            self._complained = True
        else:
            self._told, self._complained = content, False

    def _check_alone(self) -> None:
        """End what a killed predecessor left; raise FederationError when it is alive."""
        told = read_service(self._home)
        if told is None:
            return
        if is_alive(told["pid"], "server"):
            raise FederationError(
                f"{self._home}: is served already by process {told['pid']}; stop that first"
            )
        for part in told["parts"].values():
            if is_alive(part["pid"], str(self._home)):
                os.kill(part["pid"], signal.SIGKILL)


def read_service(home: Path) -> dict[str, Any] | None:
    """What the running (or killed) service said of itself, or None. Raises ConfigError."""
    path = home / SERVICE
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON; remove it when no service runs") from error
    return content


def is_alive(pid: int, mention: str) -> bool:
    """Whether the process runs and its command line mentions `mention`: numbers are reused."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return mention.encode() in command


def _everywhere(address: str) -> str:
    """The address to listen on: loopback as it is, else all interfaces at that port."""
    host, port = split_address(address)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return f"127.0.0.1:{port}" if loopback else f"0.0.0.0:{port}"
