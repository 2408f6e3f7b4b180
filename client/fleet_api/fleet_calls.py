"""Flower's fleet API, call by call, over a connection of ours; objects go through it uncopied."""

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
"""For a part of an exchange: longer than the server lets a question for messages wait."""
_GULP = 2**17
"""Bytes that are handed to the connection at a time: it copies them."""
_MOST = 2 * PIECE_BYTES
"""Bytes of an answer."""
_PULLED = PullObjectResponse.DESCRIPTOR.fields_by_name["object_content"].number
_PUSHED = PushObjectRequest.DESCRIPTOR.fields_by_name["object_content"].number


class _NamesVersion:
    """Says with each request which hemofed runs here."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[HEADER] = version()
        return call_next(context)


class FleetCalls(FleetHttpClient):
    """Flower's calls over a connection of ours: Flower's own would obey the environment, where
    a proxy that it cannot use is a traceback, and loopback goes through one."""

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
        """The answer without the object, and the object."""
        answer = self._exchange("PullObject", request, (request.SerializeToString(),))
        try:
            said, content = taken_out(answer, _PULLED)
            return PullObjectResponse.FromString(said), content
        except DecodeError as error:
            raise httpx.RemoteProtocolError("an answer that is none of Flower's") from error

    def push_object(self, request: PushObjectRequest, spans: Sequence[Buffer]) -> None:
        """Send the object that lies in `spans`; the request has none."""
        front = front_of(request.SerializeToString(), _PUSHED, sum(map(len, spans)))
        self._exchange("PushObject", request, (front, *spans))

    def _exchange(self, name: str, request: Message, spans: Sequence[Buffer]) -> memoryview:
        """The bytes of the answer to a request of these bytes. Raises httpx.HTTPError."""
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
            asked.extensions["timeout"]["read"] = _SECONDS  # Flower waits for a stream for ever
            return _body(response)
        finally:
            response.close()


def _gulps(spans: Sequence[Buffer]) -> Iterator[bytes]:
    for span in spans:
        for start in range(0, len(span), _GULP):
            yield bytes(span[start : start + _GULP])


def _body(response: httpx.Response) -> memoryview:
    """All of the answer, in memory of huge pages where it is large."""
    said = response.headers.get("content-length", "")
    if not said.isdigit() or int(said) > _MOST:
        raise httpx.RemoteProtocolError(f"an answer of {said!r:.20} bytes")
    whole, at = np.empty(int(said), np.uint8), 0
    for chunk in response.iter_raw():
        whole[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        at += len(chunk)
    return whole.data.toreadonly()
