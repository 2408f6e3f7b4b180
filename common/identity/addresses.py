"""Checks the server's address, `host:port`, and splits it."""

import ipaddress
import re

from common.errors import ConfigError

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?", re.IGNORECASE | re.ASCII)


def split_address(address: str) -> tuple[str, int]:
    """Return the host and the port of `host:port`; an IPv6 host is in brackets there.

    >>> split_address("[2001:db8::5]:9092")
    ('2001:db8::5', 9092)

    Raises:
        ConfigError: the host is neither an IP address nor a host name, or the port is not within 1
            to 65535.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port):
        raise ConfigError(f"address {address!r}: expected host:port, like fl.example.org:9092")
    if not 1 <= int(port) <= 65535:
        raise ConfigError(f"address {address!r}: port {port} is not within 1 to 65535")
    fault = _fault(host)
    if fault:
        raise ConfigError(f"address {address!r}: {fault}")
    return host.strip("[]"), int(port)


def join_address(host: str, port: int) -> str:
    """Return `host:port`, with an IPv6 host in brackets.

    >>> join_address("2001:db8::5", 9092)
    '[2001:db8::5]:9092'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether `host` is "localhost" or a loopback address, which every machine has."""
    number = _number(host)
    return host.lower() == "localhost" if number is None else number.is_loopback


def listening_host(host: str) -> str:
    """Return the IP address that a server listens on so that sites reach it at `host`.

    For a loopback host it is that address, otherwise all interfaces. A host name counts as IPv4.

    >>> listening_host("localhost"), listening_host("fl.example.org"), listening_host("2001:db8::5")
    ('127.0.0.1', '0.0.0.0', '::')
    """
    number = _number(host)
    if is_loopback(host):
        return "127.0.0.1" if number is None else host
    return "0.0.0.0" if number is None or number.version == 4 else "::"  # noqa: S104  meant


def _fault(host: str) -> str | None:
    """Return what is wrong with `host`, given with its brackets, in words; None if nothing is."""
    if host.startswith("[") and host.endswith("]"):
        number = _number(host[1:-1])
        scoped = "%" in host  # a scope means another interface on each machine
        sound = number is not None and number.version == 6 and not scoped
        return None if sound else f"{host!r} is not an IPv6 address, like [2001:db8::5]"
    if ":" in host or "[" in host or "]" in host:
        return f"{host!r} is not a host; an IPv6 address goes in [ ], like [2001:db8::5]:9092"
    if _number(host) is not None:
        return None
    strange = sorted(set(re.sub(r"[A-Za-z0-9.-]", "", host)))
    if strange:
        named = " ".join(map(repr, strange))
        of = "it is of letters a to z, digits, '-' and '.'"
        return f"{host!r} is not a host name: {of}, not {named}"
    if not _NAME.fullmatch(host) or len(host) > 253:
        return (
            f"{host!r} is not a host name: between dots, 1 to 63 letters, digits and '-', with no "
            "'-' first or last, and 253 in all"
        )
    if host.rstrip(".").rpartition(".")[2].isdigit():
        return f"{host!r} is neither an IPv4 address nor a host name, which ends in letters"
    return None


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return `host` as an IP address, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
