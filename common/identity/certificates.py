"""The consortium's certificate authority and the server's TLS certificate: made, read, checked."""

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import ConfigError
from common.identity.addresses import is_loopback

AUTHORITY_DAYS = 3650
"""Days for which the authority's certificate is valid."""
SERVER_DAYS = 397
"""Days for which a server's certificate is valid."""
WARNING_DAYS = 30
"""Days before the end of a certificate or a membership from which a person is warned."""
_SKEW = timedelta(days=1)
"""Certificates become valid this much before they are made, for machines whose clock is slow."""
_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def make_authority(key: EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """Return a self-signed certificate of `key`, which may sign certificates and revocation lists.

    now: with a time zone; the certificate is valid for `AUTHORITY_DAYS` days from then.
    """
    name = _name("hemofed certificate authority")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    return (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, SHA384())
    )


def issue_server(
    authority: x509.Certificate,
    authority_key: EllipticCurvePrivateKey,
    public: EllipticCurvePublicKey,
    host: str,
    now: datetime,
    days: int = SERVER_DAYS,
) -> x509.Certificate:
    """Return a TLS server certificate for `host`, signed by the authority.

    Args:
        authority: the authority's certificate.
        authority_key: the authority's private key.
        public: the server's public key.
        host: a host name or an IP address. For a loopback host the certificate also covers
            localhost, 127.0.0.1 and ::1.
        now: with a time zone.
        days: how long it is valid from `now`.
    """
    hosts = dict.fromkeys((*_LOOPBACK, host)) if is_loopback(host) else (host,)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
    server_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    return (
        _builder(_name("hemofed server"), authority.subject, public, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(server_only, critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(h) for h in hosts]), False)
        .add_extension(issuer_key, critical=False)
        .sign(authority_key, SHA384())
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def load_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in the PEM file `path`.

    Raises:
        ConfigError: the file cannot be read or is not a PEM certificate.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: the certificate cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not a PEM certificate; restore it from a backup") from error


def is_expired(path: Path, now: datetime) -> bool:
    """Return whether the certificate in `path` has expired at `now` (with a time zone).

    Raises:
        ConfigError: the certificate cannot be read.
    """
    return now >= load_certificate(path).not_valid_after_utc


def check_certificate(path: Path, now: datetime) -> tuple[str, ...]:
    """Return what is wrong with the dates of the certificate in `path`; see `date_faults`.

    Raises:
        ConfigError: the certificate cannot be read.
    """
    return date_faults(load_certificate(path), str(path), now)


def date_faults(certificate: x509.Certificate, what: str, now: datetime) -> tuple[str, ...]:
    """Return a sentence for a person if the certificate is not valid or expires soon; () if not.

    Args:
        certificate: the certificate.
        what: names it in the sentence.
        now: with a time zone.
    """
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < first:
        return (f"{what}: not valid before {first:%Y-%m-%d %H:%M} UTC; check this clock",)
    if now >= last:
        return (f"{what}: expired on {last:%Y-%m-%d}; {_way_out(certificate)}",)
    left = (last - now).days
    if left < WARNING_DAYS:
        return (f"{what}: expires in {left} days, on {last:%Y-%m-%d}; {_way_out(certificate)}",)
    return ()


def _way_out(certificate: x509.Certificate) -> str:
    if certificate.issuer == certificate.subject:
        return "make a new server home and have every site join it"
    return "the operator runs `hemofed server renew`"


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(**granted: bool) -> x509.KeyUsage:
    return x509.KeyUsage(**dict.fromkeys(_USAGES, False) | granted)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
