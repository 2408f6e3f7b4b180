"""What the two ends of the wire, the server's Grid and a site's node, add to each other's messages.

An envelope is put around a message's content when it leaves and taken off when it has come, so the
ServerApp and the ClientApp never see one, and a simulation, which has no wire, has none.
"""

from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict

from common.audit.witness import NO_HEAD, SignedHead

WITNESSED_KINDS = ("train", "evaluate")
"""Messages whose heads are recorded. A study that waits for sites asks them every few seconds."""
_NAME = "envelope"


@dataclass(frozen=True)
class Envelope:
    """The sender's word beside the content. What came over the wire is not checked yet."""

    head: SignedHead
    """Of the sender's audit log."""
    registry: int = 0
    """The version of the registry that the sender goes by; 0: it did not say."""
    document: str = ""
    """From the server: that registry, signed, as JSON; "" when the site has it."""
    order: str = ""
    """From the server: its signature on the message's `Order`."""
    witnessed: SignedHead = NO_HEAD
    """From the server: the head of the site's own log that it was shown last."""

    def around(self, content: RecordDict) -> RecordDict:
        """The content with the envelope; the argument, which messages may share, is not changed."""
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
    """Remove the message's envelope from its content; one of empty fields when it has none."""
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
