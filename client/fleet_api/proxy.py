"""The proxy on the way to the server, as the usual variables of the environment name it.

| variable      | says                                                                      |
|---------------|---------------------------------------------------------------------------|
| `HTTPS_PROXY` | the proxy: `http://[user:password@]host:port`                             |
| `ALL_PROXY`   | the same, where there is no `HTTPS_PROXY`                                 |
| `NO_PROXY`    | hosts, domains, addresses and networks that are reached without it; `*`   |

The names in small letters come first. Loopback is never reached through a proxy. A value that means
none of this is an error: a way around the proxy may be one that the lab has closed.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

import httpx

from client.fleet_api.tls import only
from common.errors import ConfigError
from common.identity.addresses import is_loopback, split_address

_NAMES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
_EXCEPTION = re.compile(r"(?:\*?\.)?(?P<host>[\w.-]+|\[[\da-f:.]+\])(?::(?P<port>\d+))?", re.I)


@dataclass(frozen=True)
class Variable:
    """A variable that is set; its text tells name and value, without a password."""

    name: str
    value: str

    def __str__(self) -> str:
        shown = re.sub(r"^(.*?://)?.*@", r"\1***@", self.value)
        return f"{self.name}={shown}"


def client_to(address: str, authority: Path, seconds: float) -> httpx.Client:
    """An HTTPS client for `address` (host:port), which accepts servers of this authority alone.

    seconds: how long a part of an exchange may take. Raises ConfigError naming the variable and its
    value where the environment names no proxy that can be used; FederationError: the authority's
    certificate cannot be read.
    """
    named = _proxy_to(address)
    proxy = _proxy(named, address) if named else None
    return httpx.Client(verify=only(authority), timeout=seconds, proxy=proxy, trust_env=False)


def unreached(address: str, error: Exception) -> str:
    """In words, that no connection to `address` came about, and through which proxy."""
    named = _proxy_to(address)
    way = f" through the proxy of {named}" if named else ""
    return f"{address}: cannot be reached{way} ({error})"


def _proxy_to(address: str) -> Variable | None:
    """What names the proxy on the way to `address`; None where there is none on it."""
    host, port = split_address(address)
    named = _set(_NAMES)
    if named is None or is_loopback(host):
        return None
    return None if _is_excepted(host.lower().rstrip("."), port) else named


def _set(names: tuple[str, ...]) -> Variable | None:
    """The first of the variables that says something."""
    for name in names:
        if value := os.environ.get(name, "").strip():
            return Variable(name, value)
    return None


def _proxy(named: Variable, address: str) -> httpx.Proxy:
    """The proxy that the variable names. Raises ConfigError: it names none that can be used."""
    url = named.value if "://" in named.value else f"http://{named.value}"
    try:
        proxy = httpx.Proxy(url)
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https") or not proxy.url.host:
        host, _ = split_address(address)
        raise ConfigError(
            f"{named}: names no proxy that can be used on the way to {address}; expected "
            f"HTTPS_PROXY=http://host:port, or NO_PROXY={host} where it is reached without one"
        )
    return proxy


def _is_excepted(host: str, port: int) -> bool:
    """Whether NO_PROXY names the host. Raises ConfigError: an entry of it means nothing."""
    named = _set(_EXCEPTIONS)
    entries = re.split(r"[,\s]+", named.value) if named else []
    covers = {entry: _covers(entry, host, port) for entry in entries if entry}
    for entry, said in covers.items():
        if said is None:
            raise ConfigError(
                f"{named}: {entry!r} is neither a host or domain, nor an address or network; "
                "expected those, with commas between them"
            )
    return any(covers.values())


def _covers(entry: str, host: str, port: int) -> bool | None:
    """Whether an entry of NO_PROXY covers the host at the port; None when it cannot be read."""
    network, own = _network(re.sub(r"^\[(.*)\]$", r"\1", entry)), _network(host)
    if network is not None:
        return own is not None and own.network_address in network
    parts = _EXCEPTION.fullmatch(entry)
    if parts is None:
        return True if entry == "*" else None
    named = parts["host"].strip("[]").lower()
    return parts["port"] in (None, str(port)) and f".{host}".endswith(f".{named}")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The IP network, or the address as one, that the text is; None for a name."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
