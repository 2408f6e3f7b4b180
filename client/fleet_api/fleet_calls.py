"""The calls of Flower's fleet API, over a connection that hemofed makes, and without a copy of
the objects."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError, Message

from client.fleet_api.flower_internals import (
    FleetHttpClient,
    NodeAuthHttpInterceptor,
    ProtobufCall,
    ProtobufRequestContext,
    RuntimeVersionHttpInterceptor,
)
from client.fleet_api.proxy import client_to
from common.version import HEADER, version
from common.wire.bytes_field import front_of, taken_out
from common.wire.flower_internals import PullObjectRequest, PullObjectResponse, PushObjectRequest
from common.wire.flower_objects import PIECE_BYTES, Buffer

_SECONDS = 30.0
"""For each part of an exchange: longer than the server holds a question for messages."""
_GULP = 2**17
"""Bytes that the connection gets at a time, since it copies them."""
_MOST = 2 * PIECE_BYTES
"""Largest size of an answer that holds an object, in bytes."""
_PULLED = PullObjectResponse.DESCRIPTOR.fields_by_name["object_content"].number
_PUSHED = PushObjectRequest.DESCRIPTOR.fields_by_name["object_content"].number


class _NamesVersion:
    """Adds the version of this hemofed to each request."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[HEADER] = version()
        return call_next(context)


class FleetCalls(FleetHttpClient):
    """Flower's calls to the server at `address` (host:port), with `key` as the node's key.

    The connection is `client_to`'s. Flower's own connection obeys the environment: it ends in a
    traceback for a proxy that it cannot use, and reaches loopback through a proxy.

    Raises:
        ConfigError: the environment names a proxy that cannot be used.
        FederationError: the certificate in `authority` cannot be read.
    """

    def __init__(self, address: str, authority: Path, key: ec.EllipticCurvePrivateKey) -> None:
        self._base_url = f"https://{address}"
        self._interceptors = (
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(key, key.public_key()),
            _NamesVersion(),
        )
        self._retry_invoker = None
        self._client = client_to(address, authority, _SECONDS)

    def pull_object(self, request: PullObjectRequest) -> tuple[PullObjectResponse, memoryview]:
        """Return the server's answer without the object, and the object's bytes.

        Raises httpx.HTTPError, also for an answer that is none of Flower's or too large.
        """
        answer = self._exchange("PullObject", request, (request.SerializeToString(),))
        try:
            said, content = taken_out(answer, _PULLED)
            return PullObjectResponse.FromString(said), content
        except DecodeError as error:
            raise httpx.RemoteProtocolError("an answer that is none of Flower's") from error

    def push_object(self, request: PushObjectRequest, spans: Sequence[Buffer]) -> None:
        """Send `request` with the bytes of `spans`, in order, as its object.

        `request` itself must hold no object. Raises httpx.HTTPError.
        """
        front = front_of(request.SerializeToString(), _PUSHED, sum(map(len, spans)))
        self._exchange("PushObject", request, (front, *spans))

    def _exchange(self, name: str, request: Message, spans: Sequence[Buffer]) -> memoryview:
        """Send `spans` as the request's bytes, and return the answer's. Raises httpx.HTTPError."""
        path = {"PullObject": "pull-object", "PushObject": "push-object"}[name]
        asked = self._client.build_request(
            "POST",
            f"{self._base_url}/v1/fleet/{path}",
            content=_gulps(spans),
            headers={
                "content-type": "application/x-protobuf",
                "content-length": str(sum(map(len, spans))),
                "accept-encoding": "identity",
            },
        )
        context = ProtobufRequestContext(f"/flwr.proto.Fleet/{name}", request, asked)
        response = self._send(context, stream=True)
        try:
            response.raise_for_status()
            asked.extensions["timeout"]["read"] = _SECONDS  # Flower sets no limit on a stream
            return _body(response)
        finally:
            response.close()


def _gulps(spans: Sequence[Buffer]) -> Iterator[bytes]:
    for span in spans:
        for start in range(0, len(span), _GULP):
            yield bytes(span[start : start + _GULP])


def _body(response: httpx.Response) -> memoryview:
    """The whole answer as read-only bytes, in memory of huge pages where it is large.

    Raises httpx.RemoteProtocolError for an answer without a length, or of more than `_MOST` bytes.
    """
    said = response.headers.get("content-length", "")
    if not said.isdigit() or int(said) > _MOST:
        raise httpx.RemoteProtocolError(f"an answer of {said!r:.20} bytes")
    whole, at = np.empty(int(said), np.uint8), 0
    for chunk in response.iter_raw():
        whole[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    return whole.data.toreadonly()
