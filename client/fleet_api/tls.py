"""The server's TLS certificate: which one a site accepts, and why it refuses another."""

import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from common.errors import FederationError
from common.identity.addresses import split_address
from common.identity.certificates import check_certificate, date_faults, is_expired

_OUT_OF_DATE = (9, 10)
"""OpenSSL's codes: not yet valid, expired."""
_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name."""
_SECONDS = 5.0


def only(authority: Path) -> ssl.SSLContext:
    """Make a context for TLS 1.3 that accepts only certificates signed by `authority`.

    Raises FederationError when the certificate in the file `authority` cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise FederationError(
            f"{authority}: is not a readable certificate ({error}); join the server's kit again"
        ) from error
    return context


def out_of_date(failure: BaseException, address: str, authority: Path) -> str | None:
    """Say what is out of date, if `failure` is about the dates of the server's certificate.

    Returns None when `failure` is not about a certificate. Only the server's own certificate can
    be renewed while a site runs.

    Raises FederationError when the authority's certificate has expired, or when the server's
    certificate is refused for another reason than its dates.
    """
    error = _verification(failure)
    if error is None:
        return None
    now = datetime.now(UTC)
    if error.verify_code not in _OUT_OF_DATE:
        raise FederationError(
            f"{address}: its certificate is not accepted ({error.verify_message}); nothing was "
            "sent. Somebody stands in between, or the kit is another server's; ask the operator"
        ) from failure
    if is_expired(authority, now):
        (fault,) = check_certificate(authority, now)
        raise FederationError(f"{fault}; nothing was sent") from failure
    clock = f"this clock says {now:%Y-%m-%d %H:%M} UTC"
    with suppress(OSError):
        for fault in date_faults(_shown(address, authority), f"{address}: its certificate", now):
            return f"{fault}; nothing was sent. {clock}"
    return f"{address}: its certificate is out of date ({error.verify_message}); {clock}"


def _verification(failure: BaseException) -> ssl.SSLCertVerificationError | None:
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _shown(address: str, authority: Path) -> x509.Certificate:
    """The certificate that the server shows, checked in all but its dates.

    Raises OSError when the connection or that check fails.
    """
    host, port = split_address(address)
    context = only(authority)
    context.verify_flags |= _NO_CHECK_TIME
    with (
        socket.create_connection((host, port), _SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as line,
    ):
        return x509.load_der_x509_certificate(line.getpeercert(binary_form=True) or b"")
