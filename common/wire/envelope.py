"""What the two ends of the wire, the server's Grid and a site's node, add to their messages.

The sender puts an envelope around a message's content, and the receiver takes it off, so the
ServerApp and the ClientApp never see one, and a simulation, which has no wire, has none.
"""

from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from common.audit.witness import NO_HEAD, SignedHead
from common.wire.messages import STATISTICS

WITNESSED_KINDS = ("train", "evaluate", STATISTICS)
"""Kinds of messages whose heads are recorded; others are sent every few seconds while a study waits
for sites."""
_NAME = "envelope"


@dataclass(frozen=True)
class Envelope:
    """What the sender states beside the content. Nothing that came over the wire is checked yet."""

    head: SignedHead
    """The head of the sender's audit log."""
    registry: int = 0
    """The version of the registry that the sender uses; 0: it did not say."""
    document: str = ""
    """From the server: that registry, signed, as JSON; "" when the site has it already."""
    order: str = ""
    """From the server: its signature on the message's `Order`."""
    witnessed: SignedHead = NO_HEAD
    """From the server: the head of the site's own log that the site showed it last."""

    def around(self, content: RecordDict) -> RecordDict:
        """A copy of `content`, which messages may share, with the envelope in it."""
        record = ConfigRecord(
            {
                "head": self.head.hash,
                "signature": self.head.signature,
                "registry": self.registry,
                "document": self.document,
                "order": self.order,
                "witnessed": self.witnessed.hash,
                "witnessed_signature": self.witnessed.signature,
            }
        )
        return RecordDict({**content, _NAME: record})


def take_off(message: Message) -> Envelope:
    """Take the envelope out of the message's content and return it; without one, an empty one."""
    record = ConfigRecord()
    if message.has_content():
        content = message.content
        record = content.config_records.get(_NAME) or record
        message.content = RecordDict({k: v for k, v in content.items() if k != _NAME})
    version = record.get("registry")
    return Envelope(
        SignedHead(str(record.get("head")), str(record.get("signature"))),
        version if type(version) is int else 0,
        str(record.get("document", "")),
        str(record.get("order", "")),
        SignedHead(str(record.get("witnessed", "")), str(record.get("witnessed_signature", ""))),
    )
