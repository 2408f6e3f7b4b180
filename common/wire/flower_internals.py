"""What both sides use of Flower below its public API: the Fleet API's messages and their form.

The public API is `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and `flwr.simulation`. Flower may
change any other name from one minor version to the next. They are imported here, in
`client.fleet_api.flower_internals` and in `server.flower.internals`, and nowhere else.
"""

from flwr.app.message import make_message, remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.app.metadata import Metadata
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_PATIENCE,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_HEADER,
    TIMESTAMP_TOLERANCE,
    ErrorCode,
    Status,
    SubStatus,
)
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
)
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    HEAD_BODY_DIVIDER,
    NOOP_FEDERATION_ID,
    NodeStatus,
    TaskType,
)
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.primitives.asymmetric import verify_signature
from flwr.supercore.run import Run, RunStatus
from flwr.supercore.task_identity import TaskIdentity
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64

__all__ = [
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "FLEET_HTTP_SIGNATURE_HEADER",
    "HEAD_BODY_DIVIDER",
    "HEARTBEAT_DEFAULT_INTERVAL",
    "HEARTBEAT_PATIENCE",
    "NOOP_ACCOUNT_NAME",
    "NOOP_FEDERATION_ID",
    "NOOP_FLWR_AID",
    "SUPERLINK_NODE_ID",
    "SYSTEM_TIME_TOLERANCE",
    "TIMESTAMP_HEADER",
    "TIMESTAMP_TOLERANCE",
    "ActivateNodeRequest",
    "ArrayChunk",
    "ConfirmMessageReceivedRequest",
    "DeactivateNodeRequest",
    "ErrorCode",
    "GetRunRequest",
    "Metadata",
    "Node",
    "NodeStatus",
    "ObjectTree",
    "ProtoContext",
    "ProtoMessage",
    "PullMessagesRequest",
    "PullMessagesResponse",
    "PullObjectRequest",
    "PullObjectResponse",
    "PushMessagesRequest",
    "PushObjectRequest",
    "Run",
    "RunStatus",
    "SendNodeHeartbeatRequest",
    "Status",
    "SubStatus",
    "TaskIdentity",
    "TaskType",
    "context_from_proto",
    "context_to_proto",
    "int64_to_uint64",
    "iterate_object_tree",
    "make_message",
    "message_from_proto",
    "message_to_proto",
    "remove_content_from_message",
    "uint64_to_int64",
    "verify_signature",
]
