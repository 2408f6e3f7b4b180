"""A site whose node sends, once for each word in HOME/lie, something else than its update."""

import sys
from pathlib import Path
from threading import Event

import numpy as np
from flwr.app import Message, RecordDict

from client.runner import Runner
from common.payload import Vector, decode, encode

_file = Path(sys.argv[3]) / "lie"
_honest = Runner.answer


def _told(word: str, content: RecordDict) -> None:
    array = content.array_records["update"]["values"]
    values = decode(array, array.shape[0])
    if word == "layout":
        content.config_records["report"]["layout"] = "0" * 64
    else:
        content.array_records["update"]["values"] = encode(_other(word, values))


def _other(word: str, values: Vector) -> Vector:
    return {
        "nan": np.full_like(values, np.nan),
        "ten times the size": np.tile(values, 10),
        "a huge norm": np.full_like(values, 1e30),
    }[word]


def _answer(runner: Runner, message: Message, seconds: float, halt: Event) -> Message:
    reply = _honest(runner, message, seconds, halt)
    if "update" in reply.content.array_records and _file.exists():
        word = _file.read_text()
        _file.unlink()
        _told(word, reply.content)
    return reply


Runner.answer = _answer  # type: ignore[method-assign]

if __name__ == "__main__":
    from tests.deploy.command import main

    main()
