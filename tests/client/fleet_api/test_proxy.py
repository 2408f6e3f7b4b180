"""The way to the server goes through the proxy that the lab's machine names, or not at all."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest

from client.fleet_api.fleet_client import FleetLink
from client.fleet_api.proxy import client_to, unreached
from client.home import SiteHome
from client.membership.enrolment import join, make_site
from client.service.preflight import check_site
from client.service.service import serve
from common.errors import ConfigError
from common.identity.keys import make_node_key
from server.membership.provisioning import admit, make_kit, make_server
from tests.client.lab import make_lab

NOW = datetime.now(UTC)
VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
FAR = "fl.example.org:9092"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    make_server(tmp_path / "server", FAR, NOW)
    return tmp_path / "server" / "ca.crt"


@contextmanager
def refusing() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that lets nothing through: its host:port, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def answer() -> None:
            line, _ = door.accept()
            with line:
                asked.append(line.recv(4096))
                line.sendall(b"HTTP/1.1 403 not for you\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{door.getsockname()[1]}", asked
        thread.join(60)


UNUSABLE = [
    ("ALL_PROXY", "socks5://localhost:1080", "socks5://localhost:1080"),
    ("all_proxy", "socks5h://u:p@localhost:1080", r"socks5h://\*\*\*@localhost:1080"),
    ("HTTPS_PROXY", "ftp://proxy:21", "ftp://proxy:21"),
    ("https_proxy", "http://", "http://"),
    ("HTTPS_PROXY", "http://proxy:many", "http://proxy:many"),
    ("HTTPS_PROXY", "u:p@proxy:many", r"\*\*\*@proxy:many"),
    ("HTTPS_PROXY", "http://[::1", r"http://\[::1"),
]


@pytest.mark.parametrize(("name", "value", "shown"), UNUSABLE)
def test_a_proxy_that_cannot_be_used_is_named_with_its_variable(
    authority: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str
) -> None:
    monkeypatch.setenv(name, value)
    words = rf"^{name}={shown}: names no proxy .* on the way to {FAR}; expected .*NO_PROXY=fl.ex"
    with pytest.raises(ConfigError, match=words):
        client_to(FAR, authority, 1.0)
    with pytest.raises(ConfigError, match=words):
        FleetLink(FAR, authority, make_node_key(), Event())
    client_to("localhost:9092", authority, 1.0).close()
    monkeypatch.setenv("NO_PROXY", "example.org")
    client_to(FAR, authority, 1.0).close()


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "[::1", "http://fl.example.org", "a;b"])
def test_an_exception_that_means_nothing_is_named(
    authority: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setenv("NO_PROXY", f"localhost, {entry}")
    client_to(FAR, authority, 1.0).close()
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    with pytest.raises(ConfigError) as raised:
        client_to(FAR, authority, 1.0)
    assert f"NO_PROXY=localhost, {entry}: '{entry}' is neither" in str(raised.value)


@pytest.mark.parametrize(
    ("address", "exceptions", "through"),
    [
        (FAR, "", True),
        (FAR, "*", False),
        (FAR, "other.org,FL.example.org", False),
        (FAR, ".example.org", False),
        (FAR, "*.example.org", False),
        (FAR, "example.org:9092", False),
        (FAR, "example.org:443", True),
        (FAR, "ample.org", True),
        (FAR, "10.0.0.0/8", True),
        ("10.1.2.3:9092", "10.0.0.0/8", False),
        ("10.1.2.3:9092", "10.1.2.3 localhost", False),
        ("10.1.2.3:9092", "11.0.0.0/8", True),
        ("[2001:db8::5]:9092", "[2001:db8::5]", False),
        ("[2001:db8::5]:9092", "[2001:db8::5]:9092", False),
        ("[2001:db8::5]:9092", "2001:db8::/32", False),
        ("[2001:db8::5]:9092", "[::1]", True),
        ("127.0.0.1:9092", "", False),
        ("127.8.0.1:9092", "", False),
        ("localhost:9092", "", False),
        ("[::1]:9092", "[::1]", False),
    ],
)
def test_which_addresses_are_reached_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, address: str, exceptions: str, through: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://lab:secret@proxy:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    said = unreached(address, OSError("no way"))
    way = " through the proxy of ALL_PROXY=http://***@proxy:3128" if through else ""
    assert said == f"{address}: cannot be reached{way} (no way)"


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_connection_goes_through_the_proxy_and_its_failure_names_it(
    authority: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    with refusing() as (proxy, asked):
        monkeypatch.setenv("ALL_PROXY", "socks5://nobody:1")
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}{proxy}")
        with client_to(FAR, authority, 30.0) as client, pytest.raises(httpx.ProxyError) as raised:
            client.get(f"https://{FAR}/health")
    assert asked[0].startswith(f"CONNECT {FAR} ".encode())
    said = unreached(FAR, raised.value)
    assert said.endswith(f"through the proxy of HTTPS_PROXY={scheme}{proxy} (403 not for you)")


def test_check_and_start_say_which_variable_is_wrong(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, server = SiteHome(make_lab(tmp_path / "lab").parent), authority.parent
    admit(server, make_site(home.folder, "lab", NOW), NOW)
    kit = make_kit(server, "lab")
    join(home.folder, kit, kit.fingerprint)
    monkeypatch.setenv("ALL_PROXY", "socks5://localhost:1080")
    (line,) = [one for one in check_site(home) if one.topic == "connection"]
    assert line.verdict == "wrong" and line.text.startswith("ALL_PROXY=socks5://localhost:1080: ")
    with pytest.raises(ConfigError, match="^ALL_PROXY=socks5://localhost:1080: "):
        serve(home, Event())
