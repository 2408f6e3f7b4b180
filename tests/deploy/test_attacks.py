"""What an attacker who knows the address and the CA certificate can do: nothing."""

import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import pytest
from flwr.proto.fleet_pb2 import RegisterNodeFleetRequest
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.link import FleetLink
from client.membership import Membership
from common.errors import FederationError
from common.identity import node_public_pem
from common.identity.keys import PASSPHRASE_VARIABLE, make_node_key
from server.provisioning import revoke
from server.superlink import MAX_BODY
from tests.deploy.federation import Federation, wait_until

ASIDE = [
    "/v1/control/start-run",
    "/v1/control/list-runs",
    "/v1/control/register-node",
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


def test_a_body_larger_than_any_model_is_refused(federation: Federation) -> None:
    said = {"content-length": str(MAX_BODY + 1)}
    assert status(federation, "/v1/fleet/push-object", **said) == 413


def test_a_fleet_call_without_a_signature_is_refused(federation: Federation) -> None:
    assert 400 <= status(federation, "/v1/fleet/pull-messages", b"\x0a\x02\x08\x01") < 500


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

        with pytest.raises(httpx.HTTPStatusError):
            client.RegisterNode(RegisterNodeFleetRequest(public_key=node_public_pem(key)))
    link = FleetLink(federation.address, federation.server / "ca.crt", key, Event())
    with closing(link), pytest.raises(FederationError, match="does not accept this site's key"):
        link.connect(tmp_path / "node")


def test_a_server_of_another_authority_is_not_spoken_to(
    federation: Federation, tmp_path: Path
) -> None:
    from server.provisioning import make_server

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
        halt.set()
