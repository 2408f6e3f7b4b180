"""The closed SuperLink: TLS, keys of the registry, and nothing but Flower's fleet API.

Stock Flower serves control and runtime APIs, without authentication, on the port that the sites
use. Here a filter in front of the whole application lets `/v1/fleet/*` and `/health` through;
what else exists is answered with 404, and nothing else listens anywhere.
"""

import argparse
import logging
import os
import ssl
import sys
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from common.audit_log import AuditLog
from common.errors import FederationError, HemofedError
from common.identity import load_signing_key
from common.identity.keys import PASSPHRASE_VARIABLE
from server.bodies import NOTHING, Bodies, announced_length, read_body, replay
from server.doorbell import Doorbell
from server.gate import Gate, claimed_key
from server.http_protocol import BoundedHead
from server.members import Registrar
from server.refusals import Refusals
from server.state import database, open_state, prepare_database

CERTIFICATE, PRIVATE_KEY, AUTHORITY = "server.crt", "server.key", "ca.crt"
_FLEET, _HEALTH = "/v1/fleet/", "/health"
_PULL = f"{_FLEET}pull-messages"
_REGISTRY_SECONDS = 2.0
_LAYERS: list[object] = [BaseHTTPMiddleware, ProtobufTranslationMiddleware, NodeAuthMiddleware]
"""Flower's, around the fleet API, outermost first: errors into answers, messages, who asks."""


class FleetOnly:
    """The application with all but the fleet API and the health check cut off.

    | request                                            | answer               |
    |----------------------------------------------------|----------------------|
    | of another path                                    | 404, audit line      |
    | not signed by an active member's key               | 401, audit line      |
    | of no length, or one above MAX_BODY                | 413                  |
    | too much of one site at a time, or its body pauses | 503: sites try again |

    All but the last are answered before a byte of the body is read.
    """

    def __init__(self, app: ASGIApp, doorbell: Doorbell, gate: Gate, refusals: Refusals) -> None:
        self._app = app
        self._doorbell = doorbell
        self._gate = gate
        self._refusals = refusals
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif not _public(scope["path"]):
            self._refusals.note(scope, "not served")
            await _answer(scope, send, 404)
        elif scope["path"] == _HEALTH:
            await self._app(scope, replay(NOTHING, receive), send)
        elif not self._gate.lets_in(scope):
            await _answer(scope, send, 401)
        elif (length := announced_length(scope)) is None:
            await _answer(scope, send, 413)
        else:
            await self._take(length, scope, receive, send)

    async def _take(self, length: int, scope: Scope, receive: Receive, send: Send) -> None:
        key = claimed_key(scope)
        if not self._bodies.take(key, length):
            await _answer(scope, send, 503)
            return
        try:
            await self._pass_on(length, scope, receive, send)
        finally:
            self._bodies.give_back(key, length)

    async def _pass_on(self, length: int, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, length)
        if body is None:
            await _answer(scope, send, 503)
            return
        if scope["path"] == _PULL:
            if not await self._doorbell.wait(scope, receive):
                return
            if not self._gate.lets_in(scope):  # revoked while it waited
                await _answer(scope, send, 401)
                return
        await self._app(scope, replay(body, receive), send)


def _public(path: str) -> bool:
    # The path is what the router matches; a dotted or doubled one is nobody's honest request.
    plain = "//" not in path and "/." not in path and "\\" not in path
    return path == _HEALTH or (plain and path.startswith(_FLEET))


async def _answer(scope: Scope, send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def serve(home: Path, host: str, port: int) -> None:
    """Listen until SIGTERM. Reads the registry again whenever it changes."""
    prepare_database()
    log = AuditLog.open(home / "audit.jsonl", load_signing_key(home / "signing.key"))
    refusals = Refusals(log)
    gate = Gate(refusals)
    registrar = Registrar(home, open_state(home), gate, log)
    registrar.synchronise()
    doorbell = Doorbell(database(home))
    threading.Thread(target=registrar.watch, args=(_REGISTRY_SECONDS,), daemon=True).start()
    threading.Thread(target=doorbell.watch, daemon=True).start()
    app = _fleet_app(_settings(home, host, port))
    config = uvicorn.Config(
        FleetOnly(app, doorbell, gate, refusals),
        host=host,
        port=port,
        ssl_certfile=home / CERTIFICATE,
        ssl_keyfile=home / PRIVATE_KEY,
        ssl_keyfile_password=os.environ.get(PASSPHRASE_VARIABLE),
        log_level="warning",
        server_header=False,
        http=BoundedHead,
        ws="none",
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    uvicorn.Server(config).run()


def _fleet_app(settings: SuperLinkLifespanConfig) -> FastAPI:
    """Flower's application, with the layers around it that the fleet API needs and no other.

    The others look at control and runtime calls alone, which never come this far, and take a tenth
    of a request's processor time.
    """
    app = create_app(settings, SuperLinkLifespan)
    kept = [layer for layer in app.user_middleware if layer.cls in _LAYERS]
    if [layer.cls for layer in kept] != _LAYERS:
        raise FederationError("this version of Flower guards its fleet API in a way we do not know")
    app.user_middleware = kept
    return app


def _settings(home: Path, host: str, port: int) -> SuperLinkLifespanConfig:
    """Flower's settings: registered keys only, no health server, nothing started beside it."""
    return SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=host,
        port=port,
        insecure=False,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(home / AUTHORITY),
        ssl_certfile=str(home / CERTIFICATE),
        ssl_keyfile=str(home / PRIVATE_KEY),
        database=str(database(home)),
        isolation="process",
        runtime_dependency_install=False,
    )


def main() -> None:
    """`python -m server.superlink HOME HOST PORT`: a part that the service supervises."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    chosen = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        serve(chosen.home, chosen.host, chosen.port)
    except HemofedError as error:
        logging.getLogger("hemofed.superlink").error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
