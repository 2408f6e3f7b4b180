"""The parts of Flower's internals that only the server uses.

They are the SuperLink's state in SQLite and its answers to a node;
`common.wire.flower_internals` has the parts that the sites use, too.
"""

from flwr.server.superlink.linkstate import LinkState
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers

__all__ = [
    "API_ERROR_MAP",
    "SQLITE_PRAGMAS",
    "ApiErrorCode",
    "FlowerError",
    "LinkState",
    "NoObjectInStoreError",
    "NoOpFederationManager",
    "SqlObjectStore",
    "fleet_handlers",
    "get_objectstore_linkstate_factories",
    "sql_mixin",
    "validate_object_content",
]
