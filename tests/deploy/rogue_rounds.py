"""The rounds of a rogue server: it asks its sites for round 1 again and again, in all its rounds;
while HOME/code is there, its runs say that they come with code."""

import sys
from dataclasses import replace
from pathlib import Path

from flwr.app import Array, RecordDict

from common.wire.messages import Task
from server.flower import run as flower_run
from server.flower.run import FlowerRun
from server.studies.runner import main

_content, _begin = Task.content, FlowerRun.__enter__


def _again(task: Task, model: Array | None = None) -> RecordDict:
    return _content(replace(task, round=min(task.round, 1)), model)


def _begin_with_code(run: FlowerRun) -> FlowerRun:
    if (Path(sys.argv[1]) / "code").exists():
        flower_run.BUNDLE_HASH = "f" * 64
    return _begin(run)


if __name__ == "__main__":
    Task.content = _again  # type: ignore[method-assign]
    FlowerRun.__enter__ = _begin_with_code  # type: ignore[method-assign]
    main()
