"""The server as one service: the closed SuperLink and the rounds, each in its own process.

Both keep what they need on disk, so that a restart of either loses no reply and no round.
"""

import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from common.errors import ConfigError, FederationError
from common.files import make_folder, write_text
from common.identity import Registry
from common.identity.addresses import join_address, listening_host, split_address
from common.identity.certificates import check_certificate, is_expired
from common.process_hardening import python
from common.untrusted_text import log_plainly
from server.home import ServerHome
from server.service.preflight import check_home, check_keys, check_port
from server.service.supervised_process import Part

LISTENER, ROUNDS = "superlink", "rounds"
"""The names of the parts."""
_log = logging.getLogger("hemofed.server")
_LOOK_SECONDS, _STOP_SECONDS = 0.3, 12.0

SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_OIDC_ENABLED": "0",
}
"""Flower's settings; by default it sends telemetry and installs packages."""


class Service:
    """Supervises the parts of a server home until it is told to halt.

    Raises:
        ConfigError, FederationError: the home, its keys or dates are not sound, it is served
            already, or the port is taken. No part is started.
    """

    def __init__(self, home: Path, listen: str | None = None) -> None:
        registry = Registry.load(home)
        check_home(home)
        check_keys(home)
        for certificate in (ServerHome(home).authority, ServerHome(home).certificate):
            if is_expired(certificate, now := datetime.now(UTC)):
                (fault,) = check_certificate(certificate, now)
                raise FederationError(f"{fault}; until then no site would connect")
        host, port = split_address(listen or registry.address)
        if listen is None:
            host = listening_host(host)
        self._address = host, port
        logs = ServerHome(home).logs
        make_folder(logs)
        environment = SETTINGS | {"FLWR_HOME": str(ServerHome(home).state / "flwr")}
        self._home = home
        self._members = len(registry.active())
        self._told: dict[str, Any] = {}
        self._complained = False
        self._certificate = ServerHome(home).certificate.read_bytes()
        self._parts = [
            Part(
                name, python("-m", module, str(home), *arguments), logs / f"{name}.log", environment
            )
            for name, module, arguments in (
                (LISTENER, "server.fleet_api.superlink", [host, str(port)]),
                (ROUNDS, "server.studies.runner", []),
            )
        ]
        self._check_alone()
        check_port(host, port)

    def run(self, halt: Event, say: Callable[[str], None]) -> None:
        """Keep the parts alive until `halt` is set; then stop the rounds, and the listener last.

        say: called with one line as soon as the sites can connect.
        """
        log_plainly()
        said = False
        while not halt.wait(_LOOK_SECONDS):
            self._renew()
            for part in self._parts:
                part.look()
            self._tell()
            if not said and (said := self._listens()):
                say(self._words())
        for part in reversed(self._parts):
            part.stop(_STOP_SECONDS)
        ServerHome(self._home).service.unlink(missing_ok=True)

    def _listens(self) -> bool:
        """Return whether the parts run and a site could connect."""
        if not all(part.runs() for part in self._parts):
            return False
        with suppress(OSError), socket.create_connection(self._address, timeout=1.0):
            return True
        return False

    def _words(self) -> str:
        return (
            f"{self._home}: serves {self._members} member sites at {join_address(*self._address)}; "
            f"Ctrl-C or `kill {os.getpid()}` stops it"
        )

    def _renew(self) -> None:
        """Restart the listener if its certificate was renewed; the sites wait meanwhile."""
        certificate = ServerHome(self._home).certificate.read_bytes()
        if certificate != self._certificate:
            self._certificate = certificate
            self._parts[0].stop(_STOP_SECONDS)

    def _tell(self) -> None:
        """Keep the service file up to date; a full disk is reported once, and tried again."""
        parts = {
            part.name: {"pid": part.process.pid, "restarts": part.restarts}
            for part in self._parts
            if part.process is not None
        }
        content = {"pid": os.getpid(), "parts": parts}
        if content == self._told:
            return
        try:
            write_text(ServerHome(self._home).service, json.dumps(content))
        except OSError as error:
            if not self._complained:
                _log.error("%s: cannot be written (%s); make room", self._home, error.strerror)
            self._complained = True
        else:
            self._told, self._complained = content, False

    def _check_alone(self) -> None:
        """End the parts that a killed predecessor left; raise FederationError if it is alive."""
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
    """Read the service file of the running (or killed) service, or return None if there is none.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = ServerHome(home).service
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON; remove it when no service runs") from error
    return content


def running_parts(home: Path) -> set[str]:
    """Return the parts of the service that run at this moment; none if the service does not run."""
    told = read_service(home)
    if told is None or not is_alive(told["pid"], "server"):
        return set()
    parts, where = told["parts"].items(), str(home.absolute())
    return {name for name, part in parts if is_alive(part["pid"], where)}


def processes(home: Path) -> list[str]:
    """Return a line for each process of the service of `home` (absolute) at this moment."""
    told = read_service(home)
    if told is None:
        return ["the service does not run; start it with `hemofed server start`"]
    serves, lines = is_alive(told["pid"], "server"), []
    if not serves:
        again = "`hemofed server start` goes on where it was"
        lines.append(f"the service was killed (process {told['pid']}); {again}")
    for name, part in told["parts"].items():
        if not is_alive(part["pid"], str(home)):
            what = " is gone" + ("; it is started again" if serves else "")
        elif serves:
            what = f", restarted {part['restarts']} times"
        else:
            what = ", left over; the next start ends it"
        lines.append(f"{name}: process {part['pid']}{what}")
    return lines


def is_alive(pid: int, mention: str) -> bool:
    """Return whether the process runs and its command line contains `mention`; ids are reused."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return mention.encode() in command
