"""An address is understood, or refused with what is wrong in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.identity.addresses import is_loopback, join_address, listening_host, split_address

HOSTS = ("a.example", "A-1.example.", "10.0.0.1", "[::1]", "[2001:DB8::5]", "localhost", "x" * 63)


@given(st.sampled_from(HOSTS), st.integers(1, 65535))
def test_addresses_are_taken_apart_and_put_together(host: str, port: int) -> None:
    address = f"{host}:{port}"
    assert split_address(address) == (host.strip("[]"), port)
    assert join_address(*split_address(address)) == address


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "expected host:port"),
        ("host", "expected host:port"),
        ("host:", "expected host:port"),
        (":1", "expected host:port"),
        ("host:x", "expected host:port"),
        ("host:" + 5000 * "1", "expected host:port"),
        ("host:0", "not within 1 to 65535"),
        ("host:65536", "not within 1 to 65535"),
        ("::1:90", r"an IPv6 address goes in \[ \]"),
        ("[::1:90", r"an IPv6 address goes in \[ \]"),
        ("[a]:1", "is not an IPv6 address"),
        ("[zz::1]:1", "is not an IPv6 address"),
        ("[10.0.0.1]:1", "is not an IPv6 address"),
        ("[fe80::1%eth0]:1", "is not an IPv6 address"),
        ("my_host:1", "of letters a to z, digits, '-' and '.', not '_'"),
        ("a/b c:1", "not ' ' '/'"),
        ("münchen.de:1", "not 'ü'"),
        ("-a:1", "no '-' first or last"),
        ("a..b:1", "between dots, 1 to 63"),
        ("x" * 64 + ":1", "between dots, 1 to 63"),
        (".".join(["x" * 60] * 5) + ":1", "253 in all"),
        ("10.0.0.256:1", "neither an IPv4 address nor a host name"),
    ],
)
def test_other_addresses_are_refused_with_what_is_wrong(address: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^address .*{words}"):
        split_address(address)


@pytest.mark.parametrize(
    ("host", "loopback", "listens"),
    [
        ("localhost", True, "127.0.0.1"),
        ("127.0.0.2", True, "127.0.0.2"),
        ("::1", True, "::1"),
        ("2001:db8::5", False, "::"),
        ("10.0.0.1", False, "0.0.0.0"),
        ("fl.example.org", False, "0.0.0.0"),
    ],
)
def test_a_server_listens_by_the_protocol_of_its_address(
    host: str, loopback: bool, listens: str
) -> None:
    assert (is_loopback(host), listening_host(host)) == (loopback, listens)
