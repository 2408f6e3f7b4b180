"""What the aggregator takes from inside Flower, beside `common.wire.flower_internals`: the
SuperLink's state in SQLite and its answers to a node."""

from flwr.server.superlink.linkstate import LinkState
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers

__all__ = [
    "API_ERROR_MAP",
    "SQLITE_PRAGMAS",
    "ApiErrorCode",
    "FlowerError",
    "LinkState",
    "NoOpFederationManager",
    "fleet_handlers",
    "get_objectstore_linkstate_factories",
    "sql_mixin",
]
