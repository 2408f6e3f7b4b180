"""A client that repeats a message's number and says which GPUs it sees; some messages kill it."""

import os
from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

CODE = 7


def make(seed: int, number: int) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        if message.content.config_records["asked"]["die"]:
            os._exit(CODE)
        number = message.content.config_records["asked"]["number"]
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        content = RecordDict({"said": ConfigRecord({"number": number, "gpus": gpus})})
        return Message(content, reply_to=message)

    return answer


def asked(number: int, die: bool = False) -> Message:
    content = RecordDict({"asked": ConfigRecord({"number": number, "die": die})})
    return Message(content, 2, MessageType.TRAIN)


def context() -> Context:
    return Context(1, 2, {}, RecordDict(), {})
