"""What must hold before a part of the server is started: its faults would only be in a log then."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from common.errors import ConfigError
from common.file_permissions import check_ours
from common.identity import load_signing_key, load_tls_key
from common.identity.addresses import join_address
from common.identity.keys import PASSPHRASE_VARIABLE

_KEYS = {"ca.key": load_tls_key, "server.key": load_tls_key, "signing.key": load_signing_key}
_FREE_SECONDS = 3.0
"""A listener that was killed a moment ago may free its port as late as this."""


def check_home(home: Path) -> None:
    """Raise ConfigError when another user may write what this server goes by or remembers."""
    check_ours(*home.glob("*"), *home.glob("studies/*"), *home.glob("studies/*/*"))


def check_keys(home: Path) -> None:
    """Raise ConfigError unless the home's private keys are sound, and nobody else can read them.

    `ca.key` may be kept elsewhere. The parts have no terminal to ask at, so a passphrase must be in
    the environment.
    """
    for name, load in _KEYS.items():
        path = home / name
        if path.exists() or name != "ca.key":
            _require_passphrase(path)
            load(path)


def check_port(host: str, port: int) -> None:
    """Raise ConfigError unless the server can listen there."""
    end = time.monotonic() + _FREE_SECONDS
    while fault := _port_fault(host, port):
        if time.monotonic() > end:
            raise ConfigError(
                f"{join_address(host, port)}: cannot be listened on ({fault}); end what "
                "uses it, or give another address with --listen"
            )
        time.sleep(0.1)


def _port_fault(host: str, port: int) -> str | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        # As the listener does: IPv4's port may be another's.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def _require_passphrase(path: Path) -> None:
    """Raise ConfigError when the key would have to be asked for."""
    with suppress(OSError):  # the loader says it better
        if b"BEGIN ENCRYPTED" in path.read_bytes() and not os.environ.get(PASSPHRASE_VARIABLE):
            raise ConfigError(f"{path}: is encrypted; set {PASSPHRASE_VARIABLE} to its passphrase")
