"""The closed SuperLink: TLS, keys of the registry, and nothing but Flower's fleet API.

Stock Flower serves control and runtime APIs, without authentication, on the port that the sites
use. Here a filter in front of the whole application lets `/v1/fleet/*` and `/health` through;
what else exists is answered with 404, and nothing else listens anywhere.
"""

import argparse
import logging
import os
import ssl
import threading
from pathlib import Path

import uvicorn
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
from flwr.superlink.main import create_app
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.identity.keys import PASSPHRASE_VARIABLE
from server.doorbell import Doorbell
from server.members import Registrar
from server.state import database, open_state, prepare_database

CERTIFICATE, PRIVATE_KEY, AUTHORITY = "server.crt", "server.key", "ca.crt"
MAX_BODY = 512 * 2**20
"""Bytes of one request: an update of 128 million float32 parameters."""
_FLEET, _HEALTH = "/v1/fleet/", "/health"
_PULL = f"{_FLEET}pull-messages"
_REGISTRY_SECONDS = 2.0


class FleetOnly:
    """The application with all but the fleet API and the health check cut off."""

    def __init__(self, app: ASGIApp, doorbell: Doorbell) -> None:
        self._app = app
        self._doorbell = doorbell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or not _public(scope["path"]):
            await _answer(scope, send, 404)
        elif not _bounded(scope):
            await _answer(scope, send, 413)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        if scope["path"] == _PULL and not await self._doorbell.wait(scope, receive):
            return
        await self._app(scope, _replay(body, receive), send)


def _public(path: str) -> bool:
    # The path is what the router matches; a dotted or doubled one is nobody's honest request.
    plain = "//" not in path and "/." not in path and "\\" not in path
    return path == _HEALTH or (plain and path.startswith(_FLEET))


def _bounded(scope: Scope) -> bool:
    """Whether the request says how long its body is, and that is not too long."""
    if scope["method"] in ("GET", "HEAD"):
        return True
    length = dict(scope["headers"]).get(b"content-length", b"")
    return length.isdigit() and int(length) <= MAX_BODY


async def _body(receive: Receive) -> Message | None:
    """The whole body as one message, or None when the site hung up before its end.

    Each piece by itself would cost as much on its way through Flower's layers as the whole.
    """
    pieces, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return {"type": "http.request", "body": b"".join(pieces), "more_body": False}


def _replay(first: Message, receive: Receive) -> Receive:
    """A Receive that gives `first`, then what comes."""
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _answer(scope: Scope, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def serve(home: Path, host: str, port: int) -> None:
    """Listen until SIGTERM. Reads the registry again whenever it changes."""
    prepare_database()
    registrar = Registrar(home, open_state(home))
    registrar.synchronise()
    doorbell = Doorbell(database(home))
    threading.Thread(target=registrar.watch, args=(_REGISTRY_SECONDS,), daemon=True).start()
    threading.Thread(target=doorbell.watch, daemon=True).start()
    app = create_app(_settings(home, host, port), SuperLinkLifespan)
    config = uvicorn.Config(
        FleetOnly(app, doorbell),
        host=host,
        port=port,
        ssl_certfile=home / CERTIFICATE,
        ssl_keyfile=home / PRIVATE_KEY,
        ssl_keyfile_password=os.environ.get(PASSPHRASE_VARIABLE),
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    uvicorn.Server(config).run()


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
    serve(chosen.home, chosen.host, chosen.port)


if __name__ == "__main__":
    main()
