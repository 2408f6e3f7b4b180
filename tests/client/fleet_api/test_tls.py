"""What a site says of a server's certificate that it does not accept."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread

import pytest

from client.fleet_api.tls import only, out_of_date
from common.errors import FederationError
from server.membership.provisioning import make_server, renew_server

NOW = datetime.now(UTC)


@contextmanager
def listening(home: Path) -> Iterator[str]:
    """The address of a TLS server with the certificate in `home`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "server.crt", home / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as door:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    line, _ = door.accept()
                    with suppress(OSError), context.wrap_socket(line, server_side=True) as tls:
                        tls.recv(1)

        thread = Thread(target=answer)
        thread.start()
        try:
            yield f"127.0.0.1:{door.getsockname()[1]}"
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join()


def failure(address: str, authority: Path) -> ssl.SSLError:
    host, port = address.split(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        pytest.raises(ssl.SSLError) as raised,
    ):
        only(authority).wrap_socket(plain, server_hostname=host)
    return raised.value


def said(home: Path, authority: Path) -> str | None:
    with listening(home) as address:
        return out_of_date(failure(address, authority), address, authority)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_server(tmp_path / "server", "127.0.0.1:9", NOW)
    return tmp_path / "server"


def test_an_expired_certificate_is_named_with_its_date_and_the_way_out(home: Path) -> None:
    ended = NOW - timedelta(days=3)
    renew_server(home, ended - timedelta(days=1), days=1)
    words = said(home, home / "ca.crt")
    assert words is not None
    assert f"expired on {ended:%Y-%m-%d}; the operator runs `hemofed server renew`" in words


def test_a_certificate_of_the_future_points_at_the_clock(home: Path) -> None:
    begins = NOW + timedelta(days=3)
    renew_server(home, begins + timedelta(days=1), days=1)
    words = said(home, home / "ca.crt")
    assert words is not None
    assert f"not valid before {begins:%Y-%m-%d}" in words and "check this clock" in words


def test_an_expired_authority_is_final(tmp_path: Path) -> None:
    make_server(tmp_path / "server", "127.0.0.1:9", NOW - timedelta(days=4000))
    with pytest.raises(FederationError, match="expired on .*have every site join it"):
        said(tmp_path / "server", tmp_path / "server" / "ca.crt")


def test_another_authority_is_final_even_when_its_dates_are_over(
    home: Path, tmp_path: Path
) -> None:
    make_server(tmp_path / "other", "127.0.0.1:9", NOW)
    renew_server(tmp_path / "other", NOW - timedelta(days=9), days=1)
    with pytest.raises(FederationError, match="Somebody stands in between"):
        said(tmp_path / "other", home / "ca.crt")


def test_what_is_no_matter_of_certificates_is_left_to_others(tmp_path: Path) -> None:
    assert out_of_date(ConnectionRefusedError(), "127.0.0.1:1", tmp_path / "ca.crt") is None
