"""What an attacker who knows the address and the CA certificate can do: nothing."""

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import psutil
import pytest
from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.fleet_api.fleet_client import FleetLink
from client.membership.membership import Membership
from common.errors import FederationError
from common.identity import node_public_pem
from common.identity.keys import PASSPHRASE_VARIABLE, make_node_key
from server.fleet_api.body_limits import MAX_BODY
from server.membership.provisioning import revoke
from tests.deploy.federation import Federation, wait_until

CHUNKED = b"transfer-encoding: chunked"
ASIDE = [
    "/v1/control/start-run",
    "/v1/control/list-runs",
    "/v1/control/register-node",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/get-fab",
    "/v1/runtime/acquire-task",
    "/v1/runtime/pull-task-input",
    "/v1/runtime/get-nodes",
    "/docs",
    "/openapi.json",
    "/",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/..%2fcontrol%2fstart-run",
    "/v1/fleet//../../v1/control/start-run",
    "//v1/control/start-run",
    "/V1/FLEET/pull-messages",
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with pytest.MonkeyPatch.context() as environment:
        # The server's keys are encrypted, as on a machine that others administer.
        environment.setenv(PASSPHRASE_VARIABLE, "a passphrase of the operator")
        one = Federation(tmp_path_factory.mktemp("attacked"))
        one.start("server")
        wait_until(lambda: status(one, "/health", b"") == 200, "the server is healthy")
        yield one
        one.close()


def status(federation: Federation, path: str, body: bytes = b"x", **headers: str) -> int:
    context = ssl.create_default_context(cafile=str(federation.server / "ca.crt"))
    request = urllib.request.Request(
        f"https://{federation.address}{path}", data=body or None, headers=headers
    )
    request.add_header("content-type", "application/x-protobuf")
    try:
        with urllib.request.urlopen(request, context=context, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (urllib.error.URLError, ConnectionError):
        return 0


@pytest.mark.parametrize("path", ASIDE)
def test_nothing_but_the_fleet_api_is_there(federation: Federation, path: str) -> None:
    assert status(federation, path) == 404


def test_a_fleet_call_without_a_signature_is_refused(federation: Federation) -> None:
    assert 400 <= status(federation, "/v1/fleet/pull-messages", b"\x0a\x02\x08\x01") < 500


def raw(federation: Federation, sent: bytes, much: bytes = b"") -> bytes:
    """What comes back to these bytes, and then to as many of `much` as are taken."""
    host, port = federation.address.split(":")
    context = ssl.create_default_context(cafile=str(federation.server / "ca.crt"))
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
        suppress(ConnectionError, ssl.SSLError),
    ):
        connection.sendall(sent)
        for _ in range(64 if much else 0):
            connection.sendall(much)
        return connection.recv(4096)
    return b""


def test_a_stranger_is_answered_before_a_byte_of_its_body_is_read(federation: Federation) -> None:
    head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    for size in (1, MAX_BODY, 500_000_000):
        assert raw(federation, head % (b"/v1/fleet/push-object", size)).startswith(b"HTTP/1.1 401")
        assert raw(federation, head % (b"/health", size)).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize("part", ["address", "header", "trailer"])
def test_what_is_no_body_is_not_kept_without_end(federation: Federation, part: str) -> None:
    begin = {
        "address": b"GET /",
        "header": b"GET /health HTTP/1.1\r\nhost: x\r\nx: ",
        "trailer": b"POST /health HTTP/1.1\r\nhost: x\r\n%s\r\n\r\n0\r\nx: " % CHUNKED,
    }[part]
    pid = federation.pids("server")["superlink"]
    before = psutil.Process(pid).memory_info().rss
    raw(federation, begin, b"y" * 2**20)
    assert psutil.Process(pid).memory_info().rss - before < 16 * 2**20


def audited(federation: Federation, reason: str) -> list[dict[str, object]]:
    """The facts of the server's audit lines about requests refused for that reason."""
    facts = [line["facts"] for line in federation.audit("server", "request_refused")]
    return [one for one in facts if one["reason"] == reason]


def test_attacks_are_audit_lines_and_few(federation: Federation) -> None:
    for _ in range(3):
        status(federation, "/v1/fleet/pull-messages")
        status(federation, "/v1/control/start-run")
    for reason in ("no key", "not served"):
        (line,) = audited(federation, reason)
        assert line["peer"] == "127.0.0.1"


def test_plain_http_is_not_answered(federation: Federation) -> None:
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{federation.address}/health", timeout=5)


def test_a_stranger_cannot_register_or_connect(federation: Federation, tmp_path: Path) -> None:
    key = make_node_key()
    with FleetHttpClient(
        f"https://{federation.address}",
        interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        verify=ssl.create_default_context(cafile=str(federation.server / "ca.crt")),
    ) as client:
        import httpx

        with pytest.raises(httpx.HTTPStatusError, match="404 Not Found"):
            client.RegisterNode(RegisterNodeFleetRequest(public_key=node_public_pem(key)))
    link = FleetLink(federation.address, federation.server / "ca.crt", key, Event())
    with closing(link), pytest.raises(FederationError, match="does not accept this site's key"):
        link.connect(tmp_path / "node")


def test_a_server_of_another_authority_is_not_spoken_to(
    federation: Federation, tmp_path: Path
) -> None:
    from server.membership.provisioning import make_server

    make_server(tmp_path / "other", federation.address, datetime.now(UTC))
    link = FleetLink(federation.address, tmp_path / "other" / "ca.crt", make_node_key(), Event())
    with closing(link), pytest.raises(FederationError, match="certificate is not accepted"):
        link.connect(tmp_path / "node")


def test_revocation_takes_effect_while_the_server_runs(
    federation: Federation, tmp_path: Path
) -> None:
    name = sorted(federation.sites)[0]
    key = Membership.load(federation.sites[name].folder).node_key()
    halt = Event()
    link = FleetLink(federation.address, federation.server / "ca.crt", key, halt)
    link.connect(tmp_path / "node")
    assert link.pull() is None
    revoke(federation.server, name, datetime.now(UTC))

    def shut_out() -> bool:
        try:
            link.pull()
        except FederationError:
            return True
        return False

    with closing(link):
        wait_until(shut_out, "the revoked site is refused")
        assert shut_out()
        halt.set()
    (line,) = audited(federation, "not an active member's key")
    assert line["site"] == name
