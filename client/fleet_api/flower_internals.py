"""Flower's HTTP client: what a lab needs of Flower's internals beside those in `common/wire`."""

from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

__all__ = [
    "FleetHttpClient",
    "NodeAuthHttpInterceptor",
    "ProtobufCall",
    "ProtobufRequestContext",
    "RuntimeVersionHttpInterceptor",
]
