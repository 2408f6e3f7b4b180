"""The rounds of a server that asks its sites for round 1 again and again, in all its rounds."""

from dataclasses import replace

from flwr.app import Array, RecordDict

from common.protocol import Task
from server.runner import main

_content = Task.content


def _again(task: Task, model: Array | None = None) -> RecordDict:
    return _content(replace(task, round=min(task.round, 1)), model)


if __name__ == "__main__":
    Task.content = _again  # type: ignore[method-assign]
    main()
