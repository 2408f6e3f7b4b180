"""The proxy on the way to the server, which the usual variables of the environment name.

| variable      | holds                                                                      |
|---------------|----------------------------------------------------------------------------|
| `HTTPS_PROXY` | the proxy: `http://[user:password@]host:port`                              |
| `ALL_PROXY`   | the same, read where there is no `HTTPS_PROXY`                             |
| `NO_PROXY`    | hosts, domains, addresses and networks that need no proxy; `*` for all     |

A name in lower case takes precedence. The site never reaches loopback through a proxy. Any other
value is an error: the site must not fall back to a direct way that the lab may have closed.
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
    """A variable of the environment.

    >>> print(Variable("HTTPS_PROXY", "http://anna:secret@proxy:3128"))
    HTTPS_PROXY=http://***@proxy:3128
    """

    name: str
    value: str

    def __str__(self) -> str:
        shown = re.sub(r"^(.*?://)?.*@", r"\1***@", self.value)
        return f"{self.name}={shown}"


def client_to(address: str, authority: Path, seconds: float) -> httpx.Client:
    """Make an HTTPS client for `address` (host:port), which accepts only servers of `authority`.

    authority: the file with the authority's certificate (PEM). seconds: how long each part of an
    exchange may take.

    Raises:
        ConfigError: a variable of the environment names no usable proxy; the error names the
            variable and its value.
        FederationError: the authority's certificate cannot be read.
    """
    named = _proxy_to(address)
    proxy = _proxy(named, address) if named else None
    return httpx.Client(verify=only(authority), timeout=seconds, proxy=proxy, trust_env=False)


def unreached(address: str, error: Exception) -> str:
    """Say that `address` (host:port) cannot be reached, through which proxy, and why."""
    named = _proxy_to(address)
    way = f" through the proxy of {named}" if named else ""
    return f"{address}: cannot be reached{way} ({error})"


def _proxy_to(address: str) -> Variable | None:
    """The variable that names the proxy on the way to `address`; None: no proxy is on it."""
    host, port = split_address(address)
    named = _set(_NAMES)
    if named is None or is_loopback(host):
        return None
    return None if _is_excepted(host.lower().rstrip("."), port) else named


def _set(names: tuple[str, ...]) -> Variable | None:
    """The first of the variables that is set and not blank."""
    for name in names:
        if value := os.environ.get(name, "").strip():
            return Variable(name, value)
    return None


def _proxy(named: Variable, address: str) -> httpx.Proxy:
    """The proxy that the variable names. Raises ConfigError when it names no usable one."""
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
    """Whether NO_PROXY covers the host. Raises ConfigError for an entry that cannot be read."""
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
    """Whether an entry of NO_PROXY covers the host at the port; None: it cannot be read.

    >>> _covers(".hospital.org", "fl.hospital.org", 443), _covers("10.0.0.0/8", "10.1.2.3", 443)
    (True, True)
    >>> _covers("hospital.org:8443", "hospital.org", 443), _covers("https://", "hospital.org", 443)
    (False, None)
    """
    network, own = _network(re.sub(r"^\[(.*)\]$", r"\1", entry)), _network(host)
    if network is not None:
        return own is not None and own.network_address in network
    parts = _EXCEPTION.fullmatch(entry)
    if parts is None:
        return True if entry == "*" else None
    named = parts["host"].strip("[]").lower()
    return parts["port"] in (None, str(port)) and f".{host}".endswith(f".{named}")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The IP network in `text`, or an address as a network of one; None for a name."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
