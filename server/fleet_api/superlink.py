"""The closed SuperLink: serves only Flower's fleet API, over TLS, to the registry's keys.

Stock Flower also serves control and runtime APIs, without authentication, on the port that the
sites use. Here they do not exist: `server.fleet_api.asgi` answers, and nothing else listens
anywhere.
"""

import argparse
import logging
import os
import ssl
import sys
import threading
from pathlib import Path

import uvicorn

from common.errors import HemofedError
from common.identity.keys import PASSPHRASE_VARIABLE
from common.process_hardening import keep_secrets
from common.untrusted_text import log_plainly
from common.wire.flower_internals import NodeStatus
from server.fleet_api.asgi import Listener
from server.fleet_api.authentication import Gate
from server.fleet_api.handlers import Fleet
from server.fleet_api.head_limits import BoundedProtocol
from server.fleet_api.long_poll import Doorbell
from server.fleet_api.node_sync import Registrar
from server.fleet_api.presence import Presence
from server.fleet_api.rejection_log import Refusals
from server.flower.link_state import database, open_state, prepare_database
from server.home import ServerHome

_REGISTRY_SECONDS = 2.0


def serve(home: Path, host: str, port: int) -> None:
    """Serve the public port of the server home until SIGTERM.

    Every _REGISTRY_SECONDS the nodes are made equal to the registry.

    Raises:
        HemofedError: the registry, the audit log or the signing key cannot be used.
    """
    prepare_database()
    log = ServerHome(home).open_audit()
    refusals = Refusals(log)
    gate = Gate(refusals)
    state = open_state(home)
    registrar = Registrar(home, state, gate, log)
    registrar.synchronise()
    doorbell = Doorbell(database(home))
    online = state.get_node_info(statuses=[NodeStatus.ONLINE])
    presence = Presence(home, {node.name for node in online if node.name})
    threading.Thread(target=registrar.watch, args=(_REGISTRY_SECONDS,), daemon=True).start()
    threading.Thread(target=doorbell.watch, daemon=True).start()
    config = uvicorn.Config(
        Listener(Fleet(state, database(home), log), doorbell, gate, refusals, presence),
        host=host,
        port=port,
        ssl_certfile=ServerHome(home).certificate,
        ssl_keyfile=ServerHome(home).certificate_key,
        ssl_keyfile_password=os.environ.get(PASSPHRASE_VARIABLE),
        log_level="warning",
        server_header=False,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        proxy_headers=False,
        timeout_graceful_shutdown=5,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    uvicorn.Server(config).run()


def main() -> None:
    """Run `python -m server.fleet_api.superlink HOME HOST PORT`, which the service starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    chosen = parser.parse_args()
    keep_secrets()
    log_plainly()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        serve(chosen.home, chosen.host, chosen.port)
    except HemofedError as error:
        logging.getLogger("hemofed.superlink").error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
