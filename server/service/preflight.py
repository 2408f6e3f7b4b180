"""Checks before a part of the server is started, whose faults would later show only in a log."""

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
"""How long, in seconds, a listener that was just killed may take to free its port."""


def check_home(home: Path) -> None:
    """Raise ConfigError if another user may write to files that this server relies on."""
    check_ours(*home.glob("*"), *home.glob("studies/*"), *home.glob("studies/*/*"))


def check_keys(home: Path) -> None:
    """Raise ConfigError unless the home's private keys are sound and no other user can read them.

    `ca.key` may be kept elsewhere. The parts have no terminal to ask for a passphrase, so it must
    be in the environment.
    """
    for name, load in _KEYS.items():
        path = home / name
        if path.exists() or name != "ca.key":
            _require_passphrase(path)
            load(path)


def check_port(host: str, port: int) -> None:
    """Raise ConfigError unless the server can listen on this address."""
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
        # Like the listener's socket: another program may have the same port on IPv4.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def _require_passphrase(path: Path) -> None:
    """Raise ConfigError if the key is encrypted and its passphrase is not in the environment."""
    with suppress(OSError):  # the loader says it better
        if b"BEGIN ENCRYPTED" in path.read_bytes() and not os.environ.get(PASSPHRASE_VARIABLE):
            raise ConfigError(f"{path}: is encrypted; set {PASSPHRASE_VARIABLE} to its passphrase")
