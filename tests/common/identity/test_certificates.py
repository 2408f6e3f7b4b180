"""Certificates do what TLS wants of them, and their dates are spoken of in time."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from common.errors import ConfigError
from common.identity.certificates import (
    certificate_pem,
    check_certificate,
    is_expired,
    issue_server,
    make_authority,
)
from common.identity.keys import make_node_key, write_tls_key

NOW = datetime.now(UTC)


def write_pair(folder: Path, host: str, now: datetime = NOW) -> None:
    authority_key, key = make_node_key(), make_node_key()
    authority = make_authority(authority_key, now)
    certificate = issue_server(authority, authority_key, key.public_key(), host, now)
    write_tls_key(folder / "server.key", key)
    (folder / "server.crt").write_bytes(certificate_pem(certificate))
    (folder / "ca.crt").write_bytes(certificate_pem(authority))


def shake_hands(folder: Path, authority: Path, name: str) -> None:
    """One TLS connection over a pair of sockets."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    client = ssl.create_default_context(cafile=str(authority))
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except (ssl.SSLError, OSError):
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(near, server_hostname=name).close()
    finally:
        near.close()
        thread.join(5)


@pytest.mark.parametrize(
    ("host", "names"),
    [("127.0.0.1", ["127.0.0.1", "localhost"]), ("fl.example.org", ["fl.example.org"])],
)
def test_tls_trusts_the_authority_and_the_name(tmp_path: Path, host: str, names: list[str]) -> None:
    write_pair(tmp_path, host)
    for name in names:
        shake_hands(tmp_path, tmp_path / "ca.crt", name)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(tmp_path, tmp_path / "ca.crt", "other.example.org")
    (tmp_path / "stranger").mkdir()
    write_pair(tmp_path / "stranger", host)
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake_hands(tmp_path, tmp_path / "stranger" / "ca.crt", names[0])


def test_an_expired_certificate_is_refused_by_tls(tmp_path: Path) -> None:
    write_pair(tmp_path, "localhost", NOW - timedelta(days=400))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(tmp_path, tmp_path / "ca.crt", "localhost")


def test_dates_are_spoken_of_in_time(tmp_path: Path) -> None:
    write_pair(tmp_path, "localhost")
    server, authority = tmp_path / "server.crt", tmp_path / "ca.crt"

    def said(days: float, path: Path = server) -> str:
        return "".join(check_certificate(path, NOW + timedelta(days=days)))

    assert said(0) == "" == said(300) == said(400, authority)
    assert "expires in 16 days" in said(380) and "hemofed server renew" in said(380)
    assert "expired on" in said(398) and "check this clock" in said(-2)
    assert "every site join" in said(3640, authority)
    assert is_expired(server, NOW + timedelta(days=398)) and not is_expired(server, NOW)


def test_the_authority_signs_servers_and_nothing_below(tmp_path: Path) -> None:
    write_pair(tmp_path, "localhost")
    authority, server = (
        x509.load_pem_x509_certificate((tmp_path / file).read_bytes())
        for file in ("ca.crt", "server.crt")
    )
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (limits.ca, limits.path_length) == (True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    server.verify_directly_issued_by(authority)


def parts(certificate: x509.Certificate) -> dict[str, tuple[bool, object]]:
    """Name -> whether critical, and what it says, of each extension."""
    return {one.oid._name: (one.critical, one.value) for one in certificate.extensions}


def granted(usage: object) -> set[str]:
    assert isinstance(usage, x509.KeyUsage)
    return {name.strip("_") for name, value in vars(usage).items() if value}


def test_each_certificate_says_what_it_may_be_used_for_and_must_be_understood(
    tmp_path: Path,
) -> None:
    write_pair(tmp_path, "fl.example.org")
    authority, server = (
        parts(x509.load_pem_x509_certificate((tmp_path / file).read_bytes()))
        for file in ("ca.crt", "server.crt")
    )
    for one in (authority, server):
        assert one["basicConstraints"][0] and one["keyUsage"][0]
    assert granted(authority["keyUsage"][1]) == {"key_cert_sign", "crl_sign"}
    assert granted(server["keyUsage"][1]) == {"digital_signature"}
    assert server["extendedKeyUsage"] == (
        False,
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    )
    name = x509.SubjectAlternativeName([x509.DNSName("fl.example.org")])
    assert server["subjectAltName"] == (False, name)
    assert not any(one["subjectKeyIdentifier"][0] for one in (authority, server))
    assert not server["authorityKeyIdentifier"][0]


def test_certificates_hold_from_a_day_before_to_their_last_second(tmp_path: Path) -> None:
    """A day, for clocks that are slow; ten years, and thirteen months."""
    now, second = NOW.replace(microsecond=0), timedelta(seconds=1)
    write_pair(tmp_path, "localhost", now)
    for file, days in (("ca.crt", 3650), ("server.crt", 397)):
        path = tmp_path / file
        first, last = now - timedelta(days=1), now + timedelta(days=days)
        assert check_certificate(path, first) == ()
        assert "not valid before" in check_certificate(path, first - second)[0]
        assert check_certificate(path, last - timedelta(days=30)) == ()
        assert "in 29 days" in check_certificate(path, last - timedelta(days=30) + second)[0]
        assert "in 0 days" in check_certificate(path, last - second)[0]
        assert "expired on" in check_certificate(path, last)[0]
        assert is_expired(path, last) and not is_expired(path, last - second)


def test_what_is_not_a_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        check_certificate(tmp_path / "none.crt", NOW)
    (tmp_path / "none.crt").write_text("none")
    with pytest.raises(ConfigError, match="not a PEM certificate"):
        check_certificate(tmp_path / "none.crt", NOW)
